//! A MachineInventory as the operator reads it: without `managedFields` and `spec.smbios`. These are most of an object,
//! are the most expensive parts to parse, and are not used.

use api::{MachineConfig, MachineInventory, MachineInventorySpec, MachineInventoryStatus, Reset};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;
use kube::api::ObjectMeta;
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The object without the unused parts.
#[derive(Clone, Debug)]
pub struct SeenInventory(pub MachineInventory);

/// Only the metadata of an object, without `managedFields`. Parses full objects and `PartialObjectMetadata`.
pub struct SeenMetadata(pub ObjectMeta);

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    status: Option<MachineInventoryStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    tpm_hash: Option<String>,
    tpm: Option<String>,
    cluster_name: Option<String>,
    machine_token_secret_name: Option<String>,
    config: Option<MachineConfig>,
    approved: Option<bool>,
    reinstall: Option<String>,
    reset: Option<Reset>,
}

impl<'de> Deserialize<'de> for SeenInventory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Object { metadata, spec, status } = Object::deserialize(deserializer)?;
        let spec = MachineInventorySpec {
            tpm_hash: spec.tpm_hash,
            tpm: spec.tpm,
            smbios: None,
            cluster_name: spec.cluster_name,
            machine_token_secret_name: spec.machine_token_secret_name,
            config: spec.config,
            approved: spec.approved,
            reinstall: spec.reinstall,
            reset: spec.reset,
        };
        Ok(Self(MachineInventory { metadata: metadata.into(), spec, status }))
    }
}

impl<'de> Deserialize<'de> for SeenMetadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Object {
            metadata: Metadata,
        }
        Ok(Self(Object::deserialize(deserializer)?.metadata.into()))
    }
}

impl From<Metadata> for ObjectMeta {
    fn from(metadata: Metadata) -> Self {
        Self {
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            generation: metadata.generation,
            creation_timestamp: metadata.creation_timestamp,
            deletion_timestamp: metadata.deletion_timestamp,
            finalizers: metadata.finalizers,
            labels: metadata.labels,
            annotations: metadata.annotations,
            ..Self::default()
        }
    }
}

impl Resource for SeenInventory {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        MachineInventory::kind(&())
    }
    fn group((): &()) -> Cow<'_, str> {
        MachineInventory::group(&())
    }
    fn version((): &()) -> Cow<'_, str> {
        MachineInventory::version(&())
    }
    fn plural((): &()) -> Cow<'_, str> {
        MachineInventory::plural(&())
    }
    fn meta(&self) -> &ObjectMeta {
        &self.0.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.0.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::index::KnownMachine;
    use serde_json::json;

    #[test]
    fn the_index_entry_equals_that_of_the_whole_object() {
        let object = json!({
            "apiVersion": "rancheros.cattle.io/v1", "kind": "MachineInventory",
            "metadata": {
                "namespace": "n", "name": "a", "uid": "u", "resourceVersion": "7", "generation": 3,
                "creationTimestamp": "2026-11-22T00:00:00Z", "deletionTimestamp": "2026-11-23T00:00:00Z",
                "finalizers": ["f"], "labels": {"l": "v"},
                "annotations": {api::REGISTRATION_ANNOTATION: "door", api::REGISTERED_DIGEST_ANNOTATION: "d"},
                "managedFields": [{"manager": "m", "operation": "Update", "fieldsV1": {"f:spec": {}}}],
            },
            "spec": {
                "tpm": "a".repeat(64), "tpmHash": "a".repeat(64), "clusterName": "c", "machineTokenSecretName": "s",
                "config": {"role": "agent", "hostname": "h"}, "approved": false, "reinstall": "again", "reset": {"scope": "All", "request": "x"},
                "smbios": {"System": {"Serial": "1"}},
            },
            "status": {"phase": "Ready", "conditions": [{"type": "Ready", "status": "True"}]},
        });
        let mut whole: MachineInventory = serde_json::from_value(object.clone()).unwrap();
        let metadata: SeenMetadata = serde_json::from_value(object.clone()).unwrap();
        let seen: SeenInventory = serde_json::from_value(object).unwrap();
        assert_eq!((metadata.0, &seen.0.metadata.managed_fields), (seen.0.metadata.clone(), &None));
        assert!(whole.spec.smbios.take().is_some());
        assert_eq!((&seen.0.spec, &seen.0.metadata.labels), (&whole.spec, &whole.metadata.labels));
        assert_eq!(KnownMachine::of(seen.0), KnownMachine::of(whole));
    }
}
