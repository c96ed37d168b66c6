//! Reads and writes MachineInventories. Each request has a deadline, so that a machine gets an answer even if the API
//! server gives none. The number of concurrent requests is limited, and others wait in order: an overloaded API server
//! answers all requests late, and an answer after the deadline is wasted work.

use crate::inventory::seen::{SeenInventory, SeenMetadata};
use crate::kube::client::{patching, writing};
use crate::kube::status_writer::StatusPatch;
use api::MachineInventory;
use axum::http;
use axum::http::header::{ACCEPT, HeaderValue};
use kube::api::{Api, ListParams, ObjectMeta, Patch};
use kube::core::Request;
use kube::{Client, Resource, ResourceExt};
use protocol::{Refusal, RefusalCode, TpmHash};
use serde_json::Value;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Concurrent requests. The API server reaches its full speed with far fewer.
const AT_ONCE: usize = 32;
/// How long a request may wait for a permit, and how long it may then take.
const DEADLINE: Duration = Duration::from_secs(5);
/// Seconds after which a machine should come back while the API server is unavailable.
const RETRY_AFTER: u64 = 15;

/// The form of the answer to a write: the metadata only, because the rest is known. This halves the work with the
/// answer for the API server and for the operator.
const METADATA: HeaderValue =
    HeaderValue::from_static("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, application/json;q=0.5");

/// The result of creating an inventory.
#[derive(Debug)]
pub enum Created {
    /// The object that was sent, with the metadata from the answer.
    New(Box<MachineInventory>),
    /// An inventory of that name exists, of this machine or of another.
    NameTaken(Box<MachineInventory>),
}

#[derive(Debug)]
pub enum StoreError {
    /// The object does not exist any more.
    Gone,
    /// The object has changed since the version that the write was based on.
    Changed,
    Refused(Refusal),
}

/// Reads and writes inventories.
pub struct InventoryStore {
    client: Client,
    permits: Semaphore,
}

impl InventoryStore {
    pub fn new(client: Client) -> Self {
        Self { client, permits: Semaphore::new(AT_ONCE) }
    }

    pub async fn make(&self, mut object: MachineInventory) -> Result<Created, Refusal> {
        let namespace = object.namespace().unwrap_or_default();
        match self.timed(self.create(&namespace, &object)).await {
            Ok(SeenMetadata(metadata)) => {
                object.metadata = metadata;
                Ok(Created::New(Box::new(object)))
            }
            Err(Failed::Api(status)) if status.is_already_exists() => {
                let there = self.read(&namespace, &object.name_any()).await?;
                Ok(Created::NameTaken(Box::new(there.0)))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn create(&self, namespace: &str, object: &MachineInventory) -> kube::Result<SeenMetadata> {
        let body = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
        let collection = Request::new(SeenInventory::url_path(&(), Some(namespace)));
        self.write(collection.create(&writing(), body)).await
    }

    async fn write(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> kube::Result<SeenMetadata> {
        let mut request = request.map_err(kube::Error::BuildRequest)?;
        request.headers_mut().insert(ACCEPT, METADATA);
        self.client.request(request).await
    }

    pub async fn get(&self, namespace: &str, name: &str) -> Result<MachineInventory, StoreError> {
        found(self.read(namespace, name).await).map(|seen| seen.0)
    }

    async fn read(&self, namespace: &str, name: &str) -> Result<SeenInventory, Failed> {
        let api = Api::<SeenInventory>::namespaced(self.client.clone(), namespace);
        self.timed(api.get(name)).await
    }

    /// The inventories of a machine, whether they have its hash in `spec.tpmHash` or in `spec.tpm`.
    pub async fn with_hash(&self, hash: &TpmHash) -> Result<Vec<MachineInventory>, Refusal> {
        let api = Api::<SeenInventory>::all(self.client.clone());
        let with = async |field: &str| {
            let parameters = ListParams::default().fields(&format!("{field}={hash}"));
            self.timed(api.list(&parameters)).await
        };
        let lists = futures::try_join!(with("spec.tpmHash"), with("spec.tpm")).map_err(Refusal::from)?;
        Ok(lists.0.items.into_iter().chain(lists.1.items).map(|seen| seen.0).collect())
    }

    /// Applies a JSON merge patch to the object, without its status.
    pub async fn patch(&self, namespace: &str, name: &str, patch: &Value) -> Result<MachineInventory, StoreError> {
        let api = Api::<SeenInventory>::namespaced(self.client.clone(), namespace);
        found(self.timed(api.patch(name, &patching(), &Patch::Merge(patch))).await).map(|seen| seen.0)
    }

    /// Writes the status of an object and returns the object's metadata.
    pub async fn write_status(
        &self,
        namespace: &str,
        name: &str,
        patch: &StatusPatch,
    ) -> Result<ObjectMeta, StoreError> {
        let collection = Request::new(SeenInventory::url_path(&(), Some(namespace)));
        let request = collection.patch_subresource("status", name, &patching(), &patch.as_patch());
        found(self.timed(self.write(request)).await).map(|metadata| metadata.0)
    }

    /// Makes one request as soon as a permit is free.
    async fn timed<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, Failed> {
        // The semaphore is never closed.
        let Ok(_permit) = tokio::time::timeout(DEADLINE, self.permits.acquire()).await else {
            return Err(Failed::Other(format!("no free request slot within {} s", DEADLINE.as_secs())));
        };
        match tokio::time::timeout(DEADLINE, request).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(kube::Error::Api(status))) => Err(Failed::Api(status)),
            Ok(Err(error)) => Err(Failed::Other(error.to_string())),
            Err(_) => Err(Failed::Other(format!("no answer within {} s", DEADLINE.as_secs()))),
        }
    }
}

fn found<T>(result: Result<T, Failed>) -> Result<T, StoreError> {
    result.map_err(|error| match error {
        Failed::Api(status) if status.is_not_found() => StoreError::Gone,
        Failed::Api(status) if status.is_conflict() => StoreError::Changed,
        error => StoreError::Refused(error.into()),
    })
}

/// A request that failed or was not answered.
enum Failed {
    Api(Box<kube::core::Status>),
    Other(String),
}

impl From<Failed> for Refusal {
    fn from(failed: Failed) -> Self {
        let unavailable = "the operator cannot write the machine's inventory at the moment";
        match failed {
            // The request itself is refused: repeating it does not help, but the registration may be changed.
            Failed::Api(status) if matches!(status.code, 400 | 413 | 422) => {
                tracing::error!(message = status.message, "the API server refused an inventory");
                let message = "the API server refused this machine's inventory; the operator's log says why";
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
