//! Machines that are made from a disk image: each is its own from its first boot on, and its disk may grow.

use crate::install::{INSTALLED, SHORT, becomes_ready};
use crate::power_cut;
use anyhow::{Context, Result, ensure};
use boot_contract::Milestone;
use boot_contract::disk_image::{SETTINGS_BYTES, SETTINGS_OFFSET};
use harness::world::{USER, World};
use qemu::disk::{Disk, GIB};
use qemu::firmware::Firmware;
use qemu::machine::{Drive, Machine, MachineSpec, Medium};
use qemu::paths;
use qemu::wait::{Poll, until};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Only the GRUB that we make ourselves starts this one.
#[tokio::test(flavor = "multi_thread")]
async fn vm_starts_from_a_raw_image_on_bios() {
    becomes_its_own(Firmware::Bios, "raw", Settings::InImage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn matrix_disk_image_qcow2_on_secure_boot() {
    becomes_its_own(Firmware::SecureBoot, "qcow2", Settings::InImage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn matrix_disk_image_with_nocloud_on_uefi() {
    becomes_its_own(Firmware::Uefi, "raw", Settings::NoCloud).await;
}

/// Where the machine finds its registration.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Settings {
    InImage,
    /// On a volume beside the disk. The image is as it was built.
    NoCloud,
}

async fn becomes_its_own(firmware: Firmware, format: &str, settings: Settings) {
    let name = format!("disk-image-{}-{format}", firmware.name()).to_lowercase();
    let world = World::builder(&name).unwrap().start().await.unwrap();
    let mut registration = world.example_registration().unwrap();
    registration["cloudConfig"]["ssh_authorized_keys"] = json!([world.key.public]);
    if settings == Settings::NoCloud {
        // The address that SSH is forwarded to, with another prefix than DHCP gives, by which the machine registers.
        let lan = json!({"match": {"name": "en*"}, "addresses": ["10.0.2.15/25"], "gateway4": "10.0.2.2"});
        registration["cloudConfig"]["network"] = json!({"version": 2, "ethernets": {"lan": lan}});
    }
    let built = paths::disk_image(format).unwrap();
    let mut image = world.medium_from(&built, registration).await.unwrap();
    let mut medium = None;
    if settings == Settings::NoCloud {
        let registration = image.with_file_name("registration.yaml");
        medium = Some(Medium { file: nocloud(world.path(), &registration).unwrap(), drive: Drive::Cd });
        fs::remove_file(&image).unwrap();
        image = world.path().join("built.raw");
        to_raw(&built, &image).unwrap();
    }
    let of_image = world.path().join("image.raw");
    to_raw(&image, &of_image).unwrap();
    let mut disk = Disk::of_image(&image, "root", 8 * GIB).unwrap();
    // One combination suffices: what is written does not depend on the firmware.
    let is_recorded = firmware == Firmware::Bios;
    if is_recorded {
        disk = disk.recorded().unwrap();
    }
    let mut spec = MachineSpec::new(firmware, "IMAGE-1");
    spec.disks.push(disk.clone());
    spec.medium = medium;
    let mut machine = world.machine(spec).await.unwrap();
    machine.power_on().await.unwrap();
    let inventory = becomes_ready(&world, &mut machine).await["metadata"]["name"].as_str().unwrap().to_owned();
    let hostname = world.key.run(USER, machine.ssh_port(), "hostname", SHORT).await.unwrap();
    assert_eq!(hostname.trim(), inventory, "the cloud-config of the operator was applied");
    let before = facts(&world, &machine).await.unwrap();
    assert!(before.persistent_bytes > 6 * GIB, "{before:?}");
    what_comes_during_a_report_is_told_by_another(&world, &machine).await;

    if settings == Settings::NoCloud {
        let addresses = "ip -4 -oneline address show scope global";
        let addresses = world.key.run("root", machine.ssh_port(), addresses, SHORT).await.unwrap();
        assert!(addresses.contains("10.0.2.15/25") && !addresses.contains("dynamic"), "{addresses}");
    }

    // Neither the new identifiers nor a disk that grows again keep the machine from starting.
    shut_down(&world, &mut machine).await.unwrap();
    disk.enlarge(12 * GIB).unwrap();
    machine.power_on().await.unwrap();
    machine.wait_for_milestone(Milestone::Healthy, INSTALLED).await.unwrap();
    let after = facts(&world, &machine).await.unwrap();
    assert!(after.persistent_bytes > 10 * GIB, "{after:?}");
    assert_eq!(after.identifiers, before.identifiers);
    assert_eq!(world.inventory_names().unwrap(), [inventory], "it registered once");
    shut_down(&world, &mut machine).await.unwrap();

    if is_recorded {
        let root = paths::output().join("image/release/root.erofs");
        power_cut::survives_on_image(&of_image, &disk, 12 * GIB, &root).unwrap();
    }
    let own = world.path().join("own.raw");
    to_raw(&image, &own).unwrap();
    let (image, own) = (identifiers(&of_image).unwrap(), identifiers(&own).unwrap());
    assert_eq!((image.len(), own.len()), (11, 11), "a disk, seven partitions, three file systems");
    assert_eq!(image.intersection(&own).collect::<Vec<_>>(), [] as [&String; 0]);
    let settings = Disk::of_image(&world.path().join("own.raw"), "own", 12 * GIB).unwrap();
    let settings = settings.read_at(SETTINGS_OFFSET, SETTINGS_BYTES).unwrap();
    assert!(settings.iter().all(|byte| *byte == 0), "the token is still in front of the partitions");
}

/// The slot may become good while a report is under way that says it is on trial.
async fn what_comes_during_a_report_is_told_by_another(world: &World, machine: &Machine) {
    let script = "cd /run/ros; touch report-due; timeout 60 sh -c 'while [ -e report-due ]; do sleep 0.1; done'; \
                  touch report-due; systemctl show --value -p ActiveState -p InvocationID ros-report.service";
    let under_way = world.key.run("root", machine.ssh_port(), script, SHORT).await.unwrap();
    let lines: Vec<&str> = under_way.split_whitespace().collect();
    let ["active", invocation] = lines[..] else { panic!("a report is not under way: {under_way}") };
    until("another report", SHORT, async || {
        let script = "systemctl show --value -p InvocationID ros-report.service; ls /run/ros";
        let now = world.key.run("root", machine.ssh_port(), script, SHORT).await?;
        let done = !now.starts_with(invocation) && !now.contains("report-due");
        Ok(if done { Poll::Ready(()) } else { Poll::Pending(now) })
    })
    .await
    .unwrap();
}

/// A volume that has the registration as its user data.
fn nocloud(folder: &Path, registration: &Path) -> Result<PathBuf> {
    let files = folder.join("nocloud");
    fs::create_dir(&files)?;
    let registration = fs::read_to_string(registration).context("reading the registration")?;
    fs::write(files.join("user-data"), format!("#cloud-config\n{registration}"))?;
    fs::write(files.join("meta-data"), "instance-id: i-1\n")?;
    let volume = folder.join("nocloud.iso");
    let [from, to] = [&files, &volume].map(|path| path.to_string_lossy().into_owned());
    run("xorriso", &["-as", "mkisofs", "-quiet", "-volid", "cidata", "-joliet", "-rock", "-o", &to, &from])?;
    Ok(volume)
}

#[derive(Debug)]
struct Facts {
    persistent_bytes: u64,
    /// Of machine and host key.
    identifiers: String,
}

async fn facts(world: &World, machine: &Machine) -> Result<Facts> {
    let command = "df --block-size=1 --output=size /var | tail -n 1; cat /etc/machine-id /etc/ssh/host-keys/*.pub; \
                   test ! -e /oem/first-boot";
    let output = world.key.run("root", machine.ssh_port(), command, SHORT).await?;
    let (size, identifiers) = output.trim().split_once('\n').context("two lines")?;
    Ok(Facts { persistent_bytes: size.trim().parse().context("a size")?, identifiers: identifiers.to_owned() })
}

async fn shut_down(world: &World, machine: &mut Machine) -> Result<()> {
    world.key.run("root", machine.ssh_port(), "systemctl --no-block poweroff", SHORT).await?;
    machine.wait_for_power_off(SHORT).await
}

/// A sparse copy that needs no QEMU to be read.
fn to_raw(image: &Path, raw: &Path) -> Result<()> {
    run("qemu-img", &["convert", "-O", "raw", &image.to_string_lossy(), &raw.to_string_lossy()]).map(drop)
}

/// The GUIDs in the partition table of a raw image, and the UUIDs of the file systems that are not a slot's.
fn identifiers(raw: &Path) -> Result<BTreeSet<String>> {
    let path = raw.to_string_lossy().into_owned();
    let table: serde_json::Value = serde_json::from_slice(&run("sfdisk", &["--json", &path])?)?;
    let mut found = BTreeSet::new();
    let disk = Disk::of_image(raw, "raw", fs::metadata(raw)?.len())?;
    let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    found.insert(word(&table["partitiontable"]["id"]));
    for partition in table["partitiontable"]["partitions"].as_array().context("partitions")? {
        found.insert(word(&partition["uuid"]));
    }
    for label in ["COS_BOOT", "COS_OEM", "COS_PERSISTENT"] {
        let offset = disk.partition(label)?.context("a partition")?;
        let probe = ["--probe", "--offset", &offset.to_string(), "--match-tag", "UUID", "--output", "value", &path];
        found.insert(String::from_utf8(run("blkid", &probe)?)?.trim().to_owned());
    }
    Ok(found)
}

fn run(program: &str, arguments: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("starting {program}"))?;
    ensure!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}
