//! Single partitions of a disk that keeps its table, made anew: the root image of a slot, and COS_PERSISTENT.

use super::target::{Disk, Target};
use super::{ExecuteError, ext4, image, root};
use crate::plan::layout::Role;
use anyhow::{Context, Result, ensure};
use protocol::message::{InstallPhase, Progress};
use release::ReleaseFile;
use std::fs::File;
use std::path::Path;
use uuid::Uuid;

/// Copies a root image from one partition to another and reads it back.
pub fn copy_root(image: &ReleaseFile, from: &Path, to: &Path, progress: &mut dyn FnMut(&Progress)) -> Result<()> {
    let mut target = open(to)?;
    ensure!(image.size <= target.length(), "{} is too small for the root image of {} bytes", to.display(), image.size);
    let source = File::open(from).with_context(|| format!("opening {}", from.display()))?;
    let mut report = |phase, bytes| {
        progress(&Progress { phase, bytes, total_bytes: image.size, message: "root image".into() });
    };
    let actual = root::copy(source, image.size, &mut target, &[0], |bytes| report(InstallPhase::Writing, bytes))
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    ensure!(
        actual == image.sha256,
        "{} has SHA-256 {actual}; release.json says {}: install again from a medium",
        from.display(),
        image.sha256
    );
    target.flush().with_context(|| format!("writing {}", to.display()))?;
    let read = root::digest(&mut target, 0, image.size, |bytes| report(InstallPhase::Verifying, bytes));
    let read = read.with_context(|| format!("reading {} back", to.display()))?;
    ensure!(read == image.sha256, ExecuteError::Differs(to.display().to_string()));
    Ok(())
}

/// Makes COS_PERSISTENT on `device`, with what is below `content` on it, and reads it back.
pub fn make_persistent(device: &Path, content: &Path) -> Result<()> {
    let mut target = open(device)?;
    let made = ext4::make(target.length(), Role::Persistent.label(), Uuid::new_v4(), content)?;
    image::write(made.as_file(), &mut target, 0).with_context(|| format!("writing {}", device.display()))?;
    target.flush().with_context(|| format!("writing {}", device.display()))?;
    let same = image::compare(made.as_file(), &mut target, 0);
    let same = same.with_context(|| format!("reading {} back", device.display()))?;
    ensure!(same, ExecuteError::Differs(device.display().to_string()));
    Ok(())
}

fn open(device: &Path) -> Result<Disk> {
    Disk::open(device).with_context(|| format!("opening {}: it must not be in use", device.display()))
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
    fn a_root_image_is_copied_and_a_wrong_one_is_told() {
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
        let error = format!("{:#}", copy_root(&other, from.path(), to.path(), &mut |_| {}).unwrap_err());
        assert!(error.contains("install again from a medium"), "{error}");
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
