//! Which of several inventories of one machine counts. Anybody who may create inventories in some namespace can write a
//! machine's hash into one. So what the machine itself did takes precedence over what people wrote.

use super::KnownMachine;
use api::{Conditions, condition_type};
use std::sync::Arc;

/// The inventory that counts for a machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Owner {
    Nobody,
    Inventory(Arc<KnownMachine>),
    /// Several were created by hand, and the machine has used none of them.
    Disputed,
}

impl Owner {
    /// Chooses among the inventories of one machine, oldest first: the one of its last attested registration, else the
    /// first one that it used, else the only one. One that is being deleted counts only if there is no other.
    pub(super) fn of<'a>(machines: impl Iterator<Item = &'a Arc<KnownMachine>> + Clone) -> Self {
        let stays = |machine: &&Arc<KnownMachine>| !machine.deleting;
        if machines.clone().any(|machine| stays(&machine)) {
            Self::among(machines.filter(stays))
        } else {
            Self::among(machines)
        }
    }

    fn among<'a>(machines: impl Iterator<Item = &'a Arc<KnownMachine>> + Clone) -> Self {
        // If several have the same second, the first of them.
        let latest = machines.clone().filter(|machine| machine.attested_at().is_some());
        let latest = latest.reduce(|a, b| if b.attested_at() > a.attested_at() { b } else { a });
        let counts = latest.or_else(|| machines.clone().find(|machine| machine.has_served()));
        if let Some(machine) = counts {
            return Self::Inventory(machine.clone());
        }
        let mut machines = machines;
        match (machines.next(), machines.next()) {
            (None, _) => Self::Nobody,
            (Some(machine), None) => Self::Inventory(machine.clone()),
            (Some(_), Some(_)) => Self::Disputed,
        }
    }
}

impl KnownMachine {
    /// When the machine last proved its identity by its TPM, in seconds since 1970.
    pub fn attested_at(&self) -> Option<i64> {
        Some(self.status.attestation.as_ref()?.time.as_ref()?.0.as_second())
    }

    /// Whether the machine has ever used this inventory.
    fn has_served(&self) -> bool {
        self.status.conditions.holds(condition_type::REGISTERED) || self.status.os.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{AttestationStatus, OsStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    fn by_hand(name: &str) -> KnownMachine {
        KnownMachine { name: name.into(), ..KnownMachine::default() }
    }
    fn served(name: &str) -> KnownMachine {
        let mut machine = by_hand(name);
        machine.status.os = Some(OsStatus::default());
        machine
    }
    fn attested(name: &str, second: i64) -> KnownMachine {
        let mut machine = by_hand(name);
        let time = Some(Time(Timestamp::from_second(second).unwrap()));
        machine.status.attestation = Some(AttestationStatus { time, ..AttestationStatus::default() });
        machine
    }
    /// The name of the one that counts; empty: it is disputed.
    fn owner(machines: &[KnownMachine]) -> String {
        let machines: Vec<_> = machines.iter().cloned().map(Arc::new).collect();
        match Owner::of(machines.iter()) {
            Owner::Inventory(machine) => machine.name.clone(),
            Owner::Disputed => String::new(),
            Owner::Nobody => panic!("somebody has it"),
        }
    }

    #[test]
    fn actions_of_the_machine_take_precedence_over_objects_made_by_hand() {
        assert_eq!(Owner::of([].iter()), Owner::Nobody);
        assert_eq!(owner(&[by_hand("a")]), "a");
        assert_eq!(owner(&[by_hand("a"), by_hand("b")]), "");
        assert_eq!(owner(&[by_hand("a"), served("b")]), "b", "whichever was made first");
        assert_eq!(owner(&[served("a"), served("b"), by_hand("c")]), "a");
        assert_eq!(owner(&[served("a"), attested("b", 1), by_hand("c")]), "b");
        assert_eq!(owner(&[attested("a", 2), attested("b", 1)]), "a");
        assert_eq!(owner(&[attested("a", 1), attested("b", 2)]), "b");
    }

    #[test]
    fn annotations_and_phases_are_not_attestations() {
        let mut claims = by_hand("claims");
        claims.registration = Some("door".into());
        claims.status.phase = Some(api::Phase::Registered);
        assert_eq!(owner(&[claims, served("b")]), "b");
    }

    #[test]
    fn an_inventory_being_deleted_gives_way_to_another() {
        let going = KnownMachine { deleting: true, ..attested("a", 9) };
        assert_eq!(owner(&[going.clone(), by_hand("b")]), "b");
        assert_eq!(owner(&[going]), "a");
    }
}
