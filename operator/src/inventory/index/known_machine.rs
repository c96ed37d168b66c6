//! A MachineInventory without its large parts, as the index keeps it.

use super::Key;
use crate::digest::Digest;
use api::{
    MachineConfig, MachineInventory, MachineInventoryStatus, REGISTERED_DIGEST_ANNOTATION, REGISTRATION_ANNOTATION,
};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::ObjectMeta;
use kube::{Resource, ResourceExt};
use protocol::{ReinstallRequest, TpmHash};

/// A MachineInventory without its large parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KnownMachine {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub generation: Option<i64>,
    pub hash: Option<TpmHash>,
    /// Whether an identity is given that is no TPM hash.
    pub malformed_identity: bool,
    /// Name of the MachineRegistration through which it came, if it came through one.
    pub registration: Option<String>,
    /// See [`REGISTERED_DIGEST_ANNOTATION`].
    pub registered_digest: Option<String>,
    pub approved: Option<bool>,
    /// What the machine is asked to install itself again by.
    pub reinstall: Option<ReinstallRequest>,
    /// Absent for a machine that is to join nothing.
    pub assignment: Option<Box<Assignment>>,
    /// Somebody deleted the object, and it waits for its finalizers.
    pub deleting: bool,
    pub finalizers: Vec<String>,
    /// The status without `hardware`.
    pub status: MachineInventoryStatus,
    pub hardware: Option<Digest>,
    /// When the object was made, in seconds since 1970: of several inventories of one machine the first counts.
    pub created: i64,
    /// 0 where it is not a number.
    pub resource_version: u64,
    /// This is what an own write should have made of the object, and nobody has seen it yet.
    pub assumed: bool,
}

/// How a machine is to join its cluster, and by what it may be told.
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
        // They grew as they were read; of a fleet's index this is a fifth.
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

    /// The machine after this status was written, as far as the metadata in the answer tells: `None` where more than the
    /// status is another than here. `hardware`, which a status holds only when it is news, is as it was.
    pub(super) fn with_status(&self, mut status: MachineInventoryStatus, written: &ObjectMeta) -> Option<Self> {
        // The generation stands for the spec.
        let as_here = written.uid.as_deref().unwrap_or_default() == self.uid
            && written.generation == self.generation
            && written.deletion_timestamp.is_some() == self.deleting
            && written.finalizers.as_deref().unwrap_or_default() == self.finalizers
            && annotation(written, REGISTRATION_ANNOTATION) == self.registration.as_ref()
            && annotation(written, REGISTERED_DIGEST_ANNOTATION) == self.registered_digest.as_ref();
        let hardware = status.hardware.take().map(|hardware| Digest::of(&hardware)).or(self.hardware);
        as_here.then(|| Self { status, hardware, resource_version: resource_version(written), ..self.clone() })
    }

    /// Whether this was made after the other, under the same name.
    pub fn is_successor_of(&self, other: &Self) -> bool {
        self.uid != other.uid && self.resource_version > other.resource_version
    }

    /// For events that tell of the object.
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

    /// What the inventory says of the machine as a node.
    pub fn config(&self) -> Option<&MachineConfig> {
        self.assignment.as_ref()?.config.as_ref()
    }

    /// Namespace and name of the Secret with which the machine may identify itself.
    pub fn secret(&self) -> Option<Key> {
        Some((self.namespace.clone(), self.assignment.as_ref()?.secret.clone()?))
    }

    /// For a write that must fail if the object was written since; `None` where it is not known.
    pub fn resource_version(&self) -> Option<String> {
        (self.resource_version != 0).then(|| self.resource_version.to_string())
    }

    /// What an upgrade goes by.
    pub(super) fn of_its_system(&self) -> impl PartialEq {
        (&self.assignment, &self.status.os)
    }

    /// How long ago the object was made, in seconds.
    pub fn age(&self, now: i64) -> i64 {
        now.saturating_sub(self.created)
    }
}

/// Opaque in name, but compared as a number by Kubernetes' own clients; 0, for what is no number, lets everything pass.
pub(super) fn resource_version(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.as_ref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a String> {
    metadata.annotations.as_ref()?.get(key)
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
