//! The slots of an installed disk.

use crate::partition_label;
use std::fmt;

/// A slot: a partition with a root image, and a folder with its kernel on the boot partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    A,
    B,
    Recovery,
}

impl Slot {
    pub const ALL: [Self; 3] = [Self::A, Self::B, Self::Recovery];

    /// The slot's name on the kernel command line and in GRUB's environment, and the name of its folder on the boot
    /// partition.
    pub const fn letter(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
            Self::Recovery => "R",
        }
    }

    pub fn from_letter(letter: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|slot| slot.letter() == letter)
    }

    /// The label of its partition.
    pub const fn partition_label(self) -> &'static str {
        match self {
            Self::A => partition_label::STATE_A,
            Self::B => partition_label::STATE_B,
            Self::Recovery => partition_label::RECOVERY,
        }
    }
}

/// The name for people, which is the letter but for `Recovery`.
impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_round_trip_and_are_in_the_menu_of_the_disk() {
        let menu = include_str!("../../../iso/src/build/grub/disk.cfg");
        for slot in Slot::ALL {
            assert_eq!(Slot::from_letter(slot.letter()), Some(slot));
            assert!(menu.contains(slot.letter()), "{slot:?}");
        }
        assert_eq!(Slot::from_letter("a"), None);
    }
}
