//! Decides whether a machine that has proved its identity is admitted. Pure functions.

use crate::inventory::index::KnownMachine;
use crate::registration::Registration;
use api::Approval;
use k8s_openapi::jiff::Timestamp;
use protocol::{Refusal, RefusalCode};
use std::sync::Arc;

/// Seconds after which a machine should come back while its inventory is being deleted.
const DELETION_RETRY_AFTER: u64 = 5;

/// The decision about a machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The machine is new: an inventory is created. `approved`: whether it is approved already.
    Enroll {
        approved: bool,
    },
    /// The machine has an inventory, from an earlier registration or created by hand.
    Known {
        machine: Arc<KnownMachine>,
        approved: bool,
    },
    Refuse(Refusal),
}

/// Decides about a machine that asks for its configuration. `known`: its inventory in the registration's namespace,
/// found by TPM hash or shared secret. `admitted`: how many machines have registered, or are registering, before this
/// one.
pub fn decide(
    registration: &Registration,
    known: Option<Arc<KnownMachine>>,
    admitted: usize,
    now: Timestamp,
) -> Decision {
    let spec = &registration.spec;
    if let Some(refusal) = expired(registration, now) {
        return Decision::Refuse(refusal);
    }
    if let Some(machine) = &known
        && machine.namespace != registration.namespace
    {
        // The message does not name the other namespace: namespaces are tenants.
        return Decision::Refuse(Refusal::new(
            RefusalCode::KnownElsewhere,
            "this machine has an inventory in another namespace; delete that one to register it here",
        ));
    }
    if known.as_ref().is_some_and(|machine| machine.deleting) {
        let message = "the machine's inventory is being deleted; the machine can register when that is done";
        return Decision::Refuse(Refusal::new(RefusalCode::Unavailable, message).retry_after(DELETION_RETRY_AFTER));
    }
    if let Some(most) = registration.most
        && !came_through(registration, known.as_deref())
        && admitted >= most as usize
    {
        return Decision::Refuse(Refusal::new(
            RefusalCode::TooManyMachines,
            format!("the registration has reached its limit of {most} machines; raise spec.maxMachines"),
        ));
    }
    match known {
        // An inventory that was created by hand is approved unless it says otherwise.
        Some(machine) => {
            let approved = machine.approved != Some(false);
            Decision::Known { machine, approved }
        }
        None => Decision::Enroll { approved: spec.approval.unwrap_or_default() == Approval::Automatic },
    }
}

/// Whether a machine has registered through this registration before.
pub fn came_through(registration: &Registration, known: Option<&KnownMachine>) -> bool {
    known.is_some_and(|machine| {
        machine.namespace == registration.namespace && machine.registration.as_deref() == Some(&registration.name)
    })
}

/// The refusal after `expiresAt`.
pub fn expired(registration: &Registration, now: Timestamp) -> Option<Refusal> {
    let expires = registration.spec.expires_at.as_ref().filter(|time| time.0 <= now)?;
    Some(Refusal::new(
        RefusalCode::RegistrationExpired,
        format!(
            "the registration expired at {}; set a later spec.expiresAt, or use a medium of another registration",
            expires.0
        ),
    ))
}

/// The refusal of a machine that waits for approval.
pub fn approval_pending(inventory: &str) -> Refusal {
    let message = format!("MachineInventory {inventory} waits for approval: set its spec.approved to true");
    Refusal::new(RefusalCode::ApprovalPending, message).retry_after(60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::MachineRegistrationSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }
    fn with(spec: MachineRegistrationSpec) -> Registration {
        Registration::for_tests("n", "door", spec)
    }
    fn known(namespace: &str, registration: Option<&str>, approved: Option<bool>) -> Option<Arc<KnownMachine>> {
        Some(Arc::new(KnownMachine {
            namespace: namespace.into(),
            registration: registration.map(String::from),
            approved,
            ..KnownMachine::default()
        }))
    }
    fn code(decision: Decision) -> Option<RefusalCode> {
        match decision {
            Decision::Refuse(refusal) => Some(refusal.code),
            _ => None,
        }
    }

    #[test]
    fn a_new_machine_is_enrolled() {
        let open = with(MachineRegistrationSpec::default());
        assert_eq!(decide(&open, None, 7, now()), Decision::Enroll { approved: true });
        let manual = with(MachineRegistrationSpec { approval: Some(Approval::Manual), ..Default::default() });
        assert_eq!(decide(&manual, None, 7, now()), Decision::Enroll { approved: false });
    }

    #[test]
    fn a_known_machine_is_recognised_and_one_created_by_hand_is_approved() {
        let manual = with(MachineRegistrationSpec { approval: Some(Approval::Manual), ..Default::default() });
        for (given, approved) in [(None, true), (Some(true), true), (Some(false), false)] {
            match decide(&manual, known("n", None, given), 0, now()) {
                Decision::Known { approved: found, .. } => assert_eq!(found, approved),
                other => panic!("{other:?}"),
            }
        }
        let open = with(MachineRegistrationSpec::default());
        assert_eq!(code(decide(&open, known("other", None, None), 0, now())), Some(RefusalCode::KnownElsewhere));
    }

    #[test]
    fn a_machine_whose_inventory_is_being_deleted_comes_back_as_a_new_one() {
        let open = with(MachineRegistrationSpec::default());
        let going = known("n", None, None).map(|machine| KnownMachine { deleting: true, ..(*machine).clone() });
        match decide(&open, going.map(Arc::new), 0, now()) {
            Decision::Refuse(refusal) => assert!(refusal.code.may_succeed_later() && refusal.retry_after.is_some()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn limits_apply_to_new_machines_only() {
        let full = with(MachineRegistrationSpec { max_machines: Some(1), ..Default::default() });
        assert_eq!(code(decide(&full, None, 1, now())), Some(RefusalCode::TooManyMachines));
        assert_eq!(code(decide(&full, known("n", None, None), 1, now())), Some(RefusalCode::TooManyMachines));
        assert_eq!(code(decide(&full, known("n", Some("door"), None), 1, now())), None);
        let over = with(MachineRegistrationSpec { expires_at: Some(Time(now())), ..Default::default() });
        assert_eq!(code(decide(&over, None, 0, now())), Some(RefusalCode::RegistrationExpired));
    }
}
