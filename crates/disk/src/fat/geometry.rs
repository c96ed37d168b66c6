//! Which FAT a volume has and where its parts are (section "FAT Type Determination").

use super::Volume;
use super::directory::ENTRY_BYTES;
use std::io;
use std::iter;
use std::ops::{Range, RangeInclusive};

/// Copies of the table.
pub const TABLES: u64 = 2;
/// The number of the first cluster. In FAT32 it holds the root folder.
pub const FIRST_CLUSTER: u32 = 2;
/// Entries of FAT16's root folder, which has a place of its own before the clusters. All drivers take 512.
const FAT16_ROOT_ENTRIES: u64 = 512;
/// A driver tells the kind by the number of clusters: FAT16 has 4085 to 65524. The specification advises to keep 16
/// clusters away from either limit, because some drivers count differently.
const FAT16_CLUSTERS: RangeInclusive<u64> = 4085 + 16..=65524 - 16;
const FAT32_CLUSTERS: RangeInclusive<u64> = 65525..=0x0FFF_FFF4;
const FAT16_CLUSTER_BYTES: [u64; 5] = [8192, 4096, 2048, 1024, 512];
const FAT32_CLUSTER_BYTES: u64 = 2048;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Fat16,
    Fat32,
}

impl Kind {
    /// Sectors before the first table. FAT16 has the boot sector there, FAT32 also FSInfo, and copies of both.
    pub fn reserved_sectors(self) -> u64 {
        match self {
            Self::Fat16 => 1,
            Self::Fat32 => 32,
        }
    }

    /// Entries of the root folder that has a place of its own. In FAT32 the root is a folder like any other.
    pub fn root_entries(self) -> u64 {
        match self {
            Self::Fat16 => FAT16_ROOT_ENTRIES,
            Self::Fat32 => 0,
        }
    }

    /// Bytes of an entry in the table.
    pub fn table_entry_bytes(self) -> u64 {
        match self {
            Self::Fat16 => 2,
            Self::Fat32 => 4,
        }
    }

    fn clusters(self) -> RangeInclusive<u64> {
        match self {
            Self::Fat16 => FAT16_CLUSTERS,
            Self::Fat32 => FAT32_CLUSTERS,
        }
    }
}

/// Sizes in bytes unless the name says otherwise.
pub struct Geometry {
    pub kind: Kind,
    pub sector: u64,
    pub cluster: u64,
    pub sectors: u64,
    pub table_sectors: u64,
    /// Number of clusters.
    pub clusters: u64,
}

impl Geometry {
    /// FAT32 where the volume has enough clusters for it, otherwise FAT16 with the largest clusters that are enough.
    pub fn of(volume: &Volume) -> io::Result<Self> {
        let sector = u64::from(volume.sector_bytes);
        let fat32 = iter::once((Kind::Fat32, FAT32_CLUSTER_BYTES.max(sector)));
        let fat16 = FAT16_CLUSTER_BYTES.iter().filter(|bytes| **bytes >= sector).map(|bytes| (Kind::Fat16, *bytes));
        let possible = fat32.chain(fat16).map(|(kind, cluster)| Self::with(kind, cluster, volume));
        let admitted = |geometry: &Self| {
            geometry.kind.clusters().contains(&geometry.clusters) && u32::try_from(geometry.sectors).is_ok()
        };
        possible.into_iter().find(admitted).ok_or_else(|| {
            let text = format!("{} bytes in sectors of {sector} can be neither FAT16 nor FAT32", volume.length);
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })
    }

    fn with(kind: Kind, cluster: u64, volume: &Volume) -> Self {
        let sector = u64::from(volume.sector_bytes);
        let sectors = volume.length / sector;
        // The table is sized for more clusters than there are, because its own sectors are counted as clusters too.
        let table_sectors = (sectors * sector / cluster + 2).div_ceil(sector / kind.table_entry_bytes());
        let mut geometry = Self { kind, sector, cluster, sectors, table_sectors, clusters: 0 };
        geometry.clusters = sectors.saturating_sub(geometry.first_cluster_sector()) * sector / cluster;
        geometry
    }

    fn tables_end_sector(&self) -> u64 {
        self.kind.reserved_sectors() + TABLES * self.table_sectors
    }

    fn first_cluster_sector(&self) -> u64 {
        self.tables_end_sector() + self.kind.root_entries() * ENTRY_BYTES as u64 / self.sector
    }

    /// Where the copy `copy` of the table starts.
    pub fn table(&self, copy: u64) -> u64 {
        (self.kind.reserved_sectors() + copy * self.table_sectors) * self.sector
    }

    /// Where FAT16 has its root folder.
    pub fn fixed_root(&self) -> Option<Range<u64>> {
        let root = self.tables_end_sector() * self.sector..self.first_cluster_sector() * self.sector;
        (!root.is_empty()).then_some(root)
    }

    pub fn offset(&self, cluster: u32) -> u64 {
        self.first_cluster_sector() * self.sector + u64::from(cluster - FIRST_CLUSTER) * self.cluster
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fat::boot_sector;
    use proptest::prelude::*;

    fn volume(length: u64, sector_bytes: u32) -> Volume<'static> {
        Volume { length, sector_bytes, id: 0, label: "EFI" }
    }

    fn geometry(sectors: u64, sector_bytes: u32) -> Option<Geometry> {
        Geometry::of(&volume(sectors * u64::from(sector_bytes), sector_bytes)).ok()
    }

    /// What a driver computes from the boot sector, by the formulas of the specification: the number of clusters, and
    /// how many the table has room for.
    fn as_a_driver_counts(geometry: &Geometry) -> (u64, u64) {
        let boot = boot_sector::reserved(geometry, &volume(0, geometry.sector as u32), 0);
        let short = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
        let long = |at: usize| short(at) + (short(at + 2) << 16);
        let (sector, sectors_per_cluster) = (short(11), u64::from(boot[13]));
        let root_sectors = (short(17) * 32).div_ceil(sector);
        let table_sectors = if short(22) != 0 { short(22) } else { long(36) };
        let sectors = if short(19) != 0 { short(19) } else { long(32) };
        let before = short(14) + u64::from(boot[16]) * table_sectors + root_sectors;
        let bits = if short(22) != 0 { 16 } else { 32 };
        ((sectors - before) / sectors_per_cluster, table_sectors * sector * 8 / bits)
    }

    fn check(geometry: &Geometry) {
        let (clusters, room) = as_a_driver_counts(geometry);
        assert_eq!(clusters, geometry.clusters);
        assert_eq!(geometry.kind == Kind::Fat32, clusters >= 65525, "{clusters} clusters");
        assert!(clusters >= 4085, "a driver would take {clusters} clusters for FAT12");
        assert!(room >= clusters + 2, "a table for {room} clusters has {clusters}");
    }

    proptest! {
        #[test]
        fn a_driver_finds_the_kind_that_was_written(length in 0u64..600 << 20, large in any::<bool>()) {
            let sector = if large { 4096 } else { 512 };
            match Geometry::of(&volume(length, sector)) {
                Ok(geometry) => check(&geometry),
                Err(_) => prop_assert!(length < if large { 17 << 20 } else { 3 << 20 }, "{length} is refused"),
            }
        }
    }

    #[test]
    fn every_length_at_the_limits_has_the_right_kind() {
        for (sector, fat12, fat16) in [(512, 4_000..4_500, 262_000..264_000), (4096, 4_000..4_500, 65_500..66_500)] {
            let first = fat12.clone().find(|sectors| geometry(*sectors, sector).is_some()).unwrap();
            assert_eq!(geometry(first, sector).unwrap().clusters, 4101);
            for sectors in first..fat12.end {
                check(&geometry(sectors, sector).unwrap());
            }
            let kinds: Vec<Kind> = fat16
                .map(|sectors| geometry(sectors, sector).unwrap())
                .inspect(check)
                .map(|geometry| geometry.kind)
                .collect();
            assert!(kinds.is_sorted_by_key(|kind| *kind == Kind::Fat32));
            assert!(kinds.first() == Some(&Kind::Fat16) && kinds.last() == Some(&Kind::Fat32));
        }
    }
}
