//! Releases that do not come up, in every way that a machine can tell apart: each time it goes back to the slot that was good,
//! without a hand, and says why. `make matrix` runs them on each firmware.

use crate::install::{INSTALLED, MOUNT_MEDIUM, SHORT};
use boot_contract::Milestone;
use harness::other_release::{self, OtherRelease};
use harness::world::World;
use qemu::disk::{Disk, GIB};
use qemu::firmware::Firmware;
use qemu::machine::{Drive, Machine, MachineSpec, Medium};
use serde_json::{Value, json};
use std::process::Command;

/// Slot B runs it early in each of its starts, if it is there.
const FAULT: &str = "/var/lib/fault";
/// Ends a trial after a minute in place of 20. No timer of systemd's: `systemd-run` waits for what has not started yet.
const END_SOON: &str = "setsid sh -c 'sleep 60; systemctl start ros-trial.service' < /dev/null > /dev/null 2>&1 &";

macro_rules! on_each_firmware {
    ($($test:ident { $uefi:ident $secure_boot:ident $bios:ident })*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $uefi() {
                $test(Firmware::Uefi).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn $secure_boot() {
                $test(Firmware::SecureBoot).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn $bios() {
                $test(Firmware::Bios).await;
            }
        )*
    };
}

on_each_firmware! {
    a_start_that_fails { matrix_a_start_fails_on_uefi matrix_a_start_fails_on_secure_boot matrix_a_start_fails_on_bios }
    a_release_is_damaged { matrix_damage_on_uefi matrix_damage_on_secure_boot matrix_damage_on_bios }
}

/// Each start of a trial fails in another way: the first process stops, there is no network, the kernel panics, a partition is
/// full.
async fn a_start_that_fails(firmware: Firmware) {
    let mut site = Site::installed("a-start-fails", firmware).await;
    // Without the first process nobody feeds the watchdog.
    let no_network = "mkdir -p /run/systemd/network; \
        printf '[Match]\\nName=en*\\n[Link]\\nActivationPolicy=always-down\\n' > /run/systemd/network/00-down.network";
    // systemd loads the module as well, perhaps later than this runs.
    let panic = "modprobe --quiet efi_pstore; echo c > /proc/sysrq-trigger";
    site.each_start_does(&["kill -SEGV 1", &format!("{no_network}; {END_SOON}"), panic]).await;
    site.upgrade("0.2.0", None).await;
    site.restart().await;
    let seen = [
        "ros-boot: starting B ",
        "Freezing execution",
        "ros-boot: starting B ",
        "slot B did not come up in time",
        "ros-boot: starting B ",
        "Kernel panic - not syncing: sysrq triggered crash",
        "ros-boot: slot B has used up its starts",
    ];
    site.sees(&seen).await;
    let failure = site.fell_back("0.2.0").await;
    assert_eq!(failure["stage"], "Systemd", "{failure}");
    if firmware != Firmware::Bios {
        let kept = failure["journal"][0].as_str().unwrap_or_default();
        assert!(kept.contains("Kernel panic - not syncing: sysrq triggered crash"), "{failure}");
    }

    let fill = format!("dd if=/dev/zero of=/var/lib/filling bs=1M 2> /dev/null; {END_SOON}");
    site.each_start_does(&[
        &fill,
        "rm /var/lib/filling; mkdir -p /etc/ros/health.d; \
        printf '#!/bin/sh\\necho closed\\nexit 99\\n' > /etc/ros/health.d/50-own; chmod 755 /etc/ros/health.d/50-own",
    ])
    .await;
    site.upgrade("0.3.0", None).await;
    site.restart().await;
    site.sees(&["slot B did not come up in time", "slot B has failed: the check 50-own failed: closed"]).await;
    let failure = site.fell_back("0.3.0").await;
    assert_eq!(failure["stage"], "Checks", "{failure}");
}

/// The slot holds other bytes than were written, or the release brings an initrd that is none.
async fn a_release_is_damaged(firmware: Firmware) {
    let mut site = Site::installed("damage", firmware).await;
    site.upgrade("0.2.0", None).await;
    site.root("printf damaged | dd of=/run/ros/dev/COS_STATE_B bs=1 seek=1040 conv=notrunc,fsync").await;
    site.restart().await;
    let used_up = "ros-boot: slot B has used up its starts";
    site.sees(&["dm-verity device corrupted", used_up]).await;
    assert_eq!(site.fell_back("0.2.0").await["stage"], "Grub");

    site.upgrade("0.3.0", None).await;
    // A changed kernel may hang where nobody checks it: on UEFI without Secure Boot it is cut off in place of that.
    let (damage, seen) = match firmware {
        Firmware::Uefi | Firmware::Uefi32 => ("truncate -s 1M $f", "ros-boot: "),
        Firmware::SecureBoot => ("printf damaged | dd of=$f bs=1M seek=1 conv=notrunc", "ros-boot: "),
        Firmware::Bios => ("printf damaged | dd of=$f bs=1M seek=1 conv=notrunc", "B/vmlinuz or B/initrd is damaged"),
    };
    site.root(&format!("mount /run/ros/dev/COS_BOOT /mnt; f=/mnt/B/vmlinuz; {damage}; sync; umount /mnt")).await;
    site.restart().await;
    site.sees(&[seen, used_up]).await;
    assert_eq!(site.fell_back("0.3.0").await["stage"], "Grub");

    site.upgrade("0.4.0", Some(&[0; 4096])).await;
    site.restart().await;
    site.sees(&["Kernel panic - not syncing", used_up]).await;
    assert_eq!(site.fell_back("0.4.0").await["stage"], "Grub");
}

/// A machine that was installed in slot A, and that can be given releases.
struct Site {
    world: World,
    machine: Machine,
    name: String,
}

impl Site {
    async fn installed(name: &str, firmware: Firmware) -> Self {
        let world =
            World::builder(&format!("{name}-{}", firmware.name()).to_lowercase()).unwrap().start().await.unwrap();
        let mut registration = world.example_registration().unwrap();
        let config = &mut registration["cloudConfig"];
        config["ssh_authorized_keys"] = json!([world.key.public]);
        let fault = format!("if grep -q ros.slot=B /proc/cmdline && [ -e {FAULT} ]; then sh {FAULT}; fi");
        config["bootcmd"] = json!([fault]);
        let medium = world.medium(registration).await.unwrap();
        let mut spec = MachineSpec::new(firmware, "FAILS-1");
        spec.disks.push(Disk::empty(world.path(), "root", 4 * GIB).unwrap());
        spec.medium = Some(Medium { file: medium, drive: Drive::Cd });
        let mut machine = world.machine(spec).await.unwrap();
        machine.power_on().await.unwrap();
        machine.wait_for_milestone(Milestone::Healthy, INSTALLED).await.unwrap();
        let [name] = <[String; 1]>::try_from(world.inventory_names().unwrap()).unwrap();
        Self { world, machine, name }
    }

    async fn root(&self, command: &str) -> String {
        self.world.key.run("root", self.machine.ssh_port(), command, SHORT).await.unwrap()
    }

    /// The next starts of slot B run these commands, one each.
    async fn each_start_does(&self, commands: &[&str]) {
        let cases: String =
            commands.iter().enumerate().map(|(number, command)| format!("{}) {command};;\n", number + 1)).collect();
        let script =
            format!("n=$(($(cat {FAULT}.starts) + 1)); echo $n > {FAULT}.starts; sync\ncase $n in\n{cases}esac\n");
        self.root(&format!("echo 0 > {FAULT}.starts; cat > {FAULT} <<'END'\n{script}END\nsync")).await;
    }

    /// Writes the release of the medium, under this name and perhaps with another initrd, to slot B.
    async fn upgrade(&self, version: &str, initrd: Option<&[u8]>) {
        let of = other_release::original();
        let folder = self.world.folder("releases").unwrap();
        OtherRelease { of: &of, version, initrd, mok_manager: None, signed_by: None }.image(&folder).unwrap();
        let release = folder.join(format!("release-{version}"));
        let packed = folder.join("changed.tar");
        // The files that are links here are those of the medium.
        let changed = Command::new("sh")
            .args(["-c", "cd \"$0\" && find . -type f -print0 | tar --create --null --files-from=- --file \"$1\""])
            .args([&release, &packed])
            .status();
        assert!(changed.unwrap().success());
        let take = format!(
            "{MOUNT_MEDIUM} && rm -rf /var/tmp/next && mkdir /var/tmp/next && cd /var/tmp/next && \
             ln -s /run/medium/release/* . && rm release.json && tar -xf - && ros-installer upgrade --release ."
        );
        let key = &self.world.key;
        key.run_with("root", self.machine.ssh_port(), &take, &packed, SHORT).await.unwrap();
    }

    async fn restart(&self) {
        // In the background, because the end of the connection would be an error.
        self.root("systemctl --no-block reboot").await;
    }

    /// Waits for these texts on the console, one after another.
    async fn sees(&mut self, texts: &[&str]) {
        for text in texts {
            self.machine.console().wait_for_text(text, INSTALLED).await.unwrap();
        }
    }

    /// Waits until slot A runs and is good. Gives the failure of this release as the inventory shows it.
    async fn fell_back(&mut self, version: &str) -> Value {
        self.sees(&["healthy: slot A is good"]).await;
        let reported = |inventory: &Value| inventory["status"]["os"]["lastFailure"]["version"] == version;
        let inventory = self.world.inventory_ready_and(&self.name, SHORT, reported).await.unwrap();
        let os = &inventory["status"]["os"];
        assert_eq!((&os["slot"], &os["version"]), (&json!("A"), &json!("0.1.0")), "{inventory}");
        let status = self.root("ros-installer status").await;
        assert!(status.contains(version) && status.contains("failed"), "{status}");
        println!("{version}: {}", os["lastFailure"]);
        os["lastFailure"].clone()
    }
}
