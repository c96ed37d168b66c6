//! Upgrades of an installed system: a release is written to the other slot and started on trial.
//!
//! ```text
//! check signature, manifest, digests ─► slot empty ─► root image ─► kernel, initrd, arguments ─► attempt (COS_OEM)
//!                                                                                          ─► slot on trial, started next
//! ```
//!
//! Each step is on the disk before the next one begins. The boot state changes twice, one sector each time: before the
//! slot is written, and when it is complete. After a power cut between them the running system is started, and another
//! upgrade begins anew.

pub mod attempt;
mod bios_loader;
mod candidate;
mod error;
mod failed_start_log;
#[cfg(feature = "agent")]
mod image;
pub mod loader;
mod lock;
mod menu;
pub mod order;
pub mod plan;
mod recovery;
mod slot_folder;
mod system;
mod write;

pub use candidate::Candidate;
pub use error::UpgradeError;
#[cfg(feature = "agent")]
pub use image::{FetchLimits, Image};
pub use lock::UpgradeLock;
pub use plan::{Decision, PlanError, ReleaseName, Slots};
pub use recovery::{RecoveryPlan, plan_recovery, write_recovery};
pub use system::slots;
pub use write::choose;
