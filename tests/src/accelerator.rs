//! Whether virtual machines run on the processor itself.

use anyhow::{Context, Result};
use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    Kvm,
    /// Translation in software: several times slower, and the same everywhere.
    Tcg,
}

impl Accelerator {
    /// KVM only if a machine really ran under it: in nested environments `/dev/kvm` may open, and the guest hang.
    /// Tried once per process.
    pub fn best() -> Self {
        static BEST: OnceLock<Accelerator> = OnceLock::new();
        *BEST.get_or_init(|| {
            if File::options().read(true).write(true).open("/dev/kvm").is_err() {
                return Self::Tcg;
            }
            match boots(Self::Kvm) {
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
}

const DEADLINE: Duration = Duration::from_secs(20);
/// QEMU's exit code is 2 × value + 1 for a value written to `isa-debug-exit`.
const VALUE: u8 = 0x21;
const EXIT_CODE: i32 = 2 * VALUE as i32 + 1;

/// Boots a sector that does nothing but end QEMU with our exit code.
fn boots(accelerator: Accelerator) -> Result<bool> {
    let folder = tempfile::tempdir().context("making a folder for a boot sector")?;
    let image = folder.path().join("sector.img");
    // mov dx, 0xf4; mov al, VALUE; out dx, al; hlt
    let mut sector = vec![0xba, 0xf4, 0x00, 0xb0, VALUE, 0xee, 0xf4];
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    // SeaBIOS does not read a disk of one sector.
    sector.resize(1 << 20, 0);
    fs::write(&image, sector).with_context(|| format!("writing {}", image.display()))?;
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-machine", "q35", "-m", "32", "-nodefaults", "-display", "none", "-no-reboot"])
        .args(accelerator.arguments())
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-device", "ide-hd,drive=sector", "-drive"])
        .arg(format!("if=none,id=sector,format=raw,file={}", image.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting qemu-system-x86_64")?;
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = qemu.try_wait().context("waiting for qemu-system-x86_64")? {
            return Ok(status.code() == Some(EXIT_CODE));
        }
        if Instant::now() > deadline {
            qemu.kill().context("ending a machine that hangs")?;
            qemu.wait().context("waiting for qemu-system-x86_64")?;
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_sector_boots() {
        assert!(boots(Accelerator::Tcg).unwrap());
    }
}
