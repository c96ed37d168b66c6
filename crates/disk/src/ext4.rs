//! An ext4 file system as a sparse temporary file.

use crate::plan::{ConfigFile, DiskImage};
use command::{Command, CommandError};
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use tempfile::{NamedTempFile, TempDir};
use uuid::Uuid;

/// The largest block of ext4. It is a multiple of the sector size of every disk that we install to.
const BLOCK_BYTES: u64 = 4096;

/// From this size on, in bytes, a file system that will grow has the journal of a large one: 64 MiB.
const LEAST_WITH_LARGE_JOURNAL: u64 = 1 << 30;

/// Why no file system was made.
#[derive(Debug, thiserror::Error)]
pub enum Ext4Error {
    #[error("writing temporary files")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// A temporary folder that holds these files, each with mode 0600.
pub fn folder_of(files: &[ConfigFile]) -> io::Result<TempDir> {
    let content = tempfile::tempdir()?;
    for file in files {
        let path = content.path().join(&file.name);
        let mut opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        opened.write_all(file.content().as_bytes())?;
    }
    Ok(content)
}

/// Makes an ext4 file system of `length` bytes that holds the content of `content`, with its modes and owners.
///
/// The kernel clears inode tables and journal at the first mount. Remains of an earlier file system there have other
/// checksums, because these are seeded with `uuid`. The file system of an image gets another UUID later, and grows: it stores
/// the seed, and has the journal and as few inodes as a large one. That seed is the same for all machines of an image, so whoever
/// writes an image to a used disk must write its zeros as well.
pub fn make(
    length: u64,
    label: &str,
    uuid: Uuid,
    content: &Path,
    for_image: Option<DiskImage>,
) -> Result<NamedTempFile, Ext4Error> {
    let image = NamedTempFile::new()?;
    // mke2fs gives the root folder of the file system the mode of this folder.
    fs::set_permissions(content, Permissions::from_mode(0o755))?;
    let mut command = Command::new("mke2fs");
    let mut features = "metadata_csum,64bit".to_owned();
    if let Some(DiskImage { epoch }) = for_image {
        features += ",metadata_csum_seed";
        // The same time, and the same seed of folder hashes below, give the same bytes.
        command = command.env(FAKE_TIME, epoch.to_string()).args(["-T", "default"]);
        if length >= LEAST_WITH_LARGE_JOURNAL {
            command = command.args(["-J", "size=64"]);
        }
    } else {
        command = command.arg("-d").arg(content);
    }
    command
        .args(["-q", "-F", "-t", "ext4", "-O", &features, "-m", "0"])
        .args(["-E", &format!("lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0,hash_seed={uuid}")])
        .args(["-b", &BLOCK_BYTES.to_string(), "-L", label, "-U", &uuid.to_string()])
        .arg(image.path())
        .arg((length / BLOCK_BYTES).to_string())
        .run()?;
    // mke2fs ends the file after the last block in use.
    image.as_file().set_len(length)?;
    if let Some(for_image) = for_image {
        write_files(image.path(), content, for_image)?;
    }
    Ok(image)
}

/// libext2fs takes this time, in seconds since 1970, for the time of day.
const FAKE_TIME: &str = "E2FSPROGS_FAKE_TIME";

/// Writes the files of a folder into a new file system. `mke2fs -d` would take over when they were changed.
fn write_files(image: &Path, content: &Path, DiskImage { epoch }: DiskImage) -> Result<(), Ext4Error> {
    let mut files: Vec<_> = fs::read_dir(content)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    files.sort();
    for file in files {
        let name = file.file_name().unwrap_or_default();
        let request = format!("write {} {}", file.display(), name.display());
        Command::new("debugfs").env(FAKE_TIME, epoch.to_string()).args(["-w", "-R", &request]).arg(image).run()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e2fsck_accepts_the_configuration_and_only_root_reads_it() {
        let file = ConfigFile::new("cloud-config.yaml", "hostname: h\n");
        let uuid = Uuid::new_v4();
        let content = folder_of(&[file]).unwrap();
        let image = make(64 << 20, "COS_OEM", uuid, content.path(), None).unwrap();
        Command::new("e2fsck").args(["-f", "-n"]).arg(image.path()).run().unwrap();
        let debugfs = |request: &str| {
            let output = Command::new("debugfs").args(["-R", request]).arg(image.path()).run().unwrap();
            String::from_utf8(output).unwrap()
        };
        assert_eq!(debugfs("cat cloud-config.yaml"), "hostname: h\n");
        let stat = debugfs("stat cloud-config.yaml");
        assert!(stat.contains("Mode:  0600") && stat.contains("User:     0   Group:     0"), "{stat}");
        let header = debugfs("show_super_stats -h");
        assert!(header.contains("COS_OEM") && header.contains(&uuid.to_string()), "{header}");
    }

    #[test]
    fn the_file_system_of_an_image_has_its_files_and_the_same_bytes_at_any_time() {
        let make = || {
            let content = folder_of(&[ConfigFile::new("first-boot", "7\n")]).unwrap();
            let image = DiskImage { epoch: 1_760_000_000 };
            make(64 << 20, "COS_OEM", Uuid::from_u128(7), content.path(), Some(image)).unwrap()
        };
        let (first, begun) = (make(), seconds());
        // Times in a file system are in seconds.
        while seconds() == begun {
            std::thread::yield_now();
        }
        Command::new("cmp").arg(first.path()).arg(make().path()).run().unwrap();
        Command::new("e2fsck").args(["-f", "-n"]).arg(first.path()).run().unwrap();
        let read = Command::new("debugfs").args(["-R", "cat first-boot"]).arg(first.path()).run().unwrap();
        assert_eq!(read, b"7\n");
    }

    fn seconds() -> u64 {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
    }

    #[test]
    fn a_large_file_system_takes_little_space() {
        use std::os::unix::fs::MetadataExt;
        let content = tempfile::tempdir().unwrap();
        let image = make(200 << 30, "COS_PERSISTENT", Uuid::new_v4(), content.path(), None).unwrap();
        let bytes = image.as_file().metadata().unwrap().blocks() * 512;
        assert!(bytes < 32 << 20, "{bytes} bytes for an empty file system");
    }
}
