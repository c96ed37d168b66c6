//! The installed system: its health, status and recovery, and the data that it keeps.

pub mod boot_progress;
pub mod drop_ins;
pub mod due_report;
pub mod erase_request;
pub mod files;
pub mod health_checks;
#[cfg(feature = "agent")]
pub mod healthy;
pub mod host_identity;
pub mod issue;
#[cfg(feature = "agent")]
pub mod kubelet;
#[cfg(feature = "agent")]
pub mod operator_settings;
#[cfg(feature = "agent")]
pub mod own_disk;
pub mod recovery;
pub mod release_keys;
pub mod slot_copy;
pub mod status;
#[cfg(feature = "agent")]
pub mod trial;
