//! The one way in which a status is written: the difference between what it was and what it shall be, which holds only
//! for the version of the object that it was decided on.
//!
//! Statuses have several writers: the server for what a machine says, the controller for what follows from other objects.
//! A list such as `conditions` is written as a whole, so whoever decided on an older version would undo what another
//! wrote. The API server refuses that by the version, and the writer decides again.

use crate::kube::client::patching;
use kube::api::{Api, Patch};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// A JSON merge patch (RFC 7386) of an object's status, for one version of the object.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusPatch(Value);

impl StatusPatch {
    /// What makes one status the other. `None`: they say the same. A field that `before` does not hold is not removed.
    /// `version`: the `metadata.resourceVersion` with which `before` was read.
    pub fn between<S: Serialize + PartialEq>(before: &S, after: &S, version: Option<String>) -> Option<Self> {
        if before == after {
            return None;
        }
        let [before, after] = [before, after].map(|status| serde_json::to_value(status).unwrap_or_default());
        let patch = difference(&without_nulls(before), without_nulls(after))?;
        // Moved, where `json!` would copy.
        let mut object = Map::from_iter([("status".to_owned(), patch)]);
        object.insert("metadata".to_owned(), json!({"resourceVersion": version}));
        Some(Self(Value::Object(object)))
    }

    /// With which the API server is asked; one that was written since is refused as a conflict.
    pub fn as_patch(&self) -> Patch<&Value> {
        Patch::Merge(&self.0)
    }

    /// Writes it; the object afterwards.
    pub async fn write<K: Clone + DeserializeOwned>(&self, api: &Api<K>, name: &str) -> kube::Result<K> {
        api.patch_status(name, &patching(), &self.as_patch()).await
    }
}

/// The merge patch from one value to another, neither of which holds a null; `None`: they are equal. What is over is
/// null, at every depth.
fn difference(before: &Value, after: Value) -> Option<Value> {
    let (before, after) = match (before, after) {
        (Value::Object(before), Value::Object(after)) => (before, after),
        (before, after) => return (*before != after).then_some(after),
    };
    let over = before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let mut patch: Map<_, _> = over.collect();
    for (key, value) in after {
        let change = match before.get(&key) {
            Some(before) => difference(before, value),
            None => Some(value),
        };
        patch.extend(change.map(|change| (key, change)));
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// A merge patch cannot write a null; one that is there already, of Fleet's, would be written for ever.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(fields.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::merge;
    use proptest::prelude::*;

    /// Few keys and values, so that two of them have much in common.
    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), (0..3).prop_map(Value::from)];
        leaf.prop_recursive(5, 40, 4, |inner| {
            prop_oneof![
                prop::collection::btree_map("[a-d]", inner.clone(), 0..4).prop_map(|fields| json!(fields)),
                prop::collection::vec(inner, 0..3).prop_map(Value::from),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_patch_leads_from_one_to_the_other(before in documents(), after in documents()) {
            let (before, after) = (json!({"x": before}), json!({"x": after}));
            let (stored, wanted) = (without_nulls(before.clone()), without_nulls(after.clone()));
            let mut object = json!({"metadata": {"name": "a"}, "status": stored.clone()});
            match StatusPatch::between(&before, &after, Some("7".into())) {
                Some(patch) => merge(&mut object, &patch.0),
                None => prop_assert_eq!(&stored, &wanted),
            }
            prop_assert_eq!(&object["status"], &wanted);
        }
    }

    #[test]
    fn what_vanishes_inside_a_status_is_removed_and_nothing_else_is_named() {
        let before =
            json!({"attestation": {"ekCertificate": "Trusted", "ekCertificateAuthority": "CN=a"}, "phase": "Ready"});
        let after = json!({"attestation": {"ekCertificate": "Absent"}, "phase": "Ready"});
        let patch = StatusPatch::between(&before, &after, Some("7".into())).unwrap();
        let status = json!({"attestation": {"ekCertificate": "Absent", "ekCertificateAuthority": null}});
        assert_eq!(patch.0, json!({"metadata": {"resourceVersion": "7"}, "status": status}));
        assert_eq!(StatusPatch::between(&after, &after, None), None);
    }
}
