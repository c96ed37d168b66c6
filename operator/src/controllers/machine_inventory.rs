//! MachineInventory: states that follow from the objects and not from anything a machine says.
//!
//! It reads from the index and keeps names only, so that its memory does not grow with what a machine is made of.

use super::{DEBOUNCE, ReconcileError, drain, log_watch_error, on_error};
use crate::context::{Context, FIELD_MANAGER};
use crate::crd::{Conditions, MachineInventory, MachineInventoryStatus, Phase, condition_type, reason};
use crate::inventory_index::KnownMachine;
use crate::machine_life::status_patch;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, ObjectMeta, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::store;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use std::sync::Arc;
use std::time::Duration;

/// An object that the server just made has no status yet for a moment. After this, in seconds, it will not come.
const STATUS_GRACE: i64 = 30;
/// How often it is seen whether a duplicate is one still.
const DUPLICATE_EVERY: Duration = Duration::from_secs(60);

/// All that the controller keeps of an object.
type Name = PartialObjectMeta<MachineInventory>;

pub(super) async fn run(context: Arc<Context>, stop: impl Future<Output = ()> + Send + Sync + 'static) {
    let (reader, writer) = store();
    let index = context.clone();
    let names = watcher(Api::<MachineInventory>::all(context.client.clone()), watcher::Config::default())
        .inspect(log_watch_error("MachineInventory"))
        .map_ok(move |event| {
            let names = name_of(&event);
            index.inventories.apply(event);
            names
        })
        .default_backoff()
        .reflect(writer)
        .applied_objects();
    let controller = Controller::for_stream(names, reader)
        .with_config(Config::default().debounce(DEBOUNCE).concurrency(4))
        .reconcile_all_on(context.leadership.begins())
        .graceful_shutdown_on(stop);
    drain(controller.run(timed, on_error, context)).await;
}

fn name_of(event: &watcher::Event<MachineInventory>) -> watcher::Event<Name> {
    let name = |object: &MachineInventory| Name {
        types: None,
        metadata: ObjectMeta {
            namespace: object.namespace(),
            name: object.meta().name.clone(),
            ..ObjectMeta::default()
        },
        _phantom: std::marker::PhantomData,
    };
    match event {
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitApply(object) => watcher::Event::InitApply(name(object)),
        watcher::Event::InitDone => watcher::Event::InitDone,
        watcher::Event::Apply(object) => watcher::Event::Apply(name(object)),
        watcher::Event::Delete(object) => watcher::Event::Delete(name(object)),
    }
}

async fn timed(name: Arc<Name>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    context.metrics.time_reconciliation("MachineInventory", reconcile(name, &context)).await
}

async fn reconcile(name: Arc<Name>, context: &Context) -> Result<Action, ReconcileError> {
    let Some(machine) = context.inventories.get(&name.namespace().unwrap_or_default(), &name.name_any()) else {
        return Ok(Action::await_change());
    };
    let first = machine.hash.as_ref().and_then(|hash| context.inventories.find(hash));
    let finding = validate(&machine, first.as_deref(), context.now().0.as_second());
    let status = build(&machine, &finding, &context.now());
    let Some(written) = context.leadership.act(write(&machine, context, &status)).await else {
        return Ok(Action::await_change());
    };
    written?;
    Ok(match finding {
        Finding::TooEarly => Action::requeue(Duration::from_secs(STATUS_GRACE.unsigned_abs())),
        Finding::Duplicate(_) => Action::requeue(DUPLICATE_EVERY),
        _ => Action::await_change(),
    })
}

/// What is to be said of an object.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// The machine speaks for itself.
    Nothing,
    /// The server is about to write the first status.
    TooEarly,
    /// The server made it and did not live to say more.
    Unrecorded,
    /// Made by hand; the machine has not come.
    Expected,
    MalformedIdentity,
    /// Another inventory, of this name, was made for the machine before.
    Duplicate(String),
    /// Somebody consented since the machine was turned away.
    NowApproved,
}

fn validate(machine: &KnownMachine, first: Option<&KnownMachine>, now: i64) -> Finding {
    if machine.malformed_identity {
        return Finding::MalformedIdentity;
    }
    if let Some(first) = first.filter(|first| first.uid != machine.uid) {
        return Finding::Duplicate(format!("{}/{}", first.namespace, first.name));
    }
    let stalled = machine.status.conditions.find(condition_type::STALLED).map(|condition| condition.reason.as_str());
    let resolved = matches!(stalled, Some(reason::MALFORMED_IDENTITY | reason::DUPLICATE_IDENTITY));
    match machine.status.phase {
        None if machine.registration.is_some() && machine.age(now) < STATUS_GRACE => Finding::TooEarly,
        None if machine.registration.is_some() => Finding::Unrecorded,
        None | Some(Phase::Expected) => Finding::Expected,
        Some(Phase::ApprovalPending) if machine.approved != Some(false) => Finding::NowApproved,
        Some(_) if resolved => Finding::NowApproved,
        Some(_) => Finding::Nothing,
    }
}

fn build(machine: &KnownMachine, finding: &Finding, now: &Time) -> MachineInventoryStatus {
    let mut status = machine.status.clone();
    let mut say = |holds_back: bool, reason: &str, message: &str| {
        let generation = machine.generation;
        status.conditions.put(condition_type::READY, false, reason, message, generation, now);
        if holds_back {
            status.conditions.put(condition_type::STALLED, true, reason, message, generation, now);
        } else {
            status.conditions.take_away(condition_type::STALLED);
        }
    };
    match finding {
        Finding::TooEarly => return status,
        Finding::Nothing => {}
        Finding::Unrecorded => {
            say(false, reason::NOT_INSTALLED, "registered; what it is made of will be known when it comes again");
            status.phase = Some(Phase::Registered);
        }
        Finding::Expected => {
            say(false, reason::EXPECTED, "the machine has not registered yet");
            status.phase = Some(Phase::Expected);
        }
        Finding::MalformedIdentity => {
            let message = "spec.tpm is not a TPM hash: 64 hex digits, as `ros-installer tpm-hash` prints them";
            say(true, reason::MALFORMED_IDENTITY, message);
        }
        Finding::Duplicate(first) => {
            let message = format!("the machine has an older inventory, {first}; delete one of them");
            say(true, reason::DUPLICATE_IDENTITY, &message);
        }
        Finding::NowApproved => {
            say(false, reason::NOT_INSTALLED, "approved; the machine will come back for its configuration");
            status.conditions.put(condition_type::APPROVED, true, reason::APPROVED, "", machine.generation, now);
            status.phase = Some(Phase::Registered);
        }
    }
    status.observed_generation = machine.generation;
    status
}

async fn write(
    machine: &KnownMachine,
    context: &Context,
    status: &MachineInventoryStatus,
) -> Result<(), ReconcileError> {
    let Some(mut patch) = status_patch(&machine.status, status) else { return Ok(()) };
    // What the machine said since this was read must not be undone.
    patch["metadata"] = serde_json::json!({"resourceVersion": machine.resource_version()});
    let api = Api::<MachineInventory>::namespaced(context.client.clone(), &machine.namespace);
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let written = api.patch_status(&machine.name, &parameters, &Patch::Merge(&patch)).await.map_err(|source| {
        ReconcileError::Writing { what: format!("MachineInventory {}/{}", machine.namespace, machine.name), source }
    })?;
    context.inventories.enter(written);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    fn now() -> Time {
        Time(Timestamp::from_second(1_800_000_000).unwrap())
    }
    fn machine(phase: Option<Phase>) -> KnownMachine {
        let mut machine = KnownMachine { uid: "u".into(), generation: Some(2), ..KnownMachine::default() };
        machine.status.phase = phase;
        machine
    }
    fn reason_of(machine: &KnownMachine, finding: &Finding) -> Option<String> {
        build(machine, finding, &now()).conditions.find(condition_type::READY).map(|ready| ready.reason.clone())
    }

    #[test]
    fn a_machine_made_by_hand_is_expected_and_written_once() {
        let mut expected = machine(None);
        assert_eq!(validate(&expected, None, 0), Finding::Expected);
        expected.status = build(&expected, &Finding::Expected, &now());
        assert_eq!(expected.status.phase, Some(Phase::Expected));
        let later = Time(Timestamp::from_second(1_800_000_999).unwrap());
        assert_eq!(build(&expected, &validate(&expected, None, 0), &later), expected.status);
    }

    #[test]
    fn what_the_server_is_about_to_write_is_left_to_it() {
        let mut fresh = machine(None);
        fresh.registration = Some("door".into());
        assert_eq!(validate(&fresh, None, STATUS_GRACE - 1), Finding::TooEarly);
        assert_eq!(build(&fresh, &Finding::TooEarly, &now()), fresh.status);
        assert_eq!(validate(&fresh, None, STATUS_GRACE), Finding::Unrecorded);
    }

    #[test]
    fn a_second_inventory_and_a_broken_identity_say_so() {
        let first = KnownMachine { name: "first".into(), namespace: "n".into(), ..KnownMachine::default() };
        let second = machine(Some(Phase::Ready));
        let finding = validate(&second, Some(&first), 0);
        assert_eq!(finding, Finding::Duplicate("n/first".into()));
        assert_eq!(reason_of(&second, &finding).as_deref(), Some(reason::DUPLICATE_IDENTITY));
        let broken = KnownMachine { malformed_identity: true, ..machine(None) };
        assert_eq!(validate(&broken, None, 0), Finding::MalformedIdentity);
    }

    #[test]
    fn a_consent_is_shown_and_a_running_machine_is_left_alone() {
        let mut waiting = machine(Some(Phase::ApprovalPending));
        waiting.approved = Some(false);
        assert_eq!(validate(&waiting, None, 0), Finding::Nothing);
        waiting.approved = Some(true);
        assert_eq!(validate(&waiting, None, 0), Finding::NowApproved);
        assert_eq!(validate(&machine(Some(Phase::Ready)), None, 0), Finding::Nothing);
    }
}
