//! What a slot holds, and how many starts it has left.

/// The content of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// No system.
    Empty,
    /// A trial boot: the system has not been marked as good since it was written or chosen.
    Trial,
    /// A system that was marked as good (blessed).
    Good,
    /// A system that used up its starts.
    Failed,
}

impl SlotState {
    pub const ALL: [Self; 4] = [Self::Empty, Self::Trial, Self::Good, Self::Failed];

    /// Number of starts that a slot gets when it enters this state.
    pub const fn starts(self) -> u8 {
        match self {
            Self::Empty | Self::Failed => 0,
            Self::Trial => 3,
            Self::Good => 5,
        }
    }

    /// The word for it in GRUB's environment.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Trial => "trial",
            Self::Good => "good",
            Self::Failed => "failed",
        }
    }
}

/// One of the two slots, as the boot loader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotBoot {
    pub state: SlotState,
    /// Starts left, 0 to 5.
    pub left: u8,
}

impl SlotBoot {
    pub const fn new(state: SlotState) -> Self {
        Self { state, left: state.starts() }
    }

    /// Whether GRUB starts the slot while it has starts left.
    pub fn may_start(self) -> bool {
        matches!(self.state, SlotState::Trial | SlotState::Good)
    }
}
