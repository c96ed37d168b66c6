//! The engines that carry out a roll-out.

use super::LOCAL_NAMESPACE;
use api::Problem;
use api::{Engine, reason};

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

/// An engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolloutEngine {
    /// Fleet: a Bundle applies the Plan in each selected cluster.
    Fleet,
    /// System Upgrade Controller: the Plan is applied in this cluster.
    Plan,
}

impl From<RolloutEngine> for Engine {
    fn from(engine: RolloutEngine) -> Self {
        match engine {
            RolloutEngine::Fleet => Self::Fleet,
            RolloutEngine::Plan => Self::Plan,
        }
    }
}

impl RolloutEngine {
    /// Namespace of the Plan.
    pub fn plan_namespace(self, served: ServedKinds) -> &'static str {
        match self {
            Self::Plan if served.standalone => STANDALONE_NAMESPACE,
            Self::Plan | Self::Fleet => PLAN_NAMESPACE,
        }
    }
}

/// Chooses the engine of a ManagedOSImage in this namespace. The error says what is missing.
pub fn choose(engine: Engine, namespace: &str, served: ServedKinds) -> Result<RolloutEngine, Problem> {
    let local = namespace == LOCAL_NAMESPACE;
    let missing = match engine {
        Engine::Auto | Engine::Fleet if served.bundles => return Ok(RolloutEngine::Fleet),
        Engine::Auto | Engine::Plan if served.plans && local => return Ok(RolloutEngine::Plan),
        Engine::Auto if local => {
            "neither Fleet (bundles.fleet.cattle.io) nor System Upgrade Controller (plans.upgrade.cattle.io) is \
             installed, and this release has no roll-out of the operator's own; install one of them"
        }
        Engine::Auto => "Fleet (bundles.fleet.cattle.io) is not installed, and nothing else reaches other clusters",
        Engine::Fleet => "spec.engine is Fleet, and bundles.fleet.cattle.io are not served; install Fleet",
        Engine::Plan if !local => {
            "spec.engine is Plan, and a Plan reaches the nodes of its own cluster only; use Fleet, or the namespace \
             fleet-local"
        }
        Engine::Plan => {
            "spec.engine is Plan, and plans.upgrade.cattle.io are not served; install System Upgrade Controller"
        }
        Engine::Operator => "spec.engine is Operator, and this release has no roll-out of the operator's own; use Auto",
    };
    Err(Problem { reason: reason::NO_ENGINE, message: missing.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fleet_goes_before_plans_and_plans_reach_this_cluster_only() {
        let served = |bundles, plans| ServedKinds { bundles, plans, standalone: false };
        let cases = [
            (Engine::Auto, "fleet-local", served(true, true), Some(RolloutEngine::Fleet)),
            (Engine::Auto, "fleet-local", served(false, true), Some(RolloutEngine::Plan)),
            (Engine::Auto, "fleet-local", served(false, false), None),
            (Engine::Auto, "fleet-default", served(true, false), Some(RolloutEngine::Fleet)),
            (Engine::Auto, "fleet-default", served(false, true), None),
            (Engine::Fleet, "fleet-local", served(false, true), None),
            (Engine::Plan, "fleet-local", served(true, true), Some(RolloutEngine::Plan)),
            (Engine::Plan, "fleet-default", served(true, true), None),
            (Engine::Plan, "fleet-local", served(true, false), None),
            (Engine::Operator, "fleet-local", served(true, true), None),
        ];
        for (asked, namespace, served, engine) in cases {
            assert_eq!(choose(asked, namespace, served).ok(), engine, "{asked:?} {namespace} {served:?}");
        }
    }
}
