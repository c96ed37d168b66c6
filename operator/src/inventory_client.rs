//! Writes to MachineInventory objects, each with a deadline: a machine gets an answer even when the API server does
//! not.

use crate::context::FIELD_MANAGER;
use crate::crd::MachineInventory;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use protocol::{Refusal, RefusalCode};
use serde_json::Value;
use std::time::Duration;

/// How long one request may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// When a machine should come back while the API server is away, in seconds.
const RETRY_AFTER: u64 = 15;

/// What became of an attempt to make an inventory.
#[derive(Debug)]
pub enum Made {
    New(Box<MachineInventory>),
    /// One of that name is there, of this machine or of another.
    Taken(Box<MachineInventory>),
}

#[derive(Debug)]
pub enum WriteError {
    /// The object is not there any more.
    Gone,
    Refused(Refusal),
}

pub async fn make(client: &Client, object: &MachineInventory) -> Result<Made, Refusal> {
    let api = Api::<MachineInventory>::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    match timed(api.create(&parameters, object)).await {
        Ok(made) => Ok(Made::New(Box::new(made))),
        Err(Failed::Api(status)) if status.is_already_exists() => {
            let there = timed(api.get(&object.name_any())).await.map_err(Refusal::from)?;
            Ok(Made::Taken(Box::new(there)))
        }
        Err(error) => Err(error.into()),
    }
}

/// Applies a JSON merge patch to the object, without its status.
pub async fn patch(
    client: &Client,
    namespace: &str,
    name: &str,
    patch: &Value,
) -> Result<MachineInventory, WriteError> {
    let api = Api::<MachineInventory>::namespaced(client.clone(), namespace);
    written(timed(api.patch(name, &parameters(), &Patch::Merge(patch))).await)
}

/// Applies a JSON merge patch to the object's status.
pub async fn patch_status(
    client: &Client,
    namespace: &str,
    name: &str,
    patch: &Value,
) -> Result<MachineInventory, WriteError> {
    let api = Api::<MachineInventory>::namespaced(client.clone(), namespace);
    written(timed(api.patch_status(name, &parameters(), &Patch::Merge(patch))).await)
}

fn parameters() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

fn written(result: Result<MachineInventory, Failed>) -> Result<MachineInventory, WriteError> {
    result.map_err(|error| match error {
        Failed::Api(status) if status.is_not_found() => WriteError::Gone,
        error => WriteError::Refused(error.into()),
    })
}

/// A request that was answered with an error, or not at all.
enum Failed {
    Api(Box<kube::core::Status>),
    Other(String),
}

async fn timed<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Failed> {
    match tokio::time::timeout(DEADLINE, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) => Err(Failed::Api(status)),
        Ok(Err(error)) => Err(Failed::Other(error.to_string())),
        Err(_) => Err(Failed::Other(format!("no answer within {} s", DEADLINE.as_secs()))),
    }
}

impl From<Failed> for Refusal {
    fn from(failed: Failed) -> Self {
        let unavailable = "the operator cannot write the machine's inventory now";
        match failed {
            // What was sent is at fault: coming back without a change does not help, but a change may come.
            Failed::Api(status) if matches!(status.code, 400 | 413 | 422) => {
                tracing::error!(message = status.message, "the API server refuses an inventory");
                let message = "the API server refuses this machine's inventory; the operator's log says why";
                Refusal::new(RefusalCode::RegistrationInvalid, message).retry_after(RETRY_AFTER)
            }
            Failed::Api(status) => {
                tracing::warn!(code = status.code, message = status.message, "writing an inventory");
                Refusal::new(RefusalCode::Unavailable, unavailable).retry_after(RETRY_AFTER)
            }
            Failed::Other(error) => {
                tracing::warn!(error, "writing an inventory");
                Refusal::new(RefusalCode::Unavailable, unavailable).retry_after(RETRY_AFTER)
            }
        }
    }
}
