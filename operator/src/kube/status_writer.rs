//! The one way in which a status is written: as a merge patch from the old status to the new one, for exactly the
//! version of the object that the new status was computed from.
//!
//! Statuses have several writers: the server for what a machine says, the controller for what follows from other
//! objects. A list such as `conditions` is written as a whole, so a writer that read an older version would undo what
//! another writer wrote. The API server refuses the older version as a conflict, and the writer computes the status
//! again.

use crate::kube::client::patching;
use kube::api::{Api, Patch};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// A JSON merge patch (RFC 7396) of an object's status, for one version of the object.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusPatch(Value);

impl StatusPatch {
    /// The patch from one status to the other. `None`: they are equal. A field that `before` does not have is not
    /// removed. `version`: the `metadata.resourceVersion` of the object that `before` was read from.
    pub fn between<S: Serialize + PartialEq>(before: &S, after: &S, version: Option<String>) -> Option<Self> {
        if before == after {
            return None;
        }
        let [before, after] = [before, after].map(|status| serde_json::to_value(status).unwrap_or_default());
        let patch = difference(&without_nulls(before), without_nulls(after))?;
        // Moves the patch; `json!` would copy it.
        let mut object = Map::from_iter([("status".to_owned(), patch)]);
        object.insert("metadata".to_owned(), json!({"resourceVersion": version}));
        Some(Self(Value::Object(object)))
    }

    /// The patch as a request takes it. The API server answers with a conflict if the object has changed since.
    pub fn as_patch(&self) -> Patch<&Value> {
        Patch::Merge(&self.0)
    }

    /// Writes the status and returns the object.
    pub async fn write<K: Clone + DeserializeOwned>(&self, api: &Api<K>, name: &str) -> kube::Result<K> {
        api.patch_status(name, &patching(), &self.as_patch()).await
    }
}

/// The merge patch from one value to another. Neither contains a null. `None`: they are equal. A field that only the
/// first value has becomes null in the patch, at every depth.
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

/// A merge patch cannot write a null. A null that Fleet wrote would otherwise be written again each time.
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

    /// Documents with few keys and values, so that two of them have much in common.
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
    fn a_patch_removes_absent_fields_and_contains_only_changes() {
        let before =
            json!({"attestation": {"ekCertificate": "Trusted", "ekCertificateAuthority": "CN=a"}, "phase": "Ready"});
        let after = json!({"attestation": {"ekCertificate": "Absent"}, "phase": "Ready"});
        let patch = StatusPatch::between(&before, &after, Some("7".into())).unwrap();
        let status = json!({"attestation": {"ekCertificate": "Absent", "ekCertificateAuthority": null}});
        assert_eq!(patch.0, json!({"metadata": {"resourceVersion": "7"}, "status": status}));
        assert_eq!(StatusPatch::between(&after, &after, None), None);
    }
}
