//! Why a peer is refused. The code is an interface: it is shown on consoles and counted in metrics, and clients decide
//! by it whether to retry.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    pub code: RefusalCode,
    /// For a person: what, which, and what to do next. Never holds a token or a secret.
    pub message: String,
    /// Seconds after which the peer should try again; absent where its own back-off will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

impl Refusal {
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}
impl std::error::Error for Refusal {}

macro_rules! refusal_codes {
    ($($(#[doc = $doc:literal])+ $code:ident => $http:literal, $again:literal;)+) => {
        /// Every reason for a refusal. A newer peer's unknown code reads as [`RefusalCode::Internal`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum RefusalCode { $($(#[doc = $doc])+ $code,)+ #[doc = "The operator failed. Its log says why."] #[serde(other)] Internal }

        impl RefusalCode {
            /// All codes, in the order of the documentation.
            pub const ALL: &'static [RefusalCode] = &[$(RefusalCode::$code,)+ RefusalCode::Internal];
            /// The status when the refusal comes before the websocket is open.
            pub fn http_status(self) -> u16 {
                match self { $(RefusalCode::$code => $http,)+ RefusalCode::Internal => 500 }
            }
            /// Whether the same machine may succeed later without anybody changing the machine or its medium.
            pub fn may_succeed_later(self) -> bool {
                match self { $(RefusalCode::$code => $again,)+ RefusalCode::Internal => true }
            }
            /// The first line of the code's documentation.
            pub fn meaning(self) -> &'static str {
                match self { $(RefusalCode::$code => [$($doc),+][0],)+ RefusalCode::Internal => " The operator failed. Its log says why." }.trim_start()
            }
        }
    };
}

refusal_codes! {
    /// The path holds no valid registration token (wrong length or characters). The URL was cut or mistyped.
    MalformedToken => 400, false;
    /// No MachineRegistration has this token.
    UnknownToken => 404, false;
    /// The operator serves no medium of this name.
    UnknownMedium => 404, false;
    /// The registration's `expiresAt` has passed.
    RegistrationExpired => 410, false;
    /// The registration already has `maxMachines` machines.
    TooManyMachines => 403, true;
    /// The machine is known and waits for approval.
    ApprovalPending => 403, true;
    /// The operator or the registration has reached its limit of concurrent exchanges, installations or downloads.
    Busy => 429, true;
    /// The operator cannot reach its API server.
    Unavailable => 503, true;
    /// The operator is shutting down. Another replica or the next one will answer.
    ShuttingDown => 503, true;
    /// The operator supports none of the versions in `hello`.
    UnsupportedVersion => 400, false;
    /// A message is not valid JSON, or a field is missing.
    MalformedMessage => 400, false;
    /// A message's `type` is not known.
    UnknownMessage => 400, false;
    /// A message is not allowed at this point of the exchange.
    UnexpectedMessage => 400, false;
    /// A message is larger than the limit.
    MessageTooBig => 413, false;
    /// The exchange took too long, or the client downloaded a medium too slowly.
    DeadlineExceeded => 408, true;
    /// The type or size of the endorsement key is not supported.
    UnsupportedEndorsementKey => 400, false;
    /// The attestation key is not a restricted signing key made by a TPM.
    UnacceptableAttestationKey => 400, false;
    /// The registration requires an endorsement key certificate, and the machine sent none.
    EndorsementCertificateMissing => 403, false;
    /// The endorsement key certificate is for another key.
    EndorsementCertificateMismatch => 403, false;
    /// The chain of the endorsement key certificate does not end at a trusted authority.
    EndorsementCertificateUntrusted => 403, false;
    /// The machine did not prove that one TPM holds both of its keys.
    ProofRejected => 403, false;
    /// The quote is not over this exchange's nonce and PCRs, or is not signed by the attestation key.
    QuoteRejected => 403, false;
    /// The machine asked to be recorded as installed or booted, but it has no inventory.
    UnknownMachine => 404, false;
    /// The machine has the shared secret of an inventory that is not in the registration's namespace.
    KnownElsewhere => 409, true;
    /// Several MachineInventory objects have this machine's TPM hash, and the machine has used none of them.
    DuplicateIdentity => 409, true;
    /// The registration's name template or configuration is not valid. Its conditions say why.
    RegistrationInvalid => 409, true;
    /// The registration's cloudConfig uses a field that is empty in this machine's SMBIOS.
    SmbiosFieldEmpty => 409, true;
    /// The request needs a credential and has none.
    Unauthenticated => 401, false;
    /// No MachineInventory names a Secret with this shared secret.
    UnknownSecret => 401, true;
    /// Several MachineInventory objects name a Secret with this shared secret.
    SecretNotUnique => 409, true;
    /// The machine did not prove that it has the shared secret that it claims to have.
    SharedSecretRejected => 403, false;
    /// The registration or the machine's inventory requires a TPM. A shared secret is not accepted.
    SharedSecretNotAccepted => 403, true;
    /// The machine's inventory names neither a cluster nor a role for the machine.
    NotAssigned => 409, true;
    /// The machine's cluster has no registration token for the machine yet. The inventory's conditions say why.
    ClusterTokenPending => 409, true;
}

impl std::fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients and dashboards are written from the README; it says what the code does.
    #[test]
    fn the_readme_has_every_code() {
        let (_, table) = include_str!("../README.md").split_once("## Refusals").unwrap();
        let documented: Vec<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
        let row = |code: &RefusalCode| {
            let later = if code.may_succeed_later() { "yes" } else { "no" };
            format!("| `{code}` | {} | {later} | {} |", code.http_status(), code.meaning())
        };
        assert_eq!(documented.join("\n"), RefusalCode::ALL.iter().map(row).collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn a_newer_code_reads_as_internal() {
        let newer = r#"{"code":"MoonPhase","message":"not today","retryAfter":9}"#;
        let refusal: Refusal = serde_json::from_str(newer).unwrap();
        assert_eq!(refusal, Refusal::new(RefusalCode::Internal, "not today").retry_after(9));
    }
}
