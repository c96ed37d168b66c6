//! One state of a disk, and what of it is known without reading it: a key for the content of each area, and how many
//! sectors of a slot differ from a root image.

use super::contents::{BYTES, Contents, ZERO};
use super::random::mix;
use disk::layout::Role;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

/// Areas begin at multiples of this.
const MIB_SECTORS: u32 = (1 << 20) / BYTES as u32;

/// An area of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    /// The first mebibyte, with the partition table and the marker.
    Head,
    Partition(Role),
    /// The last mebibyte.
    Tail,
}

impl Area {
    const COUNT: usize = Role::ALL.len() + 2;

    fn index(self) -> usize {
        match self {
            Self::Head => 0,
            Self::Partition(role) => 1 + role as usize,
            Self::Tail => Self::COUNT - 1,
        }
    }

    /// Whether what starts depends on it, as opposed to the file systems that Linux repairs.
    fn matters(index: usize) -> bool {
        ![Role::Oem, Role::Persistent].iter().any(|role| Self::Partition(*role).index() == index)
    }
}

/// A root image.
pub struct RootImage {
    pub sha256: String,
    pub sectors: Vec<u32>,
}

/// Where the areas are, in sectors, and the root images that are known.
pub struct Places {
    pub disk: u32,
    /// One for each role, in their order.
    pub partitions: Vec<Range<u32>>,
    pub roots: Vec<RootImage>,
}

impl Places {
    pub fn partition(&self, role: Role) -> &Range<u32> {
        &self.partitions[role as usize]
    }

    fn area(&self, mebibyte: u32) -> usize {
        let sector = mebibyte * MIB_SECTORS;
        let within = self.partitions.iter().position(|partition| partition.contains(&sector));
        match within {
            Some(index) => index + 1,
            None if mebibyte == 0 => Area::Head.index(),
            None => Area::Tail.index(),
        }
    }
}

pub struct DiskState {
    contents: Rc<Contents>,
    places: Rc<Places>,
    sectors: Vec<u32>,
    /// The area of each mebibyte.
    areas: Vec<u8>,
    keys: [u64; Area::COUNT],
    /// For each area and each root image, how many sectors differ.
    differing: Vec<Vec<u32>>,
}

impl DiskState {
    /// A disk of zeros.
    pub fn blank(contents: Rc<Contents>, places: Rc<Places>) -> Self {
        let areas = (0..places.disk.div_ceil(MIB_SECTORS)).map(|mebibyte| places.area(mebibyte) as u8).collect();
        let differs = |root: &RootImage| root.sectors.iter().filter(|number| **number != ZERO).count() as u32;
        let differing = vec![places.roots.iter().map(differs).collect(); Area::COUNT];
        Self { sectors: vec![ZERO; places.disk as usize], areas, keys: [0; Area::COUNT], differing, contents, places }
    }

    pub fn sectors(&self) -> u32 {
        self.places.disk
    }

    pub fn places(&self) -> &Places {
        &self.places
    }

    pub fn number(&self, sector: u32) -> u32 {
        self.sectors[sector as usize]
    }

    pub fn sector(&self, sector: u32) -> &[u8] {
        self.contents.bytes(self.number(sector))
    }

    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Gives a sector another content.
    pub fn set(&mut self, sector: u32, number: u32) {
        let before = std::mem::replace(&mut self.sectors[sector as usize], number);
        if before == number {
            return;
        }
        let area = usize::from(self.areas[(sector / MIB_SECTORS) as usize]);
        let key = |number: u32| mix(u64::from(sector) << 32 | u64::from(number));
        // A sector of zeros counts as none, so that a blank disk has the key 0.
        for number in [before, number].into_iter().filter(|number| *number != ZERO) {
            self.keys[area] ^= key(number);
        }
        if let Some(partition) = area.checked_sub(1).and_then(|index| self.places.partitions.get(index)) {
            let within = (sector - partition.start) as usize;
            for (root, differing) in self.places.roots.iter().zip(&mut self.differing[area]) {
                if let Some(expected) = root.sectors.get(within) {
                    *differing += u32::from(*expected == before);
                    *differing -= u32::from(*expected == number);
                }
            }
        }
    }

    /// A number for the content of an area. States with the same content have the same.
    pub fn key(&self, area: Area) -> u64 {
        self.keys[area.index()]
    }

    /// A number for everything on which it depends what starts.
    pub fn key_of_start(&self) -> u64 {
        let keys = self.keys.iter().enumerate().filter(|(index, _)| Area::matters(*index));
        keys.fold(0, |all, (index, key)| mix(all ^ key ^ mix(index as u64)))
    }

    /// Whether the partition begins with the root image of this digest. `None` if no such image is known.
    pub fn holds_root(&self, role: Role, sha256: &str) -> Option<bool> {
        let index = self.places.roots.iter().position(|root| root.sha256 == sha256)?;
        Some(self.differing[Area::Partition(role).index()][index] == 0)
    }

    /// Writes the sectors of a range that are not zero into a file whose first byte is the range's first.
    pub fn write_range(&self, range: Range<u32>, file: &File) -> io::Result<()> {
        let start = range.start;
        for sector in range.filter(|sector| self.number(*sector) != ZERO) {
            file.write_all_at(self.sector(sector), u64::from(sector - start) * BYTES as u64)?;
        }
        Ok(())
    }

    /// Makes a sparse file with the whole disk.
    pub fn write_file(&self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        file.set_len(u64::from(self.sectors()) * BYTES as u64)?;
        self.write_range(0..self.sectors(), &file)
    }
}
