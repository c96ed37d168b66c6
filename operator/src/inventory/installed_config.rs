//! The keys of `spec.config` that only an installation applies: what was handed out at the last one, and a condition where it
//! is something else now. Pure functions.

use crate::digest::Digest;
use crate::inventory::index::KnownMachine;
use crate::inventory::life::Step;
use api::{Conditions, MachineInventoryStatus, condition_type, reason};
use cloud_config::keys;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Hex digits of a digest. So few show a change, and do not tell whether a guess at a secret is right.
const DIGITS: usize = 8;

/// The keys of `spec.config` that a system applies, with their values. The other keys are for joining a cluster, and a
/// machine gets them whenever they change.
pub fn applied_once(machine: &KnownMachine) -> impl Iterator<Item = (&String, &Value)> {
    let config = machine.config().into_iter().flat_map(|config| &config.cloud_config);
    config.filter(|(key, _)| keys::is_known(key))
}

/// Updates the status after a step of the machine.
pub fn after(machine: &KnownMachine, step: &Step, status: &mut MachineInventoryStatus, now: &Time) {
    if let Step::Registered { approved: true, .. } = step {
        status.installed_config = digests(machine);
    }
    set_condition(machine, status, now);
}

/// Names the keys that have changed since the installation.
pub fn set_condition(machine: &KnownMachine, status: &mut MachineInventoryStatus, now: &Time) {
    let now_given = digests(machine);
    let changed = changed(&status.installed_config, &now_given);
    if changed.is_empty() || !status.conditions.holds(condition_type::INSTALLED) {
        return status.conditions.remove_type(condition_type::CONFIG_NOT_APPLIED);
    }
    let fields: Vec<String> = changed.iter().map(|key| format!("spec.config.{key}")).collect();
    let message = format!(
        "changed since the machine was installed, and only an installation applies it: {}; install the machine again from a \
         medium, or make the change on the machine",
        fields.join(", ")
    );
    let (type_, reason) = (condition_type::CONFIG_NOT_APPLIED, reason::CHANGED_SINCE_INSTALLATION);
    status.conditions.put(type_, true, reason, &message, machine.generation, now);
}

fn digests(machine: &KnownMachine) -> BTreeMap<String, String> {
    let digest = |value: &Value| Digest::of(value).to_string()[..DIGITS].to_owned();
    applied_once(machine).map(|(key, value)| (key.clone(), digest(value))).collect()
}

/// The keys whose values differ, those included that only one side has.
fn changed<'a>(installed: &'a BTreeMap<String, String>, now: &'a BTreeMap<String, String>) -> Vec<&'a String> {
    let keys: BTreeSet<&String> = installed.keys().chain(now.keys()).collect();
    keys.into_iter().filter(|key| installed.get(*key) != now.get(*key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    fn machine(config: Value, status: MachineInventoryStatus) -> KnownMachine {
        KnownMachine { status, ..KnownMachine::of(fixtures::inventory("a", json!({"config": config}))) }
    }
    fn registered() -> Step {
        Step::Registered { approved: true, hardware: None, attestation: None, addresses: Vec::new() }
    }
    /// The status after an installation with this config.
    fn installed(config: Value) -> MachineInventoryStatus {
        let now = Time(Timestamp::UNIX_EPOCH);
        let mut status = MachineInventoryStatus::default();
        after(&machine(config, status.clone()), &registered(), &mut status, &now);
        status.conditions.put(condition_type::INSTALLED, true, reason::INSTALLED, "", None, &now);
        status
    }
    fn said(before: &MachineInventoryStatus, config: Value) -> Option<String> {
        let mut status = before.clone();
        set_condition(&machine(config, before.clone()), &mut status, &Time(Timestamp::UNIX_EPOCH));
        status.conditions.find(condition_type::CONFIG_NOT_APPLIED).map(|condition| condition.message.to_string())
    }

    #[test]
    fn a_change_that_only_an_installation_applies_is_named() {
        let config = json!({"role": "agent", "users": [{"name": "a", "passwd": "hunter2"}], "timezone": "UTC"});
        let status = installed(config.clone());
        assert_eq!(said(&status, config.clone()), None);
        let mut joins = config.clone();
        joins["role"] = json!("server");
        joins["labels"] = json!({"site": "shop"});
        joins["token"] = json!("new");
        assert_eq!(said(&status, joins), None, "a machine gets these whenever they change");
        let changed = json!({"role": "agent", "users": [{"name": "b"}], "ntp": {"servers": ["n"]}});
        let message = said(&status, changed.clone()).unwrap();
        assert!(message.contains(": spec.config.ntp, spec.config.timezone, spec.config.users;"), "{message}");
        let shown = format!("{} {message}", serde_json::to_string(&status).unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
        let mut status = status;
        let (machine, now) = (machine(changed, status.clone()), Time(Timestamp::UNIX_EPOCH));
        status.conditions.remove_type(condition_type::INSTALLED);
        after(&machine, &registered(), &mut status, &now);
        status.conditions.put(condition_type::INSTALLED, true, reason::INSTALLED, "", None, &now);
        set_condition(&machine, &mut status, &now);
        assert_eq!(status.conditions.find(condition_type::CONFIG_NOT_APPLIED), None, "it was installed again");
    }

    #[test]
    fn a_machine_that_is_not_installed_takes_what_comes() {
        let mut status = installed(json!({"timezone": "UTC"}));
        status.conditions.remove_type(condition_type::INSTALLED);
        assert_eq!(said(&status, json!({"timezone": "Europe/Berlin"})), None);
        let held = Step::Registered { approved: false, hardware: None, attestation: None, addresses: Vec::new() };
        let mut status = MachineInventoryStatus::default();
        let machine = machine(json!({"timezone": "UTC"}), status.clone());
        after(&machine, &held, &mut status, &Time(Timestamp::UNIX_EPOCH));
        assert!(status.installed_config.is_empty(), "it was given nothing");
    }
}
