//! The kernel command line: the names of our arguments, and the one parser of it.

use std::fmt;
use std::str::FromStr;

/// How the system starts, a [`BootMode`].
pub const MODE: &str = "ros.mode";
/// The slot that is started, by its letter: [`crate::Slot::letter`].
pub const SLOT: &str = "ros.slot";
/// The partition UUID of the slot.
pub const ROOT: &str = "ros.root";
/// The dm-verity tree of the slot: [`crate::VerityArgument`].
pub const VERITY: &str = "ros.verity";
/// The volume id of the installation medium, in live mode, or [`MEDIUM_IN_INITRD`].
pub const MEDIUM: &str = "ros.medium";
/// The value of [`MEDIUM`] where the network brought the medium, as a folder in the initrd: [`crate::paths::INITRD_MEDIUM`].
pub const MEDIUM_IN_INITRD: &str = "initrd";
/// The program that started the kernel, if it was not GRUB: [`LOADER_KEXEC`].
pub const LOADER: &str = "ros.loader";
/// The value of [`LOADER`] in a system that another system started by kexec(8).
pub const LOADER_KEXEC: &str = "kexec";

/// The words of a kernel command line, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelArguments(Vec<String>);

impl KernelArguments {
    /// Splits at white space outside of double quotes, and drops the quotes, as the kernel does (`lib/cmdline.c`,
    /// `next_arg`).
    pub fn parse(line: &str) -> Self {
        let mut words = Vec::new();
        let mut word = String::new();
        let mut quoted = false;
        for c in line.chars() {
            match c {
                '"' => quoted = !quoted,
                c if c.is_ascii_whitespace() && !quoted => words.push(std::mem::take(&mut word)),
                c => word.push(c),
            }
        }
        words.push(word);
        words.retain(|word| !word.is_empty());
        Self(words)
    }

    /// The value of `name=…`. If there are several, the last one counts, as for the kernel's own parameters.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    /// Every word, with or without a value, in order.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

/// The values of [`MODE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootMode {
    /// From an installation medium. All changes stay in memory.
    Live,
    /// From slot A or B of a disk.
    System,
    /// From the recovery slot of a disk. All changes stay in memory.
    Recovery,
}

impl BootMode {
    pub const ALL: [Self; 3] = [Self::Live, Self::System, Self::Recovery];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::System => "system",
            Self::Recovery => "recovery",
        }
    }
}

impl fmt::Display for BootMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that names no boot mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownBootMode;

impl fmt::Display for UnknownBootMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the boot mode is one of live, system, recovery")
    }
}

impl std::error::Error for UnknownBootMode {}

impl FromStr for BootMode {
    type Err = UnknownBootMode;

    fn from_str(text: &str) -> Result<Self, UnknownBootMode> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == text).ok_or(UnknownBootMode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_value_counts_and_quotes_keep_white_space() {
        let arguments = KernelArguments::parse("a=1 b=\"x y\" a=2 ab=3 a \"c d\"=4\n");
        assert_eq!(arguments.value("a"), Some("2"));
        assert_eq!(arguments.value("b"), Some("x y"));
        assert_eq!(arguments.value("c d"), Some("4"));
        assert_eq!(arguments.value("c"), None);
        assert_eq!(arguments.words().collect::<Vec<_>>(), ["a=1", "b=x y", "a=2", "ab=3", "a", "c d=4"]);
    }

    #[test]
    fn boot_modes_round_trip() {
        for mode in BootMode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert_eq!("Live".parse::<BootMode>(), Err(UnknownBootMode));
    }

    /// The menu of a medium and the conditions of the units are text; they use these names.
    #[test]
    fn menu_and_units_use_these_names() {
        let menu = include_str!("../../../iso/src/format/iso/live.cfg");
        assert!(menu.contains(&format!("{MODE}={}", BootMode::Live)) && menu.contains(&format!("{MEDIUM}=$medium\"")));
        let unit = include_str!("../../../overlay/usr/lib/systemd/system/ros-report.service");
        for mode in [BootMode::System, BootMode::Recovery] {
            assert!(unit.contains(&format!("ConditionKernelCommandLine=|{MODE}={mode}\n")), "{mode}");
        }
        let unit = include_str!("../../../overlay/usr/lib/systemd/system/ros-install.service");
        assert!(unit.contains(&format!("ConditionKernelCommandLine={MODE}={}\n", BootMode::Live)));
    }

    proptest! {
        #[test]
        fn no_word_is_empty_or_quoted(line in any::<String>()) {
            let arguments = KernelArguments::parse(&line);
            prop_assert!(arguments.words().all(|word| !word.is_empty() && !word.contains('"')));
        }

        #[test]
        fn plain_words_round_trip(words in proptest::collection::vec("[a-z.]{1,8}=[a-zA-Z0-9:-]{0,20}", 0..20)) {
            let arguments = KernelArguments::parse(&words.join(" "));
            prop_assert_eq!(arguments.words().collect::<Vec<_>>(), words);
        }
    }
}
