//! Stores the cloud-config of a ManagedOSImage where its upgrade Jobs find it.

use super::super::apply::{called, refusal};
use super::{Context, ReconcileError, forbidden};
use crate::kube::apply;
use crate::kube::client::{patching, writing};
use crate::rollout::nodes::cloud_configs::{SECRET_NAME, entry, is_own, secret};
use api::{Problem, reason};
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, Patch};
use serde_json::{Value, json};

/// Stores it. Returns why it cannot be stored, if that stays so until somebody acts.
pub(super) async fn store(context: &Context, image: &str, text: &str) -> Result<Option<Problem>, ReconcileError> {
    let secret = secret(&context.namespace);
    match change(&context.client, &secret, image, Some(text)).await {
        Ok(true) => Ok(None),
        Ok(false) => {
            let message = format!(
                "{} is there and was not made by the operator, so it is left alone; delete it",
                called(&secret)
            );
            Ok(Some(Problem { reason: reason::NAME_TAKEN, message }))
        }
        Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(Some(forbidden(&status.message))),
        Err(source) => refusal("writing", &secret, source).map(Some),
    }
}

/// Removes it. Where the operator may not, it has not stored any.
pub(super) async fn remove(context: &Context, image: &str) -> Result<(), ReconcileError> {
    let secret = secret(&context.namespace);
    match change(&context.client, &secret, image, None).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_forbidden() => {
            tracing::info!(object = called(&secret), message = status.message, "not deleted");
            Ok(())
        }
        Err(source) => Err(ReconcileError::Changing { what: called(&secret), source }),
    }
}

/// Returns whether the Secret is the operator's. Its other content is not read.
async fn change(client: &Client, secret: &Value, image: &str, text: Option<&str>) -> kube::Result<bool> {
    let namespace = secret["metadata"]["namespace"].as_str().unwrap_or_default();
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    let mut patch = entry(image, text);
    match apply::metadata(client, secret).await? {
        None if text.is_none() => Ok(true),
        None => {
            let mut secret = secret.clone();
            secret["data"] = patch["data"].take();
            let secret = serde_json::from_value(secret).map_err(kube::Error::SerdeError)?;
            api.create(&writing(), &secret).await.map(|_| true)
        }
        Some(found) if is_own(&found) => {
            // Not another one that has taken the name since.
            patch["metadata"] = json!({"uid": found.uid});
            api.patch_metadata(SECRET_NAME, &patching(), &Patch::Merge(&patch)).await.map(|_| true)
        }
        Some(_) => Ok(false),
    }
}
