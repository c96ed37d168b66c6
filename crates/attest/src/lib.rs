//! The functions of the machine's TPM that prove an identity.

mod device;
mod event_log;
mod identity;

pub use device::DeviceTpm;
pub use identity::TpmIdentity;
use protocol::TpmHash;
use protocol::hardware::TpmInfo;
use std::path::PathBuf;

/// A TPM 2.0. A call may take seconds on hardware. Nothing stays in the TPM when the value is dropped.
pub trait Tpm: Send {
    /// The endorsement key as PKIX SubjectPublicKeyInfo in DER: RSA-2048 if the TPM can make it, else P-256. The
    /// machine's identity is the hash of these bytes, so this order must never change.
    fn endorsement_key(&mut self) -> Result<Vec<u8>, TpmError>;
    /// The certificates of the endorsement key in DER, its own first. Empty if the TPM holds none.
    fn endorsement_certificates(&mut self) -> Result<Vec<Vec<u8>>, TpmError>;
    /// The attestation key as TPMT_PUBLIC: a restricted P-256 signing key in the endorsement hierarchy, the same at
    /// every boot.
    fn attestation_key(&mut self) -> Result<Vec<u8>, TpmError>;
    /// Performs TPM2_ActivateCredential. The arguments are the contents of TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET.
    fn activate(&mut self, credential: &[u8], encrypted_secret: &[u8]) -> Result<Vec<u8>, TpmError>;
    /// Quotes PCRs of the SHA-256 bank with the attestation key. `nonce` is the qualifying data.
    fn quote(&mut self, nonce: &[u8], pcrs: &[u8]) -> Result<Quote, TpmError>;
    /// Manufacturer and firmware version of the TPM.
    fn info(&mut self) -> Result<TpmInfo, TpmError>;
}

/// The result of TPM2_Quote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// The signed TPMS_ATTEST.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
}

/// The hash by which the operator knows the machine.
pub fn tpm_hash(tpm: &mut dyn Tpm) -> Result<TpmHash, TpmError> {
    Ok(TpmHash::of_public_key(&tpm.endorsement_key()?))
}

#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    #[error(
        "this machine has no TPM 2.0: {} does not exist; enable the TPM in the firmware setup (\"TPM\", \"PTT\" or \
         \"fTPM\"), give the virtual machine one, or set registrationSecret to a shared secret by which its \
         MachineInventory knows it",
        .0.display()
    )]
    Absent(PathBuf),
    #[error("opening {}: permission denied; run as root or as a member of the group tss", .0.display())]
    NotPermitted(PathBuf),
    #[error("the TPM address {0:?} is not valid; use device:/dev/tpmrm0 or swtpm:host=HOST,port=PORT")]
    Address(String),
    #[error("{doing}")]
    Failed {
        doing: &'static str,
        #[source]
        source: tss_esapi::Error,
    },
    #[error("the TPM supports neither an RSA-2048 nor a P-256 endorsement key")]
    NoEndorsementKey,
    #[error("the TPM created a key that cannot be encoded as SubjectPublicKeyInfo: {0}")]
    UnexpectedKey(&'static str),
}

impl TpmError {
    /// Whether a retry may succeed. A TPM that is busy or locked out recovers, but a missing one does not appear.
    pub fn may_succeed_later(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }
}
