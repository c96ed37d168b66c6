//! `grow`: COS_PERSISTENT reaches to the end of a disk that has grown.

use crate::console;
use crate::installed::own_disk::OwnDisk;
use anyhow::Context;
use boot_contract::paths::{OEM_FIRST_BOOT, below};
use disk::layout::Size;
use std::path::Path;

pub fn run(root: &Path) -> anyhow::Result<()> {
    let mut disk = OwnDisk::open()?;
    grow(&mut disk)?;
    // A power cut may have kept the first boot from erasing what it had stored in /oem.
    if !below(root, OEM_FIRST_BOOT).exists() {
        disk.clear_settings().context("erasing the settings that came with the disk image")?;
    }
    Ok(())
}

/// Lets COS_PERSISTENT grow, and says so.
pub(super) fn grow(disk: &mut OwnDisk) -> anyhow::Result<()> {
    if let Some(bytes) = disk.grow().context("letting COS_PERSISTENT grow with the disk")? {
        console::note(format!("COS_PERSISTENT has grown to {}", Size(bytes)));
    }
    Ok(())
}
