//! GRUB for machines that start by BIOS. Does on values what `grub-bios-setup` does on a mounted disk.
//!
//! Offsets are those of GRUB 2.12's `grub-core/boot/i386/pc/boot.S` and `diskboot.S`, as in `include/grub/i386/pc/boot.h`.

pub mod renew;

/// Names in the folder of a slot on COS_BOOT: GRUB of the slot's release. An installation does not write them.
pub const BOOT_IMAGE: &str = "boot.img";
pub const CORE_IMAGE: &str = "core.img";
/// Boot code in front of the partition record of a master boot record.
pub const BOOT_CODE_BYTES: usize = 440;
/// GRUB counts in sectors of this size, whatever the sector size of the disk is.
pub const SECTOR_BYTES: u64 = 512;
/// `GRUB_BOOT_MACHINE_KERNEL_SECTOR`: where boot.img finds the core image's first sector.
const KERNEL_SECTOR: usize = 0x5C;
/// `GRUB_BOOT_MACHINE_DRIVE_CHECK`: a jump that floppies need. On disks it is replaced by two no-operations.
const DRIVE_CHECK: usize = 0x66;
/// Offset of the last blocklist entry in diskboot.img, which is the first sector of the core image.
const BLOCKLIST: usize = 0x200 - 12;
/// `GRUB_BOOT_MACHINE_KERNEL_SEG` plus 0x20 paragraphs, because the first sector is already in memory before it.
const LOAD_SEGMENT: u16 = 0x820;

/// Why an image cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BiosError {
    #[error("boot.img has {0} bytes; a boot sector has 512")]
    BootImage(usize),
    #[error("core.img has {0} bytes; it must have more than one sector and fit into the BIOS boot partition")]
    CoreImage(usize),
}

/// Boot code for the master boot record that loads the core image from `core_offset` bytes into the disk.
pub fn boot_code(boot_image: &[u8], core_offset: u64) -> Result<[u8; BOOT_CODE_BYTES], BiosError> {
    let mut code: [u8; BOOT_CODE_BYTES] = boot_image
        .get(..BOOT_CODE_BYTES)
        .filter(|_| boot_image.len() == 512)
        .and_then(|code| code.try_into().ok())
        .ok_or(BiosError::BootImage(boot_image.len()))?;
    code[KERNEL_SECTOR..][..8].copy_from_slice(&(core_offset / SECTOR_BYTES).to_le_bytes());
    code[DRIVE_CHECK..][..2].copy_from_slice(&[0x90, 0x90]);
    Ok(code)
}

/// The core image in whole sectors, patched for its position: `core_offset` bytes into the disk, in `room` bytes.
pub fn core(core_image: &[u8], core_offset: u64, room: u64) -> Result<Vec<u8>, BiosError> {
    let refused = BiosError::CoreImage(core_image.len());
    let mut core = core_image.to_vec();
    core.resize(core.len().next_multiple_of(SECTOR_BYTES as usize), 0);
    let sectors = core.len() as u64 / SECTOR_BYTES;
    if sectors < 2 || core.len() as u64 > room {
        return Err(refused);
    }
    let rest = u16::try_from(sectors - 1).map_err(|_| refused)?;
    core[BLOCKLIST..][..8].copy_from_slice(&(core_offset / SECTOR_BYTES + 1).to_le_bytes());
    core[BLOCKLIST + 8..][..2].copy_from_slice(&rest.to_le_bytes());
    core[BLOCKLIST + 10..][..2].copy_from_slice(&LOAD_SEGMENT.to_le_bytes());
    Ok(core)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_point_at_the_core_image() {
        let code = boot_code(&[7; 512], 1 << 20).unwrap();
        assert_eq!(code[0x5C..0x64], 2048u64.to_le_bytes());
        assert_eq!(code[0x64..0x68], [7, 7, 0x90, 0x90]);
        let core = core(&[1; 1300], 1 << 20, 1 << 20).unwrap();
        assert_eq!(core.len(), 3 * 512);
        assert_eq!(core[0x1F4..0x200], [1, 8, 0, 0, 0, 0, 0, 0, 2, 0, 0x20, 0x08]);
    }

    #[test]
    fn images_of_the_wrong_size_are_refused() {
        assert_eq!(boot_code(&[0; 511], 0), Err(BiosError::BootImage(511)));
        assert_eq!(core(&[0; 512], 0, 1 << 20), Err(BiosError::CoreImage(512)));
        assert_eq!(core(&[0; 4096], 0, 2048), Err(BiosError::CoreImage(4096)));
    }
}
