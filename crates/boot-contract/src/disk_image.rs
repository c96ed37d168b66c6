//! What lies between the partition table and the first partition of an installed disk, and of a disk image, which is the
//! layout of an installed disk, made once and started by many machines.
//!
//! ```text
//! offset
//!       0     partition table
//!  64 KiB     marker of an installation; in an image without an identity
//! 128 KiB     room for the entries of a changed table
//! 256 KiB     settings of an image, until a machine has taken them over
//!   1 MiB     the first partition
//! ```

/// Offset of the marker in bytes from the start of the disk. It is behind the partition entries (16 KiB from LBA 2, for
/// any sector size) and before the first partition (1 MiB).
pub const MARKER_OFFSET: u64 = 64 * 1024;
/// Length of the marker in bytes. It is one physical sector, which a disk writes whole or not at all.
pub const MARKER_BYTES: usize = 4096;
/// First line of the marker. The second one is a JSON object, which says among other things the `version` of the release.
pub const MARKER_MAGIC: &[u8] = b"RancherOS installation\n";
/// The second place of the partition entries. The first one is behind the header.
pub const OTHER_ENTRIES_OFFSET: u64 = 128 * 1024;
/// Where the settings are, in bytes. They are YAML, padded with newlines; zeros if a machine has taken them over.
pub const SETTINGS_OFFSET: u64 = 256 * 1024;
pub const SETTINGS_BYTES: usize = 64 * 1024;
