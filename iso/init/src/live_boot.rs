//! A live system: the root image is a file on a medium, all changes stay in memory.

use std::path::Path;

use crate::console::say;
use crate::kernel_arguments::LiveBoot;
use crate::modules::Modules;
use crate::mount::{mount, overlay};
use crate::wait::wait_for;
use crate::{Result, block, handover};

/// Path of the root image on the medium.
const IMAGE: &str = "release/root.erofs";
const MEDIUM: &str = "/run/ros/medium";

/// Mounts the root at `handover::NEW_ROOT` and leaves the medium at /run/ros/medium.
pub fn mount_root(live: &LiveBoot, modules: &mut Modules) -> Result<()> {
    let device = wait_for(&format!("a medium with the volume id {}", live.medium), modules, || {
        block::find_medium(&live.medium)
    })?;
    say(&format!("medium {} is {}", live.medium, device.display()));
    mount(&device, MEDIUM, "iso9660", libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV, "")?;
    // The installer looks for disks once, and soon.
    modules.load_all();
    let lower = Path::new("/run/ros/live/image");
    let memory = Path::new("/run/ros/live/memory");
    // The kernel (6.12 and later) mounts an EROFS file without a loop device.
    mount(Path::new(MEDIUM).join(IMAGE), lower, "erofs", libc::MS_RDONLY, "")?;
    mount("tmpfs", memory, "tmpfs", 0, "mode=0755,size=50%")?;
    overlay(lower, memory, Path::new(handover::NEW_ROOT))
}
