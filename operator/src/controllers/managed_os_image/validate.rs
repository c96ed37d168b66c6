//! Whether an object can be carried out, and by whom.

use super::discovery::Surroundings;
use crate::registration::Problem;
use crate::rollout::{Carrier, Served, Upgrade, choose};
use api::ManagedOSImage;
use kube::ResourceExt;

/// An object that can be carried out.
pub(super) struct Wanted {
    pub(super) carrier: Carrier,
    pub(super) upgrade: Upgrade,
    /// Of the Plan, in whatever cluster.
    pub(super) plan_namespace: &'static str,
    /// What there is to look at in this cluster.
    pub(super) served: Served,
}

pub(super) fn validate(object: &ManagedOSImage, surroundings: &Surroundings) -> Result<Wanted, Problem> {
    let served = surroundings.served;
    let engine = object.spec.engine.unwrap_or_default();
    let carrier = choose(engine, &object.namespace().unwrap_or_default(), served)?;
    let upgrade = Upgrade::of(object, carrier, &surroundings.registry)?;
    Ok(Wanted { carrier, upgrade, plan_namespace: carrier.plan_namespace(served), served })
}
