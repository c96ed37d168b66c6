//! Carries out a roll-out in which machines upgrade themselves: reads the machines, decides whose turn it is, and writes
//! that to their inventories. The server tells them when they report.

use super::fetch::machine_of;
use super::{Context, ReconcileError};
use crate::controllers::machine_inventory;
use crate::inventory::index::KnownMachine;
use crate::rollout::machines::MachineRollout;
use crate::rollout::turns::{Candidate, Limits, Turns, decide};
use crate::rollout::{DefaultRegistry, Running};
use api::{Engine, ManagedOSImage, UpgradeTurn};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The machines of a roll-out, and what was decided.
#[derive(Debug)]
pub(super) struct Found {
    /// The machines, in the order of the candidates.
    pub(super) machines: Vec<Arc<KnownMachine>>,
    pub(super) turns: Turns,
    /// Names of selected machines that are assigned to a cluster, or are nodes of this one.
    pub(super) not_reached: Vec<String>,
    /// Names of selected machines for which an older ManagedOSImage counts, and its name.
    pub(super) of_others: Vec<(String, String)>,
}

/// Decides and writes. Without a complete index nothing is decided.
pub(super) async fn carry_out(
    object: &ManagedOSImage,
    context: &Context,
    rollout: &MachineRollout,
) -> Result<Option<Found>, ReconcileError> {
    if !context.inventory.index.is_complete() {
        return Ok(None);
    }
    let now = context.now();
    let nodes = node_names(context).await?;
    let older = older(object, context);
    let (mut machines, mut not_reached, mut of_others) = (Vec::new(), Vec::new(), Vec::new());
    for machine in context.inventory.index.installed(&rollout.namespace) {
        let selected = rollout.selects(&machine);
        let other = older.iter().find(|other| selected && other.selects(&machine));
        let is_node = || machine_of(&machine).is_some_and(|node| nodes.contains(&node.name));
        let concerned = selected && other.is_none() && machine.cluster().is_none() && !is_node();
        let turn = machine.status.upgrade.as_deref();
        if turn.is_some_and(|turn| rollout.is_superfluous(turn, concerned, &now)) {
            write(&machine, context, None).await?;
        }
        if concerned {
            machines.push(machine);
        } else if let Some(other) = other {
            of_others.push((machine.name.clone(), other.name.clone()));
        } else if selected {
            not_reached.push(machine.name.clone());
        }
    }
    machines.sort_by(|a, b| a.name.cmp(&b.name));
    let candidates: Vec<Candidate> = machines.iter().map(|machine| rollout.candidate(machine)).collect();
    let limits =
        Limits { concurrency: rollout.concurrency, max_failures: rollout.max_failures, windows: &rollout.windows };
    let turns = decide(&candidates, &limits, now.0.as_second());
    for &at in &turns.withdraw {
        write(&machines[at], context, None).await?;
    }
    for &at in &turns.begin {
        write(&machines[at], context, Some(rollout.turn(&turns.until, &now))).await?;
    }
    Ok(Some(Found { machines, turns, not_reached, of_others }))
}

/// The names of the Nodes of this cluster.
async fn node_names(context: &Context) -> Result<BTreeSet<String>, ReconcileError> {
    let nodes = Api::<Node>::all(context.client.clone()).list_metadata(&ListParams::default()).await;
    let nodes = nodes.map_err(|source| ReconcileError::Reading { what: "Nodes".to_owned(), source })?;
    Ok(nodes.items.iter().map(ResourceExt::name_any).collect())
}

/// The older ManagedOSImages of the namespace that machines carry out. Of several that select a machine the oldest counts.
fn older(object: &ManagedOSImage, context: &Context) -> Vec<MachineRollout> {
    let age = |image: &ManagedOSImage| (image.creation_timestamp().map(|time| time.0), image.name_any());
    let is_older = |image: &ManagedOSImage| {
        let by_machines = image.status.as_ref().is_some_and(|status| status.engine == Some(Engine::Machine));
        image.namespace() == object.namespace()
            && image.uid() != object.uid()
            && by_machines
            && age(image) < age(object)
    };
    let images = context.os_images.state();
    let images = images.iter().filter(|image| is_older(image));
    images.filter_map(|image| MachineRollout::of(image, &DefaultRegistry::default()).ok()).collect()
}

/// Writes a turn, or withdraws it. If the inventory has changed in the meantime it is not written: its change causes
/// another reconciliation.
async fn write(machine: &KnownMachine, context: &Context, turn: Option<UpgradeTurn>) -> Result<(), ReconcileError> {
    let mut status = machine.status.clone();
    status.upgrade = turn.map(Box::new);
    match machine_inventory::write(machine, context, &status).await {
        Err(ReconcileError::Writing { source: kube::Error::Api(status), .. }) if status.is_conflict() => Ok(()),
        written => written,
    }
}

/// The release that a machine runs.
pub(super) fn runs(machine: &KnownMachine) -> Option<String> {
    machine.status.os.as_ref().and_then(|os| os.version.clone())
}

/// Whether time alone may bring a machine its turn.
pub(super) fn goes_on(found: &Found, rollout: &MachineRollout) -> bool {
    let done = |machine: &Arc<KnownMachine>| {
        machine.status.os.as_ref().is_some_and(|os| rollout.release.running(os) == Running::Healthy)
    };
    !found.machines.iter().all(done)
}
