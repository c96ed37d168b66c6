//! The ManagedOSImages of a world.

use super::{World, status_when};
use crate::clusters::registration::NAMESPACE;
use crate::objects::{current_condition, kubectl_name, manifest};
use anyhow::Result;
use api::{ManagedOSImage, condition_type};
use serde_json::{Value, json};
use std::time::Duration;

impl World {
    /// Creates a ManagedOSImage, or gives it this spec.
    pub fn apply_os_image(&self, name: &str, spec: &Value) -> Result<()> {
        self.cluster.apply(&manifest::<ManagedOSImage>(NAMESPACE, name, spec))
    }

    /// Changes the spec of a ManagedOSImage by a merge patch.
    pub fn patch_os_image(&self, name: &str, spec: &Value) -> Result<()> {
        self.cluster.patch(&kubectl_name::<ManagedOSImage>(name), NAMESPACE, &json!({"spec": spec}))
    }

    /// Waits until a ManagedOSImage is Ready, or not, for this reason, as it was last edited.
    pub async fn os_image_with_reason(&self, name: &str, reason: &str, limit: Duration) -> Result<Value> {
        let right = |object: &Value| current_condition(object, condition_type::READY)["reason"] == reason;
        self.os_image_when(name, &format!("the reason {reason}"), limit, right).await
    }

    /// Waits until a ManagedOSImage is `right`.
    pub async fn os_image_when(
        &self,
        name: &str,
        what: &str,
        limit: Duration,
        right: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let what = format!("{what} of the ManagedOSImage {name}");
        let object = kubectl_name::<ManagedOSImage>(name);
        status_when(&what, limit, || self.cluster.get(&object, NAMESPACE).map(Some), right).await
    }
}
