//! Machines that are started from the network: they are installed, and registered, once.

use crate::install::{INSTALLED, SHORT};
use api::Phase;
use boot_contract::Milestone;
use harness::world::World;
use media::network_set::IPXE_SCRIPT;
use qemu::disk::{Disk, GIB};
use qemu::firmware::Firmware;
use qemu::machine::{BootFirst, Drive, MachineSpec, Medium};
use qemu::paths;
use serde_json::json;

/// By iPXE, as in the ROM of a network card.
#[tokio::test(flavor = "multi_thread")]
async fn vm_installs_on_bios_from_the_network() {
    installs_once(Firmware::Bios, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn matrix_network_on_bios_and_three_restarts() {
    installs_once(Firmware::Bios, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn matrix_network_on_uefi_and_three_restarts() {
    installs_once(Firmware::Uefi, 3).await;
}

/// The network stays first, so that the live system must start the disk each time. So many restarts follow the one at the end
/// of the installation.
async fn installs_once(firmware: Firmware, restarts: usize) {
    let name = format!("network-{}-{restarts}", firmware.name()).to_lowercase();
    let world = World::builder(&name).unwrap().start().await.unwrap();
    let mut registration = world.example_registration().unwrap();
    registration["cloudConfig"]["ssh_authorized_keys"] = json!([world.key.public]);
    let set = world.medium_from(&paths::output().join("image/pxe"), registration).await.unwrap();
    let mut spec = MachineSpec::new(firmware, "NETWORK-1");
    spec.first = BootFirst::Medium;
    spec.memory_mib = 512;
    spec.disks.push(Disk::empty(world.path(), "root", 4 * GIB).unwrap());
    spec.medium = Some(Medium { file: set.join(IPXE_SCRIPT), drive: Drive::Network });
    let mut machine = world.machine(spec).await.unwrap();
    machine.power_on().await.unwrap();
    machine.wait_for_milestone(Milestone::Healthy, INSTALLED).await.unwrap();
    let [name] = <[String; 1]>::try_from(world.inventory_names().unwrap()).unwrap();
    world.inventory_in_phase(&name, Phase::Ready, SHORT).await.unwrap();
    for _ in 0..restarts {
        let port = machine.ssh_port();
        world.key.run("root", port, "systemctl --no-block reboot", SHORT).await.unwrap();
        machine.wait_for_milestone(Milestone::Healthy, INSTALLED).await.unwrap();
    }
    let lines = machine.console().lines();
    let told = |milestone: Milestone| lines.iter().filter(|line| milestone.text_in(&line.text).is_some()).count();
    assert_eq!((told(Milestone::Planned), told(Milestone::Registered)), (1, 1), "one installation, one registration");
    let network = lines.iter().filter(|line| line.text.contains("ros-init: the medium came with the initrd")).count();
    assert!(network > restarts, "the network was started first each time, and not only {network} times");
    let token = "v1-rancheros/registration/";
    assert!(!lines.iter().any(|line| line.text.contains(token)), "the URL with the token is on the console");
    assert_eq!(world.inventory_names().unwrap().len(), 1);
}
