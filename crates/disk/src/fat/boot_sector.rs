//! The sectors before the first table (sections "Boot Sector and BPB" and "FSInfo Sector Structure").

use super::Volume;
use super::directory::padded;
use super::geometry::{FIRST_CLUSTER, Geometry, Kind, TABLES};
use crate::target::Target;
use std::io;

const INFORMATION_SECTOR: usize = 1;
const BACKUP_BOOT_SECTOR: usize = 6;
/// Offset of the volume id in the boot sector of FAT32.
const FAT32_ID: usize = 67;
/// Media byte of a disk that is not removable. The first entry of the table repeats it.
pub const MEDIA: u8 = 0xF8;

/// All reserved sectors of a volume of which `used` clusters are in use.
pub fn reserved(geometry: &Geometry, volume: &Volume, used: u64) -> Vec<u8> {
    let sector = geometry.sector as usize;
    let mut reserved = vec![0; geometry.kind.reserved_sectors() as usize * sector];
    let mut put = |number: usize, bytes: [u8; 512]| reserved[number * sector..][..512].copy_from_slice(&bytes);
    put(0, boot_sector(geometry, volume));
    if geometry.kind == Kind::Fat32 {
        put(INFORMATION_SECTOR, information(geometry, used));
        put(BACKUP_BOOT_SECTOR, boot_sector(geometry, volume));
        put(BACKUP_BOOT_SECTOR + INFORMATION_SECTOR, information(geometry, used));
    }
    reserved
}

/// Gives the FAT32 file system on `partition` another volume id. It must not be mounted. After a power cut the copy of the
/// boot sector may have the old one.
pub fn set_volume_id(partition: &mut dyn Target, id: u32) -> io::Result<()> {
    let mut sector = vec![0; partition.sector_bytes() as usize];
    for number in [0, BACKUP_BOOT_SECTOR] {
        let offset = (number * sector.len()) as u64;
        partition.read_at(offset, &mut sector)?;
        if !sector[82..].starts_with(b"FAT32   ") {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it holds no FAT32 file system"));
        }
        sector[FAT32_ID..][..4].copy_from_slice(&id.to_le_bytes());
        partition.write_at(offset, &sector)?;
        partition.flush()?;
    }
    Ok(())
}

fn boot_sector(geometry: &Geometry, volume: &Volume) -> [u8; 512] {
    let mut boot = [0; 512];
    let mut put = |offset: usize, bytes: &[u8]| boot[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(3, b"ROS     ");
    put(11, &(geometry.sector as u16).to_le_bytes());
    put(13, &[(geometry.cluster / geometry.sector) as u8]);
    put(14, &(geometry.kind.reserved_sectors() as u16).to_le_bytes());
    put(16, &[TABLES as u8]);
    put(17, &(geometry.kind.root_entries() as u16).to_le_bytes());
    put(21, &[MEDIA]);
    put(24, &32u16.to_le_bytes());
    put(26, &64u16.to_le_bytes());
    // FAT16 has the number of sectors in 16 bits where it fits.
    match u16::try_from(geometry.sectors) {
        Ok(sectors) if geometry.kind == Kind::Fat16 => put(19, &sectors.to_le_bytes()),
        _ => put(32, &(geometry.sectors as u32).to_le_bytes()),
    }
    // The code to jump over, and the fields behind it, start where the table's size is known.
    let names = match geometry.kind {
        Kind::Fat16 => {
            put(0, &[0xEB, 0x3C, 0x90]);
            put(22, &(geometry.table_sectors as u16).to_le_bytes());
            put(54, b"FAT16   ");
            36
        }
        Kind::Fat32 => {
            put(0, &[0xEB, 0x58, 0x90]);
            put(36, &(geometry.table_sectors as u32).to_le_bytes());
            put(44, &FIRST_CLUSTER.to_le_bytes());
            put(48, &(INFORMATION_SECTOR as u16).to_le_bytes());
            put(50, &(BACKUP_BOOT_SECTOR as u16).to_le_bytes());
            put(82, b"FAT32   ");
            64
        }
    };
    put(names, &[0x80, 0, 0x29]);
    put(names + 3, &volume.id.to_le_bytes());
    put(names + 7, &padded(volume.label, ""));
    put(510, &[0x55, 0xAA]);
    boot
}

fn information(geometry: &Geometry, used: u64) -> [u8; 512] {
    let mut information = [0; 512];
    let mut put = |offset: usize, value: u32| information[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    put(0, 0x4161_5252);
    put(484, 0x6141_7272);
    put(488, (geometry.clusters - used) as u32);
    put(492, FIRST_CLUSTER + used as u32);
    put(508, 0xAA55_0000);
    information
}
