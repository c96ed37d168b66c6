//! What follows for an inventory from the objects: whether it counts, is expected, or waits for something.

use super::STATUS_GRACE;
use crate::context::Context;
use crate::inventory::index::{KnownMachine, Owner};
use crate::inventory::installed_config;
use crate::inventory::life;
use api::{Conditions, MachineInventoryStatus, Phase, condition_type, message, reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::fmt;

/// The state of an object, as far as it follows from objects.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// The status follows from the machine's messages.
    Nothing,
    /// The server is about to write the first status.
    TooEarly,
    /// The server created it, but was stopped before it wrote the status.
    Unrecorded,
    /// Created by hand; the machine has not registered yet.
    Expected,
    MalformedIdentity,
    /// Another inventory counts for the machine.
    Duplicate(OtherInventory),
    /// The machine was refused for approval and has been approved since.
    NowApproved,
    /// The inventory is no longer held back.
    Released,
}

/// The other inventory of a duplicate.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum OtherInventory {
    /// In the same namespace, of this name.
    Here(String),
    /// In another namespace, which is not named: namespaces are tenants.
    Elsewhere,
    /// Several inventories of which none counts.
    Equal,
}

impl fmt::Display for OtherInventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(name) => {
                write!(f, "the operator uses MachineInventory {name} for this machine; delete one of the two")
            }
            Self::Elsewhere => f.write_str(
                "the operator uses an inventory in another namespace for this machine; delete this one, or register \
                 the machine with a MachineRegistration of this namespace",
            ),
            Self::Equal => f.write_str(
                "there are other inventories with this TPM hash, and the machine has used none of them; register the \
                 machine, or delete the others",
            ),
        }
    }
}

/// The finding about an inventory, from the index.
pub(super) fn find(machine: &KnownMachine, context: &Context) -> Finding {
    let owner = machine.hash.as_ref().map_or(Owner::Nobody, |hash| context.inventory.index.owner(hash, None));
    validate(machine, &owner, context.now().0.as_second())
}

pub(super) fn validate(machine: &KnownMachine, owner: &Owner, now: i64) -> Finding {
    if machine.malformed_identity {
        return Finding::MalformedIdentity;
    }
    match owner {
        Owner::Inventory(other) if other.uid != machine.uid && other.namespace == machine.namespace => {
            return Finding::Duplicate(OtherInventory::Here(other.name.clone()));
        }
        Owner::Inventory(other) if other.uid != machine.uid => return Finding::Duplicate(OtherInventory::Elsewhere),
        Owner::Disputed => return Finding::Duplicate(OtherInventory::Equal),
        Owner::Inventory(_) | Owner::Nobody => {}
    }
    let resolved = life::is_held_back(&machine.status);
    match machine.status.phase {
        None if machine.registration.is_some() && machine.age(now) < STATUS_GRACE => Finding::TooEarly,
        None if machine.registration.is_some() => Finding::Unrecorded,
        None | Some(Phase::Expected) => Finding::Expected,
        Some(Phase::ApprovalPending) if machine.approved != Some(false) => Finding::NowApproved,
        Some(_) if resolved => Finding::Released,
        Some(_) => Finding::Nothing,
    }
}

pub(super) fn build(machine: &KnownMachine, finding: &Finding, now: &Time) -> MachineInventoryStatus {
    let mut status = match finding {
        Finding::Released => life::released(&machine.status, machine.generation, now),
        _ => machine.status.clone(),
    };
    let mut say = |holds_back: bool, reason: &str, message: &str| {
        let generation = machine.generation;
        status.conditions.put(condition_type::READY, false, reason, message, generation, now);
        if holds_back {
            status.conditions.put(condition_type::STALLED, true, reason, message, generation, now);
        } else {
            status.conditions.remove_type(condition_type::STALLED);
        }
    };
    match finding {
        Finding::TooEarly => return status,
        Finding::Nothing | Finding::Released => {}
        Finding::Unrecorded => {
            say(false, reason::NOT_INSTALLED, "registered; the machine reports its hardware when it registers again");
            status.phase = Some(Phase::Registered);
        }
        Finding::Expected => {
            say(false, reason::EXPECTED, message::NOT_COME_YET);
            status.phase = Some(Phase::Expected);
        }
        Finding::MalformedIdentity => {
            let message =
                "spec.tpmHash is not a TPM hash; write the 64 hex digits that `ros-installer tpm-hash` prints";
            say(true, reason::MALFORMED_IDENTITY, message);
        }
        Finding::Duplicate(other) => say(true, reason::DUPLICATE_IDENTITY, &other.to_string()),
        Finding::NowApproved => {
            say(
                false,
                reason::NOT_INSTALLED,
                "approved; the machine receives its configuration when it registers again",
            );
            status.conditions.put(condition_type::APPROVED, true, reason::APPROVED, "", machine.generation, now);
            status.phase = Some(Phase::Registered);
        }
    }
    installed_config::set_condition(machine, &mut status, now);
    status.observed_generation = machine.generation;
    status
}

#[cfg(test)]
mod tests;
