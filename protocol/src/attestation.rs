//! Proof that one TPM holds the endorsement key and the attestation key.
