//! The conditions of a roll-out beside `Ready` and `Stalled`.

use super::super::handover::{Wait, absent};
use super::super::{Carried, CarriedPart, Outcome, machines};
use crate::rollout::machines::MachineRollout;
use crate::rollout::progress::Progress;
use api::{Conditions, ManagedOSImageStatus, condition_type, reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// A reason and a message.
pub(super) type Said = (&'static str, String);

/// Puts each condition that holds, and removes the others.
pub(super) fn put(
    status: &mut ManagedOSImageStatus,
    outcome: &Outcome,
    unordered: Option<Said>,
    generation: Option<i64>,
    now: &Time,
) {
    let mut say = |type_: &str, said: Option<Said>| {
        // Another reason has its own time.
        let same = |reason: &str| status.conditions.find(type_).is_some_and(|condition| &*condition.reason == reason);
        if !said.as_ref().is_some_and(|(reason, _)| same(reason)) {
            status.conditions.remove_type(type_);
        }
        if let Some((reason, message)) = said {
            status.conditions.put(type_, true, reason, &message, generation, now);
        }
    };
    let none = Carried::default();
    let (carried, wait) = match outcome {
        Outcome::Carried(carried) => (carried, carried.absent.map(absent)),
        Outcome::Changing(wait) => (&none, Some(wait.clone())),
        Outcome::Problem(_) | Outcome::Waiting(_) => (&none, None),
    };
    say(condition_type::ENGINE_CHANGE, wait.map(|Wait { reason, message }| (reason, message)));
    let machines = carried.parts.iter().find_map(|part| match part {
        CarriedPart::Machines { rollout, found } => Some((rollout, found)),
        _ => None,
    });
    say(condition_type::FIELDS_NOT_USED, machines.and_then(|(rollout, found)| not_used(rollout, found)));
    say(condition_type::NO_ENGINE, no_engine(carried, machines.map(|(_, found)| &**found)));
    say(condition_type::OLDER_COUNTS, older_counts(carried));
    say(condition_type::CONTROL_PLANE_UNORDERED, unordered);
}

fn not_used(rollout: &MachineRollout, found: &machines::Found) -> Option<Said> {
    if rollout.unused.is_empty() || found.machines.is_empty() {
        return None;
    }
    let (count, fields) = (found.machines.len(), rollout.unused.join(", "));
    let message = format!(
        "{count} of the machines upgrade themselves, such as {}, which does not use {fields}",
        found.machines[0].name
    );
    Some((reason::NOT_USED_BY_MACHINE, message))
}

fn no_engine(carried: &Carried, machines: Option<&machines::Found>) -> Option<Said> {
    let message = match (machines, &carried.left_out) {
        (Some(found), _) => {
            let name = found.not_reached.first()?;
            format!(
                "{} selected, such as {name}, are assigned to a cluster or are nodes of this one, where no engine of this \
                 object reaches them, and machines do not restart themselves undrained; spec.targets with Fleet reaches \
                 clusters, and fleet-local the nodes of this one",
                found.not_reached.len()
            )
        }
        (None, Some(left_out)) => {
            let name = left_out.names.first()?;
            let (count, why) = (left_out.names.len(), &left_out.problem.message);
            format!("{count} selected, such as {name}, could upgrade themselves, and are not told: {why}")
        }
        (None, None) => return None,
    };
    Some((reason::NO_ENGINE, message))
}

fn older_counts(carried: &Carried) -> Option<Said> {
    let nodes = carried.of_older.iter().map(|node| (&node.hostname, &node.image));
    let others = carried.parts.iter().flat_map(|part| match part {
        CarriedPart::Machines { found, .. } => &found.of_others[..],
        CarriedPart::Operator { found, .. } => &found.decision.of_others[..],
        CarriedPart::Nodes { .. } | CarriedPart::Refused { .. } => &[],
    });
    let all: Vec<(&String, &String)> = nodes.chain(others.map(|(name, image)| (name, image))).collect();
    let (name, image) = all.first()?;
    let message = format!(
        "{} selected, such as {name}, are those of the ManagedOSImage {image}, which is older; this one leaves them out",
        all.len()
    );
    Some((reason::OLDER_COUNTS, message))
}

/// A Plan takes nodes in the order of a hash: control planes among others, and several at once.
pub(super) fn unordered(progress: &Progress, concurrency: i64) -> Option<Said> {
    let (planes, counts) = (progress.control_planes, &progress.counts);
    let mixed = planes < counts.desired || (planes > 1 && concurrency > 1);
    if planes == 0 || !mixed || counts.done == counts.desired {
        return None;
    }
    let message = format!(
        "{planes} of the {} nodes are control planes, and a Plan upgrades its nodes in any order, up to {concurrency} at once; \
         to have them first and one at a time, give them a ManagedOSImage of their own (nodeSelector \
         node-role.kubernetes.io/control-plane, concurrency 1), and this one the nodes without that label",
        counts.desired
    );
    Some((reason::ONE_PLAN, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_planes_among_others_are_said_as_long_as_it_matters() {
        let of = |planes, desired, done, concurrency| {
            let counts = api::NodeCounts { desired, done, ..Default::default() };
            unordered(&Progress { counts, control_planes: planes, ..Progress::default() }, concurrency).is_some()
        };
        assert!(of(1, 3, 0, 1) && of(3, 3, 0, 2));
        assert!(!of(0, 3, 0, 1) && !of(3, 3, 0, 1) && !of(1, 3, 3, 1) && !of(1, 1, 0, 2));
    }
}
