//! A machine of the inventory as a candidate of a roll-out, and its turn.

use super::MachineRollout;
use crate::inventory::index::KnownMachine;
use crate::inventory::life::is_held_back;
use crate::inventory::upgrade::{is_open, order, takes_orders};
use crate::rollout::Release;
use crate::rollout::Running;
use crate::rollout::turns::{Candidate, EarlierTurn};
use api::{OsStatus, UpgradeTurn};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

impl MachineRollout {
    /// A selected machine as the decision sees it.
    pub fn candidate(&self, machine: &KnownMachine) -> Candidate {
        let none = OsStatus::default();
        let os = machine.status.os.as_ref().unwrap_or(&none);
        let (mut turn, mut earlier) = (machine.status.upgrade.as_deref().cloned(), None);
        if let Some(other) = turn.take_if(|turn| !self.is_own(turn)) {
            let release = Release::of(Some(&other.release), None);
            let running = release.map_or(Running::Another, |release| release.running(os));
            earlier = Some(EarlierTurn { turn: other, running });
        }
        Candidate {
            name: machine.name.clone(),
            running: self.release.running(os),
            last_seen: machine.status.last_seen.as_ref().map_or(0, |seen| seen.0.as_second()),
            turn,
            earlier,
            hindrance: hindrance(machine, os).map(str::to_owned),
        }
    }

    /// The machine's turn, if it is one of this roll-out for what is to run now.
    pub fn turn_of<'a>(&self, machine: &'a KnownMachine) -> Option<&'a UpgradeTurn> {
        machine.status.upgrade.as_deref().filter(|turn| self.is_own(turn))
    }

    /// The turn that begins now.
    pub fn turn(&self, until: &Time, now: &Time) -> UpgradeTurn {
        UpgradeTurn {
            managed_os_image: self.name.clone(),
            image: self.order.image.clone(),
            release: self.order.release.clone(),
            retry: self.order.retry.clone(),
            since: now.clone(),
            until: until.clone(),
            told: None,
            lapsed: false,
            failure: None,
        }
    }

    /// Whether the machine has a turn of this roll-out that it was not told yet, for something that is not wanted any
    /// more. `concerned`: whether the machine still belongs to the roll-out.
    pub fn is_superfluous(&self, turn: &UpgradeTurn, concerned: bool, now: &Time) -> bool {
        let wanted = concerned && self.is_own(turn);
        turn.managed_os_image == self.name && turn.told.is_none() && is_open(turn, now) && !wanted
    }

    /// Whether a turn is for what is to run now.
    fn is_own(&self, turn: &UpgradeTurn) -> bool {
        turn.managed_os_image == self.name && order(turn) == self.order
    }
}

/// Why a machine gets no turn.
fn hindrance(machine: &KnownMachine, os: &OsStatus) -> Option<&'static str> {
    if machine.approved == Some(false) {
        Some("spec.approved of its MachineInventory is false")
    } else if is_held_back(&machine.status) || !takes_orders(machine) {
        Some("its MachineInventory does not count for it, or is being deleted")
    } else if !os.self_upgrading {
        Some("its release does not upgrade itself; upgrade it by hand once, or install it again")
    } else {
        None
    }
}
