//! The Secret from which upgrade Jobs take the cloud-configs of their ManagedOSImages. There is one for all of them: RBAC grants
//! it by its name, so that the operator has no right to change others of its namespace.

use crate::kube::client::FIELD_MANAGER;
use crate::rollout::objects::{CLOUD_CONFIG, encoded};
use kube::api::ObjectMeta;
use serde_json::{Value, json};

/// Its name.
pub const SECRET_NAME: &str = "ros-operator-cloud-configs";
/// The label of an object that the operator made.
const MADE_BY: &str = "app.kubernetes.io/managed-by";

/// The Secret, without any cloud-config.
pub fn secret(namespace: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET_NAME, "namespace": namespace, "labels": {MADE_BY: FIELD_MANAGER}},
        "type": "Opaque",
    })
}

/// Whether a Secret of this name is the operator's.
pub fn is_own(found: &ObjectMeta) -> bool {
    found.labels.as_ref().and_then(|labels| labels.get(MADE_BY)).is_some_and(|by| by == FIELD_MANAGER)
}

/// A merge patch that leaves the other ManagedOSImages alone. `None` removes the cloud-config.
pub fn entry(image: &str, cloud_config: Option<&str>) -> Value {
    json!({"data": {image: cloud_config.map(encoded)}})
}

/// A volume with the cloud-config of one ManagedOSImage.
pub fn volume(name: &str, image: &str) -> Value {
    // A Job of an earlier spec, whose cloud-config was removed since, goes on without it. For others it is stored before.
    let items = json!([{"key": image, "path": CLOUD_CONFIG}]);
    json!({"name": name, "secret": {"secretName": SECRET_NAME, "optional": true, "items": items}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_managed_os_image_has_its_entry_in_a_secret_of_the_operator() {
        assert_eq!(entry("x", Some("a: b\n")), json!({"data": {"x": "YTogYgo="}}));
        assert_eq!(entry("x", None), json!({"data": {"x": null}}));
        let metadata = |value: &Value| serde_json::from_value::<ObjectMeta>(value.clone()).unwrap();
        let mut own = secret("n")["metadata"].clone();
        assert!(is_own(&metadata(&own)));
        own["labels"] = json!({MADE_BY: "Helm"});
        assert!(!is_own(&metadata(&own)) && !is_own(&ObjectMeta::default()));
    }
}
