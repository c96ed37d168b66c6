//! MachineRegistration: a URL through which machines register, and the configuration that they get.

use super::{Condition, free_form};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A MachineRegistration has a URL; whoever powers on a machine with that URL on its medium gets the machine
/// installed, configured and listed as a MachineInventory in the same namespace.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "rancheros.cattle.io",
    version = "v1",
    kind = "MachineRegistration",
    plural = "machineregistrations",
    doc = "A URL through which machines are installed, configured and taken into the inventory.",
    namespaced,
    derive = "PartialEq",
    status = "MachineRegistrationStatus",
    shortname = "mreg",
    category = "rancheros",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].reason"}"#,
    printcolumn = r#"{"name":"Machines","type":"integer","jsonPath":".status.machines"}"#,
    printcolumn = r#"{"name":"Behind","type":"integer","jsonPath":".status.machinesBehind","priority":1}"#,
    printcolumn = r#"{"name":"Expires","type":"string","jsonPath":".spec.expiresAt"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"URL","type":"string","jsonPath":".status.registrationURL","priority":1}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].message","priority":1}"#
)]
#[serde(rename_all = "camelCase")]
pub struct MachineRegistrationSpec {
    /// Template of the names of machines, such as `rack1-${System Information/Serial Number}`. What stands in `${…}`
    /// is a section and a field as `dmidecode` prints them. The result is made a valid name of at most 57 characters,
    /// and a suffix that belongs to the machine's identity is appended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub machine_name: Option<String>,
    /// Labels for the MachineInventory objects made. Values may hold `${…}` as in `machineName`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_inventory_labels: Option<BTreeMap<String, String>>,
    /// Annotations for the MachineInventory objects made. Values may hold `${…}` as in `machineName`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_inventory_annotations: Option<BTreeMap<String, String>>,
    /// The cloud-config with which machines are installed. In its texts `${machineName}` is the name of the machine's
    /// MachineInventory, and `${System Information/Serial Number}` and the like are fields of its SMBIOS; `$${` is a
    /// literal `${`, and every other `${…}` stays as it is. Without `hostname` a machine is called like its
    /// MachineInventory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub cloud_config: Option<Map<String, Value>>,
    /// After this moment no machine gets its configuration here any more. Machines that were installed before go on
    /// reporting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// How many machines may come through this registration; machines known already do not count twice. Two replicas
    /// of the operator that each admit the last machine in the same instant may exceed it by one. By default what the
    /// operator is told, which is 10,000 (the chart's `maxMachines`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_machines: Option<u32>,
    /// `Automatic`: a machine that proves its identity is given its configuration. `Manual`: only after somebody set
    /// `spec.approved: true` on its MachineInventory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// What a machine must prove beyond the possession of its TPM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<AttestationPolicy>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Approval {
    #[default]
    Automatic,
    Manual,
}

#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.trustedCAs) || !has(self.ekCertificate) || self.ekCertificate != 'Ignored'")
        .message("trustedCAs is without effect while ekCertificate is Ignored; remove one of them")
)]
pub struct AttestationPolicy {
    /// The certificate that the TPM's maker gave the endorsement key. `Required`: it must be there, and lead to
    /// `trustedCAs` or, where those are not given, to the root of a TPM vendor that the operator has. `IfPresent`
    /// (default): one that is there must be for this key, and lead to `trustedCAs` if those are given. `Ignored`: it is
    /// not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ek_certificate: Option<EkCertificatePolicy>,
    /// Authorities one of which must have issued the endorsement key certificate, in place of the TPM vendors'.
    #[serde(rename = "trustedCAs", default, skip_serializing_if = "Option::is_none")]
    pub trusted_cas: Option<TrustedCas>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EkCertificatePolicy {
    Required,
    #[default]
    IfPresent,
    Ignored,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrustedCas {
    /// A Secret in the registration's namespace. All its keys are read; each holds PEM certificates, of roots as well
    /// as of intermediates that the TPM does not carry.
    pub secret_name: String,
}

/// The URL, and whether machines can use it. Written by the operator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineRegistrationStatus {
    /// The `metadata.generation` this status was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: machines can register here. `Stalled`: they cannot until somebody changes the object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// What goes onto a medium: whoever has it may register machines.
    #[serde(rename = "registrationURL", default, skip_serializing_if = "Option::is_none")]
    pub registration_url: Option<String>,
    /// The secret part of the URL. Delete it to have another one made; media with the old one are then refused. Machines
    /// that are installed do not use it once `machinesBehind` is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration_token: Option<String>,
    /// The secret part of the URL that installed machines report to. It admits machines that the operator knows already,
    /// and no others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed_token: Option<String>,
    /// Revision of what installed machines are told to reach the operator with: its URL, the token and the authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings_revision: Option<String>,
    /// How many installed machines that came through here have not said yet that they have `settingsRevision`.
    #[serde(default)]
    pub machines_behind: u32,
    /// Media that carry this registration already, by file name: live ISOs for a stick or for a server's virtual CD.
    /// Absent where the operator was given none (the chart's `media`).
    #[serde(rename = "mediaURLs", default, skip_serializing_if = "Option::is_none")]
    pub media_urls: Option<BTreeMap<String, String>>,
    /// How many MachineInventory objects came through here.
    #[serde(default)]
    pub machines: u32,
}
