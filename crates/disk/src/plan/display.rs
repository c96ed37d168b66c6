//! The text of a plan for a person. `--dry-run` prints it, and the console shows it before the disk is written.

use super::{InstallPlan, Step};
use crate::layout::Size;
use std::fmt;

impl fmt::Display for InstallPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Release {} ({}) on {}, {}",
            self.release.version,
            self.release.architecture,
            self.target.display(),
            self.description
        )?;
        for partition in &self.layout.partitions {
            let mib = partition.offset >> 20;
            writeln!(f, "  {:<15} {:>10}  at {mib} MiB", partition.role, Size(partition.length))?;
        }
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "{:>3}. {step}", number + 1)?;
        }
        for warning in &self.warnings {
            writeln!(f, "  warning: {warning}")?;
        }
        write!(f, "Then {}", if self.power_off { "power off" } else { "reboot" })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clear { .. } => f.write_str("remove old partition tables, mark the disk as being installed"),
            Self::Root { image, into } => {
                let into = into.iter().map(|role| role.label()).collect::<Vec<_>>().join(" and ");
                write!(f, "write the root image, {}, to {into}", Size(image.size))
            }
            Self::Boot { files, .. } => write!(f, "create the boot file system with {} files", files.len()),
            Self::Ext4 { role, files, .. } => {
                write!(f, "create an ext4 file system on {role}")?;
                if files.is_empty() {
                    return Ok(());
                }
                let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
                write!(f, " with {}", names.join(" and "))
            }
            Self::BiosCore { core } => write!(f, "write GRUB for BIOS, {}", Size(core.size)),
            Self::Verify => f.write_str("read everything back and compare"),
            Self::Commit { boot_code, .. } => {
                f.write_str("write the partition table")?;
                f.write_str(if boot_code.is_some() { " and boot code" } else { "" })
            }
        }
    }
}
