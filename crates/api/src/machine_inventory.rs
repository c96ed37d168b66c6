//! MachineInventory: one machine. The spec says what it is and how it joins its cluster, the status how far it is.

use super::{Condition, free_form};
use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use protocol::TpmHash;
use protocol::bounded::{list, optional_line, optional_list};
use protocol::hardware::{Address, Hardware};
use protocol::message::Failure;
use protocol::reinstall::{MAX_HONOURED, ReinstallRequest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A machine. Made by the operator when a machine registers, or beforehand by hand with only `tpm` to say which
/// machine is expected.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "rancheros.cattle.io",
    version = "v1",
    kind = "MachineInventory",
    plural = "machineinventories",
    doc = "A machine: its identity, hardware, assigned cluster, and how far it is.",
    namespaced,
    derive = "PartialEq",
    status = "MachineInventoryStatus",
    shortname = "minv",
    category = "rancheros",
    selectable = ".spec.tpmHash",
    selectable = ".spec.tpm",
    selectable = ".spec.clusterName",
    selectable = ".status.phase",
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Cluster","type":"string","jsonPath":".spec.clusterName"}"#,
    printcolumn = r#"{"name":"Role","type":"string","jsonPath":".spec.config.role"}"#,
    printcolumn = r#"{"name":"Release","type":"string","jsonPath":".status.os.version"}"#,
    printcolumn = r#"{"name":"Slot","type":"string","jsonPath":".status.os.slot"}"#,
    printcolumn = r#"{"name":"Seen","type":"date","jsonPath":".status.lastSeen"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].message","priority":1}"#,
    printcolumn = r#"{"name":"Address","type":"string","jsonPath":".status.addresses[0].address","priority":1}"#,
    printcolumn = r#"{"name":"TPM","type":"string","jsonPath":".spec.tpmHash","priority":1}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.tpm) || !has(self.tpmHash) || self.tpm == self.tpmHash")
        .message("tpm and tpmHash are two spellings of one field and say different things; remove one of them"),
    validation = Rule::new(
        "(has(oldSelf.tpmHash) && size(oldSelf.tpmHash) > 0 ? oldSelf.tpmHash : (has(oldSelf.tpm) ? oldSelf.tpm : '')) == '' \
         || (has(oldSelf.tpmHash) && size(oldSelf.tpmHash) > 0 ? oldSelf.tpmHash : oldSelf.tpm) \
         == (has(self.tpmHash) && size(self.tpmHash) > 0 ? self.tpmHash : (has(self.tpm) ? self.tpm : ''))"
    )
    .message("a machine's TPM hash is set once; for another machine make another MachineInventory")
)]
pub struct MachineInventorySpec {
    /// The machine's identity: the SHA-256 of its TPM's endorsement key (PKIX DER), lower-case hex, as
    /// `ros-installer tpm-hash` prints it. Set once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub tpm_hash: Option<String>,
    /// Another spelling of `tpmHash`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub tpm: Option<String>,
    /// The machine's SMBIOS as sections of fields, as `dmidecode` prints them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form", extend("maxProperties" = 64))]
    pub smbios: Option<Map<String, Value>>,
    /// The `provisioning.cattle.io` Cluster, in the same namespace, that this machine is assigned to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_name: Option<String>,
    /// A Secret in the same namespace, of type `rancheros.cattle.io/token` with the key `token`: what a machine
    /// without a TPM identifies itself with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_token_secret_name: Option<String>,
    /// How the machine joins its cluster, and any other cloud-config for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<MachineConfig>,
    /// Whether the machine may have its configuration. Absent means yes; under a registration with
    /// `approval: Manual` the operator makes machines with `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved: Option<bool>,
    /// Asks the installed machine to install its release again, which erases all data that it keeps (COS_PERSISTENT).
    /// A free text, such as a date and a reason; each text counts once. One that is here when the object is created or
    /// restored, or when the machine registers, counts as honoured. The condition `Reinstall` says what comes of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = NO_CONTROL_CHARACTERS))]
    pub reinstall: Option<String>,
}

/// The API server's own reading of [`char::is_control`].
const NO_CONTROL_CHARACTERS: &str = r"^[^\x00-\x1f\x7f-\x9f]*$";

impl MachineInventorySpec {
    /// The identity as written, from whichever field holds it.
    pub fn identity(&self) -> Option<&str> {
        [&self.tpm_hash, &self.tpm].into_iter().flatten().map(String::as_str).find(|text| !text.is_empty())
    }
    /// The identity as a hash; upper-case digits are accepted from a person. `None`: absent or malformed.
    pub fn tpm_hash(&self) -> Option<TpmHash> {
        self.identity()?.trim().to_ascii_lowercase().parse().ok()
    }
    /// What the machine is asked to install itself again by. An empty text is none.
    pub fn reinstall(&self) -> Option<ReinstallRequest> {
        self.reinstall.as_ref()?.parse().ok()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct MachineConfig {
    /// What the machine is in its cluster, such as `cluster-init`, `server`, `agent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Name of the Node; by default the host name, which by default is the name of this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Address by which the node is known outside its network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Address by which the node is known inside its network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_address: Option<String>,
    /// Taints of the Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taints: Option<Vec<Taint>>,
    /// Labels of the Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    #[serde(flatten)]
    #[schemars(skip)]
    pub cloud_config: Map<String, Value>,
}

/// What is known of the machine, and how far it is. Written by the operator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineInventoryStatus {
    /// The `metadata.generation` this status was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the machine is in its life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// `Registered`, `Approved`, `Installed`, `Booted`: steps that were reached. `Ready`: the installed system runs
    /// and is healthy; its message says what is going on. `Stalled`: nothing goes on until somebody acts. `Assigned`:
    /// the token of its cluster is there. `SharedSecret`: it can be told by its shared secret. `Reinstall`: it is asked
    /// to install itself again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// What the machine is made of, as it said when it registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<Box<Hardware>>,
    /// What the machine proved when it registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<AttestationStatus>,
    /// The installed system, as it last reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<OsStatus>,
    /// The machine's addresses, as it last reported.
    #[serde(default, deserialize_with = "optional_list::<32, _, _>", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub addresses: Option<Vec<Address>>,
    /// When the machine was last heard of; not finer than some minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
    /// Revision of the registration's settings (its `status.settingsRevision`) that the installed machine has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings_revision: Option<String>,
    /// What became of the texts in `spec.reinstall`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reinstall: Option<Box<ReinstallStatus>>,
    /// Why the last installation ended without an installed machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Namespace of the cluster registration token made for this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_registration_token_namespace: Option<String>,
    /// Name of the cluster registration token made for this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_registration_token_name: Option<String>,
}

/// The steps of a machine's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    Expected,
    ApprovalPending,
    Registered,
    Installing,
    Installed,
    Booted,
    Ready,
    Failed,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttestationStatus {
    /// What came of the endorsement key certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ek_certificate: Option<EkCertificateResult>,
    /// Issuer of that certificate, as in RFC 4514.
    #[serde(default, deserialize_with = "optional_line::<256, _>", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub ek_certificate_issuer: Option<String>,
    /// Subject of the trusted authority that it leads to: of the registration's, or of the TPM vendors'.
    #[serde(default, deserialize_with = "optional_line::<256, _>", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub ek_certificate_authority: Option<String>,
    /// Maker of the TPM.
    #[serde(default, deserialize_with = "optional_line::<64, _>", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub tpm_manufacturer: Option<String>,
    /// Version of the TPM's firmware.
    #[serde(default, deserialize_with = "optional_line::<64, _>", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub tpm_firmware: Option<String>,
    /// When this was proved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EkCertificateResult {
    /// Leads to one of the registration's trusted authorities or, where it names none, to a TPM vendor's.
    Trusted,
    /// Is for this key; whether it leads to anybody is not known.
    Unverified,
    /// The TPM holds none.
    Absent,
    /// The registration does not ask for it.
    Ignored,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OsStatus {
    /// Name of the release.
    #[serde(default, deserialize_with = "optional_line::<128, _>", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub version: Option<String>,
    /// Digest of the release's manifest.
    #[serde(default, deserialize_with = "optional_line::<128, _>", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub release: Option<String>,
    /// The slot it runs from.
    #[serde(default, deserialize_with = "optional_line::<32, _>", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub slot: Option<String>,
    /// Whether this slot has proved itself since it was written.
    #[serde(default)]
    pub healthy: bool,
    /// The kernel's boot id.
    #[serde(default, deserialize_with = "optional_line::<64, _>", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub boot_id: Option<String>,
    /// Host name of the machine.
    #[serde(default, deserialize_with = "optional_line::<253, _>", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub hostname: Option<String>,
}

/// Which texts of `spec.reinstall` count as honoured, and which one was announced. Absent until the operator first sees
/// the object: the text that is there then counts as honoured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReinstallStatus {
    /// UID of the object that this was written for. In another object, to which a status was restored, the operator
    /// begins anew.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub uid: String,
    /// The texts that count as honoured, the oldest first; of more than 64 the oldest are forgotten.
    #[serde(default, deserialize_with = "list::<MAX_HONOURED, _, _>", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 256)))]
    pub honoured: Vec<String>,
    /// The text of which the condition `Reinstall` says that it erases the machine's data. No other is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub announced: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_are_one_identity() {
        let hash = TpmHash::of_public_key(b"a key");
        for field in ["tpm", "tpmHash"] {
            let spec: MachineInventorySpec =
                serde_json::from_value(serde_json::json!({field: hash.as_str().to_uppercase()})).unwrap();
            assert_eq!(spec.tpm_hash(), Some(hash.clone()), "{field}");
        }
        let cut: MachineInventorySpec = serde_json::from_str(r#"{"tpm":"d68795c6192af9922692f050b..."}"#).unwrap();
        assert_eq!((cut.tpm_hash(), cut.identity().is_some()), (None, true));
    }

    #[test]
    fn a_config_keeps_what_it_does_not_know() {
        let text = r#"{"role":"server","write_files":[{"path":"/etc/motd"}]}"#;
        let config: MachineConfig = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&config).unwrap(), text);
    }
}
