//! Rewrites single partitions of a disk that keeps its table: the root image of a slot, and COS_PERSISTENT.

use crate::execute::{Written, root_image, sparse};
use crate::ext4::{self, Ext4Error};
use crate::layout::Role;
use crate::target::{Disk, Target};
use protocol::message::{InstallPhase, Progress};
use release::{ReleaseFile, digest};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;
use uuid::Uuid;

/// Why a partition does not have the wanted content.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    #[error("opening {}: the partition must not be in use", .0.display())]
    Open(PathBuf, #[source] io::Error),
    #[error("opening {}", .0.display())]
    OpenSource(PathBuf, #[source] io::Error),
    #[error("{} is too small for the root image of {image} bytes", .device.display())]
    TooSmall { device: PathBuf, image: u64 },
    #[error("copying {} to {}", .from.display(), .to.display())]
    Copy { from: PathBuf, to: PathBuf, source: root_image::CopyError },
    #[error("{} has SHA-256 {actual}; release.json says {expected}: use another copy of the release", .from.display())]
    SourceDigest { from: PathBuf, actual: String, expected: String },
    #[error("creating the file system {0}")]
    FileSystem(Role, #[source] Ext4Error),
    #[error("writing {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
    #[error("reading {} back", .0.display())]
    ReadBack(PathBuf, #[source] io::Error),
    #[error(
        "{} reads back differently from what was written: the disk is failing, replace it or choose another",
        .0.display()
    )]
    Differs(PathBuf),
}

/// Copies a root image from a partition or a file to a partition and reads it back. It is hashed only then: hashing while
/// it is written took a machine without instructions for SHA-256 half of its speed.
pub fn copy_root(
    image: &ReleaseFile,
    from: &Path,
    to: &Path,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Written, RewriteError> {
    let mut target = open(to)?;
    if image.size > target.length() {
        return Err(RewriteError::TooSmall { device: to.to_owned(), image: image.size });
    }
    let source = File::open(from).map_err(|error| RewriteError::OpenSource(from.to_owned(), error))?;
    let mut report = |phase, bytes| {
        progress(&Progress { phase, bytes, total_bytes: image.size, message: "root image".into() });
    };
    let started = Instant::now();
    root_image::copy(source, image.size, &mut target, &[0], |bytes| report(InstallPhase::Writing, bytes))
        .map_err(|source| RewriteError::Copy { from: from.to_owned(), to: to.to_owned(), source })?;
    target.flush().map_err(|error| RewriteError::Write(to.to_owned(), error))?;
    let (writing, started) = (started.elapsed(), Instant::now());
    let read = root_image::digest(&mut target, 0, image.size, |bytes| report(InstallPhase::Verifying, bytes));
    let read = read.map_err(|error| RewriteError::ReadBack(to.to_owned(), error))?;
    if read != image.sha256 {
        return Err(blame(image, from, to));
    }
    Ok(Written { bytes: image.size, writing, verifying: started.elapsed() })
}

/// Whether the source or the partition is to blame for a copy that does not have the digest of the image.
fn blame(image: &ReleaseFile, from: &Path, to: &Path) -> RewriteError {
    let (from, to) = (from.to_owned(), to.to_owned());
    let source = match File::open(&from) {
        Ok(source) => source.take(image.size),
        Err(error) => return RewriteError::OpenSource(from, error),
    };
    match digest::of_reader(source) {
        Err(error) => RewriteError::Copy { from, to, source: root_image::CopyError::Read(error) },
        Ok((actual, _)) if actual == image.sha256 => RewriteError::Differs(to),
        Ok((actual, _)) => RewriteError::SourceDigest { from, actual, expected: image.sha256.clone() },
    }
}

/// Makes COS_PERSISTENT on `device` with the files below `content`, and reads it back.
pub fn make_persistent(device: &Path, content: &Path) -> Result<(), RewriteError> {
    let mut target = open(device)?;
    let made = ext4::make(target.length(), Role::Persistent.label(), Uuid::new_v4(), content, None)
        .map_err(|error| RewriteError::FileSystem(Role::Persistent, error))?;
    let write = |error| RewriteError::Write(device.to_owned(), error);
    sparse::write(made.as_file(), &mut target, 0).map_err(write)?;
    target.flush().map_err(write)?;
    let same = sparse::compare(made.as_file(), &mut target, 0);
    if same.map_err(|error| RewriteError::ReadBack(device.to_owned(), error))? {
        Ok(())
    } else {
        Err(RewriteError::Differs(device.to_owned()))
    }
}

fn open(device: &Path) -> Result<Disk, RewriteError> {
    Disk::open(device).map_err(|error| RewriteError::Open(device.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::digest::{SHA256, digest};
    use command::Command;
    use std::fs;

    fn file(length: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(length).unwrap();
        file
    }

    #[test]
    fn a_root_image_is_copied_and_a_wrong_one_is_an_error() {
        let bytes: Vec<u8> = (0..5 << 20).map(|n| (n % 249) as u8).collect();
        let (from, to, small) = (file(8 << 20), file(8 << 20), file(4 << 20));
        fs::write(from.path(), &bytes).unwrap();
        let sha256 = hex::encode(digest(&SHA256, &bytes));
        let image = ReleaseFile { name: "root.erofs".into(), size: bytes.len() as u64, sha256 };
        let mut phases = Vec::new();
        copy_root(&image, from.path(), to.path(), &mut |progress| phases.push(progress.phase)).unwrap();
        phases.dedup();
        assert_eq!(phases, [InstallPhase::Writing, InstallPhase::Verifying]);
        assert!(fs::read(to.path()).unwrap()[..bytes.len()] == bytes);
        assert!(copy_root(&image, from.path(), small.path(), &mut |_| {}).is_err());
        let other = ReleaseFile { sha256: "0".repeat(64), ..image };
        let error = copy_root(&other, from.path(), to.path(), &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("use another copy of the release"), "{error}");
    }

    #[test]
    fn a_file_system_is_made_over_another_and_holds_what_it_should() {
        let (device, content) = (file(64 << 20), tempfile::tempdir().unwrap());
        fs::create_dir_all(content.path().join("etc")).unwrap();
        fs::write(content.path().join("etc/machine-id"), "4f3a\n").unwrap();
        make_persistent(device.path(), tempfile::tempdir().unwrap().path()).unwrap();
        make_persistent(device.path(), content.path()).unwrap();
        Command::new("e2fsck").args(["-f", "-n"]).arg(device.path()).run().unwrap();
        let debugfs = Command::new("debugfs").args(["-R", "cat etc/machine-id"]).arg(device.path());
        assert_eq!(debugfs.run().unwrap(), b"4f3a\n");
    }
}
