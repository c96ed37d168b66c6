//! The controller of MachineInventory: the part of the status that follows from objects and not from a machine's
//! messages.
//!
//! It reads from the index and keeps only the names of objects that need a reconciliation. So neither its memory nor
//! its work grows with a healthy fleet.

mod cluster;
mod finding;
mod secret;
mod triggers;

use super::{DEBOUNCE, ReconcileError, drain, on_error};
use crate::context::Context;
use crate::inventory::erase_request;
use crate::inventory::index::KnownMachine;
use crate::inventory::seen::SeenInventory;
use crate::kube::status_writer::StatusPatch;
use crate::kube::watch::keep_watching;
use api::{MachineInventory, MachineInventoryStatus};
use finding::{Finding, build, find};
use futures::{Stream, StreamExt, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::{ObjectRef, store};
use kube::runtime::{WatchStreamExt, watcher};
use std::sync::Arc;
use std::time::Duration;

/// Seconds. An object that the server has just created has no status for a moment. After this long it will not get one.
const STATUS_GRACE: i64 = 30;
/// Objects per page of the first listing: a few MB, at most some 50. Smaller pages would take longer, because each page
/// costs the API server a pass over all objects.
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
    update_requests(&newer, &finding, &mut status, &now);
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

/// Updates the requests to erase data. Before the first status the server does that.
fn update_requests(machine: &KnownMachine, finding: &Finding, status: &mut MachineInventoryStatus, now: &Time) {
    let counts = match finding {
        Finding::TooEarly => return,
        Finding::Duplicate(_) | Finding::MalformedIdentity => false,
        Finding::Nothing | Finding::Unrecorded | Finding::Expected => true,
        Finding::NowApproved | Finding::Released => true,
    };
    erase_request::update(machine, counts, status, now);
}

/// Writes the status of an inventory, for the version of it that was read.
pub(super) async fn write(
    machine: &KnownMachine,
    context: &Context,
    status: &MachineInventoryStatus,
) -> Result<(), ReconcileError> {
    let patch = StatusPatch::between(&machine.status, status, machine.resource_version());
    let Some(patch) = patch else { return Ok(()) };
    let api = Api::<SeenInventory>::namespaced(context.client.clone(), &machine.namespace);
    enter_written(machine, context, patch.write(&api, &machine.name).await)?;
    for (warning, reason, message) in erase_request::news(&machine.status, status) {
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
