//! What a registration writes about a machine: a new inventory, or a patch of an existing one.

use crate::digest::Digest;
use crate::inventory::index::KnownMachine;
use crate::registration::machine_name::machine_name;
use crate::registration::templates::Rendered;
use crate::registration::{Registration, Templates};
use api::{
    AttestationStatus, MachineInventory, MachineInventorySpec, REGISTERED_DIGEST_ANNOTATION, REGISTRATION_ANNOTATION,
};
use protocol::{SmbiosDocument, TpmHash};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The identity that a machine has proved by its TPM.
#[derive(Clone, Debug)]
pub struct Identity {
    pub hash: TpmHash,
    pub attestation: AttestationStatus,
}

/// The values for one machine, with all templates filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Record<'a> {
    namespace: String,
    registration: String,
    /// The filled-in name template, before it is made a valid name.
    name: Rendered,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    smbios: &'a SmbiosDocument,
}

impl<'a> Record<'a> {
    pub fn new(registration: &Registration, templates: &Templates, smbios: &'a SmbiosDocument) -> Self {
        let labels = templates.labels.iter();
        let labels = labels.map(|(key, template)| (key.clone(), template.render(smbios).to_label_value()));
        let annotations = templates.annotations.iter();
        let annotations =
            annotations.map(|(key, template)| (key.clone(), template.render(smbios).as_text().to_owned()));
        Self {
            namespace: registration.namespace.clone(),
            registration: registration.name.clone(),
            name: templates.machine_name.render(smbios),
            labels: labels.collect(),
            annotations: annotations.collect(),
            smbios,
        }
    }

    /// The inventory to create for the machine with this hash. `candidate`: how many of its names other machines have.
    pub fn object(&self, hash: &TpmHash, approved: bool, candidate: usize) -> MachineInventory {
        let spec = MachineInventorySpec {
            tpm_hash: Some(hash.to_string()),
            smbios: (!self.smbios.0.is_empty()).then(|| fields(self.smbios)),
            approved: (!approved).then_some(false),
            ..MachineInventorySpec::default()
        };
        let mut object = MachineInventory::new(&machine_name(&self.name, hash, candidate), spec);
        object.metadata.namespace = Some(self.namespace.clone());
        object.metadata.labels = Some(self.labels.clone()).filter(|labels| !labels.is_empty());
        let mut annotations = self.annotations.clone();
        annotations.insert(REGISTRATION_ANNOTATION.to_owned(), self.registration.clone());
        annotations.insert(REGISTERED_DIGEST_ANNOTATION.to_owned(), self.digest());
        object.metadata.annotations = Some(annotations);
        object
    }

    /// The JSON merge patch of an existing inventory. `None` if it is up to date. Labels and annotations are added and
    /// changed, never removed, because somebody else may have set them. The identity is not changed.
    pub fn patch(&self, known: &KnownMachine) -> Option<Value> {
        let digest = self.digest();
        let up_to_date = known.registered_digest.as_ref() == Some(&digest)
            && known.registration.as_ref() == Some(&self.registration);
        if up_to_date {
            return None;
        }
        let mut annotations = self.annotations.clone();
        annotations.insert(REGISTRATION_ANNOTATION.to_owned(), self.registration.clone());
        annotations.insert(REGISTERED_DIGEST_ANNOTATION.to_owned(), digest);
        let mut patch = json!({"metadata": {"annotations": annotations}});
        if !self.labels.is_empty() {
            patch["metadata"]["labels"] = json!(self.labels);
        }
        if !self.smbios.0.is_empty() {
            patch["spec"] = json!({"smbios": self.smbios});
        }
        Some(patch)
    }

    fn digest(&self) -> String {
        Digest::of(&(&self.labels, &self.annotations, self.smbios)).to_string()
    }
}

fn fields(smbios: &SmbiosDocument) -> Map<String, Value> {
    match serde_json::to_value(smbios) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::ResourceExt;

    fn smbios(serial: &str) -> SmbiosDocument {
        serde_json::from_value(json!({"System Information": {"Serial Number": serial}})).unwrap()
    }
    fn record(smbios: &SmbiosDocument) -> Record<'_> {
        let spec = serde_json::from_value(json!({
            "machineInventoryLabels": {"serial": "${System Information/Serial Number}"},
            "machineInventoryAnnotations": {"note": "from ${System Information/Serial Number}"},
        }));
        let registration = Registration::for_tests("n", "door", spec.unwrap());
        let templates = registration.templates.clone().unwrap();
        Record::new(&registration, &templates, smbios)
    }
    fn hash() -> TpmHash {
        TpmHash::of_public_key(b"k")
    }

    #[test]
    fn an_inventory_is_built_from_registration_and_machine() {
        let object = record(&smbios("No 42!")).object(&hash(), true, 0);
        assert_eq!(object.labels()["serial"], "No-42");
        assert_eq!(object.annotations()["note"], "from No 42!");
        assert_eq!(object.annotations()[REGISTRATION_ANNOTATION], "door");
        assert_eq!(object.spec.tpm_hash(), Some(hash()));
        assert_eq!(
            (object.spec.approved, record(&smbios("x")).object(&hash(), false, 0).spec.approved),
            (None, Some(false))
        );
        assert!(object.name_any().starts_with("m-no-42-"), "{}", object.name_any());
    }

    #[test]
    fn recorded_values_are_not_written_again() {
        let known = KnownMachine::of(record(&smbios("1")).object(&hash(), true, 0));
        assert_eq!(record(&smbios("1")).patch(&known), None);
        let patch = record(&smbios("2")).patch(&known).unwrap();
        assert_eq!(patch["metadata"]["labels"]["serial"], "2");
        assert_eq!(patch["spec"]["smbios"]["System Information"]["Serial Number"], "2");
        assert!(patch["spec"].get("tpmHash").is_none());
    }
}
