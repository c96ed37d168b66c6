//! The JSON form of the boot state in what `ros-installer status` prints.

use boot_contract::BootState;
use boot_contract::boot_state::SlotBoot;
use protocol::message::Slot;
use serde::{Serialize, Serializer};

#[derive(Serialize)]
struct BootStateJson {
    /// The slot that is started next.
    active: Slot,
    /// The slot that was requested. After a fallback another one is active.
    preferred: Slot,
    a: SlotJson,
    b: SlotJson,
}

#[derive(Serialize)]
struct SlotJson {
    state: &'static str,
    /// Starts left, 0 to 5.
    left: u8,
}

impl From<SlotBoot> for SlotJson {
    fn from(boot: SlotBoot) -> Self {
        Self { state: boot.state.word(), left: boot.left }
    }
}

pub fn serialize<S: Serializer>(state: &Option<BootState>, serializer: S) -> Result<S::Ok, S::Error> {
    let json = |state: &BootState| BootStateJson {
        active: state.active.into(),
        preferred: state.preferred.into(),
        a: state.a.into(),
        b: state.b.into(),
    };
    state.as_ref().map(json).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use boot_contract::Slot;
    use boot_contract::boot_state::SlotState;
    use serde_json::json;

    #[test]
    fn scripts_find_slots_states_and_starts_under_these_names() {
        let state = BootState {
            active: Slot::Recovery,
            b: SlotBoot { state: SlotState::Good, left: 4 },
            ..BootState::INSTALLED
        };
        let expected = json!({
            "active": "Recovery",
            "preferred": "A",
            "a": {"state": "trial", "left": 3},
            "b": {"state": "good", "left": 4},
        });
        assert_eq!(serialize(&Some(state), serde_json::value::Serializer).unwrap(), expected);
    }
}
