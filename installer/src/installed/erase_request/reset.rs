//! A reset: COS_PERSISTENT is made anew, the settings on COS_OEM are forgotten, or both. The release in each slot, the
//! identity, and how the machine reaches its operator stay.

use super::{EraseError, Request, persistent, settings};
use crate::console::announce;
use boot_contract::boot_state::SlotState;
use boot_contract::{BootState, Milestone, Slot};
use protocol::{RequestText, ResetRequest, ResetScope};
use release::ReleaseManifest;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A request to reset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reset {
    request: RequestText,
    persistent: bool,
    oem: bool,
    /// Asked for by `ros-installer reset` and not by the operator, which cannot withdraw it.
    #[serde(default)]
    by_hand: bool,
    /// Letter of the slot that is started when the reset is done. `None`: the one that was preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    slot: Option<String>,
}

impl Reset {
    /// A request of the operator, taken in `slot`.
    pub fn of_operator(ResetRequest { scope, request }: &ResetRequest, slot: Slot) -> Self {
        let oem = *scope == ResetScope::All;
        Self { request: request.clone(), persistent: true, oem, by_hand: false, slot: letter(slot) }
    }

    /// A request of somebody at the machine, in `slot`. `request` is a text that was never used before.
    pub fn by_hand(request: RequestText, persistent: bool, oem: bool, slot: Slot) -> Self {
        Self { request, persistent, oem, by_hand: true, slot: letter(slot) }
    }

    /// What is erased, in words.
    pub fn what(&self) -> &'static str {
        match (self.persistent, self.oem) {
            (true, false) => "COS_PERSISTENT",
            (false, _) => "the settings on COS_OEM",
            (true, true) => "COS_PERSISTENT and the settings on COS_OEM",
        }
    }
}

fn letter(slot: Slot) -> Option<String> {
    (slot != Slot::Recovery).then(|| slot.letter().to_owned())
}

impl Request for Reset {
    const RECORD: &'static str = "/oem/reset.json";
    const FAILURE: &'static str = "/run/ros/reset-failure";
    const FIELD: &'static str = "spec.reset";

    fn text(&self) -> &RequestText {
        &self.request
    }

    fn is_of_operator(&self) -> bool {
        !self.by_hand
    }

    fn deed(&self, _version: &str) -> String {
        let who = if self.by_hand {
            "`ros-installer reset`".to_owned()
        } else {
            format!("{} {:?}", Self::FIELD, self.request.as_str())
        };
        format!("erases {}, as {who} asks", self.what())
    }

    fn is_known_to(recovery: &ReleaseManifest) -> bool {
        recovery.recovery_resets
    }

    fn carry_out(&self, root: &Path) -> Result<(), EraseError> {
        announce(Milestone::Planned, format!("to erase {}", self.what()));
        if self.oem {
            settings::forget(root)?;
        }
        if self.persistent {
            persistent::make_anew(root)?;
        }
        Ok(())
    }

    fn start_next(&self, state: &mut BootState) -> Option<Slot> {
        let asked_in = self.slot.as_deref().and_then(Slot::from_letter);
        let holds = |slot: &Slot| state.slot(*slot).is_some_and(|boot| boot.state != SlotState::Empty);
        let slot = asked_in.into_iter().chain([state.preferred, Slot::A, Slot::B]).find(holds)?;
        state.choose(slot).then_some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use boot_contract::boot_state::SlotBoot;

    fn reset(slot: Slot) -> Reset {
        Reset::by_hand("x".parse().unwrap(), true, false, slot)
    }

    #[test]
    fn the_slot_that_ran_is_started_again() {
        let (good, failed) = (SlotBoot::new(SlotState::Good), SlotBoot { state: SlotState::Failed, left: 0 });
        let recovery = |a, b, preferred| BootState { a, b, active: Slot::Recovery, preferred, ..BootState::INSTALLED };
        let next = |slot, mut state: BootState| (reset(slot).start_next(&mut state), state.active);
        assert_eq!(next(Slot::B, recovery(good, good, Slot::Recovery)), (Some(Slot::B), Slot::B));
        // Asked for in the recovery system, where slot A had failed.
        let empty = SlotBoot::new(SlotState::Empty);
        assert_eq!(next(Slot::Recovery, recovery(failed, empty, Slot::A)), (Some(Slot::A), Slot::A));
        assert_eq!(next(Slot::Recovery, recovery(empty, good, Slot::Recovery)), (Some(Slot::B), Slot::B));
        assert_eq!(next(Slot::Recovery, recovery(empty, empty, Slot::A)), (None, Slot::Recovery), "there is no system");
    }

    #[test]
    fn it_says_what_is_erased_and_who_asks() {
        let all = ResetRequest { scope: ResetScope::All, request: "sold".parse().unwrap() };
        let all = Reset::of_operator(&all, Slot::A);
        assert_eq!(all.deed("1"), "erases COS_PERSISTENT and the settings on COS_OEM, as spec.reset \"sold\" asks");
        assert_eq!(reset(Slot::A).deed("1"), "erases COS_PERSISTENT, as `ros-installer reset` asks");
    }
}
