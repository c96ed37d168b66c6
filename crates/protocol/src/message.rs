//! The messages of `rancheros.registration.v1`: JSON text frames, each an object with a `type`.
//!
//! Unknown fields are ignored, so that either end may learn new ones; an unknown type is refused, because its sender
//! expects an answer that we cannot give. Byte strings are standard base64 with padding.

use crate::bounded::{line, list, optional_line, word};
use crate::hardware::{Address, Hardware};
use crate::join::Join;
use crate::operator_settings::{OperatorSettings, SettingsRevision};
use crate::refusal::{Refusal, RefusalCode};
use crate::reinstall::{ReinstallReport, ReinstallRequest};
use crate::smbios::SmbiosDocument;
use cloud_config::CloudConfig;
use serde::{Deserialize, Serialize};

/// The websocket subprotocol of this exchange. A websocket without it speaks the first release's exchange.
pub const SUBPROTOCOL: &str = "rancheros.registration.v1";
/// Versions of the message set that this build speaks, newest first.
pub const VERSIONS: &[u32] = &[1];
/// The largest frame either end accepts, in bytes.
pub const MAX_FRAME: usize = 256 * 1024;
/// From the first frame to `config` (or to `done`, for an exchange that asks for no configuration), in seconds.
pub const EXCHANGE_SECONDS: u64 = 60;
/// PCRs of the SHA-256 bank that a quote covers: firmware, boot loader, Secure Boot policy.
pub const QUOTED_PCRS: &[u8] = &[0, 4, 7];

/// Messages told apart by their `type`: the enum, the names and the reading of a frame, from one table. serde's own `tag`
/// would read a frame into a tree first, and then could not tell where in the frame an error is.
macro_rules! message_set {
    ($(#[$documentation:meta])* $set:ident { $($kind:literal => $variant:ident($content:ty),)+ }) => {
        $(#[$documentation])*
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(tag = "type")]
        pub enum $set {
            $(#[serde(rename = $kind)] $variant($content),)+
        }

        impl $set {
            /// The message's `type`.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $kind,)+
                }
            }
        }

        impl MessageSet for $set {
            const TYPES: &'static [&'static str] = &[$($kind),+];

            fn read(kind: &str, frame: &str) -> Option<serde_json::Result<Self>> {
                match kind {
                    $($kind => Some(serde_json::from_str(frame).map(Self::$variant)),)+
                    _ => None,
                }
            }
        }
    };
}

message_set! {
    /// What a machine says.
    FromMachine {
        "hello" => Hello(Hello),
        "proof" => Proof(Proof),
        "secretHello" => SecretHello(SecretHello),
        "secretProof" => SecretProof(SecretProof),
        "machine" => Machine(Box<MachineReport>),
        "booted" => Booted(Box<OsReport>),
        "report" => Report(Box<OsReport>),
        "progress" => Progress(Progress),
        "done" => Done(Done),
    }
}

message_set! {
    /// What the operator says.
    FromOperator {
        "challenge" => Challenge(Challenge),
        "secretChallenge" => SecretChallenge(SecretChallenge),
        "config" => Config(Box<Config>),
        "done" => Done(Box<Recorded>),
        "refused" => Refused(Refusal),
    }
}

/// The newest version of the message set that both ends speak.
pub fn agree_on_version(theirs: &[u32]) -> Result<u32, Refusal> {
    VERSIONS.iter().copied().find(|version| theirs.contains(version)).ok_or_else(|| {
        let spoken = VERSIONS.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        let message = format!("none of the message versions offered is spoken here; spoken: {spoken}");
        Refusal::new(RefusalCode::UnsupportedVersion, message)
    })
}

/// Who speaks: the machine's endorsement key and the attestation key that it wants bound to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// Versions of the message set the machine speaks, newest first.
    pub versions: Vec<u32>,
    /// PKIX SubjectPublicKeyInfo DER of the endorsement key.
    #[serde(with = "bytes")]
    pub ek_public: Vec<u8>,
    /// DER certificates, the endorsement key's own first; empty when the TPM holds none.
    #[serde(default, with = "byte_list", skip_serializing_if = "Vec::is_empty")]
    pub ek_certificates: Vec<Vec<u8>>,
    /// TPMT_PUBLIC of the attestation key.
    #[serde(with = "bytes")]
    pub ak_public: Vec<u8>,
    /// Shown in the logs of both ends, so that a console and a log line can be laid side by side.
    #[serde(default, deserialize_with = "optional_line::<128, _>", skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
}

/// What only the TPM that holds both keys can answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Challenge {
    /// The version of the message set for the rest of the exchange.
    pub version: u32,
    /// Contents of TPM2B_ID_OBJECT.
    #[serde(with = "bytes")]
    pub credential: Vec<u8>,
    /// Contents of TPM2B_ENCRYPTED_SECRET.
    #[serde(with = "bytes")]
    pub encrypted_secret: Vec<u8>,
    /// To be quoted as qualifying data; 32 bytes.
    #[serde(with = "bytes")]
    pub nonce: Vec<u8>,
    /// PCRs of the SHA-256 bank to quote.
    pub pcrs: Vec<u8>,
    /// Names this exchange in the logs of both ends.
    pub correlation: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    /// What TPM2_ActivateCredential gave.
    #[serde(with = "bytes")]
    pub secret: Vec<u8>,
    /// TPMS_ATTEST bytes as signed.
    #[serde(with = "bytes")]
    pub quote: Vec<u8>,
    /// TPMT_SIGNATURE over the quote.
    #[serde(with = "bytes")]
    pub signature: Vec<u8>,
    /// The firmware's event log (TCG crypto-agile format), when it is there and fits.
    #[serde(default, with = "optional_bytes", skip_serializing_if = "Option::is_none")]
    pub event_log: Option<Vec<u8>>,
}

/// Who speaks, of a machine without a TPM: it is known by a shared secret; see [`crate::shared_secret`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretHello {
    /// Versions of the message set the machine speaks, newest first.
    pub versions: Vec<u32>,
    /// SHA-256 of the shared secret.
    #[serde(with = "bytes")]
    pub digest: Vec<u8>,
    /// As in [`Hello`].
    #[serde(default, deserialize_with = "optional_line::<128, _>", skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
}

/// What only somebody who has the shared secret can answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretChallenge {
    /// As in [`Challenge`].
    pub version: u32,
    /// 32 bytes.
    #[serde(with = "bytes")]
    pub nonce: Vec<u8>,
    /// As in [`Challenge`].
    pub correlation: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretProof {
    /// What [`crate::SharedSecret::prove`] gave.
    #[serde(with = "bytes")]
    pub answer: Vec<u8>,
}

/// Everything learned about the host; asks for its configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineReport {
    pub smbios: SmbiosDocument,
    pub hardware: Hardware,
    #[serde(default, deserialize_with = "list::<32, _, _>")]
    pub addresses: Vec<Address>,
}

/// The answer to `machine`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Where the operator keeps this machine: `namespace/name` of its MachineInventory.
    pub inventory: String,
    pub cloud_config: CloudConfig,
    /// Seconds in which the machine should have sent `done`; afterwards the operator counts it as lost.
    pub install_seconds: u64,
    /// Seconds between two `report`s of the installed system.
    pub report_seconds: u64,
}

/// How far an installation is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    pub phase: InstallPhase,
    #[serde(default)]
    pub bytes: u64,
    #[serde(default)]
    pub total_bytes: u64,
    #[serde(default, deserialize_with = "line::<200, _>", skip_serializing_if = "String::is_empty")]
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum InstallPhase {
    Planned,
    Writing,
    Verifying,
    Configuring,
    Rebooting,
}

/// The end of an exchange, said by the machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Done {
    /// Absent: success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// The operator's answer to `done`: what the machine said before is recorded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recorded {
    /// After `booted` and `report`: how the machine joins its cluster. Operators of before this field do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<Join>,
    /// After `booted` and `report`: how the machine reaches its operator from now on. Absent like `join`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<OperatorSettings>,
    /// After `booted` and `report`: the machine is to install itself again, once for each text; it remembers the texts
    /// that it has honoured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reinstall: Option<ReinstallRequest>,
}

/// Why an installation ended without an installed machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// CamelCase, from a fixed set: fit for a condition's reason.
    #[serde(deserialize_with = "line::<64, _>")]
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    pub reason: String,
    /// For a person: what, which, and what to do next.
    #[serde(deserialize_with = "line::<1024, _>")]
    #[cfg_attr(feature = "schema", schemars(length(max = 1024)))]
    pub message: String,
}

/// What an installed system says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OsReport {
    /// Name of the release, such as `0.1.0`.
    #[serde(deserialize_with = "word::<128, _>")]
    pub version: String,
    /// `sha256:` and the hex digest of `release.json`.
    #[serde(deserialize_with = "word::<128, _>")]
    pub release: String,
    pub slot: Slot,
    /// Whether this slot has proved itself since it was written.
    pub healthy: bool,
    /// The kernel's boot id: another one means another boot.
    #[serde(deserialize_with = "word::<64, _>")]
    pub boot_id: String,
    #[serde(default, deserialize_with = "list::<32, _, _>")]
    pub addresses: Vec<Address>,
    #[serde(default, deserialize_with = "optional_line::<253, _>", skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Revision of the [`OperatorSettings`] that the machine has kept. Absent before it was told any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings_revision: Option<SettingsRevision>,
    /// Why the recovery system runs, in words. Absent in a slot.
    #[serde(default, deserialize_with = "optional_line::<500, _>", skip_serializing_if = "Option::is_none")]
    pub recovery: Option<String>,
    /// Absent from a release that cannot be asked to install again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reinstall: Option<ReinstallReport>,
}

/// One of the places a system can run from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Slot {
    #[default]
    A,
    B,
    Recovery,
    /// The installation medium.
    Live,
}

impl From<boot_contract::Slot> for Slot {
    fn from(slot: boot_contract::Slot) -> Self {
        match slot {
            boot_contract::Slot::A => Self::A,
            boot_contract::Slot::B => Self::B,
            boot_contract::Slot::Recovery => Self::Recovery,
        }
    }
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// Reads one frame. The error is the refusal that its sender gets.
pub fn decode<T: MessageSet>(frame: &str) -> Result<T, Refusal> {
    if frame.len() > MAX_FRAME {
        return Err(Refusal::new(
            RefusalCode::MessageTooBig,
            format!("a message of {} bytes; the limit is {MAX_FRAME}", frame.len()),
        ));
    }
    #[derive(Deserialize)]
    struct Tag {
        #[serde(rename = "type")]
        kind: String,
    }
    let malformed = |error: serde_json::Error| Refusal::new(RefusalCode::MalformedMessage, error.to_string());
    let tag: Tag = serde_json::from_str(frame).map_err(malformed)?;
    T::read(&tag.kind, frame).map(|read| read.map_err(malformed)).unwrap_or_else(|| {
        // The sender's word is not repeated in full: it is theirs, and may be long.
        let kind: String = tag.kind.chars().take(40).collect();
        let message = format!("message type {kind:?}; known here: {}", T::TYPES.join(", "));
        Err(Refusal::new(RefusalCode::UnknownMessage, message))
    })
}

/// Writes one frame.
pub fn encode<T: Serialize>(message: &T) -> Result<String, Refusal> {
    let frame = serde_json::to_string(message).map_err(|e| Refusal::new(RefusalCode::Internal, e.to_string()))?;
    if frame.len() > MAX_FRAME {
        return Err(Refusal::new(
            RefusalCode::MessageTooBig,
            format!("the answer would have {} bytes; the limit is {MAX_FRAME}", frame.len()),
        ));
    }
    Ok(frame)
}

/// What one end may say.
pub trait MessageSet: Sized {
    /// The `type` values that it knows.
    const TYPES: &'static [&'static str];

    /// Reads a frame of this `type`; `None`: there is none such.
    fn read(kind: &str, frame: &str) -> Option<serde_json::Result<Self>>;
}

pub(crate) mod bytes {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode(value))
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(d)?).map_err(D::Error::custom)
    }
}

mod byte_list {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &[Vec<u8>], s: S) -> Result<S::Ok, S::Error> {
        value.iter().map(|v| STANDARD.encode(v)).collect::<Vec<_>>().serialize(s)
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Vec<u8>>, D::Error> {
        Vec::<String>::deserialize(d)?.iter().map(|v| STANDARD.decode(v).map_err(D::Error::custom)).collect()
    }
}

mod optional_bytes {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &Option<Vec<u8>>, s: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::bytes::serialize(value, s),
            None => s.serialize_none(),
        }
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<u8>>, D::Error> {
        #[derive(Deserialize)]
        struct Wrapped(#[serde(with = "super::bytes")] Vec<u8>);
        Ok(Option::<Wrapped>::deserialize(d)?.map(|w| w.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_newest_common_version_is_taken() {
        assert_eq!(agree_on_version(&[7, 1]), Ok(1));
        assert_eq!(agree_on_version(&[7]).unwrap_err().code, RefusalCode::UnsupportedVersion);
        assert_eq!(agree_on_version(&[]).unwrap_err().code, RefusalCode::UnsupportedVersion);
    }

    #[test]
    fn unknown_types_are_refused_and_unknown_fields_are_not() {
        let newer = r#"{"type":"done","mood":"good"}"#;
        assert_eq!(decode::<FromMachine>(newer), Ok(FromMachine::Done(Done::default())));
        let refusal = decode::<FromMachine>(r#"{"type":"challenge"}"#).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::UnknownMessage);
        assert!(refusal.message.contains("hello, proof, secretHello"), "{refusal}");
        for broken in ["", "[]", "{", r#"{"type":1}"#, r#"{"type":"hello"}"#] {
            assert_eq!(decode::<FromMachine>(broken).unwrap_err().code, RefusalCode::MalformedMessage, "{broken:?}");
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_unread_and_unsent() {
        let frame = " ".repeat(MAX_FRAME + 1);
        assert_eq!(decode::<FromMachine>(&frame).unwrap_err().code, RefusalCode::MessageTooBig);
        let done = Done { failure: Some(Failure { reason: "Big".into(), message: frame }) };
        assert_eq!(encode(&FromMachine::Done(done)).unwrap_err().code, RefusalCode::MessageTooBig);
    }

    #[test]
    fn the_answer_to_a_report_carries_settings_and_a_request() {
        let done = serde_json::json!({"type": "done", "reinstall": "again", "settings": {
            "revision": "a1", "registrationURL": "https://a/t", "authorities": ["PEM"],
        }});
        let Ok(FromOperator::Done(recorded)) = decode(&done.to_string()) else { panic!("not read") };
        assert_eq!(recorded.reinstall.as_ref().map(ReinstallRequest::as_str), Some("again"));
        assert_eq!(recorded.settings.unwrap().registration_url, "https://a/t");
        let unfit = decode::<FromOperator>(r#"{"type": "done", "reinstall": "a\nb"}"#).unwrap_err();
        assert_eq!(unfit.code, RefusalCode::MalformedMessage);
    }

    #[test]
    fn the_names_on_the_wire_stay() {
        let of_machines =
            ["hello", "proof", "secretHello", "secretProof", "machine", "booted", "report", "progress", "done"];
        assert_eq!(FromMachine::TYPES, of_machines);
        assert_eq!(FromOperator::TYPES, ["challenge", "secretChallenge", "config", "done", "refused"]);
        let refused = FromOperator::Refused(Refusal::new(RefusalCode::Busy, "full"));
        let frame: serde_json::Value = serde_json::from_str(&encode(&refused).unwrap()).unwrap();
        assert_eq!((frame["type"].as_str(), refused.kind()), (Some("refused"), "refused"));
    }

    proptest! {
        #[test]
        fn no_frame_makes_the_decoder_panic(frame in any::<String>(), kind in proptest::sample::select(FromMachine::TYPES)) {
            let _ = decode::<FromMachine>(&frame);
            let _ = decode::<FromOperator>(&frame);
            let wrapped = serde_json::json!({ "type": kind, "ekPublic": frame, "message": frame, "versions": [1] });
            let _ = decode::<FromMachine>(&wrapped.to_string());
        }

        #[test]
        fn byte_strings_survive_the_wire(secret: Vec<u8>, quote: Vec<u8>, signature: Vec<u8>, log: Option<Vec<u8>>) {
            let proof = FromMachine::Proof(Proof { secret, quote, signature, event_log: log });
            prop_assert_eq!(decode::<FromMachine>(&encode(&proof).unwrap()).unwrap(), proof);
        }
    }
}
