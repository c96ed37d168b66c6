//! A release whose health check says that it will not come up: the machine goes back by itself and tells why. Then the
//! recovery system, which was damaged, is made anew from the running one.

use super::{INSTALLED, SHORT};
use harness::world::World;
use qemu::disk::Disk;
use qemu::machine::Machine;
use qemu::wait::{Poll, until};
use serde_json::{Value, json};

/// While this file is on the machine, the check fails in slot B.
const CLOSED: &str = "/var/lib/shop-is-closed";

/// Mounts the CD in the drive of the installed machine.
pub const MOUNT_MEDIUM: &str = "mkdir -p /run/medium && { mountpoint -q /run/medium || \
    mount -o ro \"$(blkid -o device -t TYPE=iso9660 | head -n 1)\" /run/medium; }";

/// The check for the registration's cloud-config.
pub(super) fn check() -> Value {
    json!({
        "path": "/etc/ros/health.d/50-shop",
        "permissions": "0755",
        "content": format!(
            "#!/bin/sh\ngrep -q ros.slot=A /proc/cmdline && exit 0\n[ -e {CLOSED} ] || exit 0\necho the shop is closed\nexit 99\n"
        ),
    })
}

/// Makes slot A, which is good and has its medium in the drive, what an upgrade leaves: it holds the GRUB of its release. The
/// one that the BIOS starts is made another one. The next start of the slot brings that of the release.
pub(super) async fn slot_a_brings_its_grub(world: &World, machine: &Machine) {
    let command = format!(
        "{MOUNT_MEDIUM} && mount /run/ros/dev/COS_BOOT /mnt && cp /run/medium/release/boot/boot.img \
         /run/medium/release/boot/core.img /mnt/A && sync && umount /mnt && \
         echo | dd of=/run/ros/dev/COS_BIOS bs=1 conv=notrunc,fsync seek=$(stat -c %s /run/medium/release/boot/core.img)"
    );
    root(world, machine, &command).await;
}

/// The BIOS starts GRUB from the second half of COS_BIOS.
pub(super) fn the_bios_starts_grub_from_its_other_place(disk: &Disk) {
    let half = disk.partition("COS_BIOS").unwrap().unwrap() + (512 << 10);
    assert_eq!(disk.read_at(0x5c, 8).unwrap(), (half / 512).to_le_bytes());
}

/// The machine runs slot A, which is good, and has its medium in the drive. It restarts twice.
pub(super) async fn a_failing_check_falls_back(world: &World, machine: &mut Machine) {
    let other_release = format!(
        "touch {CLOSED}; {MOUNT_MEDIUM} && mkdir /var/tmp/next && cd /var/tmp/next && \
         ln -s /run/medium/release/* . && rm release.json && \
         sed -E 's/(\"version\": ?)\"[^\"]+\"/\\1\"0.2.0\"/' /run/medium/release/release.json > release.json && \
         ros-installer upgrade --release . --reboot"
    );
    root(world, machine, &other_release).await;
    let console = machine.console();
    console.wait_for_text("slot B has failed: the check 50-shop failed: the shop is closed", INSTALLED).await.unwrap();
    console.wait_for_text("healthy: slot A is good", INSTALLED).await.unwrap();
    let failure = until("the report of the failure", SHORT, async || {
        let [inventory] = <[Value; 1]>::try_from(world.inventories()?).map_err(|_| anyhow::anyhow!("not one"))?;
        let failure = inventory["status"]["os"]["lastFailure"].clone();
        Ok(if failure.is_object() { Poll::Ready(failure) } else { Poll::Pending("none".to_owned()) })
    });
    let failure = failure.await.unwrap();
    assert_eq!((&failure["version"], &failure["stage"]), (&"0.2.0".into(), &"Checks".into()), "{failure}");
    assert!(failure["message"].as_str().unwrap().contains("the shop is closed"), "{failure}");
}

/// Damages the recovery system and makes it anew. A reset, which needs it, follows.
pub(super) async fn the_recovery_system_is_made_anew(world: &World, machine: &Machine) {
    let damage = "mount /run/ros/dev/COS_BOOT /mnt && echo damaged > /mnt/R/initrd && sync && umount /mnt";
    root(world, machine, damage).await;
    let checked = root(world, machine, "ros-installer upgrade --recovery --check").await;
    assert!(checked.contains("would become the recovery system"), "{checked}");
    let written =
        root(world, machine, "ros-installer upgrade --recovery 2>&1; ros-installer upgrade --recovery 2>&1").await;
    assert!(written.contains("read back in"), "{written}");
    assert!(written.contains("is the recovery system already"), "{written}");
}

async fn root(world: &World, machine: &Machine, command: &str) -> String {
    world.key.run("root", machine.ssh_port(), command, SHORT).await.unwrap()
}
