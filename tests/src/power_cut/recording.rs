//! A recording in memory: the writes of a disk that was blank or held a disk image, in epochs.

use super::contents::{BYTES, Contents, ZERO};
use super::epoch::Epoch;
use super::state::{DiskState, Places, RootImage};
use super::table::Table;
use anyhow::{Context, Result, ensure};
use disk::layout::Role;
use qemu::write_log::{Kind, WriteLog};
use release::digest;
use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

pub struct Recording {
    pub contents: Rc<Contents>,
    pub places: Rc<Places>,
    pub epochs: Vec<Epoch>,
    /// What was on the disk before the first write.
    before: Epoch,
}

/// A request of the guest, and the contents of the sectors that it wrote.
pub struct Write {
    /// The first sector.
    pub first: u32,
    pub numbers: Vec<u32>,
}

impl Write {
    pub fn sectors(&self) -> Range<u32> {
        self.first..self.first + self.numbers.len() as u32
    }
}

impl Recording {
    /// Reads the log of a disk of `disk_bytes` that was blank. `roots` are the root images that were written to it.
    pub fn read(log: &Path, disk_bytes: u64, roots: &[PathBuf]) -> Result<Self> {
        Self::read_on(None, log, disk_bytes, roots)
    }

    /// The same of a disk that began with this disk image, a raw one.
    pub fn read_on(image: Option<&Path>, log: &Path, disk_bytes: u64, roots: &[PathBuf]) -> Result<Self> {
        let mut contents = Contents::new();
        let before = Epoch::new(image.map(|image| read_image(image, &mut contents)).transpose()?.unwrap_or_default());
        let epochs = read_epochs(log, disk_bytes, &mut contents)?;
        let mut images = Vec::new();
        for root in roots {
            images.push(fs::read(root).with_context(|| format!("reading {}", root.display()))?);
        }
        Self::new(contents, before, epochs, disk_bytes, &images)
    }

    pub(super) fn new(
        mut contents: Contents,
        before: Epoch,
        mut epochs: Vec<Epoch>,
        disk_bytes: u64,
        roots: &[Vec<u8>],
    ) -> Result<Self> {
        // A flush without a write before it changes nothing.
        epochs.retain(|epoch| !epoch.writes().is_empty());
        let image = |bytes: &Vec<u8>| RootImage { sha256: digest::of_bytes(bytes), sectors: contents.numbers(bytes) };
        let images = roots.iter().map(image).collect();
        let contents = Rc::new(contents);
        let disk = u32::try_from(disk_bytes / BYTES as u64).context("a disk of less than 2 TiB")?;
        let partitions = partitions([&before].into_iter().chain(&epochs), disk, &contents)?;
        Ok(Self { contents, places: Rc::new(Places { disk, partitions, roots: images }), epochs, before })
    }

    /// The first epoch with a complete installation before it, or the number of epochs.
    pub fn installed(&self) -> usize {
        let mut state = self.before();
        let mut is_installed = |epoch: &&Epoch| {
            epoch.apply(&mut state);
            Table::unchecked(&state).is_some_and(|table| table.has_boot_in_second_place())
        };
        (1 + self.epochs.iter().take_while(|epoch| !is_installed(epoch)).count()).min(self.epochs.len())
    }

    /// The disk before the first write.
    pub fn before(&self) -> DiskState {
        let mut disk = DiskState::blank(self.contents.clone(), self.places.clone());
        self.before.apply(&mut disk);
        disk
    }
}

/// The parts of an image that are not zero.
fn read_image(image: &Path, contents: &mut Contents) -> Result<Vec<Write>> {
    const PART: usize = 1 << 20;
    let mut file = fs::File::open(image).with_context(|| format!("opening {}", image.display()))?;
    let (mut writes, mut first, mut part) = (Vec::new(), 0, Vec::new());
    loop {
        part.clear();
        (&mut file).take(PART as u64).read_to_end(&mut part).with_context(|| format!("reading {}", image.display()))?;
        if part.is_empty() {
            return Ok(writes);
        }
        if part.iter().any(|byte| *byte != 0) {
            writes.push(Write { first, numbers: contents.numbers(&part) });
        }
        first += u32::try_from(part.len() / BYTES)?;
    }
}

fn read_epochs(log: &Path, disk_bytes: u64, contents: &mut Contents) -> Result<Vec<Epoch>> {
    let mut log = WriteLog::open(log)?;
    let mut epochs = Vec::new();
    let mut writes = Vec::new();
    while let Some(entry) = log.next_entry()? {
        let end = entry.offset.checked_add(entry.length).filter(|end| *end <= disk_bytes);
        ensure!(end.is_some(), "a write of {} bytes at {} is outside of the disk", entry.length, entry.offset);
        let count = entry.length as usize / BYTES;
        let numbers = match entry.kind {
            Kind::Flush => {
                epochs.push(Epoch::new(std::mem::take(&mut writes)));
                continue;
            }
            Kind::Discard => vec![ZERO; count],
            Kind::Write { at } => {
                let mut bytes = vec![0; entry.length as usize];
                log.read_data(at, &mut bytes)?;
                contents.numbers(&bytes)
            }
        };
        writes.push(Write { first: u32::try_from(entry.offset / BYTES as u64)?, numbers });
    }
    epochs.push(Epoch::new(writes));
    Ok(epochs)
}

/// Where the partitions are in the end.
fn partitions<'a>(
    epochs: impl Iterator<Item = &'a Epoch>,
    disk: u32,
    contents: &Rc<Contents>,
) -> Result<Vec<Range<u32>>> {
    let places = Places { disk, partitions: Vec::new(), roots: Vec::new() };
    let mut state = DiskState::blank(contents.clone(), Rc::new(places));
    for epoch in epochs {
        epoch.apply(&mut state);
    }
    let table = Table::checked(&state).context("finding the partition table in the recording")?;
    Role::ALL
        .into_iter()
        .map(|role| {
            let entry = table.find(role).with_context(|| format!("finding {role} in the recording"))?;
            Ok(u32::try_from(entry.first)?..u32::try_from(entry.last + 1)?)
        })
        .collect()
}
