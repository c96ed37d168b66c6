//! Runs `e2fsck -p` of the root image, which makes all repairs that need no answer.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use crate::Result;
use crate::console::say;
use crate::mount::{bind, unmount};

const E2FSCK: &str = "/usr/sbin/e2fsck";
/// Exit status of e2fsck(8): errors are left (4), or it could not run (8 and above). 1 and 2 mean that it repaired errors.
const FAILED: i32 = 4;

/// Checks the ext4 file system on `node`, which is not mounted, with the program of the system below `root`.
pub fn ext4(root: &Path, node: &Path) -> Result<()> {
    let dev = root.join("dev");
    bind(Path::new("/dev"), &dev)?;
    let result = check(root, node);
    unmount(&dev)?;
    result
}

fn check(root: &Path, node: &Path) -> Result<()> {
    let mut command = Command::new(E2FSCK);
    command.arg("-p").arg(node).env_clear().env("LC_ALL", "C").stdin(Stdio::null());
    let folder = root.to_owned();
    // SAFETY: the child has one thread; both calls are system calls with paths that were made before the fork.
    unsafe {
        command.pre_exec(move || {
            std::os::unix::fs::chroot(&folder)?;
            std::env::set_current_dir("/")
        });
    }
    let output = command.output().map_err(|e| format!("starting {E2FSCK} of the root image: {e}"))?;
    let messages = [output.stdout, output.stderr].concat();
    let messages = String::from_utf8_lossy(&messages);
    messages.lines().filter(|line| !line.trim().is_empty()).take(20).for_each(say);
    if is_usable(output.status) {
        Ok(())
    } else {
        Err(format!(
            "{E2FSCK} -p {}: {}; repair the file system by hand from the recovery system",
            node.display(),
            output.status
        ))
    }
}

fn is_usable(status: ExitStatus) -> bool {
    status.code().is_some_and(|code| code < FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    /// Runs only as root, because it needs chroot(2).
    #[test]
    fn a_wrong_checksum_is_repaired_and_nonsense_is_not() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(64 << 20).unwrap();
        assert!(check(Path::new("/"), image.path()).is_err(), "there is no file system");
        let made = Command::new("/usr/sbin/mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-b", "4096"])
            .arg(image.path())
            .status()
            .unwrap();
        assert!(made.success());
        // bg_checksum of the first block group; the kernel does not mount this.
        image.as_file().write_all_at(&[0; 2], 4096 + 30).unwrap();
        check(Path::new("/"), image.path()).unwrap();
        let clean = Command::new(E2FSCK).args(["-f", "-n"]).arg(image.path()).stdout(Stdio::null()).status().unwrap();
        assert!(clean.success());
    }
}
