//! The lock of the upgrade that runs on this machine: by hand, by the operator's order, or from a container.

use crate::path_error::PathError;
use std::fs::{File, TryLockError};

const LOCK: &str = "/run/ros/upgrade.lock";

/// Holds the lock until it is dropped.
#[derive(Debug)]
pub struct UpgradeLock {
    _file: File,
}

impl UpgradeLock {
    /// `None` if another upgrade runs.
    pub fn take() -> Result<Option<Self>, PathError> {
        let file = File::create(LOCK).map_err(PathError::of("creating", LOCK))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(PathError::of("locking", LOCK)(error)),
        }
    }
}
