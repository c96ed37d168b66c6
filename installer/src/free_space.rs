//! How much of a file system is free.

use nix::sys::statvfs::statvfs;
use std::io;
use std::path::Path;

/// Free bytes of COS_PERSISTENT with which the services of a release can still write what they must.
pub const PERSISTENT_ROOM: u64 = 1 << 20;

/// Free bytes of the file system that `folder` is on.
pub fn free_bytes(folder: &Path) -> io::Result<u64> {
    let space = statvfs(folder)?;
    Ok(space.blocks_available() * space.fragment_size())
}
