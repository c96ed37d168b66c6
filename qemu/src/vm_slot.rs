//! Limits how many virtual machines run at once on this host, over all processes.

use anyhow::{Context, Result};
use std::fs::{self, File};
use std::time::Duration;

use crate::wait::{Poll, until};

/// A permit to run one virtual machine.
pub struct VmSlot {
    _lock: File,
}

/// Two: under translation, each processor of a machine is a busy thread.
const SLOTS: usize = 2;
/// Other tests may hold the slots for several installations.
const LIMIT: Duration = Duration::from_secs(3600);

impl VmSlot {
    pub async fn acquire() -> Result<Self> {
        let folder = std::env::temp_dir().join("ros-vm-slots");
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        until("a slot for a virtual machine", LIMIT, async || {
            for slot in 0..SLOTS {
                let path = folder.join(slot.to_string());
                let lock = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
                if lock.try_lock().is_ok() {
                    return Ok(Poll::Ready(Self { _lock: lock }));
                }
            }
            Ok(Poll::Pending(format!("all {SLOTS} are taken")))
        })
        .await
    }
}
