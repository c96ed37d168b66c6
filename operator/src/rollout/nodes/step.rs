//! Where one node is in its upgrade, and what is done next. Each action may be done twice, and the operator may be killed
//! after any of them.

use super::NodeRollout;
use super::drain::{DrainStep, drain};
use super::memory::{End, Memory};
use super::node::{Job, JobState, Node, Pod};
use crate::inventory::upgrade::DEADLINE;
use crate::rollout::Running;
use crate::rollout::progress::Phase;
use crate::rollout::turns::Place;
use std::num::NonZero;

/// Seconds that a node has from the creation of its Job until it is back with the release. The Job itself is ended by its
/// own deadline before.
pub const LIMIT: i64 = DEADLINE + 300;
/// The exit code of a container that the kubelet knows nothing of, because the node restarted under it.
const LOST: i32 = 255;

/// What is said of a Job that runs. What it waits for may follow.
const JOB_RUNS: &str = "its Job runs";

/// A write.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Writes the node's memory, or removes it, and if given whether pods may be scheduled on the node: one write.
    Write {
        memory: Option<Memory>,
        unschedulable: Option<bool>,
    },
    /// Evicts pods, or deletes them if the drain's options say so.
    Evict(Vec<Pod>),
    CreateJob,
    DeleteJob,
}

impl Action {
    /// Whether an upgrade begins or goes on by it.
    pub fn upgrades(&self) -> bool {
        match self {
            Self::Write { memory, .. } => memory.as_ref().is_some_and(Memory::is_in_flight),
            Self::Evict(_) | Self::CreateJob => true,
            Self::DeleteJob => false,
        }
    }
}

/// A node's place, and what to do.
#[derive(Clone, Debug)]
pub struct Step {
    pub place: Place,
    pub actions: Vec<Action>,
    /// Whether its turn may begin.
    pub may_begin: bool,
}

impl Step {
    fn at(phase: Phase, reason: &str) -> Self {
        let place = Place { phase, reason: reason.to_owned(), in_flight: false };
        Self { place, actions: Vec::new(), may_begin: false }
    }

    fn in_flight(phase: Phase, reason: &str) -> Self {
        let mut step = Self::at(phase, reason);
        step.place.in_flight = true;
        step
    }

    fn then(mut self, action: Action) -> Self {
        self.actions.push(action);
        self
    }
}

/// `selected`: whether the node still belongs to the roll-out. `others`: the ManagedOSImages that the operator carries out
/// beside this one. `said`: what the status says of the node.
pub fn step(
    node: &Node,
    rollout: &NodeRollout,
    selected: bool,
    others: &[String],
    said: Option<&str>,
    now: i64,
) -> Step {
    match &node.memory {
        None => fresh(node, rollout),
        Some(Err(())) => Step::at(
            Phase::Waiting,
            "its annotation rancheros.cattle.io/upgrade is not one that the operator writes; remove it, and uncordon the \
             node",
        ),
        Some(Ok(memory)) if !memory.is_current(rollout) => match &memory.end {
            Some(End::Done) if memory.is_of(rollout) => done(node, memory, rollout),
            _ => earlier(node, memory, rollout, others, now),
        },
        Some(Ok(memory)) => match &memory.end {
            Some(End::Done) => done(node, memory, rollout),
            Some(End::Failed { reason, message }) => failed(node, memory, rollout, reason, message),
            None => match memory.drained {
                Some(drained) => upgrading(node, memory, drained, rollout, said, now),
                None if !selected => let_go(memory, "spec.nodeSelector does not select it any more"),
                None => draining(node, memory, rollout, said, now),
            },
        },
    }
}

/// A node whose turn has not begun.
fn fresh(node: &Node, rollout: &NodeRollout) -> Step {
    let running = rollout.release.as_ref().and_then(|release| node.running(release));
    match running {
        _ if node.other_job || has_job(node) => Step::in_flight(Phase::Upgrading, "an upgrade Job runs on it"),
        Some(Running::Healthy) if !rollout.needs_job => Step::at(Phase::Done, ""),
        Some(Running::Unproven) if !rollout.needs_job => Step::at(Phase::Proving, unproven(node)),
        Some(Running::Recovery) => Step::at(Phase::Waiting, "it runs the recovery system; its console says why"),
        _ if node.deleting => Step::at(Phase::Waiting, "its Node is being deleted"),
        _ if !node.ready => Step::at(Phase::Waiting, "its Node is not Ready"),
        _ => Step { may_begin: true, ..Step::at(Phase::Waiting, "") },
    }
}

/// The node's turn begins.
pub fn begin(node: &Node, rollout: &NodeRollout, now: i64) -> Step {
    let cordoned = rollout.cordon && !node.unschedulable;
    let drained = rollout.drain.is_none().then_some(now);
    let memory = Memory { cordoned, drained, ..new_memory(node, rollout, now) };
    let mut step = Step::in_flight(Phase::Upgrading, "its turn begins");
    // It ended in an earlier turn, before an edit that was taken back: its end says nothing of this one.
    if node.job.is_some() {
        step = step.then(Action::DeleteJob);
    }
    step.then(Action::Write { memory: Some(memory), unschedulable: cordoned.then_some(true) })
}

/// The memory of a node that was not touched yet.
pub fn new_memory(node: &Node, rollout: &NodeRollout, now: i64) -> Memory {
    Memory {
        image: rollout.name.clone(),
        version: rollout.version.clone(),
        retry: rollout.retry.clone(),
        since: now,
        boot_id: node.boot_id.clone(),
        heartbeat: node.heartbeat,
        from: node.os_image.clone(),
        ..Memory::default()
    }
}

fn draining(node: &Node, memory: &Memory, rollout: &NodeRollout, said: Option<&str>, now: i64) -> Step {
    if node.is_there(rollout) && !rollout.needs_job {
        return finish(memory);
    }
    if !node.ready && now - memory.since >= DEADLINE {
        return fail(node, memory, "NotReady", "its Node was not Ready while it was drained");
    }
    let decided = match (&rollout.drain, &node.pods) {
        (None, _) => DrainStep::Drained,
        (Some(_), None) => return Step::in_flight(Phase::Upgrading, "draining"),
        (Some(options), Some(pods)) => {
            drain(pods, options, memory.since, memory.draining.map_or(now, NonZero::get), said, now)
        }
    };
    match decided {
        DrainStep::Drained => {
            let memory = Memory { drained: Some(now), ..memory.clone() };
            let step = Step::in_flight(Phase::Upgrading, "drained; its Job is created");
            step.then(Action::Write { memory: Some(memory), unschedulable: None }).then(Action::CreateJob)
        }
        DrainStep::Remove { evict, text, .. } => {
            let mut step = Step::in_flight(Phase::Upgrading, &text);
            if memory.draining.is_none() {
                let memory = Memory { draining: NonZero::new(now), ..memory.clone() };
                step = step.then(Action::Write { memory: Some(memory), unschedulable: None });
            }
            if evict.is_empty() { step } else { step.then(Action::Evict(evict)) }
        }
        DrainStep::Failed(text) => fail(node, memory, "DrainFailed", &text),
    }
}

/// The node is drained; its Job upgrades it.
fn upgrading(node: &Node, memory: &Memory, drained: i64, rollout: &NodeRollout, said: Option<&str>, now: i64) -> Step {
    let over = now - drained >= LIMIT;
    let restarted = node.boot_id != memory.boot_id;
    let back = node.is_back(memory);
    let running = rollout.release.as_ref().and_then(|release| node.running(release));
    let there = back && running == Some(Running::Healthy);
    let minutes = LIMIT / 60;
    let Some(job) = &node.job else {
        return match () {
            () if there && !rollout.needs_job => finish(memory),
            () if over => fail(node, memory, "NotUpgraded", &format!("its Job is gone, and it runs {}", node.os_image)),
            () => Step::in_flight(Phase::Upgrading, "its Job is created").then(Action::CreateJob),
        };
    };
    match &job.state {
        JobState::Running if restarted && back && running == Some(Running::Another) && gave_up(job).is_some() => {
            fail(node, memory, "FellBack", gave_up(job).unwrap_or_default())
        }
        JobState::Running if over => {
            fail(node, memory, "NotUpgraded", &format!("its Job did not end within {minutes} minutes"))
        }
        JobState::Running => match running {
            _ if !node.ready => Step::in_flight(Phase::Upgrading, "its Job runs; its Node is not Ready"),
            Some(Running::Healthy | Running::Unproven) if restarted => {
                Step::in_flight(Phase::Proving, "it runs the release; its Job has not ended")
            }
            _ => {
                let waits = job.waits.iter().map(|waits| format!("; {waits}"));
                Step::in_flight(Phase::Upgrading, &format!("{JOB_RUNS}{}", waits.collect::<String>()))
            }
        },
        JobState::Complete if there => finish(memory),
        JobState::Failed(_) if there && !rollout.needs_job => finish(memory),
        JobState::Failed(_) if !node.ready && !over => {
            Step::in_flight(Phase::Upgrading, "its Job failed; its Node is not Ready")
        }
        JobState::Failed(words) => {
            let reason = if restarted && !there { "FellBack" } else { "JobFailed" };
            // The pods of a Job whose deadline is over are gone.
            let waited = said.and_then(|said| said.strip_prefix(JOB_RUNS)?.strip_prefix("; "));
            let words = waited.map_or_else(|| words.clone(), |waited| format!("{words}; last: {waited}"));
            fail(node, memory, reason, gave_up(job).unwrap_or(&words))
        }
        JobState::Complete if !back && over => {
            fail(node, memory, "NotBack", &format!("its Node was not Ready again within {minutes} minutes"))
        }
        JobState::Complete if !back => {
            Step::in_flight(Phase::Upgrading, "its Job succeeded; its Node is not Ready since")
        }
        JobState::Complete => match running {
            None => finish(memory),
            Some(Running::Recovery) => {
                fail(node, memory, "Recovery", "it runs the recovery system; its console says why")
            }
            Some(Running::Another) if restarted || over => {
                let text = format!("its Job succeeded, and it still runs {}", node.os_image);
                fail(node, memory, "NotUpgraded", &text)
            }
            Some(Running::Another) => Step::in_flight(Phase::Upgrading, "its Job succeeded; it has not restarted yet"),
            Some(_) if over => fail(node, memory, "NotHealthy", unproven(node)),
            Some(_) => Step::in_flight(Phase::Proving, unproven(node)),
        },
    }
}

/// Whether the Job of this attempt runs on it.
fn has_job(node: &Node) -> bool {
    node.job.as_ref().is_some_and(|job| job.state == JobState::Running)
}

/// What a container said that ended with an error by itself.
fn gave_up(job: &Job) -> Option<&str> {
    let (code, text) = job.said.as_ref()?;
    (*code != 0 && *code != LOST && !text.trim().is_empty()).then(|| text.trim())
}

fn unproven(node: &Node) -> &'static str {
    match () {
        () if !node.ready => "it runs the release; its Node is not Ready",
        () if node.report.is_some() => "it runs the release; its machine has not reported that it is healthy",
        () => "it runs the release, which is not healthy yet",
    }
}

fn done(node: &Node, memory: &Memory, rollout: &NodeRollout) -> Step {
    let Some(release) = &rollout.release else { return Step::at(Phase::Done, "") };
    match node.running(release) {
        Some(Running::Another | Running::Recovery) => {
            let text = format!("it ran the release, and went back to {}", node.os_image);
            fail(node, memory, "FellBack", &text)
        }
        Some(Running::Unproven) => Step::at(Phase::Proving, unproven(node)),
        Some(Running::Healthy) | None => Step::at(Phase::Done, ""),
    }
}

/// Ends the upgrade. The node may be used again if the operator had cordoned it.
fn finish(memory: &Memory) -> Step {
    let unschedulable = memory.cordoned.then_some(false);
    let memory = Memory { cordoned: false, ..memory.ended(End::Done) };
    Step::at(Phase::Done, "").then(Action::Write { memory: Some(memory), unschedulable })
}

/// Notes the failure. What follows from it is done when it is noted.
fn fail(node: &Node, memory: &Memory, reason: &str, message: &str) -> Step {
    let memory = memory.failed(reason, message);
    let mut step = Step::at(Phase::Failed, &failure(node, &memory, reason, message));
    // The place of a node that is well is free when it is uncordoned, which comes next.
    step.place.in_flight = has_job(node) || (memory.cordoned && node.ready);
    step.then(Action::Write { memory: Some(memory), unschedulable: None })
}

/// A node whose upgrade failed. If it is well, it may be used again as it is.
fn failed(node: &Node, memory: &Memory, rollout: &NodeRollout, reason: &str, message: &str) -> Step {
    let mut step = Step::at(Phase::Failed, &failure(node, memory, reason, message));
    if has_job(node) {
        // It may still restart the node.
        step.place.in_flight = true;
        return step.then(Action::DeleteJob);
    }
    if node.is_there(rollout) && !rollout.needs_job {
        return finish(memory);
    }
    if memory.cordoned && node.ready {
        let memory = Memory { cordoned: false, ..memory.clone() };
        return step.then(Action::Write { memory: Some(memory), unschedulable: Some(false) });
    }
    step
}

fn failure(node: &Node, memory: &Memory, reason: &str, message: &str) -> String {
    let left = if memory.cordoned && !node.ready { "; it is not Ready, and stays cordoned until it is" } else { "" };
    format!("{reason}: {message}{left}")
}

/// A node with the memory of an earlier spec, or of another ManagedOSImage.
fn earlier(node: &Node, memory: &Memory, rollout: &NodeRollout, others: &[String], now: i64) -> Step {
    let since = memory.drained.unwrap_or(memory.since);
    let is_others = memory.image != rollout.name && others.contains(&memory.image);
    match () {
        () if is_others && (memory.is_in_flight() || memory.cordoned) => {
            Step::at(Phase::Waiting, &format!("the ManagedOSImage {} upgrades it", memory.image))
        }
        () if node.other_job => Step::in_flight(Phase::Upgrading, "its Job of an earlier spec runs"),
        () if memory.is_in_flight() && !node.ready && now - since < LIMIT => {
            Step::in_flight(Phase::Upgrading, "it has not come back from the upgrade to an earlier spec")
        }
        () if memory.is_in_flight() || (memory.cordoned && node.ready) => let_go(memory, ""),
        () if memory.cordoned => Step::at(Phase::Waiting, "its Node is not Ready, and stays cordoned until it is"),
        () => fresh(node, rollout),
    }
}

/// Gives the node back as it was before its turn.
fn let_go(memory: &Memory, reason: &str) -> Step {
    let unschedulable = memory.cordoned.then_some(false);
    Step::at(Phase::Waiting, reason).then(Action::Write { memory: None, unschedulable })
}
