//! Carries out a roll-out in which machines upgrade themselves: reads the machines, decides whose turn it is, and writes
//! that to their inventories. The server tells them when they report.

use super::fetch::machine_of;
use super::listing::NodeListing;
use super::{Context, ReconcileError};
use crate::controllers::machine_inventory;
use crate::inventory::index::KnownMachine;
use crate::rollout::desired::Rollout;
use crate::rollout::machines::{MachineRollout, selects};
use crate::rollout::turns::{Candidate, Limits, Turns, decide};
use crate::rollout::{DefaultRegistry, Running};
use api::{Engine, ManagedOSImage, Problem, UpgradeTurn};
use kube::ResourceExt;
use kube::core::Selector;
use std::sync::Arc;

/// The machines of a roll-out, and what was decided.
#[derive(Debug)]
pub(super) struct Found {
    /// The machines, in the order of the candidates.
    pub(super) machines: Vec<Arc<KnownMachine>>,
    pub(super) turns: Turns,
    /// Names of selected machines that are assigned to a cluster, or are nodes of this one, and that no engine reaches.
    pub(super) not_reached: Vec<String>,
    /// Names of selected machines for which an older ManagedOSImage counts, and its name.
    pub(super) of_others: Vec<(String, String)>,
}

/// Which machines the engine for nodes of the same roll-out reaches.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reach {
    /// Those that are nodes of this cluster.
    nodes: bool,
    /// Those that are assigned to a cluster, as far as `targets` select it.
    clusters: bool,
}

impl Reach {
    pub(super) fn of(rollout: &Rollout) -> Self {
        match rollout.nodes() {
            Some(desired) => {
                let nodes = desired.upgrade.is_local();
                Self { nodes, clusters: !nodes && !desired.upgrade.targets.is_empty() }
            }
            None if rollout.is_by_operator() => Self { nodes: true, clusters: false },
            // An engine that is back in a moment still reaches what it reached.
            None => Self { nodes: rollout.absent.is_some(), clusters: rollout.absent.is_some() },
        }
    }

    fn reaches(self, machine: &KnownMachine, is_node: bool) -> bool {
        (self.nodes && is_node) || (self.clusters && machine.cluster().is_some())
    }
}

/// Decides and writes. Without a complete index nothing is decided.
pub(super) async fn carry_out(
    object: &ManagedOSImage,
    context: &Context,
    rollout: &MachineRollout,
    reach: Reach,
    listing: &NodeListing,
) -> Result<Option<Found>, ReconcileError> {
    if !context.inventory.index.is_complete() {
        return Ok(None);
    }
    let now = context.now();
    let nodes = listing.names(context).await?;
    let older = older(object, context);
    let (mut machines, mut not_reached, mut of_others) = (Vec::new(), Vec::new(), Vec::new());
    for machine in context.inventory.index.installed(&rollout.namespace) {
        let selected = rollout.selects(&machine);
        let other = older.iter().find(|other| selected && other.selects(&machine));
        // Only of a selected one: its name as a Node is made anew from its inventory.
        let is_node = selected && machine_of(&machine).is_some_and(|node| nodes.contains(&node.name));
        let undrained = machine.cluster().is_none() && !is_node;
        let concerned = selected && undrained && other.is_none();
        let turn = machine.status.upgrade.as_deref();
        if turn.is_some_and(|turn| rollout.is_superfluous(turn, concerned, &now)) {
            write(&machine, context, None).await?;
        }
        if concerned {
            machines.push(machine);
        } else if let Some(other) = other.filter(|_| undrained) {
            of_others.push((machine.name.clone(), other.name.clone()));
        } else if selected && !undrained && !reach.reaches(&machine, is_node) {
            not_reached.push(machine.name.clone());
        }
    }
    machines.sort_by(|a, b| a.name.cmp(&b.name));
    let candidates: Vec<Candidate> = machines.iter().map(|machine| rollout.candidate(machine)).collect();
    let limits = Limits {
        concurrency: rollout.concurrency,
        max_failures: rollout.max_failures,
        failed_before: 0,
        windows: &rollout.windows,
    };
    let turns = decide(&candidates, &limits, now.0.as_second());
    for &at in &turns.withdraw {
        write(&machines[at], context, None).await?;
    }
    for &at in &turns.begin {
        write(&machines[at], context, Some(rollout.turn(&turns.until, &now))).await?;
    }
    Ok(Some(Found { machines, turns, not_reached, of_others }))
}

/// Machines that could upgrade themselves, and why they are not told.
pub(super) struct LeftOut {
    pub(super) names: Vec<String>,
    pub(super) problem: Problem,
}

/// The selected machines that are assigned to no cluster and are no node of this one.
pub(super) async fn left_out(
    object: &ManagedOSImage,
    context: &Context,
    problem: Problem,
    listing: &NodeListing,
) -> Result<LeftOut, ReconcileError> {
    let selector = Selector::try_from(object.spec.node_selector.clone().unwrap_or_default());
    let installed = context.inventory.index.installed(&object.namespace().unwrap_or_default());
    let mut free: Vec<_> = installed.into_iter().filter(|machine| machine.cluster().is_none()).collect();
    free.retain(|machine| selector.as_ref().is_ok_and(|selector| selects(selector, machine)));
    // Most clusters have none, and need no list of their Nodes for it.
    if !free.is_empty() {
        let nodes = listing.names(context).await?;
        free.retain(|machine| machine_of(machine).is_none_or(|node| !nodes.contains(&node.name)));
    }
    let mut names: Vec<String> = free.iter().map(|machine| machine.name.clone()).collect();
    names.sort();
    Ok(LeftOut { names, problem })
}

/// What older ManagedOSImages of the namespace have machines do. Of several that select a machine the oldest counts.
fn older(object: &ManagedOSImage, context: &Context) -> Vec<MachineRollout> {
    let by_machines = |image: &&Arc<ManagedOSImage>| {
        let engines = image.status.iter().flat_map(|status| &status.engines);
        engines.into_iter().any(|engine| engine.engine == Engine::Machine)
    };
    let images = super::older::older(object, context);
    let images = images.iter().filter(by_machines);
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
