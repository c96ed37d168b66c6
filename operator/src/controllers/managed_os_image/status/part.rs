//! The part of one engine in the status of a roll-out.

use crate::controllers::managed_os_image::handover::absent;
use crate::rollout::progress::{Progress, Seen, listed};
use crate::rollout::turns::Hold;
use crate::rollout::turns::verdict::{Observation, Words, verdict};
use crate::rollout::verdict::Verdict;
use api::{Engine, EngineProgress, ManagedOSImageStatus, NodeProgress, reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Map, Value};

/// What one engine has done.
pub struct PartStatus {
    pub engine: Engine,
    pub version: Option<String>,
    pub progressed_at: Option<Time>,
    pub progress: Progress,
    pub verdict: Verdict,
    /// `namespace/name` of the Plan.
    pub plan: Option<String>,
    /// Of the Bundle's status.
    pub bundle: Option<Map<String, Value>>,
}

impl PartStatus {
    /// Whether there is nobody for this engine.
    pub fn is_idle(&self) -> bool {
        let nobody = [reason::NO_NODE_MATCHED, reason::NO_TARGET_MATCHED, reason::NO_ENGINE];
        self.progress.counts.desired == 0 && nobody.contains(&self.verdict.reason)
    }
}

/// What is known of an engine from before.
pub struct Memory<'a> {
    pub nodes: Vec<&'a NodeProgress>,
    engine: Option<&'a EngineProgress>,
    /// Whether it had the same to do.
    same: bool,
    same_generation: bool,
}

impl<'a> Memory<'a> {
    pub fn of(before: &'a ManagedOSImageStatus, engine: Engine, version: &str, generation: Option<i64>) -> Self {
        let known = before.engines.iter().find(|known| known.engine == engine);
        let same = known.is_some_and(|known| known.version.as_deref() == Some(version));
        let own = |node: &&NodeProgress| same && node.engine == Some(engine);
        Self {
            nodes: before.nodes.iter().flatten().filter(own).collect(),
            engine: known,
            same,
            same_generation: before.observed_generation == generation,
        }
    }

    /// When a node last changed its phase, as far as the counts tell.
    pub fn progressed_at(&self, progress: &Progress, now: &Time) -> Time {
        let known = self.engine.filter(|known| self.same && self.same_generation && known.counts == progress.counts);
        known.and_then(|known| known.progressed_at.clone()).unwrap_or_else(|| now.clone())
    }
}

/// An engine whose kinds are not served at the moment stays as it was.
pub fn as_before(engine: Engine, before: &ManagedOSImageStatus) -> PartStatus {
    let known = before.engines.iter().find(|known| known.engine == engine);
    let nodes = before.nodes.iter().flatten().filter(|node| node.engine == Some(engine)).cloned();
    let verdict = known.map_or_else(
        || Verdict { reason: reason::PROGRESSING, message: absent(engine).message, stalled: false },
        |known| Verdict {
            reason: reason::ALL.iter().find(|word| **word == known.reason).copied().unwrap_or(reason::PROGRESSING),
            message: known.message.clone(),
            stalled: known.stalled,
        },
    );
    PartStatus {
        engine,
        version: known.and_then(|known| known.version.clone()),
        progressed_at: known.and_then(|known| known.progressed_at.clone()),
        progress: Progress {
            counts: known.map(|known| known.counts.clone()).unwrap_or_default(),
            nodes: nodes.collect(),
            ..Progress::default()
        },
        verdict,
        plan: before.plan.clone(),
        bundle: before.bundle.clone(),
    }
}

/// What an engine that gives turns has seen and decided.
pub struct ByTurns {
    pub engine: Engine,
    /// What is to run; another one begins anew.
    pub version: String,
    pub words: Words,
    pub release: String,
    pub seen: Vec<Seen>,
    /// Those that have missed three reports.
    pub unknown: usize,
    /// Why none is begun, though some wait.
    pub hold: Option<Hold>,
    /// When the next window opens, in seconds since 1970, if none is open.
    pub opens_at: Option<i64>,
    /// The verdict where nobody is to be upgraded.
    pub nobody: Verdict,
}

impl ByTurns {
    pub fn status(self, before: &ManagedOSImageStatus, generation: Option<i64>, now: &Time) -> PartStatus {
        let Self { engine, version, words, release, seen, unknown, hold, opens_at, nobody } = self;
        let memory = Memory::of(before, engine, &version, generation);
        let mut progress = listed(Some(release.clone()), seen, &memory.nodes, now);
        progress.nodes.iter_mut().for_each(|node| node.engine = Some(engine));
        let progressed_at = memory.progressed_at(&progress, now);
        let idle = now.0.as_second() - progressed_at.0.as_second();
        let verdict = if progress.counts.desired == 0 {
            nobody
        } else {
            verdict(Observation { words, release: &release, progress: &progress, unknown, hold, opens_at, idle })
        };
        let (version, progressed_at) = (Some(version), Some(progressed_at));
        PartStatus { engine, version, progressed_at, progress, verdict, plan: None, bundle: None }
    }
}
