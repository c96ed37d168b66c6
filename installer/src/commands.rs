//! What each command does. Here everything meets that is elsewhere kept apart: options, console, TPM, network, disk.

pub mod boot;
pub mod install;
mod network;
mod operator;
pub mod probe;
pub mod register;
pub mod report;
pub mod status;
pub mod tpm_hash;
