//! The kernel command line, and the boot it asks for.

use std::fs;

use crate::Result;
use crate::verity::VeritySpec;

/// The words of a kernel command line, in order.
pub struct KernelArguments(Vec<String>);

impl KernelArguments {
    pub fn read() -> Result<Self> {
        let line = fs::read_to_string("/proc/cmdline").map_err(|e| format!("reading /proc/cmdline: {e}"))?;
        Ok(Self::parse(&line))
    }

    /// Splits at white space outside double quotes, as the kernel does (`lib/cmdline.c`, `next_arg`).
    pub fn parse(line: &str) -> Self {
        let mut words = Vec::new();
        let mut word = String::new();
        let mut quoted = false;
        for c in line.chars() {
            match c {
                '"' => quoted = !quoted,
                c if c.is_ascii_whitespace() && !quoted => {
                    if !word.is_empty() {
                        words.push(std::mem::take(&mut word));
                    }
                }
                c => word.push(c),
            }
        }
        if !word.is_empty() {
            words.push(word);
        }
        Self(words)
    }

    /// The value of `key=…`; the last one counts.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    fn required(&self, key: &str) -> Result<&str> {
        match self.value(key) {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(format!("the kernel argument {key}=… is missing; check the boot menu entry")),
        }
    }
}

/// What the boot menu asked for.
#[derive(Debug, PartialEq)]
pub enum Boot {
    Live(LiveBoot),
    Disk(DiskBoot),
}

/// `ros.mode=live`: from a medium, into memory.
#[derive(Debug, PartialEq)]
pub struct LiveBoot {
    /// ISO 9660 volume id of the medium (`ros.medium`).
    pub medium: String,
}

/// `ros.mode=system` or `recovery`: from a slot of an installed disk.
#[derive(Debug, PartialEq)]
pub struct DiskBoot {
    /// Recovery keeps all its changes in memory and comes up without the persistent partitions, too.
    pub recovery: bool,
    /// Partition UUID of the slot (`ros.root`).
    pub root: String,
    pub verity: VeritySpec,
}

impl Boot {
    pub fn from_arguments(arguments: &KernelArguments) -> Result<Self> {
        let recovery = match arguments.required("ros.mode")? {
            "live" => {
                return Ok(Self::Live(LiveBoot { medium: arguments.required("ros.medium")?.to_owned() }));
            }
            "system" => false,
            "recovery" => true,
            other => {
                return Err(format!("ros.mode={other} is none of live, system, recovery; check the boot menu entry"));
            }
        };
        let verity = arguments.required("ros.verity")?;
        let verity = verity.parse().map_err(|e| format!("ros.verity={verity}: {e}; check the slot's args.cfg"))?;
        Ok(Self::Disk(DiskBoot { recovery, root: arguments.required("ros.root")?.to_owned(), verity }))
    }
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
        let expected = Boot::Live(LiveBoot { medium: "ROS_0123abcd".to_owned() });
        assert_eq!(boot("console=ttyS0 ros.mode=live ros.medium=ROS_0123abcd\n"), Ok(expected));
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

    #[test]
    fn the_last_value_counts_and_quotes_keep_white_space() {
        let arguments = KernelArguments::parse("a=1 b=\"x y\" a=2 ab=3");
        assert_eq!(arguments.value("a"), Some("2"));
        assert_eq!(arguments.value("b"), Some("x y"));
        assert_eq!(arguments.value("c"), None);
    }

    proptest! {
        #[test]
        fn any_command_line_is_answered(line in any::<String>()) {
            let _ = boot(&line);
        }

        #[test]
        fn plain_words_come_back(words in proptest::collection::vec("[a-z.]{1,8}=[a-zA-Z0-9:-]{0,20}", 0..20)) {
            prop_assert_eq!(KernelArguments::parse(&words.join(" ")).0, words);
        }
    }
}
