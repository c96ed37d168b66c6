//! The engine System Upgrade Controller: the objects of a roll-out are applied in this cluster.

use super::fleet::BUNDLE_API;
use super::{PLAN_NAMESPACE, RolloutEngine, STANDALONE_NAMESPACE, ServedKinds};
use crate::rollout;
use crate::rollout::desired::{Desired, DesiredObjects, everything, has_finalizer};
use crate::rollout::objects::objects;
use crate::rollout::verdict::{Observation, Verdict};
use api::{Engine, ManagedOSImage};
use kube::ResourceExt;
use serde_json::{Value, json};

/// System Upgrade Controller.
#[derive(Debug)]
pub struct PlanEngine;

impl RolloutEngine for PlanEngine {
    fn kind(&self) -> Engine {
        Engine::Plan
    }

    fn plan_namespace(&self, served: ServedKinds) -> &'static str {
        if served.standalone { STANDALONE_NAMESPACE } else { PLAN_NAMESPACE }
    }

    fn exposes_content(&self) -> bool {
        false
    }

    fn objects(&self, object: &ManagedOSImage, desired: &Desired) -> DesiredObjects {
        let apply = objects(&desired.upgrade, desired.plan_namespace).into_iter().filter_map(|(_, object)| object);
        DesiredObjects {
            apply: apply.collect(),
            delete: superfluous(object, desired),
            predecessor: (desired.served.bundles.is_served() && engine_before(object) != Some(Engine::Plan))
                .then(|| identity_of_bundle(object)),
            finalizer: true,
        }
    }

    fn not_applied(&self, _: Observation<'_>) -> Option<Verdict> {
        None
    }

    fn hint(&self) -> &'static str {
        "check that System Upgrade Controller runs in the Plan's namespace, and read its log"
    }
}

/// Objects of an earlier spec. Only a new spec or another namespace of the Plan can leave some behind, so they are not
/// looked for otherwise.
fn superfluous(object: &ManagedOSImage, desired: &Desired) -> Vec<Value> {
    let status = object.status.as_ref();
    let place = status.and_then(|status| status.plan.clone());
    let same_place = place.is_none_or(|place| place == desired.plan());
    let same_spec = status.is_some_and(|status| status.observed_generation == object.metadata.generation);
    if !has_finalizer(object) || (same_place && same_spec) {
        return Vec::new();
    }
    let needed = objects(&desired.upgrade, desired.plan_namespace);
    let needed: Vec<Value> = needed.into_iter().filter_map(|(_, object)| object).collect();
    let is_needed = |identity: &Value| {
        needed.iter().any(|object| {
            let same = |pointer: &str| object.pointer(pointer) == identity.pointer(pointer);
            same("/kind") && same("/metadata/namespace")
        })
    };
    everything(&desired.upgrade.name).into_iter().filter(|identity| !is_needed(identity)).collect()
}

fn engine_before(object: &ManagedOSImage) -> Option<Engine> {
    object.status.as_ref()?.engine
}

pub(in crate::rollout) fn identity_of_bundle(object: &ManagedOSImage) -> Value {
    let name = rollout::name(&object.name_any());
    json!({"apiVersion": BUNDLE_API, "kind": "Bundle",
        "metadata": {"name": name, "namespace": object.namespace().unwrap_or_default()}})
}
