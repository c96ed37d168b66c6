//! A MachineInventory without its large parts, as the index keeps it.

use super::Key;
use crate::digest::Digest;
use api::{
    MachineConfig, MachineInventory, MachineInventoryStatus, REGISTERED_DIGEST_ANNOTATION, REGISTRATION_ANNOTATION,
};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::ObjectMeta;
use kube::{Resource, ResourceExt};
use protocol::{RequestText, ResetRequest, TpmHash};

/// A MachineInventory without its large parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KnownMachine {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub generation: Option<i64>,
    pub hash: Option<TpmHash>,
    /// Whether the given identity is not a TPM hash.
    pub malformed_identity: bool,
    /// Name of the MachineRegistration through which the machine registered.
    pub registration: Option<String>,
    /// See [`REGISTERED_DIGEST_ANNOTATION`].
    pub registered_digest: Option<String>,
    pub approved: Option<bool>,
    /// `spec.reinstall`.
    pub reinstall: Option<RequestText>,
    /// `spec.reset`.
    pub reset: Option<Box<ResetRequest>>,
    /// The object's labels, sorted. Pairs need a fifth of the memory of a map.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// Absent if the machine joins no cluster.
    pub assignment: Option<Box<Assignment>>,
    /// The object is deleted and waits for its finalizers.
    pub deleting: bool,
    pub finalizers: Vec<String>,
    /// The status without `hardware`.
    pub status: MachineInventoryStatus,
    pub hardware: Option<Digest>,
    /// When the object was created, in seconds since 1970. If a machine has several inventories, the oldest counts.
    pub created: i64,
    /// 0 if it is not a number.
    pub resource_version: u64,
    /// This is the expected result of a write; the watch has not confirmed it yet.
    pub assumed: bool,
}

/// How a machine joins its cluster, and the Secret that identifies it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Assignment {
    pub cluster: Option<String>,
    /// Name of the Secret with the shared secret, in the machine's namespace.
    pub secret: Option<String>,
    pub config: Option<MachineConfig>,
}

impl KnownMachine {
    pub fn of(mut object: MachineInventory) -> Self {
        let mut status = object.status.take().unwrap_or_default();
        let hardware = status.hardware.take().map(|hardware| Digest::of(&hardware));
        // Their spare capacity after parsing would be a fifth of the index.
        status.conditions.shrink_to_fit();
        if let Some(addresses) = &mut status.addresses {
            addresses.shrink_to_fit();
        }
        let annotation = |key| annotation(&object.metadata, key).cloned();
        Self {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            uid: object.uid().unwrap_or_default(),
            generation: object.metadata.generation,
            hash: object.spec.tpm_hash(),
            malformed_identity: object.spec.identity().is_some() && object.spec.tpm_hash().is_none(),
            registration: annotation(REGISTRATION_ANNOTATION),
            registered_digest: annotation(REGISTERED_DIGEST_ANNOTATION),
            approved: object.spec.approved,
            reinstall: object.spec.reinstall(),
            reset: object.spec.reset().map(Box::new),
            labels: labels(&object.metadata),
            deleting: object.metadata.deletion_timestamp.is_some(),
            finalizers: object.metadata.finalizers.take().unwrap_or_default(),
            assignment: assignment(&mut object),
            status,
            hardware,
            created: object.creation_timestamp().map_or(i64::MAX, |time| time.0.as_second()),
            resource_version: resource_version(&object.metadata),
            assumed: false,
        }
    }

    /// The machine with a new status, according to the metadata of the answer. `None` if more than the status has
    /// changed. A status contains `hardware` only if it has changed; otherwise the known digest stays.
    pub(super) fn with_status(&self, mut status: MachineInventoryStatus, written: &ObjectMeta) -> Option<Self> {
        // The generation stands for the spec.
        let as_here = written.uid.as_deref().unwrap_or_default() == self.uid
            && written.generation == self.generation
            && written.deletion_timestamp.is_some() == self.deleting
            && written.finalizers.as_deref().unwrap_or_default() == self.finalizers
            && annotation(written, REGISTRATION_ANNOTATION) == self.registration.as_ref()
            && annotation(written, REGISTERED_DIGEST_ANNOTATION) == self.registered_digest.as_ref()
            && labels(written) == self.labels;
        let hardware = status.hardware.take().map(|hardware| Digest::of(&hardware)).or(self.hardware);
        as_here.then(|| Self { status, hardware, resource_version: resource_version(written), ..self.clone() })
    }

    /// Whether this object was created after the other one, under the same name.
    pub fn is_successor_of(&self, other: &Self) -> bool {
        self.uid != other.uid && self.resource_version > other.resource_version
    }

    /// The reference for events about the object.
    pub fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some(MachineInventory::api_version(&()).into_owned()),
            kind: Some(MachineInventory::kind(&()).into_owned()),
            namespace: Some(self.namespace.clone()),
            name: Some(self.name.clone()),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        }
    }

    pub fn key(&self) -> Key {
        (self.namespace.clone(), self.name.clone())
    }

    /// The cluster that the machine is assigned to.
    pub fn cluster(&self) -> Option<&str> {
        self.assignment.as_ref()?.cluster.as_deref()
    }

    /// `spec.config`: how the machine joins as a node.
    pub fn config(&self) -> Option<&MachineConfig> {
        self.assignment.as_ref()?.config.as_ref()
    }

    /// Namespace and name of the Secret with which the machine may identify itself.
    pub fn secret(&self) -> Option<Key> {
        Some((self.namespace.clone(), self.assignment.as_ref()?.secret.clone()?))
    }

    /// The version for a write that must fail if the object has changed since. `None` if it is not known.
    pub fn resource_version(&self) -> Option<String> {
        (self.resource_version != 0).then(|| self.resource_version.to_string())
    }

    /// The fields that a roll-out depends on.
    pub(super) fn of_its_system(&self) -> impl PartialEq {
        (&self.assignment, &self.status.os, &self.labels, &self.status.upgrade, self.approved)
    }

    /// The age of the object in seconds.
    pub fn age(&self, now: i64) -> i64 {
        now.saturating_sub(self.created)
    }
}

/// Opaque by definition, but Kubernetes' own clients compare it as a number. 0, for text that is not a number, passes
/// every comparison.
pub(super) fn resource_version(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.as_ref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a String> {
    metadata.annotations.as_ref()?.get(key)
}

fn labels(metadata: &ObjectMeta) -> Box<[(Box<str>, Box<str>)]> {
    let labels = metadata.labels.iter().flatten();
    labels.map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect()
}

fn assignment(object: &mut MachineInventory) -> Option<Box<Assignment>> {
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let assignment = Assignment {
        cluster: given(object.spec.cluster_name.take()),
        secret: given(object.spec.machine_token_secret_name.take()),
        config: object.spec.config.take().filter(|config| *config != MachineConfig::default()),
    };
    (assignment != Assignment::default()).then(|| Box::new(assignment))
}
