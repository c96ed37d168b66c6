//! The boot that the kernel command line asks for.

use std::fs;

use boot_contract::kernel_arguments::{MEDIUM, MEDIUM_IN_INITRD, MODE, ROOT, SLOT, VERITY};
use boot_contract::{BootMode, KernelArguments, Slot, VerityArgument};

use crate::Result;

/// The arguments of the running kernel.
pub fn kernel_arguments() -> Result<KernelArguments> {
    let line = fs::read_to_string("/proc/cmdline").map_err(|e| format!("reading /proc/cmdline: {e}"))?;
    Ok(KernelArguments::parse(&line))
}

/// The boot that the boot menu selected.
#[derive(Debug, PartialEq)]
pub enum Boot {
    Live(LiveBoot),
    Disk(DiskBoot),
}

/// `ros.mode=live`: from a medium (`ros.medium`), into memory.
#[derive(Debug, PartialEq)]
pub enum LiveBoot {
    /// The ISO 9660 volume id of the medium.
    Volume(String),
    /// The network brought the files of the medium, in the initrd.
    Initrd,
}

/// `ros.mode=system` or `recovery`: from a slot of an installed disk.
#[derive(Debug, PartialEq)]
pub struct DiskBoot {
    /// Recovery keeps all its changes in memory. It also starts without the persistent partitions.
    pub recovery: bool,
    /// `None` if the arguments name none (`ros.slot`).
    pub slot: Option<Slot>,
    /// Partition UUID of the slot (`ros.root`).
    pub root: String,
    pub verity: VerityArgument,
}

impl Boot {
    pub fn from_arguments(arguments: &KernelArguments) -> Result<Self> {
        let mode = required(arguments, MODE)?;
        let mode: BootMode = mode.parse().map_err(|e| format!("{MODE}={mode}: {e}; check the boot menu entry"))?;
        if mode == BootMode::Live {
            let medium = required(arguments, MEDIUM)?;
            let is_initrd = medium == MEDIUM_IN_INITRD;
            return Ok(Self::Live(if is_initrd { LiveBoot::Initrd } else { LiveBoot::Volume(medium.to_owned()) }));
        }
        let verity = required(arguments, VERITY)?;
        let verity = verity.parse().map_err(|e| format!("{VERITY}={verity}: {e}; check the slot's args.cfg"))?;
        let recovery = mode == BootMode::Recovery;
        let slot = arguments.value(SLOT).and_then(Slot::from_letter);
        Ok(Self::Disk(DiskBoot { recovery, slot, root: required(arguments, ROOT)?.to_owned(), verity }))
    }
}

fn required<'a>(arguments: &'a KernelArguments, name: &str) -> Result<&'a str> {
    let value = arguments.value(name).filter(|value| !value.is_empty());
    value.ok_or_else(|| format!("the kernel argument {name}=… is missing; check the boot menu entry"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn boot(line: &str) -> Result<Boot> {
        Boot::from_arguments(&KernelArguments::parse(line))
    }

    #[test]
    fn the_live_entry_of_the_menu_is_understood() {
        let expected = Boot::Live(LiveBoot::Volume("ROS_0123abcd".to_owned()));
        assert_eq!(boot("console=ttyS0 ros.mode=live ros.medium=ROS_0123abcd\n"), Ok(expected));
        assert_eq!(boot("ros.mode=live ros.medium=initrd"), Ok(Boot::Live(LiveBoot::Initrd)));
    }

    #[test]
    fn a_slot_is_understood_in_system_and_recovery_mode() {
        for (mode, recovery) in [("system", false), ("recovery", true)] {
            let hash = "ab".repeat(32);
            let line = format!("ros.mode={mode} ros.slot=A ros.root=11-22 ros.verity=100:100:{hash}:-");
            let Ok(Boot::Disk(disk)) = boot(&line) else { panic!("{line}") };
            assert_eq!((disk.recovery, disk.root.as_str()), (recovery, "11-22"));
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let hash = "ab".repeat(32);
        for (line, named) in [
            (String::new(), "ros.mode"),
            ("ros.mode=other".to_owned(), "ros.mode=other"),
            ("ros.mode=live".to_owned(), "ros.medium"),
            ("ros.mode=live ros.medium=".to_owned(), "ros.medium"),
            ("ros.mode=system ros.root=1".to_owned(), "ros.verity"),
            (format!("ros.mode=system ros.verity=1:1:{hash}:-"), "ros.root"),
            ("ros.mode=system ros.root=1 ros.verity=1:2".to_owned(), "ros.verity=1:2"),
        ] {
            let error = boot(&line).unwrap_err();
            assert!(error.contains(named), "{line}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_command_line_makes_it_panic(line in any::<String>()) {
            let _ = boot(&line);
        }
    }
}
