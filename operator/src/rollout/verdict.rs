//! The verdict on a whole roll-out: one reason, a message, and whether somebody must act.

use super::engine::fleet::BundleStatus;
use super::{RolloutEngine, Upgrade};
use crate::inventory::upgrade::DEADLINE;
use api::{Engine, NodeCounts, reason};
use k8s_openapi::jiff::Timestamp;

/// Seconds. A roll-out without progress for this long is stuck: twice the time that a machine has for its upgrade.
pub const STUCK_AFTER: i64 = 2 * DEADLINE;
/// The same if nodes are upgraded only in a window: a week and a day.
const STUCK_AFTER_WITH_WINDOW: i64 = 8 * 24 * 3600;

/// Everything that the verdict depends on.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    pub upgrade: &'a Upgrade,
    pub engine: &'static dyn RolloutEngine,
    /// With Fleet. `None`: Fleet has not processed the Bundle yet.
    pub bundle: Option<&'a BundleStatus>,
    /// Why the Plan in this cluster is not carried out, in the message of its controller.
    pub plan_trouble: Option<&'a str>,
    pub counts: &'a NodeCounts,
    /// Name of a node that failed, and why.
    pub failure: Option<(&'a str, &'a str)>,
    /// Machines of which it is not known whether they are selected.
    pub unclear: &'a [String],
    /// When the next window opens, in seconds since 1970, if none is open.
    pub opens_at: Option<i64>,
    /// Seconds since the last progress of a node.
    pub idle: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub reason: &'static str,
    pub message: String,
    /// There is no progress until somebody acts.
    pub stalled: bool,
}

impl Verdict {
    /// All selected nodes run the release.
    pub fn is_ready(&self) -> bool {
        self.reason == reason::UPGRADED
    }
}

/// How long a roll-out may be without progress, in seconds.
pub fn stuck_after(upgrade: &Upgrade) -> i64 {
    if upgrade.plan.window.is_some() { STUCK_AFTER_WITH_WINDOW } else { STUCK_AFTER }
}

pub fn verdict(observation: Observation<'_>) -> Verdict {
    let Observation { upgrade, counts, .. } = observation;
    if let Some(verdict) = observation.engine.not_applied(observation) {
        return verdict;
    }
    let NodeCounts { desired, done, updating, failed } = *counts;
    let clusters = clusters(observation);
    let everywhere = clusters.is_none_or(|(ready, all)| ready == all);
    if everywhere && desired > 0 && done == desired && observation.unclear.is_empty() {
        return not_stalled(reason::UPGRADED, format!("{}{} run {}", done, nodes(done), release(upgrade)));
    }
    if let Some(trouble) = observation.plan_trouble {
        let message = format!("System Upgrade Controller does not run the Plan: {trouble}");
        return stalled(reason::NOT_APPLIED, message);
    }
    if !upgrade.is_local() && upgrade.release.is_none() {
        let message = "the release in the image is not known, so the upgraded machines cannot be counted; set \
                       spec.release to its name, or give osImage a tag with that name";
        return stalled(reason::RELEASE_UNKNOWN, message.to_owned());
    }
    let mut so_far = format!("{done} of {desired}{} run {}", nodes(desired), release(upgrade));
    if let Some(name) = observation.unclear.first() {
        so_far += &format!(
            "; of {}, such as {name}, it is not known whether spec.nodeSelector selects them: set spec.config.role or \
             spec.config.labels of their MachineInventory",
            observation.unclear.len()
        );
    }
    let failures = observation.failure.map(|(node, why)| format!("; {failed} failed, such as {node}: {why}"));
    if upgrade.is_paused() {
        let message = format!("spec.concurrency is 0; {so_far}{}", failures.unwrap_or_default());
        return not_stalled(reason::PAUSED, message);
    }
    if let Some(failures) = failures {
        return stalled(reason::FAILED, format!("{so_far}{failures}"));
    }
    if !everywhere {
        let (ready, all) = clusters.unwrap_or_default();
        return waiting(observation, reason::PROGRESSING, format!("applied in {ready} of {all} clusters; {so_far}"));
    }
    if desired == 0 && upgrade.is_local() {
        return stalled(reason::NO_NODE_MATCHED, "spec.nodeSelector selects no node of this cluster".to_owned());
    }
    if desired > 0 && desired == done {
        return not_stalled(reason::APPLIED_NOT_UPGRADED, so_far);
    }
    if desired == 0 && !observation.unclear.is_empty() {
        return not_stalled(reason::APPLIED_NOT_UPGRADED, so_far);
    }
    if desired == 0 {
        let (_, all) = clusters.unwrap_or_default();
        let message = format!(
            "applied in {all} clusters; none of their machines that spec.nodeSelector selects reports to this \
             operator, so it is not known whether they were upgraded"
        );
        return not_stalled(reason::APPLIED_NOT_UPGRADED, message);
    }
    if updating > 0 {
        return waiting(observation, reason::PROGRESSING, format!("{so_far}, {updating} under way"));
    }
    if let Some(time) = observation.opens_at {
        return not_stalled(reason::WINDOW_CLOSED, format!("{}; {so_far}", closed_until(time)));
    }
    waiting(observation, reason::APPLIED_NOT_UPGRADED, format!("applied; {so_far}, none under way"))
}

/// The verdict on several engines at work. One that has stopped counts most, though others go on: whoever waits for the whole
/// would wait in vain. Its words come first.
pub fn of_all<'a>(verdicts: impl Iterator<Item = (Engine, &'a Verdict)>) -> Verdict {
    let mut verdicts: Vec<(Engine, &Verdict)> = verdicts.collect();
    verdicts.sort_by_key(|(_, verdict)| (!verdict.stalled, verdict.is_ready()));
    let message = match &verdicts[..] {
        [(_, only)] => only.message.clone(),
        all => all.iter().map(|(engine, one)| format!("{engine:?}: {}", one.message)).collect::<Vec<_>>().join("; "),
    };
    let (reason, stalled) = verdicts.first().map_or((reason::PROGRESSING, false), |(_, one)| (one.reason, one.stalled));
    Verdict { reason, message, stalled }
}

/// The number of clusters in which the Bundle is applied, and of all selected clusters.
fn clusters(observation: Observation<'_>) -> Option<(u32, u32)> {
    observation.bundle.map(|bundle| (bundle.summary.ready, bundle.summary.desired_ready))
}

/// `time`: in seconds since 1970.
pub(super) fn closed_until(time: i64) -> String {
    let time = Timestamp::from_second(time).unwrap_or(Timestamp::MAX);
    format!("no window of spec.windows is open until {time}")
}

fn release(upgrade: &Upgrade) -> String {
    upgrade.release.as_ref().map_or_else(|| upgrade.plan.upgrade.image.clone(), ToString::to_string)
}

fn nodes(count: u32) -> &'static str {
    if count == 1 { " node" } else { " nodes" }
}

pub(super) fn not_stalled(reason: &'static str, message: String) -> Verdict {
    Verdict { reason, message, stalled: false }
}

pub(super) fn stalled(reason: &'static str, message: String) -> Verdict {
    Verdict { reason, message, stalled: true }
}

/// A verdict without action needed, unless the roll-out is stuck.
pub(super) fn waiting(observation: Observation<'_>, reason: &'static str, message: String) -> Verdict {
    if observation.idle < stuck_after(observation.upgrade) {
        return not_stalled(reason, message);
    }
    let hint = observation.engine.hint();
    stalled(api::reason::STUCK, format!("no progress for {} minutes: {message}; {hint}", observation.idle / 60))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::engine::fleet::Summary;
    use crate::rollout::{DefaultRegistry, FLEET, PLAN};
    use api::ManagedOSImage;
    use serde_json::{Value, json};

    fn upgrade(namespace: &str, spec: Value) -> Upgrade {
        let mut object = ManagedOSImage::new("x", serde_json::from_value(spec).unwrap());
        object.metadata.namespace = Some(namespace.to_owned());
        Upgrade::of(&object, FLEET, &DefaultRegistry::default()).unwrap()
    }
    fn bundle(desired_ready: u32, ready: u32) -> BundleStatus {
        BundleStatus { summary: Summary { desired_ready, ready, ..Summary::default() }, ..BundleStatus::default() }
    }
    fn counts([desired, done, updating, failed]: [u32; 4]) -> NodeCounts {
        NodeCounts { desired, done, updating, failed }
    }

    /// The observation (namespace, spec, clusters: all and applied, nodes: desired, done, updating and failed, idle
    /// seconds) and the verdict (reason, stalled).
    type Case = (&'static str, Value, Option<(u32, u32)>, [u32; 4], i64, &'static str, bool);

    #[test]
    fn each_observation_has_its_reason() {
        let image = || json!({"osImage": "a:2", "targets": [{"clusterName": "c"}]});
        let paused = || json!({"osImage": "a:2", "concurrency": 0});
        let window = || json!({"osImage": "a:2", "windows": [{"startTime": "22:00"}]});
        let cases: [Case; 17] = [
            ("n", image(), None, [0; 4], 0, "Progressing", false),
            ("n", image(), None, [0; 4], STUCK_AFTER, "Stuck", true),
            ("n", image(), Some((0, 0)), [0; 4], 0, "NoTargetMatched", true),
            ("n", image(), Some((2, 1)), [2, 2, 0, 0], 0, "Progressing", false),
            ("n", image(), Some((2, 2)), [2, 2, 0, 0], 0, "Upgraded", false),
            ("n", image(), Some((2, 2)), [2, 1, 1, 0], 0, "Progressing", false),
            ("n", image(), Some((2, 2)), [2, 1, 1, 0], STUCK_AFTER, "Stuck", true),
            ("n", image(), Some((2, 2)), [2, 0, 0, 0], 0, "AppliedNotUpgraded", false),
            ("n", image(), Some((2, 2)), [0; 4], STUCK_AFTER, "AppliedNotUpgraded", false),
            ("n", image(), Some((2, 2)), [2, 1, 0, 1], 0, "Failed", true),
            ("n", json!({"osImage": "a"}), Some((2, 2)), [0; 4], 0, "ReleaseUnknown", true),
            ("n", paused(), Some((1, 1)), [2, 0, 0, 0], STUCK_AFTER, "Paused", false),
            ("n", paused(), Some((1, 1)), [2, 1, 0, 1], 0, "Paused", false),
            ("n", paused(), Some((1, 1)), [2, 2, 0, 0], 0, "Upgraded", false),
            ("n", window(), Some((1, 1)), [2, 0, 0, 0], STUCK_AFTER, "AppliedNotUpgraded", false),
            ("fleet-local", paused(), Some((0, 0)), [0; 4], 0, "NoTargetMatched", true),
            ("fleet-local", window(), Some((1, 1)), [0; 4], 0, "NoNodeMatched", true),
        ];
        for (namespace, spec, clusters, nodes, idle, reason, stalled) in cases {
            let upgrade = upgrade(namespace, spec.clone());
            let bundle = clusters.map(|(all, applied)| bundle(all, applied));
            let verdict = verdict(Observation {
                upgrade: &upgrade,
                engine: FLEET,
                bundle: bundle.as_ref(),
                plan_trouble: None,
                counts: &counts(nodes),
                failure: (nodes[3] > 0).then_some(("m", "JobFailed")),
                unclear: &[],
                opens_at: None,
                idle,
            });
            assert_eq!((verdict.reason, verdict.stalled), (reason, stalled), "{spec} {clusters:?} {nodes:?} {idle}");
            assert_eq!(verdict.is_ready(), reason == "Upgraded");
        }
    }

    #[test]
    fn what_is_waited_for_or_not_known_is_said() {
        let upgrade = upgrade("n", json!({"osImage": "a:2", "targets": [{"clusterName": "c"}]}));
        let bundle = bundle(1, 1);
        let unclear = ["silent".to_owned()];
        let of = |nodes, unclear, opens_at| {
            verdict(Observation {
                upgrade: &upgrade,
                engine: FLEET,
                bundle: Some(&bundle),
                plan_trouble: None,
                counts: &counts(nodes),
                failure: None,
                unclear,
                opens_at,
                idle: STUCK_AFTER,
            })
        };
        let closed = of([2, 1, 0, 0], &[], Some(1_800_000_000));
        assert_eq!((closed.reason, closed.stalled), (reason::WINDOW_CLOSED, false));
        assert!(closed.message.contains("until 2027-01-15T08:00:00Z"), "{}", closed.message);
        assert_eq!(of([2, 1, 1, 0], &[], Some(1_800_000_000)).reason, reason::STUCK);
        for counts in [[0, 0, 0, 0], [2, 2, 0, 0]] {
            let said = of(counts, &unclear, None);
            assert_eq!((said.reason, said.stalled), (reason::APPLIED_NOT_UPGRADED, false));
            assert!(said.message.contains("such as silent"), "{}", said.message);
        }
    }

    #[test]
    fn what_has_stopped_counts_more_than_what_goes_on() {
        let one = |reason, stalled| Verdict { reason, message: reason.to_lowercase(), stalled };
        let of = |a: &Verdict, b: &Verdict| {
            let all = of_all([(Engine::Fleet, a), (Engine::Machine, b)].into_iter());
            (all.reason, all.stalled, all.message)
        };
        let (done, fails) = (one(reason::UPGRADED, false), one(reason::FAILED, true));
        let goes_on = one(reason::PROGRESSING, false);
        let text = |text: &str| text.to_owned();
        let stopped = (reason::FAILED, true);
        assert_eq!(of(&fails, &goes_on), (stopped.0, stopped.1, text("Fleet: failed; Machine: progressing")));
        assert_eq!(of(&goes_on, &fails), (stopped.0, stopped.1, text("Machine: failed; Fleet: progressing")));
        assert_eq!(of(&done, &fails), (stopped.0, stopped.1, text("Machine: failed; Fleet: upgraded")));
        let second = one(reason::STUCK, true);
        assert_eq!(of(&fails, &second).0, reason::FAILED, "the engine for nodes comes first");
        let progresses = (reason::PROGRESSING, false, text("Machine: progressing; Fleet: upgraded"));
        assert_eq!(of(&done, &goes_on), progresses);
        assert_eq!((of(&done, &done).0, of(&done, &done).1), (reason::UPGRADED, false));
        assert_eq!(of_all([(Engine::Plan, &fails)].into_iter()), fails);
    }

    #[test]
    fn messages_of_the_engine_are_passed_on() {
        let upgrade = upgrade("fleet-local", json!({"osImage": "a:2"}));
        let mut refused = bundle(1, 0);
        refused.summary.err_applied = 1;
        let observation = Observation {
            upgrade: &upgrade,
            engine: FLEET,
            bundle: Some(&refused),
            plan_trouble: None,
            counts: &counts([1, 0, 0, 0]),
            failure: None,
            unclear: &[],
            opens_at: None,
            idle: 0,
        };
        assert_eq!(verdict(observation).reason, reason::NOT_APPLIED);
        let observation =
            Observation { engine: PLAN, bundle: None, plan_trouble: Some("no such Secret"), ..observation };
        let not_stalled = verdict(observation);
        assert!(
            not_stalled.reason == reason::NOT_APPLIED && not_stalled.message.contains("no such Secret"),
            "{not_stalled:?}"
        );
    }
}
