//! Why an exchange failed. Each message says what to change.

use attest::TpmError;
use protocol::{Refusal, RefusalCode};
use std::io;

/// Why one exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The operator refused during the exchange, or this machine refused a message of the operator.
    #[error("{0}; {advice}", advice = advice(.0.code))]
    Refused(Refusal),
    #[error("the operator did not answer within {seconds} s; its log may say why")]
    TimedOut { seconds: u64 },
    #[error("proving this machine's identity")]
    Tpm(#[from] TpmError),
}

/// Why the operator was not reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("looking up {host}: {cause}; check the DNS server that DHCP gives out, or the name in registrationURL")]
    Name { host: String, cause: io::Error },
    #[error("connecting to {address}: {cause}; {hint}", hint = unreachable_hint(.cause))]
    Unreachable { address: String, cause: io::Error },
    #[error("connecting to {address}: no answer within {seconds} s; check address, route and firewall")]
    Silent { address: String, seconds: u64 },
    #[error(
        "connecting to {host} through the proxy {proxy}: {why}; check proxy and noProxy, and what the proxy allows"
    )]
    Proxy { proxy: String, host: String, why: String },
    #[error(
        "the certificate of {host} is not from the pinned authority; use a new medium if the operator's CA has \
         changed; otherwise, another server answers at this address"
    )]
    NotPinned { host: String },
    #[error(
        "the certificate of {host} is not from an authority that this system knows; put the operator's CA into \
         registrationCACert (MachineRegistration shows it, and /cacerts serves it)"
    )]
    UnknownAuthority { host: String },
    #[error(
        "the certificate at this address is not for {host} (it is for {names}); correct registrationURL or the operator's server URL"
    )]
    WrongName { host: String, names: String },
    #[error(
        "the certificate of {host} is not valid now ({cause}); this machine's clock says {now}; check the certificate \
         and the clock"
    )]
    WrongTime { host: String, cause: &'static str, now: String },
    #[error("agreeing on encryption with {host}")]
    Encryption { host: String, source: io::Error },
    #[error(
        "{host} answered with HTTP status {status}, which is not the answer of an operator; check registrationURL and \
         every proxy in between"
    )]
    NotAnOperator { host: String, status: u16 },
    /// The operator refused before the websocket was open.
    #[error("{0}; {advice}", advice = advice(.0.code))]
    Refused(Refusal),
    #[error("the connection to the operator ended: {0}")]
    Lost(String),
}

impl From<Refusal> for ExchangeError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl ExchangeError {
    /// Whether a retry may succeed. Network and operator can change at any time. A refusal and a TPM error know it
    /// themselves.
    pub fn may_succeed_later(&self) -> bool {
        match self {
            Self::Refused(refusal) | Self::Connect(ConnectError::Refused(refusal)) => refusal.code.may_succeed_later(),
            Self::Tpm(error) => error.may_succeed_later(),
            Self::Connect(_) | Self::TimedOut { .. } => true,
        }
    }

    /// Whether nothing was sent to the network, which is usual in the seconds after power-on.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Connect(ConnectError::Name { .. }) => true,
            Self::Connect(ConnectError::Unreachable { cause, .. }) => matches!(
                cause.kind(),
                io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable | io::ErrorKind::AddrNotAvailable
            ),
            _ => false,
        }
    }

    /// Seconds to wait, if the operator named them.
    pub fn retry_after(&self) -> Option<u64> {
        self.refusal().and_then(|refusal| refusal.retry_after)
    }

    /// The operator's refusal, if it ended the exchange.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) | Self::Connect(ConnectError::Refused(refusal)) => Some(refusal),
            _ => None,
        }
    }

    /// Whether the operator refused this machine, or this machine refused the certificate.
    pub fn is_refusal(&self) -> bool {
        use ConnectError::{NotPinned, Refused, UnknownAuthority, WrongName, WrongTime};
        matches!(
            self,
            Self::Refused(_)
                | Self::Connect(
                    Refused(_) | NotPinned { .. } | UnknownAuthority { .. } | WrongName { .. } | WrongTime { .. }
                )
        )
    }
}

/// What to do about a refusal.
fn advice(code: RefusalCode) -> &'static str {
    use RefusalCode::*;
    match code {
        MalformedToken | UnknownToken => {
            "create a new medium with the registrationURL that `kubectl get machineregistration -o wide` shows"
        }
        UnknownMedium => "take the medium's URL from the MachineRegistration's status.mediaURLs",
        RegistrationExpired => "set a later expiresAt in the MachineRegistration, or create a medium for another one",
        TooManyMachines => "raise the MachineRegistration's maxMachines, or delete machines that are gone",
        ApprovalPending => "approve the MachineInventory; this machine keeps asking",
        Busy | Unavailable | ShuttingDown | DeadlineExceeded => "this machine tries again by itself",
        UnsupportedVersion | MalformedMessage | UnknownMessage | UnexpectedMessage | MessageTooBig => {
            "update the older of the two, the operator or this medium"
        }
        UnsupportedEndorsementKey | UnacceptableAttestationKey => "this TPM cannot be used with this operator",
        EndorsementCertificateMissing | EndorsementCertificateMismatch | EndorsementCertificateUntrusted => {
            "check `attestation` in the MachineRegistration, and whether the machine still has its original TPM"
        }
        ProofRejected | QuoteRejected => "power-cycle the machine; if that does not help, its TPM cannot be trusted",
        KnownElsewhere => "delete the MachineInventory in the other namespace, or use a MachineRegistration there",
        DuplicateIdentity => "delete all MachineInventories of this machine but one",
        SmbiosFieldEmpty => {
            "set the field in the firmware setup, or remove it from the MachineRegistration's cloudConfig; this \
             machine keeps asking"
        }
        UnknownMachine => "its MachineInventory was deleted: install the machine again",
        RegistrationInvalid => "the MachineRegistration's conditions say what to correct",
        UnknownSecret => {
            "create a MachineInventory for this machine whose machineTokenSecretName names a Secret with its \
             registrationSecret; this machine keeps asking"
        }
        SecretNotUnique => "give each machine a secret of its own; this machine keeps asking",
        SharedSecretRejected => "check that no other server answers at this address",
        SharedSecretNotAccepted => "enable the TPM, or remove the requirement for one; this machine keeps asking",
        Unauthenticated => "check registrationURL and every proxy in between",
        NotAssigned => "set clusterName, or config.role, in the MachineInventory",
        ClusterTokenPending => "the MachineInventory's conditions say what is missing; this machine keeps asking",
        Internal => "the operator's log has the cause",
    }
}

fn unreachable_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "no server listens there: check the port, and that the operator runs",
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => "this machine has no route to it",
        _ => "check address, route and firewall",
    }
}
