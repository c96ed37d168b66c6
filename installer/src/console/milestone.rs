//! The milestones of a machine's life, as words on the console.

/// The steps of a machine's way from power-on to its own system. Test harness and demo wait for these words.
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
    Refused,
    Failed,
}

impl Milestone {
    pub fn word(self) -> &'static str {
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
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}
