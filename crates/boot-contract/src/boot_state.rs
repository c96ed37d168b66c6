//! The boot state: the content of each slot, the starts that it has left, and the slot that is started. GRUB's menu, the
//! installer and upgrades share it. `block` says how it is kept on the boot partition.

mod block;
mod slot_state;

pub use block::{BlockError, LENGTH, PATH};
pub use slot_state::{SlotBoot, SlotState};

use crate::Slot;

/// How often recovery goes back to a slot without being asked.
pub const MOST_RETURNS: u8 = 3;

/// The state that `grub.cfg` reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootState {
    /// The slot that is started.
    pub active: Slot,
    /// The slot that was asked for. Another one is active after a fallback, and is preferred when it was marked as good.
    pub preferred: Slot,
    pub a: SlotBoot,
    pub b: SlotBoot,
    /// Number of the GRUB menu.
    pub menu: u16,
    /// How often recovery has gone back to a slot without being asked, at most [`MOST_RETURNS`].
    pub returns: u8,
    /// Lines of others, `name=value`, as they are in the block.
    pub others: Vec<Vec<u8>>,
}

impl BootState {
    /// The state after an installation: A is on trial, B is empty.
    pub const INSTALLED: Self = Self {
        active: Slot::A,
        preferred: Slot::A,
        a: SlotBoot::new(SlotState::Trial),
        b: SlotBoot::new(SlotState::Empty),
        menu: 0,
        returns: 0,
        others: Vec::new(),
    };

    /// Does what `grub.cfg` does before it starts anything. Takes one start from the active slot, or from the other one
    /// if the active slot has none left, and returns that slot. Returns recovery if neither has a start left. A program
    /// that starts a slot without GRUB calls this and writes the block first. If the block cannot be read, GRUB starts
    /// recovery.
    pub fn start(&mut self) -> Slot {
        let order: &[Slot] = match self.active {
            Slot::A => &[Slot::A, Slot::B],
            Slot::B => &[Slot::B, Slot::A],
            Slot::Recovery => &[],
        };
        for slot in order {
            let Some(boot) = self.slot_mut(*slot).filter(|boot| boot.may_start()) else { continue };
            if boot.left > 0 {
                boot.left -= 1;
                self.activate(*slot);
                return *slot;
            }
            boot.state = SlotState::Failed;
        }
        self.activate(Slot::Recovery);
        Slot::Recovery
    }

    /// Marks the running slot as good. It gets all its starts back, and the count of returns from recovery is 0 again. After
    /// a fallback it is preferred from now on, so that recovery does not go back to the one that failed.
    pub fn mark_good(&mut self, slot: Slot) {
        if let Some(boot) = self.slot_mut(slot) {
            *boot = SlotBoot::new(SlotState::Good);
            // Another slot is active if it is to be started next, or if this one was chosen in GRUB's menu.
            if self.active == slot {
                self.preferred = slot;
            }
        }
        self.returns = 0;
    }

    /// Puts the running slot on trial because it came up but is damaged. It gets no start back.
    pub fn doubt(&mut self, slot: Slot) {
        if let Some(boot) = self.slot_mut(slot) {
            *boot = SlotBoot { state: SlotState::Trial, left: boot.left.min(SlotState::Trial.starts()) };
        }
    }

    /// Takes all starts off a slot that will not come up. GRUB then starts the other slot, or recovery.
    pub fn fail(&mut self, slot: Slot) {
        if let Some(boot) = self.slot_mut(slot) {
            *boot = SlotBoot::new(SlotState::Failed);
        }
    }

    /// Makes `slot` the one that is started next, with all its starts. A failed slot is on trial again. Returns `false`
    /// if the slot holds no system.
    pub fn choose(&mut self, slot: Slot) -> bool {
        if let Some(boot) = self.slot_mut(slot) {
            *boot = match boot.state {
                SlotState::Empty => return false,
                SlotState::Good => SlotBoot::new(SlotState::Good),
                SlotState::Trial | SlotState::Failed => SlotBoot::new(SlotState::Trial),
            };
        }
        self.activate(slot);
        self.preferred = slot;
        true
    }

    /// Marks `slot` as empty before it is written. Until [`Self::take_new`], `instead` is started.
    pub fn give_up(&mut self, slot: Slot, instead: Slot) {
        if let Some(boot) = self.slot_mut(slot) {
            *boot = SlotBoot::new(SlotState::Empty);
        }
        self.activate(instead);
        self.preferred = instead;
    }

    /// Puts `slot` on trial after it was written, with the default menu. Returns `false` if this was done before; see
    /// [`Self::give_up`].
    pub fn take_new(&mut self, slot: Slot) -> bool {
        let Some(boot) = self.slot_mut(slot).filter(|boot| boot.state == SlotState::Empty) else { return false };
        *boot = SlotBoot::new(SlotState::Trial);
        (self.active, self.preferred, self.menu, self.returns) = (slot, slot, 0, 0);
        true
    }

    /// The state of the slot. Recovery has none.
    pub fn slot(&self, slot: Slot) -> Option<SlotBoot> {
        match slot {
            Slot::A => Some(self.a),
            Slot::B => Some(self.b),
            Slot::Recovery => None,
        }
    }

    fn slot_mut(&mut self, slot: Slot) -> Option<&mut SlotBoot> {
        match slot {
            Slot::A => Some(&mut self.a),
            Slot::B => Some(&mut self.b),
            Slot::Recovery => None,
        }
    }

    /// A slot that is left takes its menu with it.
    fn activate(&mut self, slot: Slot) {
        if self.active != slot {
            self.active = slot;
            self.menu = 0;
        }
    }
}

#[cfg(test)]
mod tests;
