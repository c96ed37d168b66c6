//! How far a start of a slot came. `ros-init` and the installer keep it in a file on the persistent partition, so that the
//! system to which the machine falls back can tell.
//!
//! The file has three lines, `stage=`, `boot=` (the kernel's boot id) and `message=`.

use crate::Slot;

/// The longest message in a file, in bytes.
const LONGEST_MESSAGE: usize = 1000;
/// The kernel's file with the boot id, a UUID.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The stages of a start, in order. A start that left no file did not get as far as the persistent partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BootStage {
    /// `ros-init` has mounted everything and hands over to systemd.
    Root,
    /// systemd has started its first units.
    Systemd,
    /// `ros-installer healthy` waits for the system to be up.
    Checks,
}

impl BootStage {
    pub const ALL: [Self; 3] = [Self::Root, Self::Systemd, Self::Checks];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Root => "Root",
            Self::Systemd => "Systemd",
            Self::Checks => "Checks",
        }
    }
}

/// The last stage that a start has reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootProgress {
    pub stage: BootStage,
    /// The kernel's boot id of the start.
    pub boot_id: String,
    /// What the start waited for, in words. Empty before the checks.
    pub message: String,
}

impl BootProgress {
    /// The file for the starts of `slot`, relative to the persistent partition.
    pub fn file(slot: Slot) -> String {
        format!("var/lib/ros/boot-stage.{}", slot.letter())
    }

    /// The content of the file. A long message is cut, and control characters become blanks.
    pub fn to_text(&self) -> String {
        let plain = |text: &str| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
        let mut message = plain(&self.message);
        message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
        format!("stage={}\nboot={}\nmessage={message}\n", self.stage.word(), plain(&self.boot_id))
    }

    /// Reads the content of a file. `None` if it is not complete.
    pub fn parse(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.strip_suffix('\n')?.split('\n').collect();
        let [stage, boot, message] = lines[..] else { return None };
        let stage = stage.strip_prefix("stage=")?;
        Some(Self {
            stage: BootStage::ALL.into_iter().find(|known| known.word() == stage)?,
            boot_id: boot.strip_prefix("boot=")?.to_owned(),
            message: message.strip_prefix("message=")?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_words_and_the_file_stay_because_the_other_slot_may_hold_an_older_release() {
        let progress = BootProgress { stage: BootStage::Checks, boot_id: "id-1".into(), message: "no\nnetwork".into() };
        assert_eq!(progress.to_text(), "stage=Checks\nboot=id-1\nmessage=no network\n");
        assert_eq!(BootProgress::file(Slot::B), "var/lib/ros/boot-stage.B");
        assert_eq!(BootStage::ALL.map(BootStage::word), ["Root", "Systemd", "Checks"]);
    }

    proptest! {
        #[test]
        fn a_record_is_read_back_whole_or_not_at_all(stage in 0..3usize, message: String, cut: prop::sample::Index) {
            let progress = BootProgress { stage: BootStage::ALL[stage], boot_id: "id".into(), message };
            let text = progress.to_text();
            let read = BootProgress::parse(&text).unwrap();
            prop_assert_eq!((read.stage, read.boot_id.as_str()), (progress.stage, "id"));
            prop_assert_eq!(BootProgress::parse(&text[..text.floor_char_boundary(cut.index(text.len()))]), None);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _ = BootProgress::parse(&text);
        }
    }
}
