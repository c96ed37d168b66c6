//! The part of a roll-out that the operator carries out on nodes, for the status.

use super::Found;
use crate::controllers::managed_os_image::status::{ByTurns, PartStatus};
use crate::rollout::nodes::NodeRollout;
use crate::rollout::nodes::decide::seen;
use crate::rollout::turns::verdict::Words;
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
    let message = "spec.nodeSelector selects no node of this cluster".to_owned();
    let turns = ByTurns {
        engine: Engine::Operator,
        version: rollout.attempt(),
        words: WORDS,
        release: rollout.release_text(),
        seen: seen(&found.nodes, &found.decision),
        unknown: 0,
        hold: found.decision.hold,
        opens_at: rollout.windows.opens_at(now.0.as_second()),
        nobody: Verdict { reason: reason::NO_NODE_MATCHED, message, stalled: true },
    };
    turns.status(before, generation, now)
}
