//! An installed system: a slot of a disk behind dm-verity, and the partitions beside it.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use boot_contract::boot_stage::{BOOT_ID, BootProgress, BootStage};
use boot_contract::{Slot, kernel_arguments, partition_label, paths};
use rustix::mount::MountFlags;

use crate::block::Partition;
use crate::boot::{Boot, DiskBoot};
use crate::console::say;
use crate::handover::NEW_ROOT;
use crate::modules::Modules;
use crate::mount::{create_directory, mount, overlay};
use crate::wait::wait_for;
use crate::{Result, device_mapper, etc, persist, repair};

/// The target in which a machine makes a system of its own of the disk image that it was made from.
pub const FIRST_BOOT_TARGET: &str = "ros-first-boot.target";

/// Whether this boot, whose root is mounted, is the first one of a disk image. A first boot that did not end is begun again.
pub fn is_first(boot: &Boot) -> bool {
    let Boot::Disk(disk) = boot else { return false };
    !disk.recovery && paths::below(Path::new(NEW_ROOT), paths::OEM_FIRST_BOOT).exists()
}

/// Mounts the root at `NEW_ROOT`, and the partitions of the same disk where the contract in `overlay/README.md`
/// says. The recovery system keeps changes in memory and tolerates broken partitions.
pub fn mount_root(disk: &DiskBoot, modules: &mut Modules) -> Result<()> {
    let slot = wait_for(&format!("the partition {} ({})", disk.root, kernel_arguments::ROOT), modules, || {
        Partition::find(&disk.root)
    })?;
    let root = device_mapper::open_verity("root", &slot.node, &disk.verity)?;
    say(&format!("root is {} on {}", root.display(), slot.node.display()));
    let partitions = slot.same_disk();
    link_partitions(&partitions)?;
    if disk.recovery {
        let image = &Path::new(paths::RUN).join("recovery/image");
        let memory = &Path::new(paths::RUN).join("recovery/memory");
        mount(&root, image, "erofs", MountFlags::RDONLY, "")?;
        mount("tmpfs", memory, "tmpfs", MountFlags::empty(), "mode=0755,size=50%")?;
        overlay(image, memory, Path::new(NEW_ROOT))?;
        let oem = mount_oem(&partitions);
        let persistent = mount_persistent(&partitions);
        let identity = persist::bind_identity(Path::new(NEW_ROOT), Path::new(paths::PERSISTENT));
        for failed in [oem, persistent, identity].into_iter().filter_map(Result::err) {
            say(&format!("recovery continues without it: {failed}"));
        }
        return Ok(());
    }
    mount(&root, NEW_ROOT, "erofs", MountFlags::RDONLY, "")?;
    let temporary = Path::new(NEW_ROOT).join("tmp");
    mount("tmpfs", temporary, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, "mode=1777,size=50%,nr_inodes=1m")?;
    mount_oem(&partitions)?;
    mount_persistent(&partitions)?;
    etc::make_writable(Path::new(NEW_ROOT))?;
    persist::bind_all(Path::new(NEW_ROOT), Path::new(paths::PERSISTENT))?;
    if let Some(slot) = disk.slot {
        record_progress(slot);
    }
    Ok(())
}

/// Tells the system to which the machine may fall back that this start got here. A failure is only said, because the
/// start is more important than its record.
fn record_progress(slot: Slot) {
    let boot_id = fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned();
    let progress = BootProgress { stage: BootStage::Root, boot_id, message: String::new() };
    let path = Path::new(paths::PERSISTENT).join(BootProgress::file(slot));
    if let Err(error) = write_to_disk(&path, &progress.to_text()) {
        say(&format!("the progress of this start is not recorded: {error}"));
    }
}

fn write_to_disk(path: &Path, text: &str) -> std::io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    let mut file = fs::File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn mount_oem(partitions: &[Partition]) -> Result<()> {
    let target = paths::below(Path::new(NEW_ROOT), paths::OEM);
    mount_ext4(
        node(partitions, partition_label::OEM)?,
        &target,
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME,
    )?;
    // The folder holds registration settings and a cloud-config with secrets.
    fs::set_permissions(&target, Permissions::from_mode(0o700))
        .map_err(|e| format!("setting the permissions of {}: {e}", target.display()))
}

fn mount_persistent(partitions: &[Partition]) -> Result<()> {
    mount_ext4(node(partitions, partition_label::PERSISTENT)?, Path::new(paths::PERSISTENT), MountFlags::NOATIME)
}

/// Mounts an ext4 file system. If that fails, repairs it with `e2fsck -p` of the root image and mounts it again.
fn mount_ext4(node: &Path, target: &Path, flags: MountFlags) -> Result<()> {
    let Err(error) = mount(node, target, "ext4", flags, "") else { return Ok(()) };
    say(&format!("{error}; repairing it with e2fsck"));
    repair::ext4(Path::new(NEW_ROOT), node)?;
    mount(node, target, "ext4", flags, "")
}

fn node<'a>(partitions: &'a [Partition], label: &str) -> Result<&'a PathBuf> {
    let found = partitions.iter().find(|partition| partition.label.as_deref() == Some(label));
    found.map(|partition| &partition.node).ok_or_else(|| {
        format!(
            "the disk of the root slot has no partition with the label {label}; restore the partition table, or \
             install again from a medium"
        )
    })
}

/// Makes a link `/run/ros/dev/<label>` for each labelled partition. The links always lead to the boot disk, whatever
/// other disks the machine has.
fn link_partitions(partitions: &[Partition]) -> Result<()> {
    let folder = Path::new(paths::DEVICES);
    create_directory(folder)?;
    for partition in partitions {
        let Some(label) = &partition.label else { continue };
        let link = folder.join(label);
        match symlink(&partition.node, &link) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                say(&format!("the disk has two partitions with the label {label}; the first one is used"));
            }
            Err(e) => return Err(format!("linking {}: {e}", link.display())),
        }
    }
    Ok(())
}
