//! The verdict on a roll-out in which machines upgrade themselves.

use super::MachineRollout;
use crate::rollout::progress::{Phase, Progress};
use crate::rollout::turns::Hold;
use crate::rollout::verdict::{STUCK_AFTER, Verdict, closed_until, not_stalled, stalled};
use api::{NodeCounts, reason};

/// Everything that the verdict depends on.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    pub rollout: &'a MachineRollout,
    pub progress: &'a Progress,
    /// Machines that have missed three reports.
    pub unknown: usize,
    /// Why no machine is begun, though some wait.
    pub hold: Option<Hold>,
    /// When the next window opens, in seconds since 1970, if none is open.
    pub opens_at: Option<i64>,
    /// Seconds since the last progress of a machine.
    pub idle: i64,
}

pub fn verdict(observation: Observation<'_>) -> Verdict {
    let Observation { rollout, progress, unknown, hold, opens_at, idle } = observation;
    if progress.counts.desired == 0 {
        return nobody(rollout);
    }
    let release = rollout.release.to_string();
    let words = Words { one: "machine", many: "machines", hint: "see the machines' MachineInventories" };
    of_turns(Turns { words, release: &release, progress, unknown, hold, opens_at, idle })
}

/// How those that are upgraded are called.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    pub one: &'static str,
    pub many: &'static str,
    /// Where to look if the roll-out is stuck.
    pub hint: &'static str,
}

/// A roll-out in which turns are given, to one or more.
#[derive(Clone, Copy, Debug)]
pub struct Turns<'a> {
    pub words: Words,
    pub release: &'a str,
    pub progress: &'a Progress,
    pub unknown: usize,
    pub hold: Option<Hold>,
    /// See [`Observation::opens_at`].
    pub opens_at: Option<i64>,
    pub idle: i64,
}

pub fn of_turns(turns: Turns<'_>) -> Verdict {
    let Turns { words, release, progress, unknown, hold, opens_at, idle } = turns;
    let NodeCounts { desired, done, updating, failed } = progress.counts;
    let machines = |count: u32| if count == 1 { words.one } else { words.many };
    if done == desired {
        let run = if done == 1 { "runs" } else { "run" };
        return not_stalled(reason::UPGRADED, format!("{done} {} {run} {release}", machines(done)));
    }
    let mut text = format!("{done} of {desired} {} run {release}", machines(desired));
    if updating > 0 {
        text += &format!(", {updating} under way");
    }
    if unknown > 0 {
        text += &format!(", {unknown} missed three reports");
    }
    let first = progress.nodes.iter().find(|node| node.phase == Some(Phase::Failed.to_string()));
    if let Some(node) = first {
        let why = node.reason.as_deref().unwrap_or_default();
        text += &format!("; {failed} failed, such as {}: {why}", node.name);
    }
    let waiting =
        hold.is_some() || usize::try_from(done + failed).is_ok_and(|ended| ended + unknown < desired as usize);
    match hold {
        Some(Hold::Paused) => not_stalled(reason::PAUSED, format!("spec.concurrency is 0; {text}")),
        Some(Hold::Failures) => {
            let next = "is begun until spec.osImage, spec.retry or spec.maxFailures changes";
            stalled(reason::FAILED, format!("{text}; no further {} {next}", words.one))
        }
        _ if failed > 0 && updating == 0 && !waiting => {
            stalled(reason::FAILED, format!("{text}; another spec.osImage or spec.retry begins anew"))
        }
        Some(Hold::WindowClosed) if updating == 0 => {
            let closed = opens_at.map_or_else(|| "no window of spec.windows is open".to_owned(), closed_until);
            not_stalled(reason::WINDOW_CLOSED, format!("{closed}; {text}"))
        }
        _ if idle >= STUCK_AFTER && hold.is_none() => {
            let (minutes, hint) = (idle / 60, words.hint);
            stalled(reason::STUCK, format!("no step for {minutes} minutes: {text}; {hint}"))
        }
        _ => not_stalled(reason::PROGRESSING, text),
    }
}

/// The verdict where machines wait because they could not fetch the release: the name of each, and why.
pub fn waiting_for_registry(verdict: Verdict, waiting: &[(&str, &str)]) -> Verdict {
    let Some((name, why)) = waiting.first().filter(|_| verdict.reason == reason::PROGRESSING) else { return verdict };
    let (count, message) = (waiting.len(), verdict.message);
    let message = format!("{message}; {count} could not fetch it, such as {name}: {why}");
    not_stalled(reason::REGISTRY_UNREACHABLE, message)
}

fn nobody(rollout: &MachineRollout) -> Verdict {
    if rollout.is_explicit {
        let message = "spec.nodeSelector selects no installed machine of this namespace that is assigned to no cluster \
                       and is no node of this one";
        return stalled(reason::NO_NODE_MATCHED, message.to_owned());
    }
    let message = "Fleet (bundles.fleet.cattle.io), which reaches the clusters of this namespace, is not installed, and \
                   spec.nodeSelector selects no machine that upgrades itself; install Fleet, or for the nodes of this \
                   cluster use the namespace fleet-local";
    stalled(reason::NO_ENGINE, message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::DefaultRegistry;
    use api::{Engine, ManagedOSImage, NodeProgress};
    use serde_json::json;

    #[test]
    fn a_registry_that_is_down_is_said_and_stops_nothing() {
        let going = || not_stalled(reason::PROGRESSING, "0 of 2 machines run 2".to_owned());
        assert_eq!(waiting_for_registry(going(), &[]), going());
        let said = waiting_for_registry(going(), &[("a", "refused"), ("b", "refused")]);
        assert_eq!((said.reason, said.stalled), (reason::REGISTRY_UNREACHABLE, false));
        assert_eq!(said.message, "0 of 2 machines run 2; 2 could not fetch it, such as a: refused");
        let failed = stalled(reason::FAILED, "one did not come up".to_owned());
        assert_eq!(waiting_for_registry(failed.clone(), &[("a", "refused")]), failed);
    }

    #[test]
    fn each_observation_has_its_reason() {
        let of = |engine: Engine| {
            let spec = json!({"osImage": "a:2", "engine": engine});
            let object = ManagedOSImage::new("x", serde_json::from_value(spec).unwrap());
            MachineRollout::of(&object, &DefaultRegistry::default()).unwrap()
        };
        let (explicit, auto) = (of(Engine::Machine), of(Engine::Auto));
        let (paused, failures, closed) = (Some(Hold::Paused), Some(Hold::Failures), Some(Hold::WindowClosed));
        // Desired, done, updating and failed; unknown; hold; idle; reason; stalled.
        for (counts, unknown, hold, idle, reason, is_stalled) in [
            ([3, 3, 0, 0], 0, None, 0, "Upgraded", false),
            ([3, 1, 1, 0], 0, None, 0, "Progressing", false),
            ([3, 1, 0, 0], 2, None, 0, "Progressing", false),
            ([3, 1, 0, 0], 2, None, STUCK_AFTER, "Stuck", true),
            ([3, 1, 0, 1], 0, failures, 0, "Failed", true),
            ([3, 1, 0, 1], 0, None, 0, "Progressing", false),
            ([3, 2, 0, 1], 0, None, 0, "Failed", true),
            ([3, 1, 0, 1], 1, None, 0, "Failed", true),
            ([3, 1, 1, 1], 0, None, 0, "Progressing", false),
            ([3, 1, 0, 0], 0, paused, STUCK_AFTER, "Paused", false),
            ([3, 1, 0, 0], 0, closed, STUCK_AFTER, "WindowClosed", false),
            ([3, 1, 1, 0], 0, closed, 0, "Progressing", false),
            ([0, 0, 0, 0], 0, None, 0, "NoNodeMatched", true),
        ] {
            let [desired, done, updating, failed] = counts;
            let node = NodeProgress { name: "m".into(), phase: Some("Failed".into()), ..NodeProgress::default() };
            let progress = Progress {
                counts: NodeCounts { desired, done, updating, failed },
                nodes: if failed > 0 { vec![node] } else { Vec::new() },
                ..Progress::default()
            };
            let verdict =
                verdict(Observation { rollout: &explicit, progress: &progress, unknown, hold, opens_at: None, idle });
            assert_eq!((verdict.reason, verdict.stalled), (reason, is_stalled), "{counts:?} {hold:?}: {verdict:?}");
        }
        let none = Progress::default();
        let nobody =
            verdict(Observation { rollout: &auto, progress: &none, unknown: 0, hold: None, opens_at: None, idle: 0 });
        assert_eq!((nobody.reason, nobody.stalled), (reason::NO_ENGINE, true));
    }
}
