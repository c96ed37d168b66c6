//! `grow`: COS_PERSISTENT reaches to the end of a disk that has grown.

use crate::console;
use crate::installed::own_disk::OwnDisk;
use anyhow::Context;
use disk::layout::Size;

pub fn run() -> anyhow::Result<()> {
    if let Some(bytes) = OwnDisk::open()?.grow().context("letting COS_PERSISTENT grow with the disk")? {
        console::note(format!("COS_PERSISTENT has grown to {}", Size(bytes)));
    }
    Ok(())
}
