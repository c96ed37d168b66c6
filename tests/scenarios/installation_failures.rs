//! Disks that cannot be installed to. The installer names the problem, the disk and the remedy, on the console and in the
//! inventory. Nothing half-installed boots.

use api::Phase;
use boot_contract::Milestone;
use harness::world::World;
use qemu::disk::{Disk, GIB, WriteFault};
use qemu::firmware::Firmware;
use qemu::machine::{Drive, Machine, MachineSpec, Medium};
use qemu::swtpm::EkCertificate;
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A busy host takes several times as long as an idle one.
const INSTALLED: Duration = Duration::from_secs(900);
const SHORT: Duration = Duration::from_secs(300);

/// A world with one machine and an installation medium.
struct Installation {
    machine: Machine,
    world: World,
}

impl Installation {
    async fn new(name: &str, disks: impl FnOnce(&Path) -> Vec<Disk>, install: Value) -> Self {
        Self::with_tpm(name, disks, install, Some(EkCertificate::Present)).await
    }

    async fn with_tpm(
        name: &str,
        disks: impl FnOnce(&Path) -> Vec<Disk>,
        install: Value,
        tpm: Option<EkCertificate>,
    ) -> Self {
        let world = World::builder(name).unwrap().start().await.unwrap();
        let mut registration = world.example_registration().unwrap();
        registration["cloudConfig"]["rancheros"] = json!({"install": install});
        let medium = world.medium(registration).await.unwrap();
        let mut spec = MachineSpec::new(Firmware::Uefi, "BAD-DAY");
        spec.disks = disks(world.path());
        spec.tpm = tpm;
        // A disk, because a medium of this kind could be mistaken for a target.
        spec.medium = Some(Medium { file: medium, drive: Drive::Disk });
        let machine = world.machine(spec).await.unwrap();
        Self { machine, world }
    }

    /// Checks that the machine is not installed, that `status.failure` has this reason, and that all of `words` are in
    /// the inventory and on the console after the milestone `failed`.
    async fn refused(&mut self, reason: &str, words: &[&str]) {
        self.fails().await;
        let machines = self.world.inventory_names().unwrap();
        let [name] = &machines[..] else { panic!("one machine, one inventory; there are {machines:?}") };
        let inventory = self.world.inventory_in_phase(name, Phase::Failed, SHORT).await.unwrap();
        let failure = &inventory["status"]["failure"];
        assert_eq!(failure["reason"], reason, "{failure}");
        let message = failure["message"].as_str().unwrap_or_default();
        words.iter().for_each(|word| assert!(message.contains(word), "no {word:?} in the inventory: {message}"));
        self.console_says(words).await;
    }

    async fn fails(&mut self) {
        self.machine.power_on().await.unwrap();
        self.machine.wait_for_failure(INSTALLED).await.unwrap();
    }

    /// Waits until all of `words` are on the console after the milestone `failed`. The message has several lines.
    async fn console_says(&mut self, words: &[&str]) {
        until("the words on the console", SHORT, async || {
            let lines = self.machine.console().lines();
            let told = lines.iter().skip_while(|line| Milestone::Failed.text_in(&line.text).is_none());
            let told = told.map(|line| line.text.trim()).collect::<Vec<_>>().join(" ");
            Ok(match words.iter().find(|word| !told.contains(**word)) {
                Some(word) => Poll::Pending(format!("no {word:?} in {told:?}")),
                None => Poll::Ready(()),
            })
        })
        .await
        .unwrap();
    }
}

fn empty(folder: &Path, serial: &str, bytes: u64) -> Disk {
    Disk::empty(folder, serial, bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_without_a_disk_waits_for_one() {
    let mut installation = Installation::new("bad-no-disk", |_| Vec::new(), json!({})).await;
    // A CD, because any other medium would be a disk.
    installation.machine.spec.medium.as_mut().unwrap().drive = Drive::Cd;
    installation.refused("NoDisk", &["no disk", "attach one"]).await;
    installation.machine.hotplug(&empty(installation.world.path(), "late", 4 * GIB)).unwrap();
    // Not `wait_for_milestone`: the machine may fail once more for want of a disk.
    let planned =
        installation.machine.console().wait_for("a plan", SHORT, |line| Milestone::Planned.text_in(line).is_some());
    let planned = planned.await.unwrap().text;
    assert!(planned.contains("serial late"), "{planned}");
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_without_a_tpm_says_what_to_switch_on_and_leaves_its_disk_alone() {
    let disks = |folder: &Path| vec![empty(folder, "root", 4 * GIB)];
    let mut installation = Installation::with_tpm("bad-no-tpm", disks, json!({}), None).await;
    installation.fails().await;
    installation.console_says(&["no TPM", "enable the TPM"]).await;
    assert_eq!(installation.world.inventory_names().unwrap(), [] as [String; 0]);
    let disk = std::fs::metadata(&installation.machine.spec.disks[0].file).unwrap();
    assert_eq!(disk.blocks(), 0, "something was written to the disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_with_two_disks_asks_which() {
    let disks = |folder: &Path| vec![empty(folder, "left", 4 * GIB), empty(folder, "right", 4 * GIB)];
    let mut installation = Installation::new("bad-two-disks", disks, json!({})).await;
    installation.refused("SeveralDisks", &["/dev/vda", "left", "/dev/vdb", "right", "device"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_with_somebodys_partitions_leaves_them_alone() {
    let foreign = |folder: &Path| {
        let disk = empty(folder, "foreign", 4 * GIB);
        let sgdisk =
            Command::new("sgdisk").args(["-n", "1:0:+1G", "-c", "1:accounts"]).arg(&disk.file).output().unwrap();
        assert!(sgdisk.status.success(), "{sgdisk:?}");
        vec![disk]
    };
    let mut installation = Installation::new("bad-foreign", foreign, json!({"device": "/dev/vda"})).await;
    let before = installation.machine.spec.disks[0].read_at(0, 4 << 20).unwrap();
    installation.refused("DiskHasContent", &["/dev/vda", "wipe: true"]).await;
    assert!(installation.machine.spec.disks[0].read_at(0, 4 << 20).unwrap() == before, "the disk was written to");
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_with_a_small_disk_says_how_much_is_needed() {
    let small = |folder: &Path| vec![empty(folder, "small", GIB / 2)];
    let mut installation = Installation::new("bad-small", small, json!({"device": "/dev/vda"})).await;
    installation.refused("DiskTooSmall", &["/dev/vda", "512.0 MiB", "needs at least"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_offered_its_own_medium_refuses() {
    let disks = |folder: &Path| vec![empty(folder, "root", 4 * GIB)];
    let mut installation = Installation::new("bad-medium", disks, json!({"device": "/dev/sda", "wipe": true})).await;
    installation.refused("DiskIsBootMedium", &["/dev/sda", "another disk"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_whose_disk_fails_half_way_boots_nothing_from_it() {
    // 40 MiB into slot A. The root image has about 60 MiB.
    let failing = |folder: &Path| vec![empty(folder, "failing", 4 * GIB).with_fault(WriteFault { at_byte: 300 << 20 })];
    let mut installation = Installation::new("bad-write", failing, json!({})).await;
    installation.refused("WriteFailed", &["/dev/vda", "serial failing", "replace it", "Input/output error"]).await;
    let disk = &installation.machine.spec.disks[0];
    assert_eq!(disk.partition("COS_BOOT").unwrap(), None, "a partition table");
    assert!(disk.read_at(0, 512).unwrap()[510..] != [0x55, 0xaa], "a boot sector");
}
