//! The engines that carry out a roll-out.

pub mod fleet;
mod plan;

use super::LOCAL_NAMESPACE;
use super::desired::{Desired, DesiredObjects};
use super::verdict::{Observation, Verdict};
use api::{Engine, ManagedOSImage, Problem, reason};

/// Which of the engines' kinds the API server serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServedKinds {
    /// Fleet's Bundles.
    pub bundles: bool,
    /// System Upgrade Controller's Plans.
    pub plans: bool,
    /// Whether the namespace exists in which System Upgrade Controller runs if it was installed without Rancher.
    pub standalone: bool,
}

/// Namespace of System Upgrade Controller with Rancher. It reads Plans only in its own namespace.
pub const PLAN_NAMESPACE: &str = "cattle-system";
/// Namespace of System Upgrade Controller in its own manifest.
pub const STANDALONE_NAMESPACE: &str = "system-upgrade";

/// An engine that carries out roll-outs.
pub trait RolloutEngine: std::fmt::Debug + Send + Sync {
    /// The engine as spec and status name it.
    fn kind(&self) -> Engine;

    /// Namespace of the Plan.
    fn plan_namespace(&self, served: ServedKinds) -> &'static str;

    /// Whether the content of the objects can be read by more people than the ManagedOSImage, so that it must not
    /// contain secrets.
    fn exposes_content(&self) -> bool;

    /// The objects to apply and to delete. The status is read from the last one to apply.
    fn objects(&self, object: &ManagedOSImage, desired: &Desired) -> DesiredObjects;

    /// The verdict if the engine has not applied the objects in the clusters.
    fn not_applied(&self, observation: Observation<'_>) -> Option<Verdict>;

    /// Where to look if a roll-out is stuck.
    fn hint(&self) -> &'static str;
}

impl PartialEq for dyn RolloutEngine {
    fn eq(&self, other: &Self) -> bool {
        self.kind() == other.kind()
    }
}

pub const FLEET: &dyn RolloutEngine = &fleet::FleetEngine;
pub const PLAN: &dyn RolloutEngine = &plan::PlanEngine;

/// Chooses the engine of a ManagedOSImage in this namespace. The error says what is missing.
pub fn choose(engine: Engine, namespace: &str, served: ServedKinds) -> Result<&'static dyn RolloutEngine, Problem> {
    let local = namespace == LOCAL_NAMESPACE;
    let missing = match engine {
        Engine::Auto | Engine::Fleet if served.bundles => return Ok(FLEET),
        Engine::Auto | Engine::Plan if served.plans && local => return Ok(PLAN),
        Engine::Auto if local => {
            "neither Fleet (bundles.fleet.cattle.io) nor System Upgrade Controller (plans.upgrade.cattle.io) is \
             installed, and this operator cannot upgrade nodes by itself; install one of them"
        }
        Engine::Auto => {
            "Fleet (bundles.fleet.cattle.io) is not installed; install it, because only Fleet can upgrade other \
             clusters"
        }
        Engine::Fleet => {
            "spec.engine is Fleet, and this API server does not serve bundles.fleet.cattle.io; install Fleet"
        }
        Engine::Plan if !local => {
            "spec.engine is Plan, and a Plan reaches the nodes of its own cluster only; use Fleet, or the namespace \
             fleet-local"
        }
        Engine::Plan => {
            "spec.engine is Plan, and this API server does not serve plans.upgrade.cattle.io; install System Upgrade \
             Controller"
        }
        Engine::Operator => "spec.engine is Operator, and this operator cannot upgrade nodes by itself; use Auto",
    };
    Err(Problem { reason: reason::NO_ENGINE, message: missing.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fleet_is_preferred_and_plans_are_for_this_cluster_only() {
        let served = |bundles, plans| ServedKinds { bundles, plans, standalone: false };
        let cases = [
            (Engine::Auto, "fleet-local", served(true, true), Some(FLEET)),
            (Engine::Auto, "fleet-local", served(false, true), Some(PLAN)),
            (Engine::Auto, "fleet-local", served(false, false), None),
            (Engine::Auto, "fleet-default", served(true, false), Some(FLEET)),
            (Engine::Auto, "fleet-default", served(false, true), None),
            (Engine::Fleet, "fleet-local", served(false, true), None),
            (Engine::Plan, "fleet-local", served(true, true), Some(PLAN)),
            (Engine::Plan, "fleet-default", served(true, true), None),
            (Engine::Plan, "fleet-local", served(true, false), None),
            (Engine::Operator, "fleet-local", served(true, true), None),
        ];
        for (asked, namespace, served, engine) in cases {
            assert_eq!(choose(asked, namespace, served).ok(), engine, "{asked:?} {namespace} {served:?}");
        }
    }
}
