//! The status of a roll-out.

use super::fetch::Found;
use super::{Desired, ManagedOSImage, Outcome, machines};
use crate::rollout::engine::fleet::{BundleStatus, carried_back};
use crate::rollout::machines::{MachineRollout, verdict as machines_verdict};
use crate::rollout::progress::{self, Phase};
use crate::rollout::verdict::{self, Observation, Verdict};
use api::{Conditions, Engine, ManagedOSImageStatus, condition_type, reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::time::Duration;

pub(super) fn status(object: &ManagedOSImage, outcome: &Outcome, now: &Time) -> ManagedOSImageStatus {
    let before = object.status.clone().unwrap_or_default();
    let generation = object.metadata.generation;
    let (mut status, verdict) = match outcome {
        Outcome::Problem(problem) => {
            let verdict = Verdict { reason: problem.reason, message: problem.message.clone(), stalled: true };
            (before, verdict)
        }
        Outcome::Waiting(message) => {
            let message = message.clone();
            // No object of the roll-out exists, so the status begins as that of a new object.
            let status = ManagedOSImageStatus { conditions: before.conditions, ..ManagedOSImageStatus::default() };
            (status, Verdict { reason: reason::PROGRESSING, message, stalled: false })
        }
        Outcome::Applied { desired, found } => counted(before, generation, desired, found, now),
        Outcome::Machines { rollout, found } => machines_status(before, generation, rollout, found, now),
    };
    machines_conditions(&mut status, outcome, generation, now);
    status.observed_generation = generation;
    let Verdict { reason, message, stalled } = &verdict;
    status.conditions.put(condition_type::READY, verdict.is_ready(), reason, message, generation, now);
    if *stalled {
        status.conditions.put(condition_type::STALLED, true, reason, message, generation, now);
    } else {
        status.conditions.remove_type(condition_type::STALLED);
    }
    status
}

fn counted(
    before: ManagedOSImageStatus,
    generation: Option<i64>,
    desired: &Desired,
    found: &Found,
    now: &Time,
) -> (ManagedOSImageStatus, Verdict) {
    let upgrade = &desired.upgrade;
    let same_version = before.version.as_ref() == Some(&upgrade.plan.version);
    let known = before.nodes.as_deref().filter(|_| same_version).unwrap_or_default();
    let progress = if upgrade.is_local() {
        progress::local(upgrade, &found.nodes, &found.machines, &found.plan, known, now)
    } else {
        progress::downstream(upgrade, &found.machines, known, now)
    };
    let unchanged = before.counts.as_ref() == Some(&progress.counts) && before.observed_generation == generation;
    let progressed_at = before.progressed_at.filter(|_| unchanged).unwrap_or_else(|| now.clone());
    let failed = progress.nodes.iter().find(|node| node.phase == Some(Phase::Failed.to_string()));
    let bundle = found.bundle.as_ref().and_then(BundleStatus::of);
    let verdict = verdict::verdict(Observation {
        upgrade,
        engine: desired.engine,
        bundle: bundle.as_ref(),
        plan_trouble: found.plan.status.trouble().as_deref(),
        counts: &progress.counts,
        failure: failed.map(|node| (node.name.as_str(), node.reason.as_deref().unwrap_or_default())),
        idle: now.0.as_second() - progressed_at.0.as_second(),
    });
    let carried = found.bundle.as_ref().and_then(carried_back);
    let part = |name: &str| carried.as_ref().and_then(|status| status.get(name)).cloned();
    let status = ManagedOSImageStatus {
        observed_generation: generation,
        conditions: before.conditions,
        engine: Some(desired.engine.kind()),
        plan: Some(desired.plan()),
        version: Some(upgrade.plan.version.clone()),
        progressed_at: Some(progressed_at),
        counts: Some(progress.counts),
        nodes: Some(progress.nodes),
        summary: part("summary").and_then(|value| value.as_object().cloned()),
        display: part("display").and_then(|value| value.as_object().cloned()),
        partitions: part("partitions").and_then(|value| value.as_array().cloned()),
        bundle: carried,
    };
    (status, verdict)
}

/// The status of a roll-out in which machines upgrade themselves.
fn machines_status(
    before: ManagedOSImageStatus,
    generation: Option<i64>,
    rollout: &MachineRollout,
    found: &machines::Found,
    now: &Time,
) -> (ManagedOSImageStatus, Verdict) {
    let version = rollout.version();
    let same = before.version.as_ref() == Some(&version) && before.engine == Some(Engine::Machine);
    let known = before.nodes.as_deref().filter(|_| same).unwrap_or_default();
    let places = found.turns.places.iter().zip(&found.machines);
    let seen = places.map(|(place, machine)| {
        (machine.name.clone(), None, machines::runs(machine), place.phase, place.reason.clone())
    });
    let progress = progress::listed(Some(rollout.release.to_string()), seen, known, now);
    let unchanged = before.counts.as_ref() == Some(&progress.counts) && before.observed_generation == generation;
    let progressed_at = before.progressed_at.filter(|_| unchanged && same).unwrap_or_else(|| now.clone());
    let verdict = machines_verdict::verdict(machines_verdict::Observation {
        rollout,
        progress: &progress,
        unknown: found.turns.places.iter().filter(|place| place.phase == Phase::Unknown).count(),
        hold: found.turns.hold,
        idle: now.0.as_second() - progressed_at.0.as_second(),
    });
    let status = ManagedOSImageStatus {
        observed_generation: generation,
        conditions: before.conditions,
        engine: Some(Engine::Machine),
        version: Some(version),
        progressed_at: Some(progressed_at),
        counts: Some(progress.counts),
        nodes: Some(progress.nodes),
        ..ManagedOSImageStatus::default()
    };
    (status, verdict)
}

/// The conditions that only a roll-out has in which machines upgrade themselves.
fn machines_conditions(status: &mut ManagedOSImageStatus, outcome: &Outcome, generation: Option<i64>, now: &Time) {
    let Outcome::Machines { rollout, found } = outcome else {
        status.conditions.remove_type(condition_type::FIELDS_NOT_USED);
        status.conditions.remove_type(condition_type::NOT_REACHED);
        return;
    };
    let mut say = |type_: &str, reason: &str, message: Option<String>| match message {
        Some(message) => status.conditions.put(type_, true, reason, &message, generation, now),
        None => status.conditions.remove_type(type_),
    };
    let unused = (!rollout.unused.is_empty()).then(|| {
        let fields = rollout.unused.join(", ");
        format!("machines upgrade themselves, which does not use {fields}; remove them, or set spec.engine")
    });
    say(condition_type::FIELDS_NOT_USED, reason::NOT_USED_BY_MACHINE, unused);
    let (assigned, others) = (&found.not_reached, &found.of_others);
    let (reason, message) = if let Some(name) = assigned.first() {
        let message = format!(
            "{} selected, such as {name}, are assigned to a cluster or are nodes of this one, and machines do not \
             restart themselves undrained; Fleet or System Upgrade Controller reaches them",
            assigned.len()
        );
        (reason::NO_ENGINE, Some(message))
    } else {
        let message = others.first().map(|(name, image)| {
            format!("{} selected, such as {name}, are those of {image}, which is older", others.len())
        });
        (reason::OLDER_COUNTS, message)
    };
    say(condition_type::NOT_REACHED, reason, message);
}

/// How long until a roll-out without progress counts as stuck. `None`: it is done, or waits for somebody to act.
pub(super) fn settles_in(status: &ManagedOSImageStatus, outcome: &Outcome, now: &Time) -> Option<Duration> {
    let Outcome::Applied { desired, .. } = outcome else { return None };
    if status.conditions.holds(condition_type::READY) || status.conditions.holds(condition_type::STALLED) {
        return None;
    }
    let idle = now.0.as_second() - status.progressed_at.as_ref()?.0.as_second();
    let left = u64::try_from(verdict::stuck_after(&desired.upgrade) - idle).unwrap_or(0);
    Some(Duration::from_secs(left))
}

#[cfg(test)]
mod tests {
    use super::super::discovery::Discovered;
    use super::super::validate::validate;
    use super::*;
    use crate::rollout::ServedKinds;
    use crate::rollout::desired::Rollout;
    use crate::rollout::progress::Machine;
    use api::Problem;
    use k8s_openapi::jiff::Timestamp;
    use serde_json::{Value, json};

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(1_800_000_000 + second).unwrap())
    }
    fn object(spec: Value) -> ManagedOSImage {
        let mut object = ManagedOSImage::new("x", serde_json::from_value(spec).unwrap());
        object.metadata.namespace = Some("fleet-default".into());
        object.metadata.generation = Some(1);
        object
    }
    fn outcome(object: &ManagedOSImage, versions: &[&str]) -> Outcome {
        let discovered = Discovered {
            served: ServedKinds { bundles: true, plans: true, standalone: false },
            ..Discovered::default()
        };
        let machine = |version: &&str| Machine {
            name: format!("m-{version}"),
            os: api::OsStatus { version: Some((*version).into()), healthy: true, ..Default::default() },
            ..Machine::default()
        };
        let bundle = json!({"metadata": {"generation": 1}, "status": {
            "observedGeneration": 1, "summary": {"desiredReady": 1, "ready": 1}, "display": {"readyClusters": "1/1"},
            "resourcesSha256Sum": "x",
        }});
        let found =
            Found { bundle: Some(bundle), machines: versions.iter().map(machine).collect(), ..Found::default() };
        let Rollout::Engine(desired) = validate(object, &discovered).unwrap() else { panic!("Fleet is served") };
        Outcome::Applied { desired, found: Box::new(found) }
    }
    fn reason_of(status: &ManagedOSImageStatus) -> &str {
        &status.conditions.find(condition_type::READY).unwrap().reason
    }

    #[test]
    fn the_status_follows_a_roll_out_from_beginning_to_end() {
        let mut object = object(json!({"osImage": "a:v2", "targets": [{"clusterName": "c"}]}));
        let first = status(&object, &outcome(&object, &["1"]), &at(0));
        assert_eq!(reason_of(&first), reason::APPLIED_NOT_UPGRADED);
        assert_eq!(
            (first.summary.is_some(), first.display.is_some(), first.observed_generation),
            (true, true, Some(1))
        );
        assert!(first.bundle.as_ref().unwrap().get("resourcesSha256Sum").is_none());

        object.status = Some(first.clone());
        assert_eq!(status(&object, &outcome(&object, &["1"]), &at(60)), first);
        let stuck = status(&object, &outcome(&object, &["1"]), &at(3600));
        assert_eq!((reason_of(&stuck), stuck.conditions.holds(condition_type::STALLED)), (reason::STUCK, true));

        object.status = Some(stuck);
        let done = status(&object, &outcome(&object, &["2"]), &at(4000));
        assert!(done.conditions.holds(condition_type::READY) && !done.conditions.holds(condition_type::STALLED));
        assert_eq!(done.progressed_at, Some(at(4000)));
    }

    #[test]
    fn a_new_spec_restarts_the_time_limit_and_a_new_release_the_history() {
        let mut object = object(json!({"osImage": "a:v2"}));
        object.status = Some(status(&object, &outcome(&object, &["1"]), &at(0)));
        object.spec.concurrency = Some(3);
        object.metadata.generation = Some(2);
        let next = status(&object, &outcome(&object, &["1"]), &at(9000));
        assert_eq!((next.progressed_at.clone(), next.observed_generation), (Some(at(9000)), Some(2)));
        assert_eq!(next.nodes.as_ref().unwrap()[0].since, Some(at(0)));
        object.status = Some(next);
        object.spec.os_image = Some("a:v3".into());
        let other = status(&object, &outcome(&object, &["1"]), &at(9999));
        assert_eq!(other.nodes.unwrap()[0].since, Some(at(9999)));
    }

    #[test]
    fn a_problem_is_reported_and_counts_are_kept() {
        let mut object = object(json!({"osImage": "a:v2"}));
        object.status = Some(status(&object, &outcome(&object, &["1"]), &at(0)));
        let problem = Problem { reason: reason::NO_ENGINE, message: "none".into() };
        let said = status(&object, &Outcome::Problem(problem), &at(1));
        assert_eq!((reason_of(&said), said.conditions.holds(condition_type::STALLED)), (reason::NO_ENGINE, true));
        assert_eq!(said.counts, object.status.unwrap().counts);
    }
}
