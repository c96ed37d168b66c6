//! An installation without a person: from an empty disk to a machine that reports, on each firmware.

mod container;
mod fallback;
mod upgrade;

use crate::power_cut;
use api::{Phase, condition_type, reason};
use boot_contract::boot_state::{SlotBoot, SlotState};
use boot_contract::{BootState, Milestone};
pub use fallback::MOUNT_MEDIUM;
use harness::objects::condition;
use harness::world::{USER, World};
use qemu::disk::{Disk, GIB};
use qemu::firmware::Firmware;
use qemu::machine::{BootFirst, Drive, Machine, MachineSpec, Medium};
use qemu::paths;
use qemu::process::printed;
use qemu::timeline::timeline;
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use upgrade::Releases;

/// A busy host takes several times as long as an idle one.
pub const INSTALLED: Duration = Duration::from_secs(900);
pub const SHORT: Duration = Duration::from_secs(300);

/// Waits until the machine, the only one of the world, is healthy and its inventory ready. Gives the inventory.
pub async fn becomes_ready(world: &World, machine: &mut Machine) -> Value {
    machine.wait_for_milestone(Milestone::Healthy, INSTALLED).await.unwrap();
    let [name] = <[String; 1]>::try_from(world.inventory_names().unwrap()).unwrap();
    world.inventory_in_phase(&name, Phase::Ready, SHORT).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_installs_on_uefi_from_a_cd() {
    installs(Firmware::Uefi, Drive::Cd, BootFirst::Disk, &paths::iso().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_installs_on_secure_boot_from_a_disk() {
    installs(Firmware::SecureBoot, Drive::Disk, BootFirst::Disk, &paths::iso().unwrap()).await;
}

/// The firmware always starts the medium, so the medium must start the disk's kernel each time.
#[tokio::test(flavor = "multi_thread")]
async fn vm_installs_on_bios_from_a_cd_that_stays_first() {
    installs(Firmware::Bios, Drive::Cd, BootFirst::Medium, &paths::iso().unwrap()).await;
}

/// With the kernel for real hardware: its drivers for disk, network and crypto are modules.
#[tokio::test(flavor = "multi_thread")]
async fn vm_installs_on_uefi_from_a_usb_stick() {
    installs(Firmware::Uefi, Drive::UsbStick, BootFirst::Disk, &paths::hardware_iso().unwrap()).await;
}

/// The combinations that `make test` has no time for: `make matrix`.
mod matrix {
    use super::{BootFirst, Drive, Firmware, installs, paths};

    macro_rules! combinations {
        ($($name:ident: $firmware:ident, $drive:ident, $first:ident;)*) => {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    installs(Firmware::$firmware, Drive::$drive, BootFirst::$first, &paths::iso().unwrap()).await;
                }
            )*
        };
    }

    // No BIOS with an empty disk before a stick: SeaBIOS tries only the first hard disk, and a stick is a hard disk.
    combinations! {
        matrix_bios_disk_before_cd: Bios, Cd, Disk;
        matrix_bios_stick_before_disk: Bios, Disk, Medium;
        matrix_uefi_disk_before_stick: Uefi, Disk, Disk;
        matrix_uefi_cd_before_disk: Uefi, Cd, Medium;
        matrix_uefi_stick_before_disk: Uefi, Disk, Medium;
        matrix_secure_boot_disk_before_cd: SecureBoot, Cd, Disk;
        matrix_secure_boot_cd_before_disk: SecureBoot, Cd, Medium;
        matrix_secure_boot_stick_before_disk: SecureBoot, Disk, Medium;
        matrix_secure_boot_cd_alone: SecureBoot, Cd, MediumAlone;
        matrix_uefi_stick_alone: Uefi, Disk, MediumAlone;
    }
}

async fn installs(firmware: Firmware, drive: Drive, first: BootFirst, iso: &Path) {
    let name = format!("install-{}-{drive:?}-{first:?}", firmware.name()).to_lowercase();
    let world = World::builder(&name).unwrap().start().await.unwrap();
    let mut registration = world.example_registration().unwrap();
    // Only root may switch the machine off.
    registration["cloudConfig"]["ssh_authorized_keys"] = json!([world.key.public]);
    registration["cloudConfig"]["rancherd"] = json!({"role": "server", "labels": ["from=registration"]});
    registration["cloudConfig"]["write_files"].as_array_mut().unwrap().push(fallback::check());
    // Even with this, a medium that stays in its drive must not install a second time.
    registration["cloudConfig"]["rancheros"] = json!({"install": {"wipe": true}});
    // One combination suffices for what differs between no two of them.
    let upgrades = firmware == Firmware::Uefi && drive == Drive::Cd && first == BootFirst::Disk;
    let releases = if upgrades { Some(Releases::new(&world).await) } else { None };
    if let Some(releases) = &releases {
        releases.add_to(&mut registration);
    }
    let medium = world.medium_from(iso, registration).await.unwrap();
    if let Some(releases) = &releases {
        releases.adopt(&world);
    }
    let mut spec = MachineSpec::new(firmware, "INSTALL-7");
    if drive == Drive::UsbStick {
        // One test has more than one processor, as real hardware has.
        spec.processors = 2;
    }
    spec.first = first;
    let mut disk = Disk::empty(world.path(), "root", 4 * GIB).unwrap();
    let renews_grub = firmware == Firmware::Bios && first != BootFirst::Disk;
    let is_recorded = upgrades || (renews_grub && power_cut::keeps());
    if is_recorded {
        disk = disk.recorded().unwrap();
    }
    spec.disks.push(disk.clone());
    spec.medium = Some(Medium { file: medium, drive });
    // Elsewhere the kernel's own watchdog is used.
    spec.watchdog = firmware == Firmware::Bios;
    let mut machine = world.machine(spec).await.unwrap();
    machine.power_on().await.unwrap();
    machine.wait_for_milestone(Milestone::Booted, INSTALLED).await.unwrap();

    let facts = "hostname; cat /etc/motd; cat /var/lib/installed-at; cat /proc/cmdline";
    let facts = world.key.run(USER, machine.ssh_port(), facts, SHORT).await.unwrap();
    let lines: Vec<&str> = facts.lines().collect();
    let machines = world.inventory_names().unwrap();
    assert_eq!(lines[..2], [machines[0].as_str(), "Installed without touching it."], "{facts}");
    let installed_at = lines[2].to_owned();
    assert!(lines[2].starts_with("installed at 2"), "{facts}");
    assert!(lines[3].contains("ros.mode=system ros.slot=A"), "{facts}");
    let watchdog =
        "cat /sys/class/watchdog/watchdog0/identity /sys/class/watchdog/watchdog0/state; wdctl /dev/watchdog0";
    let watchdog = world.key.run("root", machine.ssh_port(), watchdog, SHORT).await.unwrap();
    let expected = match drive {
        _ if machine.spec.watchdog => "i6300ESB timer\nactive",
        // Only the kernel for real hardware has the driver of the chipset's.
        Drive::UsbStick => "iTCO_wdt\nactive",
        Drive::Cd | Drive::Disk => "Software Watchdog\nactive",
    };
    assert!(watchdog.starts_with(expected), "{watchdog}");
    let armed = machine.console().lines().iter().any(|line| line.text.contains("the watchdog is armed"));
    assert!(armed, "by the initrd");

    assert!(machines.len() == 1 && machines[0].starts_with("edge-install-7-"), "{machines:?}");
    let inventory = world.inventory_in_phase(&machines[0], Phase::Ready, SHORT).await.unwrap();
    assert_eq!(inventory["metadata"]["labels"]["site"], "example");
    assert_eq!(inventory["metadata"]["labels"]["manufacturer"], "Example-Systems");
    assert_eq!(inventory["status"]["os"]["slot"], "A");
    let expected = match firmware {
        Firmware::Bios => json!({"kind": "BIOS"}),
        Firmware::Uefi | Firmware::Uefi32 => json!({"kind": "UEFI", "secureBoot": false}),
        Firmware::SecureBoot => json!({"kind": "UEFI", "secureBoot": true}),
    };
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&inventory["status"]["hardware"]["firmware"][field], value, "{}", inventory["status"]);
    }
    a_change_of_its_inventory_reaches_the_machine(&world, &machine, &machines[0]).await;
    if let Some(releases) = &releases {
        let release = iso.with_file_name("release");
        releases.upgrade_and_fall_back(&world, &mut machine, &machines[0], &release).await;
        if power_cut::keeps() {
            asks_for_a_reinstallation(&world, &mut machine, &machines[0], "for the recording").await;
            machine.console().wait_for_text("healthy: slot A is good", INSTALLED).await.unwrap();
            is_done(&world, &machines[0], condition_type::REINSTALL).await;
        }
    }
    // With the firmware that checks the signature of what the release brings.
    if firmware == Firmware::SecureBoot && drive == Drive::Cd && first == BootFirst::Disk {
        let image = iso.with_file_name("ros-0.1.0.oci.tar");
        container::upgrades_its_host(&world, &mut machine, &machines[0], &image).await;
    }
    if renews_grub {
        fallback::slot_a_brings_its_grub(&world, &machine).await;
    }
    if first != BootFirst::Disk {
        restarts_start_the_disk(&world, &mut machine, &machines[0], &installed_at).await;
    }
    for (name, at) in timeline(&machine.console().lines()) {
        println!("{name:<11}{:7.1}", at.as_secs_f64());
    }

    let identity = identity(&world, &machine).await;
    // The command runs in the background, because the end of the connection would be an error.
    let port = machine.ssh_port();
    world.key.run("root", port, "systemctl --no-block poweroff", SHORT).await.unwrap();
    machine.wait_for_power_off(SHORT).await.unwrap();
    the_slot_holds_the_released_root(&disk, &iso.with_file_name("release"));
    other_tools_find_nothing_wrong(&disk, world.path());
    if renews_grub {
        fallback::the_bios_starts_grub_from_its_other_place(&disk);
    }
    if is_recorded {
        let root = iso.with_file_name("release").join("root.erofs");
        let broken = if upgrades { "0.3.0" } else { "0.2.0" };
        power_cut::survives(&mut machine, world.path(), &disk, &root, &[broken]).await.unwrap();
        // QEMU adds nothing to a log that is there.
        machine.spec.disks = vec![Disk { log: None, ..disk.clone() }];
    }
    // Only with the firmware that starts quickest, because this takes eight starts.
    if firmware == Firmware::Bios {
        machine.spec.first = BootFirst::Disk;
        a_damaged_slot_ends_in_recovery(&world, &mut machine, &machines[0], &identity).await;
        recovery_installs_again(&world, &mut machine, &machines[0], &identity, &installed_at).await;
        fallback::the_recovery_system_is_made_anew(&world, &machine).await;
        a_reset_forgets_data_and_settings(&world, &mut machine, &machines[0], &identity).await;
    }
}

async fn identity(world: &World, machine: &Machine) -> String {
    let command = "cat /etc/machine-id /etc/ssh/host-keys/*.pub";
    world.key.run("root", machine.ssh_port(), command, SHORT).await.unwrap()
}

/// Changes one byte in the root of a slot that was good. The machine must start the recovery slot when the slot has used up
/// its starts, of which it is left two.
async fn a_damaged_slot_ends_in_recovery(world: &World, machine: &mut Machine, name: &str, known: &str) {
    let disk = machine.spec.disks[0].clone();
    let byte = disk.partition("COS_STATE_A").unwrap().unwrap() + 1040;
    let right = disk.read_at(byte, 1).unwrap()[0];
    disk.write_at(byte, &[right ^ 1]).unwrap();
    leave_starts_of_a(&disk, world.path(), 2);
    machine.power_on().await.unwrap();
    let console = machine.console();
    console.wait_for_text("ros-boot: slot A has used up its starts", INSTALLED).await.unwrap();
    let starts = console.lines().iter().filter(|line| line.text.contains("ros-boot: starting A ")).count();
    assert_eq!(starts, 2);

    let inventory = world.inventory_in_phase(name, Phase::Booted, INSTALLED).await.unwrap();
    assert_eq!(inventory["status"]["os"]["slot"], "Recovery");
    let ready = condition(&inventory, condition_type::READY);
    assert_eq!(ready["status"], "False");
    let root = async |command: &str| world.key.run("root", machine.ssh_port(), command, SHORT).await.unwrap();
    let status = root("ros-installer status").await;
    for told in [ready["message"].as_str().unwrap(), &status] {
        assert!(told.contains("slot A") && told.contains("root image"), "{told}");
    }
    assert_eq!(identity(world, machine).await, known, "machine-id and host keys");
    let chosen = root("ros-installer boot A").await;
    assert!(chosen.contains("slot A is started next, up to 3 times"), "{chosen}");
}

/// The machine is off. Five starts would take longer, and `boot_menu` counts all of them.
fn leave_starts_of_a(disk: &Disk, folder: &Path, left: u8) {
    const STATE: &str = "::/grub/grubenv";
    let boot = format!("{}@@{}", disk.file.display(), disk.partition("COS_BOOT").unwrap().unwrap());
    let block = Command::new("mtype").args(["-i", &boot, STATE]).output().unwrap();
    let mut state = BootState::parse(&block.stdout).unwrap();
    assert_eq!(state.a, SlotBoot::new(SlotState::Good));
    state.a.left = left;
    let file = folder.join("grubenv");
    fs::write(&file, state.to_bytes()).unwrap();
    let copied = Command::new("mcopy").args(["-o", "-i", &boot]).arg(&file).arg(STATE).status().unwrap();
    assert!(copied.success());
}

/// Requests a reinstallation in the cluster, and waits until the machine restarts for it.
async fn asks_for_a_reinstallation(world: &World, machine: &mut Machine, name: &str, request: &str) {
    world.patch_inventory(name, &json!({"reinstall": request})).unwrap();
    let port = machine.ssh_port();
    let console = machine.console();
    until("the machine to take the request", SHORT, async || {
        // An error is expected: the restart ends the connection.
        let _ = world.key.run("root", port, "systemctl start ros-report.service", SHORT).await;
        let taken =
            console.lines().iter().any(|line| line.text.contains("ros-installer: rebooting: into the recovery"));
        Ok(if taken { Poll::Ready(()) } else { Poll::Pending("it was not told yet".to_owned()) })
    })
    .await
    .unwrap();
}

/// A reinstallation without a medium. The slot is damaged, and the power is cut meanwhile.
async fn recovery_installs_again(world: &World, machine: &mut Machine, name: &str, known: &str, installed_at: &str) {
    asks_for_a_reinstallation(world, machine, name, "slot A is damaged").await;
    machine.console().wait_for_text("ros-installer: planned: release", INSTALLED).await.unwrap();
    machine.cut_power();
    machine.power_on().await.unwrap();
    machine.wait_for_milestone(Milestone::Healthy, INSTALLED).await.unwrap();
    let inventory = world.inventory_in_phase(name, Phase::Ready, INSTALLED).await.unwrap();
    assert_eq!(inventory["status"]["os"]["slot"], "A");
    assert_eq!(identity(world, machine).await, known, "machine-id and host keys");
    let made = world.key.run(USER, machine.ssh_port(), "cat /var/lib/installed-at", SHORT).await.unwrap();
    assert_ne!(made.trim(), installed_at, "COS_PERSISTENT is as it was");
    is_done(world, name, condition_type::REINSTALL).await;
}

/// The request in the inventory, and the machine that has carried it out and is ready.
async fn is_done(world: &World, name: &str, type_: &str) {
    let done = until("the request to be done", SHORT, async || {
        let inventory = world.inventory_in_phase(name, Phase::Ready, SHORT).await?;
        let asked = condition(&inventory, type_);
        Ok(if asked["status"] == "False" { Poll::Ready(asked) } else { Poll::Pending(asked.to_string()) })
    });
    assert_eq!(done.await.unwrap()["reason"], reason::REQUEST_DONE);
}

/// A reset of everything. The machine runs the same slot, knows its operator, has its host keys, and lets nobody in, because
/// its accounts came with the cloud-config.
async fn a_reset_forgets_data_and_settings(world: &World, machine: &mut Machine, name: &str, known: &str) {
    let port = machine.ssh_port();
    let began = machine.console().lines().len();
    world.patch_inventory(name, &json!({"reset": {"scope": "All", "request": "sold"}})).unwrap();
    world.inventory_condition(name, condition_type::RESET, reason::REQUESTED).await.unwrap();
    world.key.run("root", port, "systemctl start --no-block ros-report.service", SHORT).await.unwrap();
    let console = machine.console();
    console.wait_for_text("planned: to erase COS_PERSISTENT and the settings on COS_OEM", INSTALLED).await.unwrap();
    console.wait_for_text("healthy: slot A is good", INSTALLED).await.unwrap();
    is_done(world, name, condition_type::RESET).await;
    let lines = console.lines();
    let installed = lines[began..].iter().any(|line| line.text.contains("ros-installer: planned: release"));
    assert!(!installed, "slot A was written");
    let login = world.key.login(USER, port);
    let refused = Command::new(&login[0]).args(["-o", "BatchMode=yes"]).args(&login[1..]).arg("true").output().unwrap();
    assert!(printed(&refused).contains("Permission denied"), "{}", printed(&refused));
    let keys =
        Command::new("ssh-keyscan").args(["-t", "ed25519", "-p", &port.to_string(), "127.0.0.1"]).output().unwrap();
    let keys = String::from_utf8(keys.stdout).unwrap();
    let key = keys.split_whitespace().nth(2).unwrap_or_default();
    assert!(!key.is_empty() && known.contains(key), "the host key is another one: {keys}");
}

/// Restarts twice, into a release that fails and out of it. The restart at the end of the installation was the first one.
async fn restarts_start_the_disk(world: &World, machine: &mut Machine, name: &str, installed_at: &str) {
    fallback::a_failing_check_falls_back(world, machine).await;
    let kept = world.key.run(USER, machine.ssh_port(), "cat /var/lib/installed-at", SHORT).await.unwrap();
    assert_eq!(kept.trim(), installed_at);
    world.inventory_in_phase(name, Phase::Ready, SHORT).await.unwrap();
    let lines = machine.console().lines();
    let told = |milestone: Milestone| lines.iter().filter(|line| milestone.text_in(&line.text).is_some()).count();
    assert_eq!((told(Milestone::Planned), told(Milestone::Registered)), (1, 1), "one installation, one registration");
    assert_eq!(world.inventory_names().unwrap().len(), 1);
}

/// The change arrives with the next report. The test starts that report at once.
async fn a_change_of_its_inventory_reaches_the_machine(world: &World, machine: &Machine, name: &str) {
    let root = async |command: &str| world.key.run("root", machine.ssh_port(), command, SHORT).await;
    let configuration = async || -> anyhow::Result<Value> {
        let text = root("systemctl start ros-report.service; cat /etc/rancher/rancherd/config.yaml").await?;
        Ok(serde_yaml::from_str(&text)?)
    };
    assert_eq!(configuration().await.unwrap()["role"], "server");
    let agent = json!({"config": {"role": "agent", "token": "joins-the-cluster"}});
    world.patch_inventory(name, &agent).unwrap();
    let changed = until("the new role in rancherd's configuration", SHORT, async || {
        let written = configuration().await?;
        let agent = written["role"] == "agent";
        Ok(if agent { Poll::Ready(written) } else { Poll::Pending("the role it had".to_owned()) })
    });
    let changed = changed.await.unwrap();
    assert_eq!(changed["token"], "joins-the-cluster");
    assert_eq!(changed["labels"], json!(["from=registration"]));
    let journal = root("journalctl --boot --unit ros-report.service --output cat").await.unwrap();
    assert!(journal.contains("role") && !journal.contains("joins-the-cluster"), "{journal}");
}

/// Needs a machine that was shut down, because after a power cut there is a journal to replay.
fn other_tools_find_nothing_wrong(disk: &Disk, folder: &Path) {
    let check = |program: &str, arguments: &[&str], file: &Path| {
        let output = Command::new(program).args(arguments).arg(file).output().unwrap();
        assert!(output.status.success(), "{program} {}: {}", file.display(), printed(&output));
        printed(&output)
    };
    let table = check("sgdisk", &["--verify"], &disk.file);
    assert!(table.contains("No problems found"), "{table}");
    let partition = |label: &str| disk.extract(label, folder).unwrap();
    check("fsck.vfat", &["-n"], &partition("COS_BOOT"));
    check("e2fsck", &["-f", "-n"], &partition("COS_OEM"));
    check("e2fsck", &["-f", "-n"], &partition("COS_PERSISTENT"));
}

/// Slot A and recovery hold the root image of the release, byte for byte.
fn the_slot_holds_the_released_root(disk: &Disk, release: &Path) {
    let root = fs::read(release.join("root.erofs")).unwrap();
    let manifest: Value = serde_json::from_slice(&fs::read(release.join("release.json")).unwrap()).unwrap();
    for label in ["COS_STATE_A", "COS_RECOVERY"] {
        let start = disk.partition(label).unwrap().unwrap();
        assert!(disk.read_at(start, root.len()).unwrap() == root, "{label} differs; release: {manifest}");
    }
}
