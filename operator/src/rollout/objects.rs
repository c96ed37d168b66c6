//! The objects of a roll-out, for a Bundle or to be applied without Fleet.
//!
//! All have the same name (the Secret a similar one), which contains the name of the ManagedOSImage: two Bundles with an object of the same name
//! could not be applied.

use super::{Upgrade, names};
use api::{OS_IMAGE_LABEL, OS_IMAGE_NAMESPACE_LABEL};
use serde_json::{Value, json};

pub const PLAN_API: &str = "upgrade.cattle.io/v1";
const ROLE_API: &str = "rbac.authorization.k8s.io/v1";
/// Key of the cloud-config in the Secret.
pub(super) const CLOUD_CONFIG: &str = "cloud-config";

/// All possible objects of a roll-out, in the order of applying. `None`: this roll-out does not need the object.
pub fn objects(upgrade: &Upgrade, namespace: &str) -> [(&'static str, Option<Value>); 5] {
    let rules = rules(upgrade);
    let binding = (!rules.is_empty()).then(|| role_binding(upgrade, namespace));
    [
        (
            "service-account",
            Some(with(json!({"apiVersion": "v1", "kind": "ServiceAccount"}), upgrade, Some(namespace))),
        ),
        ("cluster-role", (!rules.is_empty()).then(|| role(upgrade, rules))),
        ("cluster-role-binding", binding),
        ("secret", upgrade.cloud_config.as_ref().map(|text| secret(upgrade, namespace, text))),
        ("plan", Some(plan(upgrade, namespace))),
    ]
}

/// The same objects with kind and name only, to delete them.
pub fn identities(name: &str, namespace: &str) -> [Value; 5] {
    let kinds = [
        ("v1", "ServiceAccount", true),
        (ROLE_API, "ClusterRole", false),
        (ROLE_API, "ClusterRoleBinding", false),
        ("v1", "Secret", true),
        (PLAN_API, "Plan", true),
    ];
    kinds.map(|(api_version, kind, namespaced)| {
        let name = if kind == "Secret" { names::secret(name) } else { name.to_owned() };
        let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
        if namespaced {
            object["metadata"]["namespace"] = json!(namespace);
        }
        object
    })
}

/// Labels of all objects of a ManagedOSImage.
pub fn labels(upgrade: &Upgrade) -> Value {
    json!({OS_IMAGE_LABEL: upgrade.image_name, OS_IMAGE_NAMESPACE_LABEL: upgrade.image_namespace})
}

/// The rights of the Plan's pods: those that `kubectl cordon` and `kubectl drain` need. None if neither is run.
pub fn rules(upgrade: &Upgrade) -> Vec<Value> {
    let mut rules = Vec::new();
    if upgrade.plan.cordon || upgrade.plan.drain.is_some() {
        rules.push(json!({"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "patch"]}));
    }
    if let Some(drain) = &upgrade.plan.drain {
        rules.push(json!({"apiGroups": ["apps"], "resources": ["daemonsets"], "verbs": ["get"]}));
        if drain.disable_eviction {
            rules.push(json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "delete"]}));
        } else {
            rules.push(json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}));
            rules.push(json!({"apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"]}));
        }
    }
    rules
}

fn role(upgrade: &Upgrade, rules: Vec<Value>) -> Value {
    with(json!({"apiVersion": ROLE_API, "kind": "ClusterRole", "rules": rules}), upgrade, None)
}

fn role_binding(upgrade: &Upgrade, namespace: &str) -> Value {
    let binding = json!({
        "apiVersion": ROLE_API,
        "kind": "ClusterRoleBinding",
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": upgrade.name},
        "subjects": [{"kind": "ServiceAccount", "name": upgrade.name, "namespace": namespace}],
    });
    with(binding, upgrade, None)
}

fn secret(upgrade: &Upgrade, namespace: &str, cloud_config: &str) -> Value {
    let data = json!({CLOUD_CONFIG: encoded(cloud_config)});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": data});
    let mut secret = with(secret, upgrade, Some(namespace));
    secret["metadata"]["name"] = json!(names::secret(&upgrade.name));
    secret
}

/// A text as the `data` of a Secret. Not `stringData`: the API server converts it to `data`, so that each apply would look like
/// a change.
pub(super) fn encoded(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn plan(upgrade: &Upgrade, namespace: &str) -> Value {
    with(json!({"apiVersion": PLAN_API, "kind": "Plan", "spec": upgrade.plan}), upgrade, Some(namespace))
}

fn with(mut object: Value, upgrade: &Upgrade, namespace: Option<&str>) -> Value {
    object["metadata"] = json!({"name": upgrade.name, "labels": labels(upgrade)});
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = json!(namespace);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::{DefaultRegistry, PLAN};
    use api::ManagedOSImage;

    #[test]
    fn identities_match_the_objects() {
        let spec = json!({"osImage": "a:1", "drain": {}, "cloudConfig": {"hostname": "h"}});
        let object = ManagedOSImage::new("update-to-2.0.2", serde_json::from_value(spec).unwrap());
        let upgrade = Upgrade::of(&object, PLAN, &DefaultRegistry::default()).unwrap();
        assert_eq!(secret(&upgrade, "n", "")["metadata"]["name"], upgrade.plan.secrets[0].name);
        for (identity, (_, object)) in identities(&upgrade.name, "n").into_iter().zip(objects(&upgrade, "n")) {
            let object = object.unwrap();
            for pointer in ["/apiVersion", "/kind", "/metadata/name", "/metadata/namespace"] {
                assert_eq!(identity.pointer(pointer), object.pointer(pointer));
            }
        }
    }

    #[test]
    fn pods_of_a_plan_have_the_rights_that_they_need() {
        let of = |spec: Value| {
            let object = ManagedOSImage::new("x", serde_json::from_value(spec).unwrap());
            serde_json::to_string(&rules(&Upgrade::of(&object, PLAN, &DefaultRegistry::default()).unwrap())).unwrap()
        };
        assert_eq!(of(json!({"osImage": "a", "cordon": false})), "[]");
        assert!(!of(json!({"osImage": "a"})).contains("pods"));
        let drain = of(json!({"osImage": "a", "drain": {}}));
        assert!(drain.contains("pods/eviction") && !drain.contains("delete"), "{drain}");
        let forced = of(json!({"osImage": "a", "drain": {"disableEviction": true}}));
        assert!(!forced.contains("pods/eviction") && forced.contains("delete"), "{forced}");
    }
}
