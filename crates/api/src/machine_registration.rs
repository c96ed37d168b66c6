//! MachineRegistration: a URL at which machines register, and the configuration that they receive.

use super::{Condition, free_form};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A MachineRegistration has a URL. A machine that is started from a medium with this URL is installed, configured, and
/// recorded as a MachineInventory in the same namespace.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "rancheros.cattle.io",
    version = "v1",
    kind = "MachineRegistration",
    plural = "machineregistrations",
    doc = "A URL at which machines register to be installed, configured and recorded in the inventory.",
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
    /// Template for the names of machines, such as `rack1-${System Information/Serial Number}`. `${…}` holds a section
    /// and a field, named as in the output of `dmidecode`. The operator turns the result into a valid name of at most
    /// 57 characters and appends a suffix that it derives from the machine's identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub machine_name: Option<String>,
    /// Labels for the MachineInventory objects that are created. Values may contain `${…}`, as in `machineName`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_inventory_labels: Option<BTreeMap<String, String>>,
    /// Annotations for the MachineInventory objects that are created. Values may contain `${…}`, as in `machineName`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_inventory_annotations: Option<BTreeMap<String, String>>,
    /// The cloud-config with which machines are installed. In its strings, `${machineName}` is replaced by the name of
    /// the machine's MachineInventory, and `${System Information/Serial Number}`, for example, by that field of its
    /// SMBIOS. `$${` stands for a literal `${`. Every other `${…}` stays as it is. Without `hostname`, the host name is
    /// the name of the MachineInventory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub cloud_config: Option<Map<String, Value>>,
    /// After this time, no machine receives a configuration through this registration. Machines that are installed
    /// already can still report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// The largest number of machines that may register here. A machine that registers again does not count again. If
    /// two replicas of the operator each admit a last machine at the same moment, there can be one machine more. The
    /// default is `maxMachines` of the operator's chart, which is 10,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_machines: Option<u32>,
    /// `Automatic` (default): a machine that proves its identity receives its configuration. `Manual`: it receives it
    /// only after a person has set `spec.approved: true` in its MachineInventory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// What a machine must prove in addition to the possession of its TPM.
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
        .message("trustedCAs has no effect while ekCertificate is Ignored; remove one of the two fields")
)]
pub struct AttestationPolicy {
    /// How the certificate is checked that the TPM's manufacturer issued for the endorsement key. `Required`: the TPM
    /// must have a certificate, and its chain must end at one of `trustedCAs` or, without `trustedCAs`, at a TPM
    /// vendor's authority that the operator knows. `IfPresent` (default): if the TPM has a certificate, it must be for
    /// this key, and its chain must end at one of `trustedCAs` if those are given. `Ignored`: the certificate is not
    /// checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ek_certificate: Option<EkCertificatePolicy>,
    /// The certificate authorities that are trusted to issue endorsement key certificates, in place of the TPM
    /// vendors'.
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
    /// Name of a Secret in the registration's namespace. Every key of the Secret holds PEM certificates: of root
    /// authorities, and of intermediate authorities whose certificates are not in the TPM.
    pub secret_name: String,
}

/// The registration's URL, and whether machines can use it. Written by the operator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineRegistrationStatus {
    /// The `metadata.generation` that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: machines can register here. `Stalled`: they cannot until a person changes the object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The URL to put onto a medium. It contains a secret: everybody who has the URL can register machines.
    #[serde(rename = "registrationURL", default, skip_serializing_if = "Option::is_none")]
    pub registration_url: Option<String>,
    /// The secret part of the URL. Delete it to make the operator create another one. The operator then refuses
    /// machines that are started from media with the old one. Installed machines do not use it once `machinesBehind` is
    /// 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration_token: Option<String>,
    /// The secret part of the URL to which installed machines report. The operator accepts it only from machines that
    /// it knows already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed_token: Option<String>,
    /// Revision of the settings with which installed machines reach the operator: its URL, the token and the
    /// authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings_revision: Option<String>,
    /// Number of installed machines of this registration that have not confirmed `settingsRevision` yet.
    #[serde(default)]
    pub machines_behind: u32,
    /// URLs of media that contain this registration, by file name: live ISOs for a USB stick or a server's virtual CD, and disk
    /// images. Absent if the operator has none (`media` of the operator's chart).
    #[serde(rename = "mediaURLs", default, skip_serializing_if = "Option::is_none")]
    pub media_urls: Option<BTreeMap<String, String>>,
    /// The secret part of `bootURLs`. It is in the paths that boot loaders and firmware show and measure. Delete it to make
    /// the operator create another one; media and installed machines do not use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_token: Option<String>,
    /// URLs from which machines start over the network with this registration, by file name of the ISO. Absent if the
    /// operator serves no network boots (`networkBoot` of the operator's chart) or has no ISO.
    #[serde(rename = "bootURLs", default, skip_serializing_if = "Option::is_none")]
    pub boot_urls: Option<BTreeMap<String, BootUrls>>,
    /// Number of MachineInventory objects whose machines registered here.
    #[serde(default)]
    pub machines: u32,
}

/// What a machine loads first when it starts over the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootUrls {
    /// The script for iPXE, on BIOS and UEFI.
    pub ipxe: String,
    /// The boot loader for UEFI HTTP boot, also with Secure Boot.
    pub uefi: String,
}
