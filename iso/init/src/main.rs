//! `ros-init`: PID 1 of the initrd. It loads the modules that this machine needs, finds the root image on the medium
//! or the disk named on the kernel command line, mounts it (through dm-verity on disks), and starts systemd.
//!
//! The only other program that it starts is `e2fsck` of the root image, for a partition that does not mount. It is
//! linked statically. `overlay/README.md` lists what it promises to the system that it starts.

mod block;
mod boot;
mod console;
mod device_mapper;
mod disk_boot;
mod etc;
mod handover;
mod live_boot;
mod modules;
mod mount;
mod partition_table;
mod persist;
mod read_ahead;
mod repair;
mod seed;
mod uevent;
mod verity;
mod wait;
mod watchdog;

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use boot::Boot;
use modules::Modules;

/// A sentence for the console: what failed, on which object, and what to do next.
type Result<T> = std::result::Result<T, String>;

/// How long a failure stays readable on the console before the machine restarts.
const REBOOT_DELAY: Duration = Duration::from_secs(10);

fn main() {
    let mut boot = None;
    let Err(error) = start(&mut boot);
    console::say(&format!("FAILED: {error}"));
    match boot {
        // Starts from a medium are not counted. A restart would only clear the message from the screen.
        Some(Boot::Live(_)) => {
            console::say("waiting; power the machine off or restart it by hand");
            handover::wait_for_power_off()
        }
        // If the command line was not understood, this may be a disk, and GRUB has counted the start.
        Some(Boot::Disk(_)) | None => {
            console::say(&format!(
                "restarting in {} s; after several failed starts of a slot, GRUB starts the other slot, then recovery",
                REBOOT_DELAY.as_secs()
            ));
            std::thread::sleep(REBOOT_DELAY);
            handover::restart()
        }
    }
}

/// Runs the whole start. After an error `boot` has the boot that was asked for, if the command line was understood.
fn start(boot: &mut Option<Boot>) -> Result<Infallible> {
    mount::kernel_filesystems()?;
    console::say("starting");
    let arguments = boot::kernel_arguments()?;
    let boot = boot.insert(Boot::from_arguments(&arguments)?);
    let mut modules = Modules::load_always()?;
    match boot {
        Boot::Live(live) => live_boot::mount_root(live, &mut modules)?,
        Boot::Disk(disk) => disk_boot::mount_root(disk, &mut modules)?,
    }
    modules.load_watchdog();
    read_ahead::start(Path::new(handover::NEW_ROOT));
    // Starts from a medium are not counted, so a restart would only repeat the hang.
    if matches!(boot, Boot::Disk(_)) {
        watchdog::arm();
    }
    console::say("starting systemd");
    handover::exec_systemd(disk_boot::is_first(boot).then_some(disk_boot::FIRST_BOOT_TARGET))
}
