//! The installed system: its health, status and recovery, and the data that it keeps.

pub mod boot_progress;
pub mod drop_ins;
pub mod files;
pub mod health_checks;
pub mod healthy;
pub mod host_identity;
pub mod issue;
#[cfg(feature = "agent")]
pub mod operator_settings;
pub mod recovery;
pub mod reinstall;
pub mod release_keys;
pub mod status;
pub mod trial;
