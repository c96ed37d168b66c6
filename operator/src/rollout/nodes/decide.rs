//! The decision on all nodes of a roll-out. Values in, values out.

use super::NodeRollout;
use super::memory::Memory;
use super::node::Node;
use super::step::{self, Action, Step};
use crate::rollout::progress::{Phase, Seen};
use crate::rollout::turns::{self, Hold, Limits, Place};
use api::NodeProgress;

/// Everything that the decision depends on, beside the roll-out itself.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// All Nodes of the cluster, each under another name.
    pub nodes: &'a [Node],
    /// The other ManagedOSImages that the operator carries out.
    pub others: &'a [String],
    /// The nodes in the status, of this attempt.
    pub before: &'a [&'a NodeProgress],
    /// Seconds since 1970.
    pub now: i64,
}

/// A node that left during its upgrade, or after it failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Gone {
    pub node: NodeProgress,
    pub reason: String,
}

#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// The nodes of the roll-out, as indices.
    pub concerned: Vec<usize>,
    /// Their places.
    pub places: Vec<Place>,
    /// What to do, in this order.
    pub actions: Vec<(usize, Action)>,
    /// They count as failed.
    pub gone: Vec<Gone>,
    /// Why no node is begun, though some wait.
    pub hold: Option<Hold>,
    /// Selected nodes for which an older ManagedOSImage counts, and its name.
    pub of_others: Vec<(String, String)>,
}

pub fn decide(rollout: &NodeRollout, observed: Observed<'_>) -> Decision {
    let Observed { nodes, others, before, now } = observed;
    let mut decision = Decision::default();
    let mut steps = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        let selected = rollout.selects(&node.labels);
        // What was begun is ended, whether the node is still selected or not.
        let own = node.remembered().filter(|memory| memory.image == rollout.name);
        let unfinished = own.is_some_and(|memory| memory.is_in_flight() || memory.cordoned);
        if let Some(older) = node.older.as_ref().filter(|_| selected && !unfinished) {
            decision.of_others.push((node.name.clone(), older.clone()));
        } else if selected || unfinished {
            let said = before.iter().find(|one| one.id.as_deref() == Some(node.id()));
            let said = said.and_then(|one| one.reason.as_deref());
            let inherited = inherited(node, rollout, observed);
            let step = inherited.unwrap_or_else(|| step::step(node, rollout, selected, others, said, now));
            decision.concerned.push(at);
            steps.push(Step { may_begin: step.may_begin && selected, ..step });
        }
    }
    decision.gone = gone(nodes, before);
    let mut places: Vec<Place> = steps.iter().map(|step| step.place.clone()).collect();
    let waiting = (0..steps.len()).filter(|&at| steps[at].may_begin).collect();
    let (first, later) = order(rollout, nodes, &decision.concerned, &steps, waiting);
    let limits = Limits {
        concurrency: rollout.concurrency,
        max_failures: rollout.max_failures,
        failed_before: decision.gone.len(),
        windows: &rollout.windows,
    };
    let some_wait = !first.is_empty() || !later.is_empty();
    let begun = turns::begin(&mut places, first, &limits, now);
    for at in later {
        places[at].reason = "control planes come first, one at a time".to_owned();
    }
    for &at in &begun.begin {
        steps[at] = step::begin(&nodes[decision.concerned[at]], rollout, now);
        places[at] = steps[at].place.clone();
    }
    // Nodes that are given back come first, then those that began earlier.
    let mut actions: Vec<(usize, Action)> = Vec::new();
    for (step, &node) in steps.iter().zip(&decision.concerned) {
        actions.extend(step.actions.iter().map(|action| (node, action.clone())));
    }
    let begins = |node: usize| begun.begin.iter().any(|&at| decision.concerned[at] == node);
    actions.sort_by_key(|(node, _)| begins(*node));
    decision.actions = actions;
    decision.places = places;
    decision.hold = begun.hold.filter(|_| some_wait && begun.begin.is_empty());
    decision
}

/// Of those that wait: who may begin, in their order, and who must wait for control planes.
fn order(
    rollout: &NodeRollout,
    nodes: &[Node],
    concerned: &[usize],
    steps: &[Step],
    waiting: Vec<usize>,
) -> (Vec<usize>, Vec<usize>) {
    let ended = |phase: Phase| matches!(phase, Phase::Done | Phase::Failed);
    let is_control_plane = |at: usize| nodes[concerned[at]].is_control_plane();
    let first = (0..steps.len()).any(|at| is_control_plane(at) && !ended(steps[at].place.phase));
    if !first {
        return (waiting, Vec::new());
    }
    // Those of other roll-outs count as well: a cluster without its control planes does nothing any more.
    let (mut planes, others): (Vec<usize>, Vec<usize>) = waiting.into_iter().partition(|&at| is_control_plane(at));
    let in_flight = (0..steps.len()).any(|at| is_control_plane(at) && steps[at].place.in_flight);
    let elsewhere = |node: &Node| {
        let other = node.remembered().filter(|memory| memory.image != rollout.name);
        other.is_some_and(Memory::is_in_flight) || node.other_job
    };
    let mut all = nodes.iter().filter(|node| node.is_control_plane());
    let allowed = !in_flight && all.all(|node| node.ready && !elsewhere(node));
    let begins = usize::from(allowed).min(planes.len());
    let later = planes.split_off(begins).into_iter().chain(others).collect();
    (planes, later)
}

/// A node that is back as another Node keeps the failure of this attempt.
fn inherited(node: &Node, rollout: &NodeRollout, observed: Observed<'_>) -> Option<Step> {
    if node.memory.is_some() || node.is_there(rollout) {
        return None;
    }
    let own = |one: &&&NodeProgress| one.id.as_deref() == Some(node.id()) && Phase::of(one) == Some(Phase::Failed);
    let failed = observed.before.iter().find(own)?;
    let why = failed.reason.as_deref().unwrap_or_default();
    let (reason, message) = why.split_once(": ").unwrap_or(("Failed", why));
    let memory = step::new_memory(node, rollout, observed.now).failed(reason, message);
    Some(Step {
        place: Place { phase: Phase::Failed, reason: why.to_owned(), in_flight: false },
        actions: vec![Action::Write { memory: Some(memory), unschedulable: None }],
        may_begin: false,
    })
}

/// The nodes that left during their upgrade, or after it had failed.
fn gone(nodes: &[Node], before: &[&NodeProgress]) -> Vec<Gone> {
    let is_gone =
        |one: &NodeProgress| one.id.as_deref().is_some_and(|id| !nodes.iter().any(|node| node.may_have_been(id)));
    let gone = before.iter().filter(|one| is_gone(one));
    gone.filter_map(|one| {
        let reason = match Phase::of(one)? {
            Phase::Failed => one.reason.clone().unwrap_or_default(),
            Phase::Upgrading | Phase::Proving => "NodeGone: its Node was deleted during its upgrade".to_owned(),
            Phase::Unknown | Phase::Waiting | Phase::Done | Phase::Gone => return None,
        };
        Some(Gone { node: (*one).clone(), reason })
    })
    .collect()
}

/// What the status lists: the nodes of the roll-out, and those that are gone.
pub fn seen(nodes: &[Node], decision: &Decision) -> Vec<Seen> {
    let here = decision.places.iter().zip(&decision.concerned).map(move |(place, &at)| {
        let node = &nodes[at];
        Seen {
            name: node.name.clone(),
            id: Some(node.id().to_owned()),
            runs: Some(node.os_image.clone()),
            phase: place.phase,
            reason: place.reason.clone(),
            control_plane: node.is_control_plane(),
            ..Seen::default()
        }
    });
    let gone = decision.gone.iter().map(|gone| Seen {
        name: gone.node.name.clone(),
        id: gone.node.id.clone(),
        phase: Phase::Failed,
        reason: gone.reason.clone(),
        ..Seen::default()
    });
    here.chain(gone).collect()
}

/// Whether the pods of a node must be read for the decision.
pub fn needs_pods(node: &Node, rollout: &NodeRollout) -> bool {
    let memory = node.remembered().filter(|memory| memory.is_current(rollout));
    rollout.drain.is_some() && memory.is_some_and(|memory| memory.end.is_none() && memory.drained.is_none())
}

/// How to end a roll-out whose ManagedOSImage is deleted or carried out by another engine: the nodes that are given back,
/// and those whose Jobs must end before.
pub fn give_back(nodes: &[Node], image: &str, now: i64, wait: bool) -> (Vec<(usize, Action)>, usize) {
    let (mut actions, mut held) = (Vec::new(), 0);
    for (at, node) in nodes.iter().enumerate() {
        let Some(memory) = node.remembered().filter(|memory| memory.image == image) else { continue };
        let runs = memory.is_in_flight() && memory.drained.is_some_and(|drained| now - drained < step::LIMIT);
        if wait && runs && (node.other_job || !node.ready) {
            held += 1;
            continue;
        }
        actions.push((at, Action::Write { memory: None, unschedulable: memory.cordoned.then_some(false) }));
    }
    (actions, held)
}
