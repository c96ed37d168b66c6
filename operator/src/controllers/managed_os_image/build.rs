//! The desired objects of a roll-out, and the objects to delete.

use super::{Desired, RolloutEngine};
use crate::rollout::bundle::{BUNDLE_API, bundle};
use crate::rollout::objects::{identities, objects};
use crate::rollout::{self, PLAN_NAMESPACE, STANDALONE_NAMESPACE};
use api::{Engine, ManagedOSImage, OS_IMAGE_FINALIZER};
use kube::ResourceExt;
use serde_json::{Value, json};

pub(super) struct Built {
    /// In the order of applying. The status is read from the last one.
    pub(super) apply: Vec<Value>,
    /// Objects by name, deleted first.
    pub(super) delete: Vec<Value>,
    /// The object of another engine. It is deleted first, and its deletion is waited for: it deletes objects with the same
    /// names.
    pub(super) predecessor: Option<Value>,
    /// Whether the ManagedOSImage needs a finalizer, because owner references do not reach all objects.
    pub(super) finalizer: bool,
}

pub(super) fn build(object: &ManagedOSImage, desired: &Desired) -> Built {
    match desired.engine {
        RolloutEngine::Fleet => {
            let bundle = bundle(object, &desired.upgrade);
            let delete = if has_finalizer(object) { everything(&desired.upgrade.name) } else { Vec::new() };
            Built { apply: vec![bundle], delete, predecessor: None, finalizer: false }
        }
        RolloutEngine::Plan => Built {
            apply: objects(&desired.upgrade, desired.plan_namespace)
                .into_iter()
                .filter_map(|(_, object)| object)
                .collect(),
            delete: superfluous(object, desired),
            predecessor: (desired.served.bundles && engine_before(object) != Some(Engine::Plan))
                .then(|| identity_of_bundle(object)),
            finalizer: true,
        },
    }
}

pub(super) fn has_finalizer(object: &ManagedOSImage) -> bool {
    object.finalizers().iter().any(|finalizer| finalizer == OS_IMAGE_FINALIZER)
}

/// All objects that may have been applied for a ManagedOSImage of this name, in both possible namespaces.
pub(super) fn everything(name: &str) -> Vec<Value> {
    let elsewhere = identities(name, STANDALONE_NAMESPACE).into_iter();
    let elsewhere = elsewhere.filter(|object| object["metadata"]["namespace"].is_string());
    let mut everything: Vec<Value> = identities(name, PLAN_NAMESPACE).into_iter().chain(elsewhere).collect();
    // Plans first: a running Job needs its service account to end properly.
    everything.sort_by_key(|object| object["kind"] != "Plan");
    everything
}

/// Objects of an earlier spec. Only a new spec or another namespace of the Plan can leave some behind, so they are not looked
/// for otherwise.
fn superfluous(object: &ManagedOSImage, desired: &Desired) -> Vec<Value> {
    let status = object.status.as_ref();
    let place = status.and_then(|status| status.plan.clone());
    let same_place = place.is_none_or(|place| place == plan_of(desired));
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

/// `namespace/name` of the Plan, for the status.
pub(super) fn plan_of(desired: &Desired) -> String {
    format!("{}/{}", desired.plan_namespace, desired.upgrade.name)
}

fn engine_before(object: &ManagedOSImage) -> Option<Engine> {
    object.status.as_ref()?.engine
}

fn identity_of_bundle(object: &ManagedOSImage) -> Value {
    let name = rollout::name(&object.name_any());
    json!({"apiVersion": BUNDLE_API, "kind": "Bundle",
        "metadata": {"name": name, "namespace": object.namespace().unwrap_or_default()}})
}

#[cfg(test)]
mod tests {
    use super::super::discovery::Discovered;
    use super::super::validate::validate;
    use super::*;
    use crate::rollout::ServedKinds;
    use api::ManagedOSImageStatus;

    fn object(spec: Value) -> ManagedOSImage {
        let mut object = ManagedOSImage::new("x", serde_json::from_value(spec).unwrap());
        object.metadata.namespace = Some("fleet-local".into());
        object.metadata.generation = Some(2);
        object
    }
    fn built(object: &ManagedOSImage, bundles: bool) -> Built {
        let discovered =
            Discovered { served: ServedKinds { bundles, plans: true, standalone: true }, ..Discovered::default() };
        build(object, &validate(object, &discovered).unwrap())
    }
    fn kinds(objects: &[Value]) -> Vec<&str> {
        objects.iter().map(|object| object["kind"].as_str().unwrap()).collect()
    }

    #[test]
    fn a_bundle_is_owned_and_needs_no_finalizer() {
        let built = built(&object(json!({"osImage": "a:1"})), true);
        assert_eq!(kinds(&built.apply), ["Bundle"]);
        assert!(!built.finalizer && built.delete.is_empty() && built.predecessor.is_none());
    }

    #[test]
    fn the_plan_is_applied_last_and_a_bundle_goes_before_it() {
        let spec = json!({"osImage": "a:1", "engine": "Plan", "drain": {}, "cloudConfig": {"hostname": "h"}});
        let mut object = object(spec);
        let first = built(&object, true);
        assert_eq!(kinds(&first.apply), ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Secret", "Plan"]);
        assert!(first.finalizer && first.predecessor.is_some() && first.delete.is_empty());
        object.status = Some(ManagedOSImageStatus { engine: Some(Engine::Plan), ..Default::default() });
        assert!(built(&object, true).predecessor.is_none());
    }

    #[test]
    fn what_a_new_spec_has_no_use_for_is_deleted_once() {
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
        assert_eq!(kinds(&built(&object, true).delete)[..2], ["Plan", "Plan"]);
    }
}
