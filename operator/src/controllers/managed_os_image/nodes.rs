//! Carries out a roll-out on the nodes of this cluster: reads Nodes, Jobs and pods, decides, and writes.

mod act;
mod cloud_config;
mod fetch;
mod status;
mod words;

use super::listing::NodeListing;
use super::older::older;
use super::status::Memory;
use super::{Context, ReconcileError};
use crate::rollout::LOCAL_NAMESPACE;
use crate::rollout::desired::has_finalizer;
use crate::rollout::nodes::NodeRollout;
use crate::rollout::nodes::decide::{Decision, Observed, decide, give_back};
use crate::rollout::nodes::node::Node;
use act::act;
use api::{Engine, ManagedOSImage, Problem, reason};
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};
pub(super) use status::status;
use std::collections::HashMap;

/// The nodes, what was decided, and what the API server said to it.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) nodes: Vec<Node>,
    pub(super) decision: Decision,
    /// Whether something was written, so that the next step can follow at once.
    pub(super) acted: bool,
}

/// What came of a roll-out.
#[derive(Debug)]
pub(super) enum Outcome {
    Done(Box<Found>),
    /// The API server refuses something that cannot go on without.
    Refused(Problem),
    /// The inventories are not read yet.
    NotYet,
}

/// Decides and writes. Only one roll-out does so at a time, and reads the Nodes in that time, so that two of them never begin two
/// control planes.
pub(super) async fn carry_out(
    object: &ManagedOSImage,
    context: &Context,
    rollout: &NodeRollout,
    listing: &NodeListing,
) -> Result<Outcome, ReconcileError> {
    if !context.inventory.index.is_complete() {
        return Ok(Outcome::NotYet);
    }
    let older = selectors_of_older(object, context);
    let mut cluster = fetch::cluster(context, rollout, listing).await?;
    for node in &mut cluster.nodes {
        let older = older.iter().find(|(_, selector)| selector.matches(&node.labels));
        node.older = older.map(|(name, _)| name.clone());
    }
    fetch::pods(context, rollout, &mut cluster.nodes).await?;
    let status = object.status.clone().unwrap_or_default();
    let before = Memory::of(&status, Engine::Operator, &rollout.attempt(), object.metadata.generation).nodes;
    let others = others(object, context);
    let now = context.now().0.as_second();
    let observed = Observed { nodes: &cluster.nodes, others: &others, before: &before, now };
    let mut decision = decide(rollout, observed);
    act::delete_jobs(context, cluster.abandoned(&rollout.name)).await?;
    let upgrades = decision.actions.iter().any(|(_, action)| action.upgrades());
    let problem = match &rollout.cloud_config {
        Some(text) if upgrades => cloud_config::store(context, &rollout.name, text).await?,
        // Only a new spec can leave one behind.
        None if status.observed_generation != object.metadata.generation => {
            cloud_config::remove(context, &rollout.name).await?;
            None
        }
        _ => None,
    };
    if problem.is_some() {
        decision.actions.retain(|(_, action)| !action.upgrades());
    }
    let mut said = HashMap::new();
    for (at, action) in &decision.actions {
        match act(context, rollout, &cluster.nodes[*at], action).await? {
            act::Answer::Taken => {}
            // The Node has changed since it was read: whatever follows is decided anew.
            act::Answer::Conflict => break,
            act::Answer::Says(text) => {
                said.insert(*at, text);
            }
            act::Answer::Forbidden(message) => return Ok(Outcome::Refused(forbidden(&message))),
        }
    }
    if let Some(problem) = problem {
        return Ok(Outcome::Refused(problem));
    }
    for (place, at) in decision.places.iter_mut().zip(&decision.concerned) {
        if let Some(text) = said.get(at) {
            place.reason = if place.reason.is_empty() { text.clone() } else { format!("{}; {text}", place.reason) };
        }
    }
    let acted = !decision.actions.is_empty() && said.is_empty();
    Ok(Outcome::Done(Box::new(Found { nodes: cluster.nodes, decision, acted })))
}

/// Gives back all nodes of a ManagedOSImage that is deleted, or that another engine carries out from now on. `wait`: Jobs
/// that run are waited for. Returns the number of nodes that are waited for.
pub(super) async fn end(object: &ManagedOSImage, context: &Context, wait: bool) -> Result<usize, ReconcileError> {
    if object.namespace().as_deref() != Some(LOCAL_NAMESPACE) || !has_finalizer(object) {
        return Ok(0);
    }
    let name = &object.name_any();
    let cluster = fetch::all(context, &NodeListing::default()).await?;
    let (actions, held) = give_back(&cluster.nodes, name, context.now().0.as_second(), wait);
    if held == 0 {
        act::delete_jobs(context, cluster.jobs_of(name)).await?;
        cloud_config::remove(context, name).await?;
    }
    for (at, action) in &actions {
        act::write_back(context, &cluster.nodes[*at], action).await?;
    }
    Ok(held)
}

fn forbidden(message: &str) -> Problem {
    let message = format!(
        "the operator may not upgrade nodes: {message}; install the chart with operatorUpgrades: true, or Fleet or System \
         Upgrade Controller"
    );
    Problem { reason: reason::NOT_PERMITTED, message }
}

/// The older ManagedOSImages that an engine for nodes carries out, and which nodes they select.
fn selectors_of_older(object: &ManagedOSImage, context: &Context) -> Vec<(String, Selector)> {
    let by_nodes = |image: &ManagedOSImage| {
        let engine = image.status.as_ref().and_then(|status| status.engine);
        matches!(engine, Some(Engine::Fleet | Engine::Plan | Engine::Operator))
    };
    let older = older(object, context).into_iter().filter(|image| by_nodes(image));
    let selectors = older.filter_map(|image| {
        let selector = Selector::try_from(image.spec.node_selector.clone().unwrap_or_default()).ok()?;
        Some((image.name_any(), selector))
    });
    selectors.collect()
}

/// Names of the other ManagedOSImages that the operator carries out.
fn others(object: &ManagedOSImage, context: &Context) -> Vec<String> {
    let is_other = |image: &ManagedOSImage| {
        image.namespace() == object.namespace()
            && image.uid() != object.uid()
            && image.metadata.deletion_timestamp.is_none()
            && image.status.as_ref().is_some_and(|status| status.engine == Some(Engine::Operator))
    };
    let images = context.os_images.state();
    images.iter().filter(|image| is_other(image)).map(|image| image.name_any()).collect()
}
