//! The verdict on a roll-out in which turns are given: to machines that upgrade themselves, or to nodes that the operator
//! upgrades.

use super::Hold;
use crate::rollout::progress::{Phase, Progress};
use crate::rollout::verdict::{STUCK_AFTER, Verdict, closed_until, not_stalled, stalled};
use api::{NodeCounts, reason};

/// How those that are upgraded are called.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    pub one: &'static str,
    pub many: &'static str,
    /// Where to look if the roll-out is stuck.
    pub hint: &'static str,
}

/// Everything that the verdict depends on. There is at least one that is to be upgraded.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    pub words: Words,
    pub release: &'a str,
    pub progress: &'a Progress,
    /// Those that have missed three reports.
    pub unknown: usize,
    /// Why none is begun, though some wait.
    pub hold: Option<Hold>,
    /// When the next window opens, in seconds since 1970, if none is open.
    pub opens_at: Option<i64>,
    /// Seconds since the last progress.
    pub idle: i64,
}

pub fn verdict(observation: Observation<'_>) -> Verdict {
    let Observation { words, release, progress, unknown, hold, opens_at, idle } = observation;
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

#[cfg(test)]
mod tests {
    use super::*;
    use api::NodeProgress;

    #[test]
    fn each_observation_has_its_reason() {
        let words = Words { one: "machine", many: "machines", hint: "look there" };
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
        ] {
            let [desired, done, updating, failed] = counts;
            let node = NodeProgress { name: "m".into(), phase: Some("Failed".into()), ..NodeProgress::default() };
            let progress = Progress {
                counts: NodeCounts { desired, done, updating, failed },
                nodes: if failed > 0 { vec![node] } else { Vec::new() },
                ..Progress::default()
            };
            let opens_at = None;
            let verdict =
                verdict(Observation { words, release: "2", progress: &progress, unknown, hold, opens_at, idle });
            assert_eq!((verdict.reason, verdict.stalled), (reason, is_stalled), "{counts:?} {hold:?}: {verdict:?}");
        }
    }
}
