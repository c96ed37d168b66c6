//! Checks whether a roll-out is possible, and chooses its engine.

use super::discovery::Discovered;
use crate::rollout::{RolloutEngine, ServedKinds, Upgrade, choose};
use api::ManagedOSImage;
use api::Problem;
use kube::ResourceExt;

/// A valid roll-out.
pub(super) struct Desired {
    pub(super) engine: RolloutEngine,
    pub(super) upgrade: Upgrade,
    /// Namespace of the Plan, in each cluster.
    pub(super) plan_namespace: &'static str,
    /// The kinds that this cluster serves.
    pub(super) served: ServedKinds,
}

pub(super) fn validate(object: &ManagedOSImage, discovered: &Discovered) -> Result<Desired, Problem> {
    let served = discovered.served;
    let engine = object.spec.engine.unwrap_or_default();
    let engine = choose(engine, &object.namespace().unwrap_or_default(), served)?;
    let upgrade = Upgrade::of(object, engine, &discovered.registry)?;
    Ok(Desired { engine, upgrade, plan_namespace: engine.plan_namespace(served), served })
}
