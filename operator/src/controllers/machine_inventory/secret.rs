//! The condition `SharedSecret` for `spec.machineTokenSecretName`: whether its shared secret identifies a machine.

use crate::context::Context;
use crate::identity::shared_secret::SecretContent;
use crate::inventory::index::{Key, KnownMachine};
use api::{Conditions, MachineInventoryStatus, condition_type, reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::time::Duration;

/// How often a Secret is read again for the condition. A machine is identified by the Secret's content when it
/// registers.
const RECHECK_EVERY: Duration = Duration::from_secs(300);
/// How often a shared secret that several machines have is checked again.
const SHARED_EVERY: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    NotNamed,
    Readable,
    Missing,
    Forbidden,
    Malformed(&'static str),
    /// These machines have the same shared secret.
    Shared(Vec<Key>),
    /// The API server is unavailable; the condition stays.
    Unknown,
}

pub(super) async fn check(machine: &KnownMachine, context: &Context) -> State {
    let Some(key) = machine.secret() else { return State::NotNamed };
    match context.secrets.read(&key).await {
        Ok(SecretContent::Valid(secret)) => {
            let mut secrets = context.secrets.others(&key, &secret);
            secrets.push(key);
            let machines = secrets.iter().flat_map(|secret| context.inventory.index.with_secret(secret));
            let others: Vec<_> = machines.filter(|other| other.uid != machine.uid && !other.deleting).collect();
            // The other machines' conditions do not mention this machine yet.
            let unaware = others.iter().filter(|other| !says_shared(&other.status));
            unaware.filter_map(|other| other.secret()).for_each(|secret| context.secrets.note_changed(secret));
            let mut others: Vec<Key> = others.iter().map(|other| other.key()).collect();
            others.sort();
            if others.is_empty() { State::Readable } else { State::Shared(others) }
        }
        Ok(SecretContent::Missing) => State::Missing,
        Ok(SecretContent::Forbidden) => State::Forbidden,
        Ok(SecretContent::Malformed(why)) => State::Malformed(why),
        Err(error) => {
            tracing::warn!(error, machine = format!("{}/{}", machine.namespace, machine.name), "reading its Secret");
            State::Unknown
        }
    }
}

fn says_shared(status: &MachineInventoryStatus) -> bool {
    let condition = status.conditions.find(condition_type::SHARED_SECRET);
    condition.is_some_and(|condition| condition.reason == reason::SECRET_NOT_UNIQUE)
}

/// When to reconcile without an event.
pub(super) fn requeue_after(state: &State) -> Option<Duration> {
    match state {
        State::NotNamed => None,
        State::Shared(_) => Some(SHARED_EVERY),
        _ => Some(RECHECK_EVERY),
    }
}

pub(super) fn set_condition(machine: &KnownMachine, state: &State, status: &mut MachineInventoryStatus, now: &Time) {
    let Some((namespace, name)) = machine.secret() else {
        status.conditions.remove_type(condition_type::SHARED_SECRET);
        return;
    };
    let (holds, reason, message) = match state {
        State::NotNamed | State::Unknown => return,
        State::Readable => {
            (true, reason::SECRET_READABLE, "the machine can identify itself by its shared secret".to_owned())
        }
        State::Missing => (
            false,
            reason::SECRET_MISSING,
            format!("there is no Secret {name} in namespace {namespace}; create one of type rancheros.cattle.io/token"),
        ),
        State::Forbidden => (
            false,
            reason::NOT_PERMITTED,
            format!(
                "the operator may not read Secrets in namespace {namespace}; \
                 add it to the chart's registrationNamespaces"
            ),
        ),
        State::Malformed(why) => (false, reason::SECRET_MALFORMED, format!("Secret {name}: {why}")),
        State::Shared(others) => {
            // Other namespaces belong to other tenants.
            let here = others.iter().filter(|(other, _)| *other == namespace).map(|(_, name)| name.as_str());
            let mut here: Vec<&str> = here.take(3).collect();
            if here.is_empty() {
                here.push("one in another namespace");
            }
            let message = format!(
                "another machine ({}) has the same shared secret, so the operator accepts it from neither; give each \
                 machine its own",
                here.join(", ")
            );
            (false, reason::SECRET_NOT_UNIQUE, message)
        }
    };
    status.conditions.put(condition_type::SHARED_SECRET, holds, reason, &message, machine.generation, now);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{self, FakeApi};
    use api::SHARED_SECRET_TYPE;
    use serde_json::json;

    async fn told(context: &Context, name: &str) -> Option<(String, String)> {
        let machine = context.inventory.index.get("n", name).unwrap();
        let state = check(&machine, context).await;
        let mut status = MachineInventoryStatus::default();
        set_condition(&machine, &state, &mut status, &context.now());
        let condition = status.conditions.find(condition_type::SHARED_SECRET)?;
        Some((condition.reason.to_string(), condition.message.to_string()))
    }

    #[tokio::test]
    async fn each_machine_with_a_faulty_secret_has_a_condition() {
        let api = FakeApi::default();
        let context = fixtures::context(&api);
        for (name, spec) in [
            ("a", json!({"machineTokenSecretName": "s-a"})),
            ("b", json!({"machineTokenSecretName": "s-b"})),
            ("c", json!({})),
        ] {
            context.inventory.index.enter(fixtures::inventory(name, spec));
        }
        let reason = async |name: &str| told(&context, name).await.map(|(reason, _)| reason);
        assert_eq!(reason("a").await.as_deref(), Some(reason::SECRET_MISSING));
        assert_eq!(reason("c").await, None);
        api.put_secret("s-a", "Opaque", "same");
        assert_eq!(reason("a").await.as_deref(), Some(reason::SECRET_MALFORMED));
        api.put_secret("s-a", SHARED_SECRET_TYPE, "same");
        assert_eq!(reason("a").await.as_deref(), Some(reason::SECRET_READABLE));
        api.put_secret("s-b", SHARED_SECRET_TYPE, "same");
        assert_eq!(reason("b").await.as_deref(), Some(reason::SECRET_NOT_UNIQUE));
        let (reason_a, message) = told(&context, "a").await.unwrap();
        assert!(
            reason_a == reason::SECRET_NOT_UNIQUE && message.contains("(b)") && !message.contains("same\""),
            "{message}"
        );
        context.inventory.index.forget(&context.inventory.index.get("n", "b").unwrap());
        assert_eq!(reason("a").await.as_deref(), Some(reason::SECRET_READABLE));

        // Another machine names the same Secret, so the first one must be reconciled.
        context.secrets.take_changed();
        context.inventory.index.enter(fixtures::inventory("d", json!({"machineTokenSecretName": "s-a"})));
        assert_eq!(reason("d").await.as_deref(), Some(reason::SECRET_NOT_UNIQUE));
        assert_eq!(context.secrets.take_changed(), [("n".to_owned(), "s-a".to_owned())]);
    }
}
