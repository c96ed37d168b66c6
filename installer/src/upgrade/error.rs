//! Why a release is not on its way to run. Unless an error says otherwise, the machine starts what it started before.

use super::plan::PlanError;
use crate::free_space::PERSISTENT_ROOM;
use crate::installed::recovery::DamageError;
use crate::installed::slot_copy::SlotCopyError;
use crate::path_error::PathError;
use crate::upgrade::attempt::AttemptError;
use crate::upgrade::order::OrderError;
use disk::bios::renew::RenewError;
use disk::layout::Size;
use disk::rewrite::RewriteError;
use machine::installed::PartitionGuidError;
use release::signature::SignatureError;
use release::{ReleaseError, TooOld};
use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    #[error("this is not an installed system: the kernel command line names no slot (ros.slot=)")]
    NotInstalled,
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[cfg(feature = "agent")]
    #[error(transparent)]
    Registry(#[from] registry::RegistryError),
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error(transparent)]
    Release(#[from] ReleaseError),
    #[error(transparent)]
    TooOld(#[from] TooOld),
    #[error("the release is for {release}; this machine is {machine}: use a release for {machine}")]
    WrongArchitecture { release: String, machine: String },
    #[error("reading the root image of the release")]
    RootImage(#[source] io::Error),
    #[error("the root image {name} has SHA-256 {actual}; release.json says {expected}: fetch the release again")]
    RootImageDigest { name: String, actual: String, expected: String },
    #[error(
        "the root image has {image}, and slot {slot} has {available}: install this machine again from a medium of the \
         release, which makes larger slots",
        image = Size(*.image), available = Size(*.available)
    )]
    SlotTooSmall { slot: boot_contract::Slot, image: u64, available: u64 },
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    PartitionGuid(#[from] PartitionGuidError),
    #[error("opening {}: it must not be in use", .0.display())]
    Device(PathBuf, #[source] io::Error),
    #[error("forgetting the starts of the slot")]
    Progress(#[source] io::Error),
    #[error("writing the root image of the slot; the slot is empty now, and the running system stays")]
    Slot(#[source] RewriteError),
    #[error("writing the recovery system; until that has succeeded the machine has none, and the running system stays")]
    Recovery(#[source] RewriteError),
    #[error(transparent)]
    SlotCopy(#[from] SlotCopyError),
    #[error("the recovery system reads back differently from what was written: the disk is failing, replace it")]
    RecoveryDiffers(#[from] DamageError),
    #[error("writing {}", .folder.display())]
    BootFiles { folder: PathBuf, source: io::Error },
    #[error(
        "COS_BOOT has {free} free, and kernel and initrd need {needed}: remove files that are not ours from it",
        free = Size(*.free), needed = Size(*.needed)
    )]
    BootPartitionFull { needed: u64, free: u64 },
    #[error(
        "COS_PERSISTENT has {free} free, and a release on trial needs {needed}: remove files from it",
        free = Size(*.free), needed = Size(PERSISTENT_ROOM)
    )]
    PersistentFull { free: u64 },
    #[error(transparent)]
    BiosLoader(#[from] RenewError),
    #[error("changing the firmware's boot menu")]
    Firmware(#[source] io::Error),
    #[error("{} reads back differently from what was written: the disk is failing, replace it", .0.display())]
    BootFileDiffers(PathBuf),
    #[error(transparent)]
    Attempt(#[from] AttemptError),
    #[error(transparent)]
    Order(#[from] OrderError),
    #[error(
        "{image} was not there after {minutes} minutes; what came is kept: use a faster registry or a mirror, and set another \
         spec.retry, with which it goes on"
    )]
    RegistryTooSlow { image: String, minutes: u64 },
    #[error("{image} holds release {found}, and release {expected} is expected: correct osImage or release")]
    OtherRelease { image: String, expected: String, found: String },
}

impl UpgradeError {
    /// The reason of a condition. CamelCase and stable.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotInstalled => "NotInstalled",
            Self::Plan(error) => error.reason(),
            #[cfg(feature = "agent")]
            Self::Registry(error) => error.reason(),
            Self::Signature(error) => error.reason(),
            Self::Release(_) | Self::RootImage(_) | Self::RootImageDigest { .. } => "ReleaseUnusable",
            Self::Order(_) => "WriteFailed",
            Self::RegistryTooSlow { .. } => "RegistryTooSlow",
            Self::OtherRelease { .. } => "OtherRelease",
            Self::TooOld(_) => "ReleaseTooOld",
            Self::WrongArchitecture { .. } => "WrongArchitecture",
            Self::SlotTooSmall { .. } => "SlotTooSmall",
            Self::Path(_)
            | Self::Device(..)
            | Self::Progress(_)
            | Self::Firmware(_)
            | Self::BiosLoader(_)
            | Self::PartitionGuid(_)
            | Self::BootFiles { .. }
            | Self::Attempt(_) => "WriteFailed",
            Self::Slot(_) | Self::Recovery(_) | Self::SlotCopy(_) => "WriteFailed",
            Self::BootPartitionFull { .. } => "BootPartitionFull",
            Self::PersistentFull { .. } => "PersistentFull",
            Self::BootFileDiffers(_) | Self::RecoveryDiffers(_) => "VerificationFailed",
        }
    }

    /// Whether another attempt with the same release ends in the same way.
    pub fn is_about_the_release(&self) -> bool {
        match self {
            #[cfg(feature = "agent")]
            Self::Registry(error) => error.is_about_the_image(),
            Self::Plan(_)
            | Self::Signature(_)
            | Self::Release(_)
            | Self::RootImageDigest { .. }
            | Self::TooOld(_)
            | Self::OtherRelease { .. }
            | Self::WrongArchitecture { .. }
            | Self::SlotTooSmall { .. }
            | Self::BootPartitionFull { .. } => true,
            _ => false,
        }
    }
}
