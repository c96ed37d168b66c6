//! The controller of MachineInventory: the part of the status that follows from objects and not from a machine's messages.
//!
//! It reads from the index and keeps only the names of objects that need a reconciliation. So neither its memory nor its work
//! grows with a healthy fleet.

mod cluster;
mod secret;
mod triggers;

use super::{DEBOUNCE, ReconcileError, drain, on_error};
use crate::context::Context;
use crate::inventory::index::{KnownMachine, Owner};
use crate::inventory::life;
use crate::inventory::reinstall;
use crate::inventory::seen::SeenInventory;
use crate::kube::status_writer::StatusPatch;
use crate::kube::watch::keep_watching;
use api::{Conditions, MachineInventory, MachineInventoryStatus, Phase, condition_type, message, reason};
use futures::{Stream, StreamExt, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::{ObjectRef, store};
use kube::runtime::{WatchStreamExt, watcher};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Seconds. An object that the server has just created has no status for a moment. After this long it will not get one.
const STATUS_GRACE: i64 = 30;
/// Objects per page of the first listing: a few MB, at most some 50. Smaller pages would take longer, because each page costs
/// the API server a pass over all objects.
const PAGE: u32 = 1_000;
/// How often a duplicate is checked again.
const DUPLICATE_EVERY: Duration = Duration::from_secs(60);
/// How often changed Secrets cause reconciliations, at most.
const SECRETS_EVERY: Duration = Duration::from_secs(2);

/// The part of an object that the controller keeps.
type Name = PartialObjectMeta<MachineInventory>;

pub(super) async fn run(context: Arc<Context>, stop: impl Future<Output = ()> + Send + Sync + 'static) {
    let (reader, writer) = store();
    let index = context.clone();
    let all = Api::<SeenInventory>::all(context.client.clone());
    let told = keep_watching(all, watcher::Config::default().page_size(PAGE), "MachineInventory")
        .flat_map(move |event| stream::iter(triggers::triggers(&index, event)));
    let names = stream::select(told, triggers::left_without_status(context.clone())).reflect(writer).applied_objects();
    let controller = Controller::for_stream(names, reader)
        .with_config(Config::default().debounce(DEBOUNCE).concurrency(4))
        .reconcile_on(changed_secrets(context.clone()))
        .reconcile_all_on(context.leadership.begins())
        .graceful_shutdown_on(stop);
    drain(controller.run(timed, on_error, context)).await;
}

/// Machines whose Secret has changed, or has the same content as another.
fn changed_secrets(context: Arc<Context>) -> impl Stream<Item = ObjectRef<Name>> + Send {
    stream::unfold(context, |context| async {
        tokio::time::sleep(SECRETS_EVERY).await;
        let secrets = context.secrets.take_changed();
        let machines = secrets.iter().flat_map(|secret| context.inventory.index.with_secret(secret));
        let machines = machines.map(|machine| ObjectRef::new(&machine.name).within(&machine.namespace));
        Some((stream::iter(machines.collect::<Vec<_>>()), context))
    })
    .flatten()
}

async fn timed(name: Arc<Name>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    context.metrics.time_reconciliation("MachineInventory", reconcile(name, &context)).await
}

async fn reconcile(name: Arc<Name>, context: &Context) -> Result<Action, ReconcileError> {
    let Some(machine) = context.inventory.index.get(&name.namespace().unwrap_or_default(), &name.name_any()) else {
        return Ok(Action::await_change());
    };
    if machine.assumed {
        // A write needs the version that was read; the watch will bring it soon.
        return Ok(Action::requeue(DEBOUNCE));
    }
    // Every replica identifies machines by their shared secret. Everything else is done by the leader.
    let secret = secret::check(&machine, context).await;
    match context.leadership.act(reconcile_as_leader(&machine, &secret, context)).await {
        Some(action) => action,
        None => Ok(secret::requeue_after(&secret).map_or_else(Action::await_change, Action::requeue)),
    }
}

async fn reconcile_as_leader(
    machine: &KnownMachine,
    secret: &secret::State,
    context: &Context,
) -> Result<Action, ReconcileError> {
    if machine.deleting {
        cluster::delete_tokens(machine, context).await?;
        return Ok(Action::await_change());
    }
    let cluster = cluster::reconcile_token(machine, context).await?;
    // The object may have been written in the meantime, by this function or by the server.
    let Some(newer) = context.inventory.index.get(&machine.namespace, &machine.name) else {
        return Ok(Action::await_change());
    };
    if newer.assumed {
        return Ok(Action::requeue(DEBOUNCE));
    }
    if newer.generation != machine.generation {
        // The spec has changed: a token of the former cluster must not be taken for one of the new cluster.
        return Ok(Action::requeue(Duration::ZERO));
    }
    let (finding, now) = (find(&newer, context), context.now());
    let mut status = build(&newer, &finding, &now);
    update_reinstall(&newer, &finding, &mut status, &now);
    cluster::set_condition(&newer, &cluster, &mut status, &now);
    secret::set_condition(&newer, secret, &mut status, &now);
    write(&newer, context, &status).await?;
    let own = match finding {
        Finding::TooEarly => Some(Duration::from_secs(STATUS_GRACE.unsigned_abs())),
        Finding::Duplicate(_) => Some(DUPLICATE_EVERY),
        _ => None,
    };
    let times = [own, secret::requeue_after(secret), cluster::requeue_after(&cluster, &status, &now)];
    Ok(times.into_iter().flatten().min().map_or_else(Action::await_change, Action::requeue))
}

/// The state of an object, as far as it follows from objects.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
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
enum OtherInventory {
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
            Self::Here(name) => write!(f, "the machine's inventory is {name}; delete one of them"),
            Self::Elsewhere => f.write_str(
                "the machine's inventory is in another namespace; register the machine through a registration of this \
                 one to have it here, or delete this one",
            ),
            Self::Equal => f.write_str(
                "others have made inventories of this machine, too, and it has come to none of them: neither counts \
                 until the machine registers, or the others are deleted",
            ),
        }
    }
}

/// The finding about an inventory, from the index.
fn find(machine: &KnownMachine, context: &Context) -> Finding {
    let owner = machine.hash.as_ref().map_or(Owner::Nobody, |hash| context.inventory.index.owner(hash, None));
    validate(machine, &owner, context.now().0.as_second())
}

fn validate(machine: &KnownMachine, owner: &Owner, now: i64) -> Finding {
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

fn build(machine: &KnownMachine, finding: &Finding, now: &Time) -> MachineInventoryStatus {
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
            say(false, reason::NOT_INSTALLED, "registered; what it is made of will be known when it comes again");
            status.phase = Some(Phase::Registered);
        }
        Finding::Expected => {
            say(false, reason::EXPECTED, message::NOT_COME_YET);
            status.phase = Some(Phase::Expected);
        }
        Finding::MalformedIdentity => {
            let message = "spec.tpm is not a TPM hash: 64 hex digits, as `ros-installer tpm-hash` prints them";
            say(true, reason::MALFORMED_IDENTITY, message);
        }
        Finding::Duplicate(other) => say(true, reason::DUPLICATE_IDENTITY, &other.to_string()),
        Finding::NowApproved => {
            say(false, reason::NOT_INSTALLED, "approved; the machine will come back for its configuration");
            status.conditions.put(condition_type::APPROVED, true, reason::APPROVED, "", machine.generation, now);
            status.phase = Some(Phase::Registered);
        }
    }
    status.observed_generation = machine.generation;
    status
}

/// Updates the request to reinstall. Before the first status the server does that.
fn update_reinstall(machine: &KnownMachine, finding: &Finding, status: &mut MachineInventoryStatus, now: &Time) {
    let counts = match finding {
        Finding::TooEarly => return,
        Finding::Duplicate(_) | Finding::MalformedIdentity => false,
        Finding::Nothing | Finding::Unrecorded | Finding::Expected => true,
        Finding::NowApproved | Finding::Released => true,
    };
    reinstall::update(machine, counts, status, now);
}

async fn write(
    machine: &KnownMachine,
    context: &Context,
    status: &MachineInventoryStatus,
) -> Result<(), ReconcileError> {
    let patch = StatusPatch::between(&machine.status, status, machine.resource_version());
    let Some(patch) = patch else { return Ok(()) };
    let api = Api::<SeenInventory>::namespaced(context.client.clone(), &machine.namespace);
    enter_written(machine, context, patch.write(&api, &machine.name).await)?;
    if let Some((warning, reason, message)) = reinstall::news(&machine.status, status) {
        context.events.publish(machine.reference(), warning, &reason, &message);
    }
    Ok(())
}

/// Enters the result of a write into the index. An inventory that was deleted is removed.
fn enter_written(
    machine: &KnownMachine,
    context: &Context,
    written: kube::Result<SeenInventory>,
) -> Result<(), ReconcileError> {
    match written {
        Ok(written) => {
            // Without its last finalizer an object that is being deleted is gone.
            if written.0.metadata.deletion_timestamp.is_none() {
                context.inventory.index.enter(written.0);
            }
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.is_not_found() => {
            context.inventory.index.forget(machine);
            Ok(())
        }
        Err(source) => Err(ReconcileError::Writing {
            what: format!("MachineInventory {}/{}", machine.namespace, machine.name),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::life::Step;
    use k8s_openapi::jiff::Timestamp;
    use protocol::message::{Failure, OsReport};

    fn now() -> Time {
        Time(Timestamp::from_second(1_800_000_000).unwrap())
    }
    fn machine(phase: Option<Phase>) -> KnownMachine {
        let mut machine = KnownMachine { uid: "u".into(), generation: Some(2), ..KnownMachine::default() };
        machine.status.phase = phase;
        machine
    }
    fn reason_of(machine: &KnownMachine, finding: &Finding) -> Option<String> {
        build(machine, finding, &now()).conditions.find(condition_type::READY).map(|ready| ready.reason.to_string())
    }

    #[test]
    fn a_machine_made_by_hand_is_expected_and_written_once() {
        let mut expected = machine(None);
        assert_eq!(validate(&expected, &Owner::Nobody, 0), Finding::Expected);
        expected.status = build(&expected, &Finding::Expected, &now());
        assert_eq!(expected.status.phase, Some(Phase::Expected));
        let later = Time(Timestamp::from_second(1_800_000_999).unwrap());
        assert_eq!(build(&expected, &validate(&expected, &Owner::Nobody, 0), &later), expected.status);
    }

    #[test]
    fn what_the_server_is_about_to_write_is_left_to_it() {
        let mut fresh = machine(None);
        fresh.registration = Some("door".into());
        assert_eq!(validate(&fresh, &Owner::Nobody, STATUS_GRACE - 1), Finding::TooEarly);
        assert_eq!(build(&fresh, &Finding::TooEarly, &now()), fresh.status);
        assert_eq!(validate(&fresh, &Owner::Nobody, STATUS_GRACE), Finding::Unrecorded);
    }

    #[test]
    fn a_second_inventory_and_a_broken_identity_say_so() {
        let first = KnownMachine { name: "first".into(), namespace: "n".into(), ..KnownMachine::default() };
        let elsewhere = machine(Some(Phase::Ready));
        let here = KnownMachine { namespace: "n".into(), ..elsewhere.clone() };
        let first = Owner::Inventory(Arc::new(first));
        for (second, owner, other) in [
            (&here, &first, OtherInventory::Here("first".into())),
            (&elsewhere, &first, OtherInventory::Elsewhere),
            (&here, &Owner::Disputed, OtherInventory::Equal),
        ] {
            let finding = validate(second, owner, 0);
            assert_eq!(finding, Finding::Duplicate(other));
            assert_eq!(reason_of(second, &finding).as_deref(), Some(reason::DUPLICATE_IDENTITY));
        }
        assert_eq!(validate(&here, &Owner::Inventory(Arc::new(here.clone())), 0), Finding::Nothing);
        let broken = KnownMachine { malformed_identity: true, ..machine(None) };
        assert_eq!(validate(&broken, &Owner::Nobody, 0), Finding::MalformedIdentity);
    }

    #[test]
    fn a_machine_whose_inventory_counts_again_is_what_it_was() {
        let other = Owner::Inventory(Arc::new(KnownMachine { uid: "other".into(), ..KnownMachine::default() }));
        let report = |healthy| {
            let report = OsReport { version: "1".into(), healthy, ..OsReport::default() };
            Step::Reported(Box::new(report))
        };
        let failure = || Failure { reason: "NoDisk".into(), message: "no disk is there".into() };
        let installing = Step::Registered { approved: true, hardware: None, attestation: None, addresses: Vec::new() };
        for step in [installing, Step::Installed, report(false), report(true), Step::Failed(failure())] {
            let mut held = machine(None);
            let before = life::after(&held.status, &step, held.generation, &now());
            held.status.clone_from(&before);
            held.status = build(&held, &validate(&held, &other, 0), &now());
            assert!(!held.status.conditions.holds(condition_type::READY));
            // It goes on reporting, through this inventory.
            let again = life::after(&held.status, &step, held.generation, &now());
            if !matches!(step, Step::Registered { .. }) {
                held.status = life::settled(&held.status, again, &now());
                let said = held.status.clone();
                held.status = build(&held, &validate(&held, &other, 0), &now());
                assert_eq!(held.status, said, "{step:?}: nothing alternates");
                held.status.last_seen = None;
            }
            let finding = validate(&held, &Owner::Inventory(Arc::new(held.clone())), 0);
            assert_eq!(finding, Finding::Released, "{step:?}");
            let mut after = build(&held, &finding, &now());
            let mut before = before;
            for status in [&mut before, &mut after] {
                status.conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
            }
            assert_eq!(after, before, "{step:?}");
        }
    }

    #[test]
    fn a_consent_is_shown_and_a_running_machine_is_left_alone() {
        let mut waiting = machine(Some(Phase::ApprovalPending));
        waiting.approved = Some(false);
        assert_eq!(validate(&waiting, &Owner::Nobody, 0), Finding::Nothing);
        waiting.approved = Some(true);
        assert_eq!(validate(&waiting, &Owner::Nobody, 0), Finding::NowApproved);
        assert_eq!(validate(&machine(Some(Phase::Ready)), &Owner::Nobody, 0), Finding::Nothing);
    }
}
