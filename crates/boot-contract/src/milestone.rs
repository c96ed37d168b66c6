//! The lines on the console by which a person and the tests follow a machine: `ros-installer: MILESTONE: TEXT`.

use std::fmt;

/// The steps of a machine on its way from power-on to its own system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Milestone {
    Probed,
    Network,
    Attested,
    Registered,
    Planned,
    Written,
    Verified,
    Rebooting,
    Applied,
    Healthy,
    Booted,
    Assigned,
    Joined,
    Refused,
    Failed,
}

impl Milestone {
    fn word(self) -> &'static str {
        match self {
            Self::Probed => "probed",
            Self::Network => "network",
            Self::Attested => "attested",
            Self::Registered => "registered",
            Self::Planned => "planned",
            Self::Written => "written",
            Self::Verified => "verified",
            Self::Rebooting => "rebooting",
            Self::Applied => "applied",
            Self::Healthy => "healthy",
            Self::Booted => "booted",
            Self::Assigned => "assigned",
            Self::Joined => "joined",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    /// The line that announces the milestone.
    pub fn line(self, text: &str) -> String {
        format!("{PROGRAM}{}: {text}", self.word())
    }

    /// The text of the milestone if `line` announces it. The kernel's time or a unit's name may precede it.
    pub fn text_in(self, line: &str) -> Option<&str> {
        let announced = line.split_once(PROGRAM)?.1;
        announced.strip_prefix(self.word())?.strip_prefix(": ")
    }
}

/// The program whose milestones these are.
const PROGRAM: &str = "ros-installer: ";

impl fmt::Display for Milestone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_milestone_is_a_word_of_its_own() {
        assert_eq!(Milestone::Failed.text_in("ros-installer: failed: no disk"), Some("no disk"));
        assert_eq!(Milestone::Failed.text_in("ros-installer: failed-over: x"), None);
        assert_eq!(Milestone::Booted.text_in("the machine has booted: yes"), None);
        let line = Milestone::Assigned.line("to cluster one");
        assert_eq!(Milestone::Assigned.text_in(&format!("[    1.0] {line}")), Some("to cluster one"));
    }
}
