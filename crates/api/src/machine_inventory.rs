//! MachineInventory: one machine. The spec says what it is and how it joins its cluster, the status what it has done.

use super::{Condition, NO_CONTROL_CHARACTERS, free_form};
use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use protocol::TpmHash;
use protocol::bounded::{line, list, optional_line, optional_list};
use protocol::erase_request::{MAX_HONOURED, RequestText};
use protocol::hardware::{Address, Hardware};
use protocol::message::Failure;
use protocol::upgrade::{FailedStage, MOST_JOURNAL_LINES};
use protocol::{ResetRequest, ResetScope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A machine. The operator creates the object when a machine registers. A person can create it before that, with only
/// `tpmHash`, to announce a machine.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "rancheros.cattle.io",
    version = "v1",
    kind = "MachineInventory",
    plural = "machineinventories",
    doc = "A machine: its identity, hardware, assigned cluster and state.",
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
        .message("tpm and tpmHash are two names of the same field and hold different values; remove one"),
    validation = Rule::new(
        "(has(oldSelf.tpmHash) && size(oldSelf.tpmHash) > 0 ? oldSelf.tpmHash : (has(oldSelf.tpm) ? oldSelf.tpm : '')) == '' \
         || (has(oldSelf.tpmHash) && size(oldSelf.tpmHash) > 0 ? oldSelf.tpmHash : oldSelf.tpm) \
         == (has(self.tpmHash) && size(self.tpmHash) > 0 ? self.tpmHash : (has(self.tpm) ? self.tpm : ''))"
    )
    .message("the TPM hash of a machine cannot be changed; create another MachineInventory for another machine")
)]
pub struct MachineInventorySpec {
    /// The machine's identity: the SHA-256 of its TPM's endorsement key (PKIX DER) in lower-case hex, as printed by
    /// `ros-installer tpm-hash`. It cannot be changed once it is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub tpm_hash: Option<String>,
    /// Another name for `tpmHash`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub tpm: Option<String>,
    /// The machine's SMBIOS, as a mapping of sections to fields, named as in the output of `dmidecode`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form", extend("maxProperties" = 64))]
    pub smbios: Option<Map<String, Value>>,
    /// Name of the `provisioning.cattle.io` Cluster that this machine joins. It must be in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_name: Option<String>,
    /// Name of a Secret in the same namespace, of type `rancheros.cattle.io/token` with the key `token`. A machine
    /// without a TPM identifies itself with the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_token_secret_name: Option<String>,
    /// How the machine joins its cluster, and further cloud-config for this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<MachineConfig>,
    /// Whether the machine may receive its configuration. Absent means yes. If the registration has
    /// `approval: Manual`, the operator creates the object with `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved: Option<bool>,
    /// Asks the installed machine to install its release again. This erases all data on the machine (the partition
    /// COS_PERSISTENT). The value is any text, such as a date and a reason. Each text causes one installation. A text
    /// that is set when the object is created or restored, or when the machine registers, counts as honoured and causes
    /// none. The condition `Reinstall` shows the progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = NO_CONTROL_CHARACTERS))]
    pub reinstall: Option<String>,
    /// Asks the installed machine to forget its data, and perhaps its settings. It keeps its release. The condition `Reset`
    /// shows the progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<Reset>,
}

/// A request to reset a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reset {
    /// What is erased.
    pub scope: ResetScope,
    /// Any text, such as a date and a reason. It counts like that of `reinstall`: each text causes one reset, whatever the
    /// scope, and one that is set when the object is created or restored, or when the machine registers, causes none.
    #[schemars(length(max = 256), regex(pattern = NO_CONTROL_CHARACTERS))]
    pub request: String,
}

impl MachineInventorySpec {
    /// The identity as written, from `tpmHash` or `tpm`.
    pub fn identity(&self) -> Option<&str> {
        [&self.tpm_hash, &self.tpm].into_iter().flatten().map(String::as_str).find(|text| !text.is_empty())
    }
    /// The identity as a hash. Upper-case digits are accepted, because people may write them. `None`: absent or
    /// malformed.
    pub fn tpm_hash(&self) -> Option<TpmHash> {
        self.identity()?.trim().to_ascii_lowercase().parse().ok()
    }
    /// The request to install again. An empty text is no request.
    pub fn reinstall(&self) -> Option<RequestText> {
        self.reinstall.as_ref()?.parse().ok()
    }
    /// The request to reset. One with an empty text is no request.
    pub fn reset(&self) -> Option<ResetRequest> {
        let Reset { scope, request } = self.reset.as_ref()?;
        Some(ResetRequest { scope: *scope, request: request.parse().ok()? })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct MachineConfig {
    /// The machine's role in its cluster, such as `cluster-init`, `server` or `agent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Name of the Node. The default is the host name, whose default is the name of this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Address at which the node is reached from outside its network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Address at which the node is reached inside its network.
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

/// What the operator knows about the machine, and the machine's state. Written by the operator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineInventoryStatus {
    /// The `metadata.generation` that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The phase of the machine's life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// `Registered`, `Approved`, `Installed`, `Booted`: the machine has reached this step. `Ready`: the installed
    /// system runs and is healthy; the message says what happens at the moment. `Stalled`: nothing happens until a
    /// person acts. `Assigned`: the token for its cluster exists. `SharedSecret`: the machine can be identified by its
    /// shared secret. `Reinstall`, `Reset`: the machine was asked to install or to reset itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The machine's hardware, as it reported when it registered.
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
    /// The time of the machine's last message, to within a few minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
    /// Revision of the settings that the installed machine has. `status.settingsRevision` of its MachineRegistration is
    /// the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings_revision: Option<String>,
    /// The keys of `spec.config` that only an installation applies, as they were handed out for the last one, each with
    /// the beginning of a digest of its value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub installed_config: BTreeMap<String, String>,
    /// State of the requests in `spec.reinstall`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reinstall: Option<Box<RequestStatus>>,
    /// State of the requests in `spec.reset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<Box<RequestStatus>>,
    /// The machine's turn in a roll-out by the engine `Machine`, the present or the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Box<UpgradeTurn>>,
    /// Why the last installation failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Namespace of the cluster registration token that was created for this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_registration_token_namespace: Option<String>,
    /// Name of the cluster registration token that was created for this machine.
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
    /// Result of the check of the endorsement key certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ek_certificate: Option<EkCertificateResult>,
    /// Issuer of that certificate, as a distinguished name in the form of RFC 4514.
    #[serde(default, deserialize_with = "optional_line::<256, _>", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub ek_certificate_issuer: Option<String>,
    /// Subject of the trusted authority at the end of the certificate's chain: one that the registration names, or a
    /// TPM vendor's.
    #[serde(default, deserialize_with = "optional_line::<256, _>", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub ek_certificate_authority: Option<String>,
    /// Manufacturer of the TPM.
    #[serde(default, deserialize_with = "optional_line::<64, _>", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub tpm_manufacturer: Option<String>,
    /// Version of the TPM's firmware.
    #[serde(default, deserialize_with = "optional_line::<64, _>", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub tpm_firmware: Option<String>,
    /// The time of the proof.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EkCertificateResult {
    /// The certificate's chain ends at one of the registration's trusted authorities. If the registration names none,
    /// it ends at a TPM vendor's authority.
    Trusted,
    /// The certificate is for this key. Its issuer was not checked.
    Unverified,
    /// The TPM holds no certificate.
    Absent,
    /// The registration says not to check the certificate.
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
    /// The slot from which the system runs.
    #[serde(default, deserialize_with = "optional_line::<32, _>", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub slot: Option<String>,
    /// Whether the release in this slot was found healthy since it was written.
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
    /// The last release that did not come up on this machine, which then went back to the system before. A later
    /// upgrade that succeeds removes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<ReleaseFailure>,
    /// Whether the release upgrades itself when it is told to, as the engine `Machine` of a ManagedOSImage does.
    #[serde(default, skip_serializing_if = "is_false")]
    pub self_upgrading: bool,
}

/// A machine's turn in a roll-out. It is written before the machine is told anything, so that limits hold over a restart
/// of the operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeTurn {
    /// Name of the ManagedOSImage, in the same namespace.
    #[serde(rename = "managedOSImage")]
    #[schemars(length(max = 63))]
    pub managed_os_image: String,
    /// Reference of the OCI image that the machine is to fetch.
    #[schemars(length(max = 512))]
    pub image: String,
    /// The release expected in it: a name, or the digest of its manifest.
    #[schemars(length(max = 128))]
    pub release: String,
    /// `spec.retry` of the ManagedOSImage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub retry: Option<String>,
    /// When the turn began.
    pub since: Time,
    /// The machine is told until then. If it has not reported by then, its turn is over.
    pub until: Time,
    /// When the machine was first told. Absent before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Time>,
    /// Whether the turn is over because the machine missed three reports.
    #[serde(default, skip_serializing_if = "is_false")]
    pub lapsed: bool,
    /// Why the machine could not do it, in its own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A release that was tried and did not come up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseFailure {
    /// Name of the release.
    #[serde(deserialize_with = "line::<128, _>")]
    #[schemars(length(max = 128))]
    pub version: String,
    /// Digest of the release's manifest.
    #[serde(deserialize_with = "line::<128, _>")]
    #[schemars(length(max = 128))]
    pub release: String,
    /// When the machine found that it had gone back, by its own clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// The last stage that the last start reached.
    pub stage: FailedStage,
    /// What the last start waited for.
    #[serde(default, deserialize_with = "line::<1024, _>", skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub message: String,
    /// What the kernel said in its panic, where the firmware has kept it; otherwise the end of the journal of the last start, as
    /// far as it was written to the disk.
    #[serde(default, deserialize_with = "list::<MOST_JOURNAL_LINES, _, _>", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), inner(length(max = 200)))]
    pub journal: Vec<String>,
}

/// The requests of one kind that count as honoured, and the one that was announced. Absent until the operator first sees
/// the object, or its first request of this kind. A request that it finds at first sight of the object counts as honoured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestStatus {
    /// UID of the object for which the operator wrote this. If the object has another UID, because its status was
    /// restored from a backup, the operator starts again.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub uid: String,
    /// The texts that count as honoured, oldest first. Only the latest 64 are kept.
    #[serde(default, deserialize_with = "list::<MAX_HONOURED, _, _>", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 256)))]
    pub honoured: Vec<String>,
    /// The text that the condition has announced. The operator sends the machine only an announced text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub announced: Option<String>,
    /// The announced scope of a reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<ResetScope>,
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
