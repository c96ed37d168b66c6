//! The definitions that both ends of the wire share: identity, messages, the order of an exchange, SMBIOS. No input or
//! output, and no Kubernetes: everything here is a value or a function over values.

pub mod attestation;
pub mod bounded;
pub mod erase_request;
pub mod error_chain;
pub mod exchange;
pub mod first_release;
pub mod hardware;
pub mod join;
pub mod message;
pub mod operator_settings;
pub mod refusal;
pub mod reset;
pub mod shared_secret;
pub mod smbios;
pub mod token;
pub mod tpm_hash;
pub mod upgrade;
pub mod upgrade_order;

pub use erase_request::{EraseRequest, RequestReport, RequestText};
pub use error_chain::error_chain;
pub use join::{Join, JoinConfiguration};
pub use message::{FromMachine, FromOperator};
pub use operator_settings::{OperatorSettings, SettingsRevision};
pub use refusal::{Refusal, RefusalCode};
pub use reset::{ResetRequest, ResetScope};
pub use shared_secret::SharedSecret;
pub use smbios::SmbiosDocument;
pub use token::RegistrationToken;
pub use tpm_hash::TpmHash;
pub use upgrade::UpgradeFailure;
pub use upgrade_order::{UpgradeOrder, UpgradeReport};
