//! The registration exchange of the first release (rancher/os2 v0.1.0-alpha12), as its clients in the field speak it.
//!
//! The client opens a websocket with its keys in `Authorization` and its SMBIOS in `X-Cattle-Smbios`; the server sends
//! one challenge, the client answers it, and the server sends one JSON message: the cloud-config. Field names are
//! Go's capitalised ones, byte strings are base64. Read from `pkg/tpm/auth_tpm.go` and `pkg/server/register.go` there,
//! and from google/go-attestation v0.3.2 `attest/activation.go`, which both of its ends use.

use crate::attestation::{
    AttestationKey, Attested, Credential, EndorsementCertificate, EndorsementKey, Statement, check_secret, sized,
};
use crate::refusal::{Refusal, RefusalCode};
use crate::smbios::SmbiosDocument;
use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use x509_cert::der::pem;

/// What `Authorization` starts with; base64 of JSON follows.
pub const AUTHORIZATION_PREFIX: &str = "Bearer TPM";
/// SMBIOS as base64 of JSON, in one header. Later clients split it over several headers: this name with `-1`, `-2`, …
/// appended.
pub const SMBIOS_HEADER: &str = "X-Cattle-Smbios";
/// Seconds after which the client hangs up, counted from the opening of the websocket.
pub const EXCHANGE_SECONDS: u64 = 10;

/// An RSA-2048 endorsement key with its certificate and an attestation key with its proof of creation are about
/// 6 KiB; this leaves room for certificates of every vendor.
const MAX_AUTHORIZATION: usize = 64 * 1024;
const MAX_SMBIOS: usize = 256 * 1024;
/// Parts of a split SMBIOS header, of 875 characters each; the limit of the servers of that time.
const MAX_SMBIOS_PARTS: usize = 200;

/// The keys that a client presents, before it has proved anything.
#[derive(Debug)]
pub struct Presented {
    pub endorsement_key: EndorsementKey,
    /// The endorsement key's certificate, where the client's TPM holds one. [`EndorsementCertificate::check`] checks
    /// it.
    pub certificates: Vec<Vec<u8>>,
    pub attestation_key: AttestationKey,
}

#[derive(Serialize, Deserialize)]
struct Authorization {
    /// PEM of a certificate or of a public key.
    #[serde(rename = "EK")]
    ek: Bytes,
    #[serde(rename = "AK")]
    ak: AttestationParameters,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AttestationParameters {
    /// TPMT_PUBLIC.
    public: Bytes,
    /// TPMS_CREATION_DATA.
    create_data: Bytes,
    /// TPMS_ATTEST, of the kind TPM2_CertifyCreation makes.
    create_attestation: Bytes,
    /// TPMT_SIGNATURE over it, by the key itself.
    create_signature: Bytes,
}

#[derive(Serialize, Deserialize)]
struct ChallengeMessage {
    #[serde(rename = "EC")]
    ec: EncryptedCredential,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EncryptedCredential {
    /// TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET, each with its size in front, which the client cuts off again.
    credential: Bytes,
    secret: Bytes,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ChallengeResponse {
    secret: Bytes,
}

impl Presented {
    /// Reads the `Authorization` header and checks what go-attestation's `ActivationParameters.Generate` checks: the
    /// attestation key is a restricted signing key, and one TPM made and signed its proof of creation.
    pub fn from_authorization(header: &str) -> Result<Self, Refusal> {
        let encoded = header.strip_prefix(AUTHORIZATION_PREFIX).ok_or_else(|| {
            let reason = format!("`Authorization` does not start with `{AUTHORIZATION_PREFIX}`");
            Refusal::new(RefusalCode::Unauthenticated, reason)
        })?;
        let json = decode_header("Authorization", encoded, MAX_AUTHORIZATION)?;
        let Authorization { ek, ak } = serde_json::from_slice(&json)
            .map_err(|e| malformed(format!("`Authorization` does not contain the keys: {e}")))?;
        let (endorsement_key, certificates) = endorsement_key(&ek.0)?;
        let attestation_key = AttestationKey::parse(&ak.public.0)?;
        check_creation(&attestation_key, &ak)?;
        Ok(Self { endorsement_key, certificates, attestation_key })
    }
}

/// The one message that carries the challenge, as JSON; clients expect it in a binary frame.
pub fn challenge_message(credential: &Credential) -> Result<String, Refusal> {
    let ec = EncryptedCredential {
        credential: Bytes(sized(&credential.credential)),
        secret: Bytes(sized(&credential.encrypted_secret)),
    };
    serde_json::to_string(&ChallengeMessage { ec }).map_err(|e| Refusal::new(RefusalCode::Internal, e.to_string()))
}

/// Whether the client's answer holds the secret that went into the credential.
pub fn check_answer(frame: &[u8], secret: &[u8; 32]) -> Result<(), Refusal> {
    let answer: ChallengeResponse =
        serde_json::from_slice(frame).map_err(|e| malformed(format!("the answer to the challenge: {e}")))?;
    check_secret(secret, &answer.secret.0)
}

/// The SMBIOS document of a request, whose headers `header` looks up by name. `None` where it sends none.
pub fn smbios<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Result<Option<SmbiosDocument>, Refusal> {
    let encoded = match header(SMBIOS_HEADER) {
        Some(whole) if !whole.is_empty() => whole.to_owned(),
        _ => (1..=MAX_SMBIOS_PARTS).map_while(|part| header(&format!("{SMBIOS_HEADER}-{part}"))).collect(),
    };
    if encoded.is_empty() {
        return Ok(None);
    }
    let json = decode_header(SMBIOS_HEADER, &encoded, MAX_SMBIOS)?;
    let value = serde_json::from_slice(&json).map_err(|e| malformed(format!("`{SMBIOS_HEADER}` is not JSON: {e}")))?;
    SmbiosDocument::from_dmidecode_json(&value).map(Some)
}

/// As Go does it, `EK` is PEM of a certificate or of a public key; the key of either is the identity.
fn endorsement_key(ek: &[u8]) -> Result<(EndorsementKey, Vec<Vec<u8>>), Refusal> {
    let (label, der) = pem::decode_vec(ek).map_err(|e| malformed(format!("`EK` is not PEM: {e}")))?;
    match label {
        "CERTIFICATE" => {
            let key = EndorsementKey::from_spki_der(&EndorsementCertificate::public_key(&der)?)?;
            Ok((key, vec![der]))
        }
        "PUBLIC KEY" => Ok((EndorsementKey::from_spki_der(&der)?, vec![])),
        _ => Err(malformed("`EK` is neither a certificate nor a public key in PEM".to_owned())),
    }
}

/// Checks the TPM2_CertifyCreation by the key over itself: the name is its own, and the digest is that of the creation
/// data.
fn check_creation(key: &AttestationKey, parameters: &AttestationParameters) -> Result<(), Refusal> {
    let refused = |reason: &str| {
        let message = format!("the attestation key's proof of creation is refused: {reason}");
        Refusal::new(RefusalCode::UnacceptableAttestationKey, message)
    };
    let attestation = &parameters.create_attestation.0;
    key.check_signature(attestation, &parameters.create_signature.0).map_err(|e| refused(&e.to_string()))?;
    let statement = Statement::parse(attestation).map_err(|e| refused(&e.to_string()))?;
    let Attested::Creation { object_name, creation_hash } = statement.attested else {
        return Err(refused("it is another kind of statement"));
    };
    if object_name != key.name().as_bytes() {
        return Err(refused("it is for another key"));
    }
    if creation_hash != digest::digest(&digest::SHA256, &parameters.create_data.0).as_ref() {
        return Err(refused("it does not cover this creation data"));
    }
    Ok(())
}

fn decode_header(name: &str, encoded: &str, limit: usize) -> Result<Vec<u8>, Refusal> {
    if encoded.len() > limit {
        let message = format!("`{name}` has {} bytes; the limit is {limit}", encoded.len());
        return Err(Refusal::new(RefusalCode::MessageTooBig, message));
    }
    STANDARD.decode(encoded).map_err(|e| malformed(format!("`{name}` is not base64: {e}")))
}

fn malformed(message: String) -> Refusal {
    Refusal::new(RefusalCode::MalformedMessage, message)
}

/// Go's `[]byte` in JSON.
#[derive(Serialize, Deserialize)]
struct Bytes(#[serde(with = "crate::message::base64::bytes")] Vec<u8>);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const AUTHORIZATION: &str = include_str!("../testdata/first-release.authorization");

    fn authorization(change: impl FnOnce(&mut Value)) -> String {
        let json = STANDARD.decode(AUTHORIZATION.strip_prefix(AUTHORIZATION_PREFIX).unwrap()).unwrap();
        let mut value = serde_json::from_slice(&json).unwrap();
        change(&mut value);
        format!("{AUTHORIZATION_PREFIX}{}", STANDARD.encode(value.to_string()))
    }

    fn code(header: &str) -> RefusalCode {
        Presented::from_authorization(header).unwrap_err().code
    }

    #[test]
    fn a_client_of_the_first_release_is_understood() {
        let presented = Presented::from_authorization(AUTHORIZATION).unwrap();
        let key = include_bytes!("../testdata/rsa2048-p256.ek.der");
        assert_eq!(presented.endorsement_key.tpm_hash(), crate::TpmHash::of_public_key(key));
        assert_eq!(presented.certificates, [include_bytes!("../testdata/rsa2048-p256.ek.crt").to_vec()]);

        let pem = pem::encode_string("PUBLIC KEY", pem::LineEnding::LF, key).unwrap();
        let bare = authorization(|value| value["EK"] = STANDARD.encode(pem).into());
        let presented = Presented::from_authorization(&bare).unwrap();
        assert_eq!(presented.endorsement_key.spki_der(), key);
        assert!(presented.certificates.is_empty());
    }

    #[test]
    fn an_altered_proof_of_creation_is_refused() {
        for field in ["CreateData", "CreateAttestation", "CreateSignature", "Public"] {
            let altered = authorization(|value| {
                let mut bytes = STANDARD.decode(value["AK"][field].as_str().unwrap()).unwrap();
                *bytes.last_mut().unwrap() ^= 1;
                value["AK"][field] = STANDARD.encode(bytes).into();
            });
            assert_eq!(code(&altered), RefusalCode::UnacceptableAttestationKey, "{field}");
        }
    }

    #[test]
    fn headers_that_hold_no_keys_are_refused() {
        assert_eq!(code("Basic abc"), RefusalCode::Unauthenticated);
        assert_eq!(code("Bearer TPM!"), RefusalCode::MalformedMessage);
        assert_eq!(code("Bearer TPMe30="), RefusalCode::MalformedMessage);
        assert_eq!(code(&authorization(|value| value["EK"] = "AAAA".into())), RefusalCode::MalformedMessage);
        assert_eq!(code(&authorization(|value| value["AK"] = Value::Null)), RefusalCode::MalformedMessage);
        let long = format!("{AUTHORIZATION_PREFIX}{}", "A".repeat(MAX_AUTHORIZATION + 1));
        assert_eq!(code(&long), RefusalCode::MessageTooBig);
    }

    #[test]
    fn the_challenge_carries_sizes_and_the_answer_the_secret() {
        let credential = Credential { credential: vec![1; 68], encrypted_secret: vec![2; 256] };
        let message: Value = serde_json::from_str(&challenge_message(&credential).unwrap()).unwrap();
        let sent = STANDARD.decode(message["EC"]["Credential"].as_str().unwrap()).unwrap();
        assert_eq!(sent, [vec![0, 68], vec![1; 68]].concat());
        let sent = STANDARD.decode(message["EC"]["Secret"].as_str().unwrap()).unwrap();
        assert_eq!(sent, [vec![1, 0], vec![2; 256]].concat());

        let answer = json!({ "Secret": STANDARD.encode([9; 32]) }).to_string();
        assert_eq!(check_answer(answer.as_bytes(), &[9; 32]), Ok(()));
        assert_eq!(check_answer(answer.as_bytes(), &[8; 32]).unwrap_err().code, RefusalCode::ProofRejected);
        assert_eq!(check_answer(b"{}", &[8; 32]).unwrap_err().code, RefusalCode::MalformedMessage);
    }

    #[test]
    fn smbios_comes_whole_or_in_parts() {
        let document = json!({"System Information": {"Serial Number": "S1"}});
        let encoded = STANDARD.encode(document.to_string());
        let found = smbios(|name| (name == SMBIOS_HEADER).then_some(encoded.as_str())).unwrap().unwrap();
        assert_eq!(found.get("System Information/Serial Number"), Some("S1"));
        let (first, second) = encoded.split_at(21);
        let parts = [("X-Cattle-Smbios-1", first), ("X-Cattle-Smbios-2", second)];
        let in_parts = smbios(|name| parts.iter().find(|(part, _)| *part == name).map(|(_, text)| *text));
        assert_eq!(in_parts, Ok(Some(found)));
        assert_eq!(smbios(|_| None), Ok(None));
        assert_eq!(
            smbios(|name| (name == SMBIOS_HEADER).then_some("!")).unwrap_err().code,
            RefusalCode::MalformedMessage
        );
        let long = "A".repeat(4096);
        assert_eq!(smbios(|_| Some(&long)).map(|_| ()).unwrap_err().code, RefusalCode::MalformedMessage);
        let endless = smbios(|name| (name != SMBIOS_HEADER).then_some(long.as_str()));
        assert_eq!(endless.unwrap_err().code, RefusalCode::MessageTooBig);
    }

    proptest! {
        #[test]
        fn no_header_makes_the_parsers_panic(text: String, bytes: Vec<u8>) {
            let _ = Presented::from_authorization(&text);
            let _ = Presented::from_authorization(&authorization(|value| value["EK"] = text.clone().into()));
            let _ = Presented::from_authorization(&authorization(|v| v["AK"]["CreateAttestation"] = STANDARD.encode(&bytes).into()));
            let _ = smbios(|_| Some(&text));
            let _ = check_answer(&bytes, &[0; 32]);
        }
    }
}
