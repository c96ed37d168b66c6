//! The part of a roll-out that the operator carries out on nodes, for the status.

use super::Found;
use crate::controllers::managed_os_image::status::{Memory, PartStatus};
use crate::rollout::machines::verdict::{Turns, Words, of_turns};
use crate::rollout::nodes::NodeRollout;
use crate::rollout::nodes::decide::seen;
use crate::rollout::progress::listed;
use crate::rollout::verdict::Verdict;
use api::{Engine, ManagedOSImageStatus, reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

const WORDS: Words = Words { one: "node", many: "nodes", hint: "status.nodes says what each node waits for" };

pub(in crate::controllers::managed_os_image) fn status(
    before: &ManagedOSImageStatus,
    generation: Option<i64>,
    rollout: &NodeRollout,
    found: &Found,
    now: &Time,
) -> PartStatus {
    let version = rollout.attempt();
    let memory = Memory::of(before, Engine::Operator, &version, generation);
    let release = rollout.release_text();
    let mut progress = listed(Some(release.clone()), seen(&found.nodes, &found.decision), &memory.nodes, now);
    progress.nodes.iter_mut().for_each(|node| node.engine = Some(Engine::Operator));
    let progressed_at = memory.progressed_at(&progress, now);
    let verdict = if progress.counts.desired == 0 {
        let message = "spec.nodeSelector selects no node of this cluster".to_owned();
        Verdict { reason: reason::NO_NODE_MATCHED, message, stalled: true }
    } else {
        of_turns(Turns {
            words: WORDS,
            release: &release,
            progress: &progress,
            unknown: 0,
            hold: found.decision.hold,
            opens_at: rollout.windows.opens_at(now.0.as_second()),
            idle: now.0.as_second() - progressed_at.0.as_second(),
        })
    };
    PartStatus {
        engine: Engine::Operator,
        version: Some(version),
        progressed_at: Some(progressed_at),
        progress,
        verdict,
        plan: None,
        bundle: None,
    }
}
