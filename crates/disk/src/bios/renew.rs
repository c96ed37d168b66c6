//! Brings GRUB of another release to a disk that is in use.
//!
//! ```text
//! core image at the other place ─► flushed ─► read back ─► boot code in the first sector ─► read back
//! ```
//!
//! COS_BIOS has two places for a core image, one in each half. The boot code in the first sector of the disk says which one
//! is started. A disk writes that sector whole or not at all, so that a power cut leaves the old GRUB or the new one.

use super::{BOOT_CODE_BYTES, BiosError, KERNEL_SECTOR, SECTOR_BYTES, boot_code, core};
use crate::target::Target;
use std::io;

/// A GRUB for BIOS.
pub struct Loader<'a> {
    /// `boot.img`
    pub boot_image: &'a [u8],
    /// `core.img`
    pub core_image: &'a [u8],
}

/// COS_BIOS, in bytes from the beginning of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub offset: u64,
    pub length: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// The disk starts this GRUB from now on.
    Yes,
    /// It did so before. Nothing was written.
    Same,
    /// No GRUB of ours is started from this disk by BIOS. Nothing was written.
    NotOurs,
}

/// Why the disk does not start this GRUB. Unless the first sector reads back differently, it starts the one of before.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    #[error(transparent)]
    Image(#[from] BiosError),
    #[error("reading GRUB's boot code for BIOS")]
    Read(#[source] io::Error),
    #[error("writing GRUB's boot code for BIOS")]
    Write(#[source] io::Error),
    #[error("{0} reads back differently from what was written: the disk is failing, replace it")]
    Differs(&'static str),
}

/// Makes the disk start this GRUB. Returns when it is on the disk.
pub fn renew(disk: &mut dyn Target, place: Place, loader: &Loader<'_>) -> Result<Renewed, RenewError> {
    // GRUB counts in sectors of 512 bytes, and a larger one cannot be written alone.
    if u64::from(disk.sector_bytes()) != SECTOR_BYTES {
        return Ok(Renewed::NotOurs);
    }
    let mut first = read(disk, 0, SECTOR_BYTES as usize)?;
    let half = place.length / 2 / SECTOR_BYTES * SECTOR_BYTES;
    let places = [place.offset, place.offset + half];
    let Some(used) = places.into_iter().find(|at| starts_from(&first) == at / SECTOR_BYTES) else {
        return Ok(Renewed::NotOurs);
    };
    let held = core(loader.core_image, used, half)?;
    if first[..BOOT_CODE_BYTES] == boot_code(loader.boot_image, used)? && read(disk, used, held.len())? == held {
        return Ok(Renewed::Same);
    }
    let other = if used == places[0] { places[1] } else { places[0] };
    write(disk, other, &core(loader.core_image, other, half)?, "GRUB's core image")?;
    first[..BOOT_CODE_BYTES].copy_from_slice(&boot_code(loader.boot_image, other)?);
    write(disk, 0, &first, "the first sector of the disk")?;
    Ok(Renewed::Yes)
}

/// The sector from which the boot code loads the core image.
fn starts_from(first: &[u8]) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&first[KERNEL_SECTOR..][..8]);
    u64::from_le_bytes(number)
}

fn read(disk: &mut dyn Target, offset: u64, length: usize) -> Result<Vec<u8>, RenewError> {
    let mut bytes = vec![0; length];
    disk.read_at(offset, &mut bytes).map_err(RenewError::Read)?;
    Ok(bytes)
}

fn write(disk: &mut dyn Target, offset: u64, bytes: &[u8], what: &'static str) -> Result<(), RenewError> {
    disk.write_at(offset, bytes).and_then(|()| disk.flush()).map_err(RenewError::Write)?;
    if read(disk, offset, bytes.len())? == bytes { Ok(()) } else { Err(RenewError::Differs(what)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { offset: 4096, length: 8192 };

    /// A disk in memory. Its first `lasting` sectors that are written last; the rest is lost in a power cut.
    #[derive(Clone)]
    struct Memory {
        bytes: Vec<u8>,
        lasting: usize,
    }

    impl Target for Memory {
        fn length(&self) -> u64 {
            self.bytes.len() as u64
        }
        fn sector_bytes(&self) -> u32 {
            512
        }
        fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            for (index, sector) in bytes.chunks(512).enumerate() {
                self.lasting = self.lasting.checked_sub(1).ok_or(io::ErrorKind::BrokenPipe)?;
                self.bytes[offset as usize + index * 512..][..sector.len()].copy_from_slice(sector);
            }
            Ok(())
        }
        fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            let length = buffer.len();
            buffer.copy_from_slice(&self.bytes[offset as usize..][..length]);
            Ok(())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
        fn announce(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn installed(boot_image: &[u8], core_image: &[u8]) -> Memory {
        let mut disk = Memory { bytes: vec![9; 16384], lasting: usize::MAX };
        disk.bytes[..BOOT_CODE_BYTES].copy_from_slice(&boot_code(boot_image, PLACE.offset).unwrap());
        let core = core(core_image, PLACE.offset, PLACE.length / 2).unwrap();
        disk.bytes[PLACE.offset as usize..][..core.len()].copy_from_slice(&core);
        disk
    }

    /// The first byte of boot code and that of core image that a BIOS starts. The core image is complete.
    fn started(disk: &Memory, sectors: usize) -> (u8, u8) {
        let at = starts_from(&disk.bytes) as usize * 512;
        let found = &disk.bytes[at..][..sectors * 512];
        assert!(found == core(&vec![found[0]; sectors * 512], at as u64, 1 << 20).unwrap());
        (disk.bytes[0], found[0])
    }

    #[test]
    fn a_power_cut_leaves_the_old_grub_or_the_new_one() {
        let old = installed(&[1; 512], &[2; 2048]);
        let new = Loader { boot_image: &[3; 512], core_image: &[4; 2048] };
        for lasting in 0..=5 {
            let mut disk = Memory { lasting, ..old.clone() };
            let done = renew(&mut disk, PLACE, &new);
            assert_eq!(done.is_ok(), lasting == 5);
            assert_eq!(started(&disk, 4), if lasting == 5 { (3, 4) } else { (1, 2) });
            assert_eq!(disk.bytes[BOOT_CODE_BYTES..4096], old.bytes[BOOT_CODE_BYTES..4096], "the partition table");
            // The next start goes on.
            disk.lasting = usize::MAX;
            let again = renew(&mut disk, PLACE, &new).unwrap();
            assert_eq!(again, if lasting == 5 { Renewed::Same } else { Renewed::Yes });
            assert_eq!(started(&disk, 4), (3, 4));
        }
        let mut disk = old.clone();
        for (code, core) in [(3, 4), (5, 6), (5, 7)] {
            let loader = Loader { boot_image: &[code; 512], core_image: &[core; 2048] };
            assert_eq!(renew(&mut disk, PLACE, &loader).unwrap(), Renewed::Yes);
            assert_eq!(started(&disk, 4), (code, core));
        }
    }

    #[test]
    fn what_is_not_ours_or_does_not_fit_is_left_alone() {
        let old = installed(&[1; 512], &[2; 2048]);
        let renewed = |disk: &mut Memory, core_image: &[u8]| {
            disk.lasting = 0;
            renew(disk, PLACE, &Loader { boot_image: &[1; 512], core_image })
        };
        assert_eq!(renewed(&mut old.clone(), &[2; 2048]).unwrap(), Renewed::Same);
        let mut without = old.clone();
        without.bytes[..BOOT_CODE_BYTES].fill(0);
        assert_eq!(renewed(&mut without, &[4; 2048]).unwrap(), Renewed::NotOurs);
        assert!(matches!(renewed(&mut old.clone(), &[4; 4608]), Err(RenewError::Image(BiosError::CoreImage(4608)))));
    }
}
