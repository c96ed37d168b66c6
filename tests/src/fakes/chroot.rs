//! Runs a program of this workspace in a root folder laid out as on a machine: the test's files are at their real
//! paths.

use anyhow::{Context, Result};
use qemu::paths;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Contains `/usr`, `/proc` and `/dev/null` of this host, the user root, and the files that are written into it. In place
/// of the host's `/usr/local/sbin`, which comes first on the search path, it has programs of the test. Needs user
/// namespaces or privileges. Changes nothing outside of the folder.
pub struct Chroot {
    folder: PathBuf,
}

/// The mounts belong to this process and end with it.
const ENTER: &str = r#"
cd "$1"; program=$2; shift 2
mount --rbind /usr usr; mount --rbind /proc proc; mount --bind "$program" program
mount --bind programs usr/local/sbin; mount --bind /dev/null dev/null
mount --bind kernel-command-line proc/cmdline
exec /usr/sbin/chroot . /program "$@"
"#;

impl Chroot {
    /// `folder` becomes `/`.
    pub fn new(folder: PathBuf) -> Result<Self> {
        for name in ["usr", "proc", "programs"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        for name in ["bin", "lib", "lib64"] {
            symlink(Path::new("usr").join(name), folder.join(name)).context("linking into /usr")?;
        }
        File::create(folder.join("program")).context("creating the program's place")?;
        let root = Self { folder };
        root.boot_with("quiet")?;
        root.write("/dev/null", "")?;
        root.write("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")?;
        root.write("/etc/shadow", "root:*:20000:0:99999:7:::\n")?;
        root.write("/etc/group", "root:x:0:\n")?;
        Ok(root)
    }

    /// The path of the file on this host.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.join(path.trim_start_matches('/'))
    }

    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path(path);
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))
    }

    /// The same for an executable file.
    pub fn write_program(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        self.write(path, content)?;
        let path = self.path(path);
        fs::set_permissions(&path, Permissions::from_mode(0o755))
            .with_context(|| format!("changing {}", path.display()))
    }

    /// Adds a shell script that is found before the host's program of this name.
    pub fn add_program(&self, name: &str, script: &str) -> Result<()> {
        self.write_program(&format!("/programs/{name}"), format!("#!/bin/sh\n{script}\n"))
    }

    /// Sets the content of `/proc/cmdline`.
    pub fn boot_with(&self, kernel_command_line: &str) -> Result<()> {
        self.write("kernel-command-line", kernel_command_line)
    }

    /// Adds an empty disk `/dev/NAME`, a sparse file.
    pub fn add_disk(&self, name: &str, bytes: u64) -> Result<PathBuf> {
        let device = format!("/dev/{name}");
        self.write(&device, "")?;
        let disk = self.path(&device);
        File::options().write(true).open(&disk)?.set_len(bytes).context("growing a disk")?;
        self.write(&format!("/sys/class/block/{name}/size"), (bytes / 512).to_string())?;
        self.write(&format!("/sys/class/block/{name}/device/model"), "Test")?;
        Ok(disk)
    }

    /// Runs a program of this workspace to its end, as the user root.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-ec", ENTER, "enter"])
            .arg(&self.folder)
            .arg(paths::program(program)?)
            .args(arguments)
            .output()
            .with_context(|| format!("running {program} in {}", self.folder.display()))
    }
}
