//! How QEMU runs a guest: on the processor itself (KVM), or by translation (TCG).

use crate::firmware::Firmware;
use crate::machine::Chipset;
use crate::paths;
use crate::wait::until_blocking;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    Kvm,
    /// Translation in software: several times slower, and the same everywhere.
    Tcg,
}

impl Accelerator {
    /// KVM if a machine booted under it, else TCG. In nested environments `/dev/kvm` may open and the guest may hang.
    /// Tried once per process, with the kernel that `make image` left.
    pub fn best() -> Self {
        static BEST: OnceLock<Accelerator> = OnceLock::new();
        *BEST.get_or_init(|| {
            if File::options().read(true).write(true).open("/dev/kvm").is_err() {
                return Self::Tcg;
            }
            match Self::Kvm.boots(&paths::kernel(), BOOT_LIMIT) {
                Ok(true) => Self::Kvm,
                _ => Self::Tcg,
            }
        })
    }

    pub fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }

    /// Whether our machines' firmware and kernel run. In nested environments a smaller program may run while these
    /// hang, or QEMU may stop at an instruction.
    pub fn boots(self, kernel: &Path, limit: Duration) -> Result<bool> {
        let folder = tempfile::tempdir().context("creating a folder for a machine")?;
        let serial = folder.path().join("serial.log");
        let mut qemu = Command::new("qemu-system-x86_64")
            .args([
                "-machine",
                Firmware::Uefi.machine_type(Chipset::Q35),
                "-m",
                "256",
                "-nodefaults",
                "-display",
                "none",
                "-no-reboot",
            ])
            .args(self.arguments())
            .args(Firmware::Uefi.arguments(&folder.path().join("firmware-variables.img"), None)?)
            .args(["-append", "console=ttyS0 panic=-1", "-kernel"])
            .arg(kernel)
            .arg("-serial")
            .arg(format!("file:{}", serial.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting qemu-system-x86_64")?;
        // The kernel restarts after its panic, and `-no-reboot` ends QEMU then.
        if let Some(ended) = until_blocking(limit, Duration::from_millis(20), || qemu.try_wait().transpose()) {
            ended.context("waiting for qemu-system-x86_64")?;
            let said = fs::read(&serial).with_context(|| format!("reading {}", serial.display()))?;
            return Ok(String::from_utf8_lossy(&said).contains(PANIC));
        }
        qemu.kill().context("stopping a machine that hangs")?;
        qemu.wait().context("waiting for qemu-system-x86_64")?;
        Ok(false)
    }
}

/// Under KVM, Debian's kernel panics after 2 s, because it has no root file system.
const BOOT_LIMIT: Duration = Duration::from_secs(15);
/// The last line that it prints then.
const PANIC: &str = "Kernel panic - not syncing: VFS";
