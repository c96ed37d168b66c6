//! A live system: the root image is a file on a medium, all changes stay in memory.

use std::path::Path;

use boot_contract::paths::{INITRD_MEDIUM, MEDIUM, MEDIUM_ROOT_IMAGE, RUN};
use rustix::mount::MountFlags;

use crate::boot::LiveBoot;
use crate::console::say;
use crate::modules::Modules;
use crate::mount::{bind, create_directory, mount, overlay};
use crate::wait::wait_for;
use crate::{Result, block, handover};

/// Mounts the root at `handover::NEW_ROOT` and leaves the medium mounted at [`MEDIUM`].
pub fn mount_root(live: &LiveBoot, modules: &mut Modules) -> Result<()> {
    match live {
        LiveBoot::Volume(id) => mount_volume(id, modules)?,
        LiveBoot::Initrd => mount_initrd()?,
    }
    // The installer probes for disks once, soon after the start. So all drivers are loaded now.
    modules.load_all();
    let lower = &Path::new(RUN).join("live/image");
    let memory = &Path::new(RUN).join("live/memory");
    // The kernel (6.12 and later) mounts an EROFS file without a loop device.
    mount(MEDIUM_ROOT_IMAGE, lower, "erofs", MountFlags::RDONLY, "")?;
    mount("tmpfs", memory, "tmpfs", MountFlags::empty(), "mode=0755,size=50%")?;
    overlay(lower, memory, Path::new(handover::NEW_ROOT))
}

fn mount_volume(id: &str, modules: &mut Modules) -> Result<()> {
    let device = wait_for(&format!("a medium with the volume id {id}"), modules, || block::find_medium(id))?;
    say(&format!("medium {id} is {}", device.display()));
    mount(&device, MEDIUM, "iso9660", MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV, "")
}

/// The initrd stays in memory below the new root, and so does the medium in it.
fn mount_initrd() -> Result<()> {
    let medium = Path::new(INITRD_MEDIUM);
    if !medium.join("release").is_dir() {
        return Err(format!(
            "the initrd has no {INITRD_MEDIUM}/release; the boot script must load medium.cpio as another initrd"
        ));
    }
    say("the medium came with the initrd");
    create_directory(Path::new(MEDIUM))?;
    bind(medium, Path::new(MEDIUM))
}
