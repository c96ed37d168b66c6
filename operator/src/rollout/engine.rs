//! Who carries out a roll-out: an engine that is given objects, or the machines themselves.

pub mod fleet;
pub(super) mod plan;

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

/// The engine that was chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ChosenEngine {
    /// An engine that works by objects in the cluster.
    WithObjects(&'static dyn RolloutEngine),
    /// [`Engine::Machine`]: the answers to the machines' reports.
    Machine,
}

/// Chooses the engine of a ManagedOSImage in this namespace. `before`: the engine so far. The error says what is missing.
pub fn choose(
    engine: Engine,
    namespace: &str,
    served: ServedKinds,
    before: Option<Engine>,
) -> Result<ChosenEngine, Problem> {
    let local = namespace == LOCAL_NAMESPACE;
    let missing = match engine {
        Engine::Machine => return Ok(ChosenEngine::Machine),
        Engine::Auto | Engine::Fleet if served.bundles => return Ok(ChosenEngine::WithObjects(FLEET)),
        Engine::Auto | Engine::Plan if served.plans && local => return Ok(ChosenEngine::WithObjects(PLAN)),
        // An API that is not served for a moment must not make machines restart undrained.
        Engine::Auto if before == Some(Engine::Fleet) => {
            "Fleet (bundles.fleet.cattle.io), which carried it out so far, is not installed any more; install it, or \
             set spec.engine"
        }
        Engine::Auto if before == Some(Engine::Plan) => {
            "System Upgrade Controller (plans.upgrade.cattle.io), which carried it out so far, is not installed any \
             more; install it, or set spec.engine"
        }
        Engine::Auto => return Ok(ChosenEngine::Machine),
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
    fn fleet_is_preferred_and_machines_are_last() {
        let served = |bundles, plans| ServedKinds { bundles, plans, standalone: false };
        let (fleet, plan, machines) = (
            Some(ChosenEngine::WithObjects(FLEET)),
            Some(ChosenEngine::WithObjects(PLAN)),
            Some(ChosenEngine::Machine),
        );
        let cases = [
            (Engine::Auto, "fleet-local", served(true, true), None, fleet),
            (Engine::Auto, "fleet-local", served(false, true), None, plan),
            (Engine::Auto, "fleet-local", served(false, true), Some(Engine::Fleet), plan),
            (Engine::Auto, "fleet-local", served(false, false), None, machines),
            (Engine::Auto, "fleet-local", served(false, false), Some(Engine::Machine), machines),
            (Engine::Auto, "fleet-local", served(false, false), Some(Engine::Plan), None),
            (Engine::Auto, "fleet-local", served(false, false), Some(Engine::Fleet), None),
            (Engine::Auto, "fleet-default", served(true, false), None, fleet),
            (Engine::Auto, "fleet-default", served(false, true), None, machines),
            (Engine::Fleet, "fleet-local", served(false, true), None, None),
            (Engine::Plan, "fleet-local", served(true, true), None, plan),
            (Engine::Plan, "fleet-default", served(true, true), None, None),
            (Engine::Plan, "fleet-local", served(true, false), None, None),
            (Engine::Operator, "fleet-local", served(true, true), None, None),
            (Engine::Machine, "fleet-local", served(true, true), Some(Engine::Plan), machines),
            (Engine::Machine, "fleet-default", served(true, true), None, machines),
        ];
        for (asked, namespace, served, before, expected) in cases {
            let chosen = choose(asked, namespace, served, before).ok();
            assert_eq!(chosen, expected, "{asked:?} {namespace} {served:?} {before:?}");
        }
    }
}
