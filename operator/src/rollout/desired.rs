//! The desired state of a roll-out: who carries it out, and the objects to apply and to delete.

use super::engine::{ChosenEngine, Presence};
use super::machines::{self, MachineRollout};
use super::nodes::{self, NodeRollout};
use super::objects::identities;
use super::{DefaultRegistry, PLAN_NAMESPACE, RolloutEngine, STANDALONE_NAMESPACE, ServedKinds, Upgrade, choose};
use api::{Engine, ManagedOSImage, OS_IMAGE_FINALIZER, Problem};
use kube::ResourceExt;
use serde_json::Value;

/// A valid roll-out by an engine for nodes.
pub struct Desired {
    pub engine: &'static dyn RolloutEngine,
    pub upgrade: Upgrade,
    /// Namespace of the Plan, in each cluster.
    pub plan_namespace: &'static str,
    /// The kinds that this cluster serves.
    pub served: ServedKinds,
}

/// A valid roll-out.
pub struct Rollout {
    /// What each engine does. Not both can be absent, unless `absent` says why.
    pub parts: Vec<Part>,
    /// The engine for nodes so far, which stays, although its kinds are not served at the moment.
    pub absent: Option<Engine>,
    /// Why machines that upgrade themselves take no part in a roll-out that an engine for nodes carries out.
    pub machines_problem: Option<Problem>,
    served: ServedKinds,
}

/// What one engine does.
pub enum Part {
    Nodes(Box<Desired>),
    Machines(Box<MachineRollout>),
    /// The operator upgrades the nodes of its cluster.
    Operator(Box<NodeRollout>),
}

impl Rollout {
    /// Chooses the engines, and parses the spec. `registry`: for images that name none.
    pub fn of(object: &ManagedOSImage, served: ServedKinds, registry: &DefaultRegistry) -> Result<Self, Problem> {
        let asked = object.spec.engine.unwrap_or_default();
        let choice = choose(asked, &object.namespace().unwrap_or_default(), served, engine_so_far(object))?;
        let (mut parts, mut machines_problem) = (Vec::new(), None);
        for engine in choice.engines {
            match engine {
                ChosenEngine::WithObjects(engine) => {
                    let upgrade = Upgrade::of(object, engine, registry)?;
                    let plan_namespace = engine.plan_namespace(served);
                    parts.push(Part::Nodes(Box::new(Desired { engine, upgrade, plan_namespace, served })));
                }
                ChosenEngine::Operator => parts.push(Part::Operator(Box::new(NodeRollout::of(object, registry)?))),
                ChosenEngine::Machine => match MachineRollout::of(object, registry) {
                    Ok(rollout) => parts.push(Part::Machines(Box::new(rollout))),
                    // What machines cannot be told must not keep nodes from their upgrade.
                    Err(problem) if !parts.is_empty() => machines_problem = Some(problem),
                    Err(problem) => return Err(problem),
                },
            }
        }
        Ok(Self { parts, absent: choice.absent, machines_problem, served })
    }

    /// The roll-out of nodes by an engine with objects.
    pub fn nodes(&self) -> Option<&Desired> {
        self.parts.iter().find_map(|part| match part {
            Part::Nodes(desired) => Some(&**desired),
            Part::Machines(_) | Part::Operator(_) => None,
        })
    }

    /// Whether the operator upgrades the nodes of its cluster.
    pub fn is_by_operator(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Operator(_)))
    }

    pub fn nodes_mut(&mut self) -> Option<&mut Desired> {
        self.parts.iter_mut().find_map(|part| match part {
            Part::Nodes(desired) => Some(&mut **desired),
            Part::Machines(_) | Part::Operator(_) => None,
        })
    }

    /// The objects to apply and to delete. `None`: those of the engine so far stay as they are.
    pub fn objects(&self, object: &ManagedOSImage) -> Option<DesiredObjects> {
        match self.nodes() {
            Some(desired) => Some(desired.objects(object)),
            None if self.absent.is_some() => None,
            None if self.is_by_operator() => Some(nodes::leftovers(object)),
            None => Some(machines::leftovers(object)),
        }
    }

    /// The engine for nodes that another one takes over from, and whether its kinds are served.
    pub fn former(&self, object: &ManagedOSImage) -> Option<(Engine, Presence)> {
        let former = engine_so_far(object)?;
        let presence = match former {
            Engine::Fleet => self.served.bundles,
            Engine::Plan => self.served.plans,
            Engine::Operator if !self.is_by_operator() => return Some((former, Presence::Served)),
            Engine::Auto | Engine::Operator | Engine::Machine => return None,
        };
        let stays = self.absent == Some(former) || self.nodes().is_some_and(|desired| desired.engine.kind() == former);
        (!stays).then_some((former, presence))
    }
}

fn engine_so_far(object: &ManagedOSImage) -> Option<Engine> {
    object.status.as_ref()?.engine
}

impl Desired {
    /// The objects to apply and to delete.
    pub fn objects(&self, object: &ManagedOSImage) -> DesiredObjects {
        self.engine.objects(object, self)
    }

    /// `namespace/name` of the Plan, for the status.
    pub fn plan(&self) -> String {
        format!("{}/{}", self.plan_namespace, self.upgrade.name)
    }
}

/// What to apply and what to delete.
pub struct DesiredObjects {
    /// In the order of applying. The status is read from the last one.
    pub apply: Vec<Value>,
    /// Objects by name, deleted first.
    pub delete: Vec<Value>,
    /// The object of another engine. It is deleted first, and its deletion is waited for: it deletes objects with the
    /// same names.
    pub predecessor: Option<Value>,
    /// Whether the ManagedOSImage needs a finalizer, because owner references do not reach all objects.
    pub finalizer: bool,
}

pub fn has_finalizer(object: &ManagedOSImage) -> bool {
    object.finalizers().iter().any(|finalizer| finalizer == OS_IMAGE_FINALIZER)
}

/// All objects that may have been applied for a ManagedOSImage of this name, in both possible namespaces.
pub fn everything(name: &str) -> Vec<Value> {
    let elsewhere = identities(name, STANDALONE_NAMESPACE).into_iter();
    let elsewhere = elsewhere.filter(|object| object["metadata"]["namespace"].is_string());
    let mut everything: Vec<Value> = identities(name, PLAN_NAMESPACE).into_iter().chain(elsewhere).collect();
    // Plans first: a running Job needs its service account to end properly.
    everything.sort_by_key(|object| object["kind"] != "Plan");
    everything
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{Engine, ManagedOSImageStatus};
    use serde_json::json;

    fn object(spec: Value) -> ManagedOSImage {
        let mut object = ManagedOSImage::new("x", serde_json::from_value(spec).unwrap());
        object.metadata.namespace = Some("fleet-local".into());
        object.metadata.generation = Some(2);
        object
    }
    fn built(object: &ManagedOSImage, bundles: bool) -> DesiredObjects {
        let bundles = if bundles { Presence::Served } else { Presence::Gone };
        let served = ServedKinds { bundles, plans: Presence::Served, standalone: true };
        let rollout = Rollout::of(object, served, &DefaultRegistry::default()).unwrap();
        rollout.objects(object).unwrap()
    }
    fn kinds(objects: &[Value]) -> Vec<&str> {
        objects.iter().map(|object| object["kind"].as_str().unwrap()).collect()
    }

    #[test]
    fn a_bundle_has_an_owner_and_needs_no_finalizer() {
        let built = built(&object(json!({"osImage": "a:1"})), true);
        assert_eq!(kinds(&built.apply), ["Bundle"]);
        assert!(!built.finalizer && built.delete.is_empty() && built.predecessor.is_none());
    }

    #[test]
    fn the_plan_is_applied_last_and_a_bundle_is_deleted_first() {
        let spec = json!({"osImage": "a:1", "engine": "Plan", "drain": {}, "cloudConfig": {"hostname": "h"}});
        let mut object = object(spec);
        let first = built(&object, true);
        assert_eq!(kinds(&first.apply), ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Secret", "Plan"]);
        assert!(first.finalizer && first.predecessor.is_some() && first.delete.is_empty());
        object.status = Some(ManagedOSImageStatus { engine: Some(Engine::Plan), ..Default::default() });
        assert!(built(&object, true).predecessor.is_none());
    }

    #[test]
    fn machines_need_no_objects_and_those_of_the_engine_before_are_deleted() {
        let mut object = object(json!({"osImage": "a:1", "engine": "Machine"}));
        let first = built(&object, true);
        assert!(first.apply.is_empty() && first.delete.is_empty() && !first.finalizer);
        object.status = Some(ManagedOSImageStatus { engine: Some(Engine::Fleet), ..Default::default() });
        assert_eq!(kinds(&built(&object, true).delete), ["Bundle"]);
        object.metadata.finalizers = Some(vec![OS_IMAGE_FINALIZER.to_owned()]);
        object.status = Some(ManagedOSImageStatus { engine: Some(Engine::Plan), ..Default::default() });
        assert_eq!(kinds(&built(&object, true).delete)[..2], ["Plan", "Plan"]);
    }

    #[test]
    fn objects_that_a_new_spec_does_not_need_are_deleted_once() {
        let mut object = object(json!({"osImage": "a:1", "cordon": false}));
        object.metadata.finalizers = Some(vec![OS_IMAGE_FINALIZER.to_owned()]);
        let status = |generation| ManagedOSImageStatus {
            engine: Some(Engine::Plan),
            observed_generation: Some(generation),
            plan: Some("system-upgrade/mos-x".into()),
            ..Default::default()
        };
        object.status = Some(status(1));
        let delete = built(&object, false).delete;
        let here: Vec<_> = delete.iter().filter(|o| o["metadata"]["namespace"] != "cattle-system").collect();
        let here: Vec<&str> = here.into_iter().map(|o| o["kind"].as_str().unwrap()).collect();
        assert_eq!(here, ["ClusterRole", "ClusterRoleBinding", "Secret"]);
        object.status = Some(status(2));
        assert!(built(&object, false).delete.is_empty());
        object.spec.engine = Some(Engine::Fleet);
        assert_eq!(kinds(&built(&object, true).delete)[..2], ["Plan", "Plan"]);
    }

    #[test]
    fn an_engine_that_is_absent_for_a_moment_keeps_its_objects() {
        let mut object = object(json!({"osImage": "a:1"}));
        object.status = Some(ManagedOSImageStatus { engine: Some(Engine::Fleet), ..Default::default() });
        let of = |object: &ManagedOSImage, bundles| {
            let served = ServedKinds { bundles, plans: Presence::Served, standalone: true };
            Rollout::of(object, served, &DefaultRegistry::default()).unwrap()
        };
        let missing = of(&object, Presence::Missing);
        assert!(missing.objects(&object).is_none() && missing.former(&object).is_none());
        assert_eq!((missing.absent, missing.parts.len()), (Some(Engine::Fleet), 1));
        let gone = of(&object, Presence::Gone);
        assert_eq!(kinds(&gone.objects(&object).unwrap().apply).last(), Some(&"Plan"));
        assert_eq!(gone.former(&object), Some((Engine::Fleet, Presence::Gone)));
        object.spec.engine = Some(Engine::Machine);
        assert_eq!(of(&object, Presence::Missing).former(&object), Some((Engine::Fleet, Presence::Missing)));
    }

    #[test]
    fn the_operator_upgrades_nodes_where_no_other_engine_is_and_hands_them_over() {
        let mut object = object(json!({"osImage": "a:1"}));
        let of = |object: &ManagedOSImage, bundles| {
            let served = ServedKinds { bundles, ..ServedKinds::default() };
            Rollout::of(object, served, &DefaultRegistry::default())
        };
        let alone = of(&object, Presence::Gone).unwrap();
        assert!(matches!(&alone.parts[..], [Part::Operator(_), Part::Machines(_)]));
        let objects = alone.objects(&object).unwrap();
        assert!(objects.apply.is_empty() && objects.delete.is_empty() && objects.finalizer);
        object.status = Some(ManagedOSImageStatus { engine: Some(Engine::Operator), ..Default::default() });
        assert_eq!(of(&object, Presence::Gone).unwrap().former(&object), None);
        let fleet = of(&object, Presence::Served).unwrap();
        assert_eq!(fleet.former(&object), Some((Engine::Operator, Presence::Served)));
        object.spec.cluster_rollout_strategy = serde_json::from_value(json!({"maxUnavailable": 1})).unwrap();
        let problem = of(&object, Presence::Gone).map(|_| ()).unwrap_err();
        assert!(problem.message.contains("spec.clusterRolloutStrategy"), "{}", problem.message);
    }

    #[test]
    fn what_machines_cannot_be_told_does_not_stop_nodes() {
        let object = object(json!({"osImage": "a"}));
        let served = ServedKinds { plans: Presence::Served, ..ServedKinds::default() };
        let rollout = Rollout::of(&object, served, &DefaultRegistry::default()).unwrap();
        assert_eq!(rollout.machines_problem.unwrap().reason, api::reason::RELEASE_UNKNOWN);
        let mut elsewhere = object;
        elsewhere.metadata.namespace = Some("fleet-default".into());
        assert!(Rollout::of(&elsewhere, ServedKinds::default(), &DefaultRegistry::default()).is_err());
    }
}
