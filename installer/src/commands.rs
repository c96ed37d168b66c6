//! The commands. Only this module combines options, console, TPM, network and disk.

pub mod boot;
mod documents;
pub mod first_boot;
pub mod grow;
pub mod install;
mod network;
mod operator;
pub mod probe;
pub mod register;
pub mod report;
pub mod reset;
pub mod rollback;
pub mod status;
pub mod tpm_hash;
pub mod upgrade;
