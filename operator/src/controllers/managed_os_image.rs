//! The controller of ManagedOSImage: hands a roll-out to its engine, or gives machines their turn, and reports its progress
//! from what machines report.
//!
//! Kinds that are not served are not read: the served engines are discovered regularly, and watches of their kinds
//! begin when they are served.

mod apply;
mod discovery;
mod fetch;
mod handover;
mod listing;
mod machines;
mod node_events;
mod nodes;
mod older;
mod status;
mod validate;

use super::status::write_status;
use super::{DEBOUNCE, ReconcileError, drain, on_error};
use crate::context::Context;
use crate::kube::apply::resource;
use crate::kube::watch::keep_watching;
use crate::rollout::desired::{Desired, Part, Rollout};
use crate::rollout::engine::fleet::BUNDLE_API;
use crate::rollout::machines::MachineRollout;
use crate::rollout::nodes::NodeRollout;
use crate::rollout::objects::PLAN_API;
use crate::rollout::progress::Phase;
use api::{Engine, ManagedOSImage, OS_IMAGE_LABEL, OS_IMAGE_NAMESPACE_LABEL, Problem, reason};
use apply::{Applied, apply_all, delete_all};
use discovery::Discovered;
use fetch::{Found, fetch};
use futures::{Stream, StreamExt, stream};
use handover::Wait;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use listing::NodeListing;
use machines::{LeftOut, Reach};
use older::{OlderNode, nodes_of_older};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use validate::validate;

/// How often it is checked whether machines have reported another system.
const MACHINES_EVERY: Duration = Duration::from_secs(2);
/// How often Nodes and Jobs are read during a roll-out in this cluster, and otherwise.
const NODES_EVERY: Duration = Duration::from_secs(10);
/// How often they are read while the operator upgrades a node: the pause of `kubectl drain` between two evictions.
const IN_FLIGHT_EVERY: Duration = Duration::from_secs(5);
const SETTLED_EVERY: Duration = Duration::from_secs(60);

/// The context of a reconciliation: the operator's context, and what was discovered (`None`: not known yet).
struct ControllerContext {
    context: Arc<Context>,
    discovered: watch::Receiver<Option<Discovered>>,
    /// Held while nodes of this cluster are read, decided on and written.
    nodes: Mutex<()>,
}

pub(super) async fn run(context: Arc<Context>, stop: impl Future<Output = ()> + Send + Sync + 'static) {
    let (reader, writer) = store();
    let _following = context.metrics.follow(reader.clone());
    let (found, discovered) = watch::channel(None);
    let all = Api::<ManagedOSImage>::all(context.client.clone());
    let objects = keep_watching(all, watcher::Config::default(), "ManagedOSImage").reflect(writer).applied_objects();
    let client = &context.client;
    let bundles =
        made_for(client, resource(BUNDLE_API, "Bundle"), discovered.clone(), |found| found.served.bundles.is_served());
    let plans =
        made_for(client, resource(PLAN_API, "Plan"), discovered.clone(), |found| found.served.plans.is_served());
    let discovery = discovery::run(context.client.clone(), context.default_registry.clone(), found);
    let controller = Controller::for_stream(objects, reader.clone())
        .with_config(Config::default().debounce(DEBOUNCE).concurrency(2))
        .reconcile_on(discovery_changes(discovered.clone(), reader.clone()))
        .reconcile_on(changed_machines(context.clone(), reader))
        .reconcile_on(bundles)
        .reconcile_on(plans)
        .graceful_shutdown_on(stop);
    let shared = Arc::new(ControllerContext { context: context.clone(), discovered, nodes: Mutex::new(()) });
    let on_error = |object, error: &_, shared: Arc<ControllerContext>| on_error(object, error, shared.context.clone());
    let controlling = drain(controller.run(timed, on_error, shared));
    tokio::select! {
        () = controlling => {}
        () = discovery => {}
    }
}

/// Keeps the context's store of ManagedOSImages, which the server of every replica reads.
pub(super) async fn follow(context: Arc<Context>, writer: Writer<ManagedOSImage>, stop: impl Future<Output = ()>) {
    let all = Api::<ManagedOSImage>::all(context.client.clone());
    let following = drain(keep_watching(all, watcher::Config::default(), "ManagedOSImage").reflect(writer));
    tokio::select! {
        () = following => {}
        () = stop => {}
    }
}

/// The ManagedOSImages whose Bundles or Plans have changed, as soon as the kind is served.
fn made_for(
    client: &Client,
    resource: ApiResource,
    mut discovered: watch::Receiver<Option<Discovered>>,
    is_served: fn(&Discovered) -> bool,
) -> impl Stream<Item = ObjectRef<ManagedOSImage>> + Send + 'static {
    let api = Api::<PartialObjectMeta<DynamicObject>>::all_with(client.clone(), &resource);
    let begin = async move { discovered.wait_for(|found| found.as_ref().is_some_and(is_served)).await.is_ok() };
    stream::once(begin).filter(|served| std::future::ready(*served)).flat_map(move |_| {
        keep_watching(api.clone(), watcher::Config::default().labels(OS_IMAGE_LABEL), "the objects of a ManagedOSImage")
            .touched_objects()
            .filter_map(|object| async move {
                let object = object.ok()?;
                let labels = object.labels();
                Some(ObjectRef::new(labels.get(OS_IMAGE_LABEL)?).within(labels.get(OS_IMAGE_NAMESPACE_LABEL)?))
            })
    })
}

fn discovery_changes(
    discovered: watch::Receiver<Option<Discovered>>,
    images: Store<ManagedOSImage>,
) -> impl Stream<Item = ObjectRef<ManagedOSImage>> + Send {
    stream::unfold(discovered, |mut discovered| async {
        discovered.changed().await.ok()?;
        Some(((), discovered))
    })
    .flat_map(move |()| all(&images))
}

fn changed_machines(
    context: Arc<Context>,
    images: Store<ManagedOSImage>,
) -> impl Stream<Item = ObjectRef<ManagedOSImage>> + Send {
    stream::unfold((context, 0), |(context, seen)| async move {
        loop {
            tokio::time::sleep(MACHINES_EVERY).await;
            let changes = context.inventory.index.system_changes();
            if changes != seen {
                return Some(((), (context, changes)));
            }
        }
    })
    .flat_map(move |()| all(&images))
}

fn all(images: &Store<ManagedOSImage>) -> impl Stream<Item = ObjectRef<ManagedOSImage>> + Send + use<> {
    stream::iter(images.state().iter().map(|image| ObjectRef::from_obj(image.as_ref())).collect::<Vec<_>>())
}

/// The result of applying an object, for its status.
enum Outcome {
    /// It cannot be applied; the reason.
    Problem(Problem),
    /// Something must be deleted first.
    Waiting(String),
    /// Another engine takes over, later.
    Changing(Wait),
    Carried(Carried),
}

/// What engines do for an object.
#[derive(Default)]
struct Carried {
    parts: Vec<CarriedPart>,
    /// The engine for nodes, whose kinds are not served at the moment.
    absent: Option<Engine>,
    /// Machines that could upgrade themselves and are not told.
    left_out: Option<LeftOut>,
    /// Nodes for which an older ManagedOSImage counts.
    of_older: BTreeSet<OlderNode>,
}

/// What one engine does.
enum CarriedPart {
    Nodes {
        desired: Box<Desired>,
        found: Box<Found>,
    },
    /// Machines upgrade themselves.
    Machines {
        rollout: Box<MachineRollout>,
        found: Box<machines::Found>,
    },
    /// The operator upgrades the nodes of its cluster.
    Operator {
        rollout: Box<NodeRollout>,
        found: Box<nodes::Found>,
    },
    /// It would, and the API server refuses something that cannot go on without.
    Refused {
        engine: Engine,
        problem: Problem,
    },
}

async fn timed(object: Arc<ManagedOSImage>, shared: Arc<ControllerContext>) -> Result<Action, ReconcileError> {
    shared.context.metrics.time_reconciliation("ManagedOSImage", reconcile(object, &shared)).await
}

async fn reconcile(object: Arc<ManagedOSImage>, shared: &ControllerContext) -> Result<Action, ReconcileError> {
    let context = &shared.context;
    if object.metadata.deletion_timestamp.is_some() {
        nodes::end(&object, context, false).await?;
        delete_all(&object, context).await?;
        return Ok(Action::await_change());
    }
    let discovered = shared.discovered.borrow().clone();
    let Some(discovered) = discovered else { return Ok(Action::requeue(DEBOUNCE)) };
    let outcome = match validate(&object, &discovered) {
        Err(problem) => Outcome::Problem(problem),
        Ok(rollout) => match carry_out(&object, shared, rollout).await? {
            Some(outcome) => outcome,
            None => return Ok(Action::requeue(DEBOUNCE)),
        },
    };
    let status = status::status(&object, &outcome, &context.now());
    write_status(&*object, context, &status, |status| &status.conditions).await?;
    node_events::publish(&object, context, &status);
    Ok(requeue_after(&outcome, status::settles_in(&status, &outcome, &context.now())))
}

/// Applies the objects of a roll-out, and gives nodes and machines their turn. `None`: too little is known yet.
async fn carry_out(
    object: &ManagedOSImage,
    shared: &ControllerContext,
    mut rollout: Rollout,
) -> Result<Option<Outcome>, ReconcileError> {
    let context = &shared.context;
    if let Some(former) = rollout.former(object)
        && let Some(wait) = handover::waits_for(object, context, former).await?
    {
        return Ok(Some(Outcome::Changing(wait)));
    }
    // Nodes are read in this time and not before, see `nodes::carry_out`.
    let _alone = if rollout.is_by_operator() { Some(shared.nodes.lock().await) } else { None };
    let listing = NodeListing::default();
    let mut of_older = BTreeSet::new();
    if let Some(desired) = rollout.nodes_mut() {
        of_older = nodes_of_older(object, context, desired, &listing).await?;
        desired.upgrade.leave_out(of_older.iter().map(|node| node.hostname.clone()).collect());
    }
    let mut applied = Value::Null;
    if let Some(objects) = rollout.objects(object) {
        match apply_all(object, context, &objects).await? {
            Applied::Refused(problem) => return Ok(Some(Outcome::Problem(problem))),
            Applied::Waiting(message) => return Ok(Some(Outcome::Waiting(message))),
            Applied::As(last) => applied = last,
        }
    }
    let reach = Reach::of(&rollout);
    let mut carried = Carried { absent: rollout.absent, left_out: None, of_older, parts: Vec::new() };
    for part in rollout.parts {
        carried.parts.push(match part {
            Part::Nodes(desired) => {
                let found = fetch(context, &desired, std::mem::take(&mut applied), &listing).await?;
                CarriedPart::Nodes { desired, found: Box::new(found) }
            }
            Part::Machines(rollout) => match machines::carry_out(object, context, &rollout, reach, &listing).await? {
                Some(found) => CarriedPart::Machines { rollout, found: Box::new(found) },
                None => return Ok(None),
            },
            Part::Operator(rollout) => match nodes::carry_out(object, context, &rollout, &listing).await? {
                nodes::Outcome::Done(found) => CarriedPart::Operator { rollout, found },
                nodes::Outcome::Refused(problem) => CarriedPart::Refused { engine: Engine::Operator, problem },
                nodes::Outcome::NotYet => return Ok(None),
            },
        });
    }
    if let Some(problem) = rollout.machines_problem {
        carried.left_out = Some(machines::left_out(object, context, problem, &listing).await?);
    }
    Ok(Some(Outcome::Carried(carried)))
}

/// When to reconcile without an event.
fn requeue_after(outcome: &Outcome, settles_in: Option<Duration>) -> Action {
    match outcome {
        Outcome::Problem(problem) if matches!(problem.reason, reason::NOT_ACCEPTED | reason::NAME_TAKEN) => {
            Action::requeue(SETTLED_EVERY)
        }
        Outcome::Problem(_) => Action::await_change(),
        Outcome::Waiting(_) | Outcome::Changing(_) => Action::requeue(DEBOUNCE),
        Outcome::Carried(carried) => {
            let times = carried.parts.iter().map(|part| part.look_again(settles_in));
            Action::requeue(times.min().unwrap_or(SETTLED_EVERY))
        }
    }
}

impl CarriedPart {
    fn look_again(&self, settles_in: Option<Duration>) -> Duration {
        match self {
            Self::Nodes { desired, .. } => {
                let goes_on = desired.upgrade.is_local() && settles_in.is_some();
                let every = if goes_on { NODES_EVERY } else { SETTLED_EVERY };
                settles_in.map_or(every, |left| left.clamp(DEBOUNCE, every))
            }
            Self::Machines { rollout, found } => {
                let every = if machines::goes_on(found, rollout) { NODES_EVERY } else { SETTLED_EVERY };
                let again = found.turns.look_again.and_then(|seconds| u64::try_from(seconds).ok());
                again.map_or(every, |seconds| Duration::from_secs(seconds).clamp(DEBOUNCE, every))
            }
            Self::Operator { found, .. } => {
                let places = &found.decision.places;
                let goes_on = || places.iter().any(|place| !matches!(place.phase, Phase::Done | Phase::Failed));
                match () {
                    () if found.acted => DEBOUNCE,
                    () if places.iter().any(|place| place.in_flight) => IN_FLIGHT_EVERY,
                    () if goes_on() => NODES_EVERY,
                    () => SETTLED_EVERY,
                }
            }
            Self::Refused { .. } => SETTLED_EVERY,
        }
    }
}
