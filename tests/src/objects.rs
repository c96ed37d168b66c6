//! Kubernetes objects: the names of our kinds for kubectl, manifests of them, and conditions.

use kube::Resource;
use serde_json::{Value, json};

/// A kind of our API as kubectl's argument: `machineinventories.rancheros.cattle.io`, for example.
pub fn kubectl_kind<K: Resource<DynamicType = ()>>() -> String {
    format!("{}.{}", K::plural(&()), K::group(&()))
}

/// An object of our API as kubectl's argument: `machineinventories.rancheros.cattle.io/edge`, for example.
pub fn kubectl_name<K: Resource<DynamicType = ()>>(name: &str) -> String {
    format!("{}/{name}", kubectl_kind::<K>())
}

/// An object of our API as a user writes it.
pub fn manifest<K: Resource<DynamicType = ()>>(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()),
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    })
}

/// The condition of this type; null when the object has none.
pub fn condition(object: &Value, kind: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default()
}

/// The condition of this type, unless it was written for an earlier generation of the object.
pub fn current_condition(object: &Value, kind: &str) -> Value {
    let condition = condition(object, kind);
    let is_current = condition["observedGeneration"] == object["metadata"]["generation"];
    if is_current { condition } else { Value::Null }
}

/// Whether everything of `part` is in `object`. Empty text may be missing: the API server leaves it out of some kinds.
pub fn contains(object: &Value, part: &Value) -> bool {
    match (object, part) {
        (Value::Object(object), Value::Object(part)) => {
            let in_object = |key: &str, part: &Value| object.get(key).is_some_and(|object| contains(object, part));
            part.iter().all(|(key, part)| in_object(key, part) || part.as_str() == Some(""))
        }
        (Value::Array(object), Value::Array(part)) => {
            object.len() == part.len() && object.iter().zip(part).all(|(object, part)| contains(object, part))
        }
        (object, part) => object == part,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_of_an_earlier_generation_does_not_count() {
        let condition = json!({"type": "Ready", "status": "True", "observedGeneration": 1});
        let object = json!({"metadata": {"generation": 2}, "status": {"conditions": [condition]}});
        assert_eq!(super::condition(&object, "Ready"), condition);
        assert_eq!(
            (super::condition(&object, "Other"), current_condition(&object, "Ready")),
            (Value::Null, Value::Null)
        );
    }

    #[test]
    fn a_list_is_contained_only_as_a_whole() {
        let object = json!({"a": [{"b": 1, "c": 2}], "d": 3});
        assert!(contains(&object, &json!({"a": [{"b": 1}], "e": ""})));
        assert!(!contains(&object, &json!({"a": []})) && !contains(&object, &json!({"e": "x"})));
    }
}
