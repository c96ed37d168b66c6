//! Who a machine is: the proof by its TPM, certificates of endorsement keys, and shared secrets.

pub mod attestation;
pub mod challenge;
pub mod secret_holder;
pub mod shared_secret;
pub mod tpm_vendors;
