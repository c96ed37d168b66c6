//! The status of a roll-out: what each engine has done, and the whole.

mod conditions;
mod part;

use super::fetch::Found;
use super::{Carried, CarriedPart, Desired, ManagedOSImage, Outcome, machines, nodes};
use crate::inventory::upgrade::told_again_at;
use crate::rollout::engine::fleet::{BundleStatus, carried_back};
use crate::rollout::machines::MachineRollout;
use crate::rollout::machines::verdict::{nobody, waiting_for_registry};
use crate::rollout::progress::{self, Phase, Seen};
use crate::rollout::turns::verdict::Words;
use crate::rollout::verdict::{self, Observation, Verdict};
use api::{Conditions, Engine, EngineProgress, ManagedOSImageStatus, condition_type, reason};
use conditions::Said;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use part::as_before;
pub(super) use part::{ByTurns, Memory, PartStatus};
use std::time::Duration;

pub(super) fn status(object: &ManagedOSImage, outcome: &Outcome, now: &Time) -> ManagedOSImageStatus {
    let before = object.status.clone().unwrap_or_default();
    let generation = object.metadata.generation;
    let progressing = |message: &str| Verdict { reason: reason::PROGRESSING, message: message.into(), stalled: false };
    let mut unordered = None;
    let (mut status, verdict) = match outcome {
        Outcome::Problem(problem) => {
            let verdict = Verdict { reason: problem.reason, message: problem.message.clone(), stalled: true };
            (before, verdict)
        }
        Outcome::Waiting(message) => {
            // No object of the roll-out exists, so the status begins as that of a new object.
            let status = ManagedOSImageStatus { conditions: before.conditions, ..ManagedOSImageStatus::default() };
            (status, progressing(message))
        }
        Outcome::Changing(wait) => (before, progressing(&wait.message)),
        Outcome::Carried(carried) => {
            let (status, verdict, said) = whole(before, generation, carried, now);
            unordered = said;
            (status, verdict)
        }
    };
    conditions::put(&mut status, outcome, unordered, generation, now);
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

/// The status of all engines together.
fn whole(
    before: ManagedOSImageStatus,
    generation: Option<i64>,
    carried: &Carried,
    now: &Time,
) -> (ManagedOSImageStatus, Verdict, Option<Said>) {
    let mut parts: Vec<PartStatus> = carried.absent.map(|engine| as_before(engine, &before)).into_iter().collect();
    parts.extend(carried.parts.iter().map(|part| match part {
        CarriedPart::Nodes { desired, found } => nodes_status(&before, generation, desired, found, now),
        CarriedPart::Machines { rollout, found } => machines_status(&before, generation, rollout, found, now),
        CarriedPart::Operator { rollout, found } => nodes::status(&before, generation, rollout, found, now),
        CarriedPart::Refused { engine, problem } => {
            let verdict = Verdict { reason: problem.reason, message: problem.message.clone(), stalled: true };
            PartStatus { verdict, plan: None, bundle: None, ..as_before(*engine, &before) }
        }
    }));
    let unordered = carried.parts.iter().find_map(|part| match part {
        CarriedPart::Nodes { desired, .. } => {
            let part = parts.iter().find(|known| known.engine == desired.engine.kind())?;
            conditions::unordered(&part.progress, desired.upgrade.plan.concurrency)
        }
        _ => None,
    });
    // The engine for nodes comes first.
    let engine = parts.first().map(|part| part.engine);
    let plan = parts.iter().find_map(|part| part.plan.clone());
    let version = parts.first().and_then(|part| part.version.clone());
    let bundle = parts.iter_mut().find_map(|part| part.bundle.take());
    if parts.iter().any(|part| !part.is_idle()) {
        parts.retain(|part| !part.is_idle());
    } else {
        parts.truncate(1);
    }
    let verdict = verdict::of_all(parts.iter().map(|part| (part.engine, &part.verdict)));
    let progress = progress::of_all(parts.iter().map(|part| &part.progress));
    let part = |name: &str| bundle.as_ref().and_then(|status| status.get(name)).cloned();
    let status = ManagedOSImageStatus {
        observed_generation: generation,
        conditions: before.conditions,
        engine,
        plan,
        version,
        progressed_at: parts.iter().filter_map(|part| part.progressed_at.clone()).max_by_key(|time| time.0),
        counts: Some(progress.counts),
        nodes: Some(progress.nodes),
        summary: part("summary").and_then(|value| value.as_object().cloned()),
        display: part("display").and_then(|value| value.as_object().cloned()),
        partitions: part("partitions").and_then(|value| value.as_array().cloned()),
        bundle,
        engines: parts.into_iter().map(engine_progress).collect(),
    };
    (status, verdict, unordered)
}

fn engine_progress(part: PartStatus) -> EngineProgress {
    EngineProgress {
        engine: part.engine,
        reason: part.verdict.reason.to_owned(),
        message: part.verdict.message,
        stalled: part.verdict.stalled,
        version: part.version,
        progressed_at: part.progressed_at,
        counts: part.progress.counts,
    }
}

fn nodes_status(
    before: &ManagedOSImageStatus,
    generation: Option<i64>,
    desired: &Desired,
    found: &Found,
    now: &Time,
) -> PartStatus {
    let upgrade = &desired.upgrade;
    let engine = desired.engine.kind();
    let memory = Memory::of(before, engine, &upgrade.plan.version, generation);
    let mut progress = if upgrade.is_local() {
        progress::local(upgrade, &found.nodes, &found.machines, &found.plan, &memory.nodes, now)
    } else {
        progress::downstream(upgrade, &found.machines, &memory.nodes, now)
    };
    progress.nodes.iter_mut().for_each(|node| node.engine = Some(engine));
    let progressed_at = memory.progressed_at(&progress, now);
    let failed = progress.nodes.iter().find(|node| node.phase == Some(Phase::Failed.to_string()));
    let bundle = found.bundle.as_ref().and_then(BundleStatus::of);
    let verdict = verdict::verdict(Observation {
        upgrade,
        engine: desired.engine,
        bundle: bundle.as_ref(),
        plan_trouble: found.plan.status.trouble().as_deref(),
        counts: &progress.counts,
        failure: failed.map(|node| (node.name.as_str(), node.reason.as_deref().unwrap_or_default())),
        unclear: &progress.unclear,
        opens_at: upgrade.windows.opens_at(now.0.as_second()),
        idle: now.0.as_second() - progressed_at.0.as_second(),
    });
    PartStatus {
        engine,
        version: Some(upgrade.plan.version.clone()),
        progressed_at: Some(progressed_at),
        progress,
        verdict,
        plan: Some(desired.plan()),
        bundle: found.bundle.as_ref().and_then(carried_back),
    }
}

/// The part of machines that upgrade themselves.
fn machines_status(
    before: &ManagedOSImageStatus,
    generation: Option<i64>,
    rollout: &MachineRollout,
    found: &machines::Found,
    now: &Time,
) -> PartStatus {
    let places = found.turns.places.iter().zip(&found.machines);
    let seen = places.map(|(place, machine)| Seen {
        name: machine.name.clone(),
        id: Some(machine.uid.clone()),
        runs: machines::runs(machine),
        phase: place.phase,
        reason: place.reason.clone(),
        ..Seen::default()
    });
    let turns = ByTurns {
        engine: Engine::Machine,
        version: rollout.version(),
        words: Words { one: "machine", many: "machines", hint: "see the machines' MachineInventories" },
        release: rollout.release.to_string(),
        seen: seen.collect(),
        unknown: found.turns.places.iter().filter(|place| place.phase == Phase::Unknown).count(),
        hold: found.turns.hold,
        opens_at: rollout.windows.opens_at(now.0.as_second()),
        nobody: nobody(rollout),
    };
    let mut part = turns.status(before, generation, now);
    let waiting = found.turns.places.iter().zip(&found.machines).filter(|(place, machine)| {
        place.phase == Phase::Waiting && rollout.turn_of(machine).and_then(told_again_at).is_some()
    });
    let waiting: Vec<(&str, &str)> =
        waiting.map(|(place, machine)| (machine.name.as_str(), place.reason.as_str())).collect();
    part.verdict = waiting_for_registry(part.verdict, &waiting);
    part
}

/// How long until a roll-out without progress counts as stuck. `None`: it is done, or waits for somebody to act.
pub(super) fn settles_in(status: &ManagedOSImageStatus, outcome: &Outcome, now: &Time) -> Option<Duration> {
    let Outcome::Carried(carried) = outcome else { return None };
    let desired = carried.parts.iter().find_map(|part| match part {
        CarriedPart::Nodes { desired, .. } => Some(desired),
        _ => None,
    })?;
    let engine = status.engines.iter().find(|known| known.engine == desired.engine.kind())?;
    if engine.stalled || engine.reason == reason::UPGRADED {
        return None;
    }
    let idle = now.0.as_second() - engine.progressed_at.as_ref()?.0.as_second();
    let left = u64::try_from(verdict::stuck_after(&desired.upgrade) - idle).unwrap_or(0);
    Some(Duration::from_secs(left))
}

#[cfg(test)]
mod tests {
    use super::super::discovery::Discovered;
    use super::super::handover::Wait;
    use super::super::validate::validate;
    use super::*;
    use crate::rollout::desired::Part;
    use crate::rollout::progress::Machine;
    use crate::rollout::{Presence, ServedKinds};
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
            served: ServedKinds { bundles: Presence::Served, plans: Presence::Served, standalone: false },
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
        let Some(Part::Nodes(desired)) = validate(object, &discovered).unwrap().parts.into_iter().next() else {
            panic!("Fleet is served")
        };
        let parts = vec![CarriedPart::Nodes { desired, found: Box::new(found) }];
        Outcome::Carried(Carried { parts, ..Carried::default() })
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
        let stuck = status(&object, &outcome(&object, &["1"]), &at(7200));
        assert_eq!((reason_of(&stuck), stuck.conditions.holds(condition_type::STALLED)), (reason::STUCK, true));

        object.status = Some(stuck);
        let done = status(&object, &outcome(&object, &["2"]), &at(7600));
        assert!(done.conditions.holds(condition_type::READY) && !done.conditions.holds(condition_type::STALLED));
        assert_eq!(done.progressed_at, Some(at(7600)));
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

    #[test]
    fn an_operator_without_the_right_to_upgrade_nodes_says_so() {
        let object = object(json!({"osImage": "a:v2"}));
        let problem = Problem { reason: reason::NOT_PERMITTED, message: "no".into() };
        let parts = vec![CarriedPart::Refused { engine: Engine::Operator, problem }];
        let said = status(&object, &Outcome::Carried(Carried { parts, ..Carried::default() }), &at(0));
        assert_eq!((reason_of(&said), said.engine), (reason::NOT_PERMITTED, Some(Engine::Operator)));
        assert!(said.conditions.holds(condition_type::STALLED));
    }

    #[test]
    fn an_engine_that_has_stopped_is_said_while_another_goes_on() {
        let object = object(json!({"osImage": "a:v2", "targets": [{"clusterName": "c"}]}));
        let Outcome::Carried(mut carried) = outcome(&object, &["1"]) else { panic!("it is carried out") };
        let problem = Problem { reason: reason::FAILED, message: "1 failed, such as m1".into() };
        carried.parts.push(CarriedPart::Refused { engine: Engine::Machine, problem });
        let said = status(&object, &Outcome::Carried(carried), &at(0));
        let ready = said.conditions.find(condition_type::READY).unwrap();
        assert_eq!((&*ready.reason, said.conditions.holds(condition_type::READY)), (reason::FAILED, false));
        assert!(ready.message.starts_with("Machine: 1 failed, such as m1; Fleet: "), "{}", ready.message);
        assert!(said.conditions.holds(condition_type::STALLED));
        assert_eq!(said.engine, Some(Engine::Fleet), "the engine for nodes");
    }

    #[test]
    fn an_engine_that_is_absent_for_a_moment_changes_only_its_condition() {
        let mut object = object(json!({"osImage": "a:v2", "targets": [{"clusterName": "c"}]}));
        let before = status(&object, &outcome(&object, &["2"]), &at(0));
        assert!(before.conditions.holds(condition_type::READY));
        object.status = Some(before.clone());
        let away = Outcome::Carried(Carried { absent: Some(Engine::Fleet), ..Carried::default() });
        let during = status(&object, &away, &at(60));
        let change = during.conditions.find(condition_type::ENGINE_CHANGE).unwrap();
        assert_eq!(&*change.reason, reason::ENGINE_ABSENT);
        let without = |mut status: ManagedOSImageStatus| {
            status.conditions.remove_type(condition_type::ENGINE_CHANGE);
            status
        };
        assert_eq!(without(during.clone()), before);
        object.status = Some(during);
        assert_eq!(status(&object, &outcome(&object, &["2"]), &at(120)), before);
    }

    #[test]
    fn a_change_of_the_engine_says_what_it_waits_for_and_since_when() {
        let mut object = object(json!({"osImage": "a:v2"}));
        let wait = |reason| Outcome::Changing(Wait { reason, message: "m".into() });
        object.status = Some(status(&object, &wait(reason::ENGINE_ABSENT), &at(0)));
        let jobs = status(&object, &wait(reason::JOBS_RUNNING), &at(60));
        let change = jobs.conditions.find(condition_type::ENGINE_CHANGE).unwrap();
        assert_eq!((&*change.reason, change.last_transition_time.clone()), (reason::JOBS_RUNNING, Some(at(60))));
        assert_eq!((reason_of(&jobs), jobs.conditions.holds(condition_type::STALLED)), (reason::PROGRESSING, false));
    }
}
