//! The messages of `rancheros.registration.v1`: JSON text frames, each an object with a `type`.
//!
//! Unknown fields are ignored, so that either end may learn new ones; an unknown type is refused, because its sender
//! expects an answer that we cannot give. Byte strings are standard base64 with padding.

pub(crate) mod base64;
mod codec;
mod proof;
mod report;

pub use codec::{MessageSet, decode, encode};
pub use proof::{Challenge, Hello, Proof, SecretChallenge, SecretHello, SecretProof};
pub use report::{Config, Done, Failure, InstallPhase, MachineReport, OsReport, Progress, Recorded, Slot};

use crate::refusal::{Refusal, RefusalCode};
use serde::Serialize;

/// The websocket subprotocol of this exchange. A websocket without it speaks the first release's exchange.
pub const SUBPROTOCOL: &str = "rancheros.registration.v1";
/// Versions of the message set that this build speaks, newest first.
pub const VERSIONS: &[u32] = &[1];
/// The largest frame either end accepts, in bytes.
pub const MAX_FRAME: usize = 256 * 1024;
/// From the first frame to `config` (or to `done`, for an exchange that asks for no configuration), in seconds.
pub const EXCHANGE_SECONDS: u64 = 60;

/// One table makes the enum of a set of messages, their `type` names and the parser of a frame. serde's own `tag` would
/// parse a frame into a tree first, and its errors would have no position.
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
    /// Messages of a machine.
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
    /// Messages of the operator.
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
        let message = format!("no message version that the machine offers is supported; supported: {spoken}");
        Refusal::new(RefusalCode::UnsupportedVersion, message)
    })
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
        }, "upgrade": {"image": "r/os2:v2", "release": "v2"}, "reportSeconds": 30});
        let Ok(FromOperator::Done(recorded)) = decode(&done.to_string()) else { panic!("not read") };
        assert_eq!(recorded.reinstall.as_ref().map(crate::RequestText::as_str), Some("again"));
        assert_eq!(recorded.settings.unwrap().registration_url, "https://a/t");
        assert_eq!((recorded.upgrade.unwrap().image.as_str(), recorded.report_seconds), ("r/os2:v2", Some(30)));
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
