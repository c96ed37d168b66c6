//! Who carries out a roll-out: an engine that is given objects, or the machines themselves.

pub mod fleet;
pub(super) mod plan;

use super::LOCAL_NAMESPACE;
use super::desired::{Desired, DesiredObjects};
use super::verdict::{Observation, Verdict};
use api::{Engine, ManagedOSImage, Problem, reason};
use std::time::Duration;

/// Whether the API server serves a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    Served,
    /// Not served, though perhaps only for a moment: an API group is absent while its server or its definitions are
    /// replaced.
    Missing,
    /// Not served for [`GONE_AFTER`].
    #[default]
    Gone,
}

/// The time after which a kind that is not served counts as uninstalled.
pub const GONE_AFTER: Duration = Duration::from_secs(600);

impl Presence {
    pub fn is_served(self) -> bool {
        self == Self::Served
    }
}

/// Which of the engines' kinds the API server serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServedKinds {
    /// Fleet's Bundles.
    pub bundles: Presence,
    /// System Upgrade Controller's Plans.
    pub plans: Presence,
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
    /// [`Engine::Operator`]: this operator, on the nodes of its own cluster.
    Operator,
}

/// The engines of a ManagedOSImage.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// Those at work: one for nodes at most, and then [`ChosenEngine::Machine`], or one of both.
    pub engines: Vec<ChosenEngine>,
    /// The engine for nodes so far, which stays, although its kinds are not served at the moment.
    pub absent: Option<Engine>,
}

/// Chooses the engines of a ManagedOSImage in this namespace. `before`: its `status.engine`. The error says what is
/// missing.
///
/// The engine for nodes stays as long as it can: objects of two engines over the same nodes would restart them twice, and
/// ending those of the former one ends its Jobs. Only [`ChosenEngine::Operator`] makes way as soon as the kinds of another one
/// are served: the chart gives no rights for it beside them.
pub fn choose(engine: Engine, namespace: &str, served: ServedKinds, before: Option<Engine>) -> Result<Choice, Problem> {
    let local = namespace == LOCAL_NAMESPACE;
    let kinds = |engine: Engine| match engine {
        Engine::Fleet => Some((FLEET, served.bundles)),
        Engine::Plan if local => Some((PLAN, served.plans)),
        _ => None,
    };
    let only = |engine| Ok(Choice { engines: vec![ChosenEngine::WithObjects(engine)], absent: None });
    let missing = match engine {
        Engine::Machine => return Ok(Choice { engines: vec![ChosenEngine::Machine], absent: None }),
        Engine::Operator => return Ok(Choice { engines: vec![ChosenEngine::Operator], absent: None }),
        Engine::Auto => {
            let former = before.and_then(kinds).filter(|(_, presence)| *presence != Presence::Gone);
            let served = || [Engine::Fleet, Engine::Plan].into_iter().filter_map(kinds).find(|(_, p)| p.is_served());
            let nodes = former.or_else(served);
            let by = nodes.filter(|(_, presence)| presence.is_served()).map(|(by, _)| ChosenEngine::WithObjects(by));
            let absent = nodes.filter(|(_, presence)| !presence.is_served()).map(|(by, _)| by.kind());
            let by = by.or_else(|| (local && absent.is_none()).then_some(ChosenEngine::Operator));
            return Ok(Choice { engines: by.into_iter().chain([ChosenEngine::Machine]).collect(), absent });
        }
        Engine::Plan if !local => {
            "spec.engine is Plan, and a Plan reaches the nodes of its own cluster only; use Fleet, or the namespace \
             fleet-local"
        }
        Engine::Fleet | Engine::Plan => match kinds(engine) {
            Some((by, Presence::Served)) => return only(by),
            Some((by, Presence::Missing)) if before == Some(engine) => {
                return Ok(Choice { engines: Vec::new(), absent: Some(by.kind()) });
            }
            _ if engine == Engine::Fleet => {
                "spec.engine is Fleet, and this API server does not serve bundles.fleet.cattle.io; install Fleet"
            }
            _ => {
                "spec.engine is Plan, and this API server does not serve plans.upgrade.cattle.io; install System \
                 Upgrade Controller"
            }
        },
    };
    Err(Problem { reason: reason::NO_ENGINE, message: missing.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Presence::{Gone, Missing, Served};
    use proptest::prelude::*;

    const LOCAL: &str = LOCAL_NAMESPACE;
    const OTHER: &str = "fleet-default";

    /// The names of the engines at work, and of the one that is absent.
    fn chosen(asked: Engine, namespace: &str, kinds: (Presence, Presence), before: Option<Engine>) -> Option<String> {
        let served = ServedKinds { bundles: kinds.0, plans: kinds.1, standalone: false };
        let choice = choose(asked, namespace, served, before).ok()?;
        let names = choice.engines.iter().map(|engine| match engine {
            ChosenEngine::WithObjects(engine) => format!("{:?}", engine.kind()),
            ChosenEngine::Machine => "Machine".to_owned(),
            ChosenEngine::Operator => "Operator".to_owned(),
        });
        let absent = choice.absent.map(|engine| format!("no {engine:?}"));
        Some(names.chain(absent).collect::<Vec<_>>().join(", "))
    }

    #[test]
    fn fleet_is_preferred_and_machines_upgrade_themselves_beside_it() {
        for (asked, namespace, kinds, expected) in [
            (Engine::Auto, LOCAL, (Served, Served), Some("Fleet, Machine")),
            (Engine::Auto, LOCAL, (Missing, Served), Some("Plan, Machine")),
            (Engine::Auto, LOCAL, (Gone, Gone), Some("Operator, Machine")),
            (Engine::Auto, LOCAL, (Missing, Missing), Some("Operator, Machine")),
            (Engine::Auto, OTHER, (Gone, Gone), Some("Machine")),
            (Engine::Auto, OTHER, (Served, Gone), Some("Fleet, Machine")),
            (Engine::Auto, OTHER, (Gone, Served), Some("Machine")),
            (Engine::Fleet, LOCAL, (Gone, Served), None),
            (Engine::Fleet, LOCAL, (Missing, Served), None),
            (Engine::Fleet, OTHER, (Served, Served), Some("Fleet")),
            (Engine::Plan, LOCAL, (Served, Served), Some("Plan")),
            (Engine::Plan, OTHER, (Served, Served), None),
            (Engine::Plan, LOCAL, (Served, Gone), None),
            (Engine::Operator, LOCAL, (Served, Served), Some("Operator")),
            (Engine::Machine, OTHER, (Served, Served), Some("Machine")),
        ] {
            let chosen = chosen(asked, namespace, kinds, None);
            assert_eq!(chosen.as_deref(), expected, "{asked:?} {namespace} {kinds:?}");
        }
    }

    #[test]
    fn the_engine_stays_until_its_kinds_are_gone_or_another_is_asked_for() {
        for (asked, namespace, kinds, before, expected) in [
            (Engine::Auto, LOCAL, (Missing, Served), Engine::Fleet, Some("Machine, no Fleet")),
            (Engine::Auto, LOCAL, (Gone, Served), Engine::Fleet, Some("Plan, Machine")),
            (Engine::Auto, LOCAL, (Gone, Gone), Engine::Fleet, Some("Operator, Machine")),
            (Engine::Auto, LOCAL, (Gone, Missing), Engine::Operator, Some("Operator, Machine")),
            (Engine::Auto, LOCAL, (Gone, Served), Engine::Operator, Some("Plan, Machine")),
            (Engine::Operator, LOCAL, (Missing, Gone), Engine::Fleet, Some("Operator")),
            (Engine::Auto, LOCAL, (Served, Served), Engine::Plan, Some("Plan, Machine")),
            (Engine::Auto, LOCAL, (Served, Missing), Engine::Plan, Some("Machine, no Plan")),
            (Engine::Auto, LOCAL, (Served, Gone), Engine::Plan, Some("Fleet, Machine")),
            (Engine::Auto, OTHER, (Missing, Gone), Engine::Fleet, Some("Machine, no Fleet")),
            (Engine::Auto, OTHER, (Served, Gone), Engine::Machine, Some("Fleet, Machine")),
            (Engine::Fleet, LOCAL, (Missing, Served), Engine::Fleet, Some("no Fleet")),
            (Engine::Fleet, LOCAL, (Gone, Served), Engine::Fleet, None),
            (Engine::Plan, LOCAL, (Served, Served), Engine::Fleet, Some("Plan")),
            (Engine::Machine, LOCAL, (Missing, Served), Engine::Fleet, Some("Machine")),
        ] {
            let chosen = chosen(asked, namespace, kinds, Some(before));
            assert_eq!(chosen.as_deref(), expected, "{asked:?} {namespace} {kinds:?} {before:?}");
        }
    }

    fn presence() -> impl Strategy<Value = Presence> {
        prop_oneof![4 => Just(Served), 2 => Just(Missing), 1 => Just(Gone)]
    }

    proptest! {
        /// Whatever is asked for and served over time, the engine for nodes changes only when another one is asked for, or
        /// when its kinds are gone; and it is never another one's turn while it is only missing.
        #[test]
        fn no_moment_without_an_api_changes_the_engine(
            local in any::<bool>(),
            steps in prop::collection::vec((0usize..4, presence(), presence()), 1..40),
        ) {
            let namespace = if local { LOCAL } else { OTHER };
            let has_kinds = |engine: Engine| matches!(engine, Engine::Fleet | Engine::Plan);
            let mut before: Option<Engine> = None;
            for (asked, bundles, plans) in steps {
                let asked = [Engine::Auto, Engine::Auto, Engine::Fleet, Engine::Plan][asked];
                let served = ServedKinds { bundles, plans, standalone: false };
                let Ok(choice) = choose(asked, namespace, served, before) else { continue };
                let by_nodes = choice.engines.iter().find_map(|engine| match engine {
                    ChosenEngine::WithObjects(engine) => Some(engine.kind()),
                    ChosenEngine::Operator => Some(Engine::Operator),
                    ChosenEngine::Machine => None,
                });
                prop_assert!(by_nodes.is_none() || choice.absent.is_none());
                let after = by_nodes.or(choice.absent);
                if let Some(former) = before.filter(|former| has_kinds(*former) && after != Some(*former)) {
                    let presence = if former == Engine::Fleet { bundles } else { plans };
                    prop_assert!(after == Some(asked) || presence == Gone, "{former:?} became {after:?}: {served:?}");
                }
                let presence = by_nodes.filter(|engine| has_kinds(*engine)).map(|engine| if engine == Engine::Fleet { bundles } else { plans });
                prop_assert!(presence.is_none_or(Presence::is_served));
                before = Some(after.unwrap_or(Engine::Machine));
            }
        }
    }
}
