//! Machines that are started from the network: they are installed, and registered, once.

use crate::install::{INSTALLED, SHORT, becomes_ready};
use anyhow::{Context, Result, ensure};
use api::{BootUrls, MachineRegistration};
use boot_contract::Milestone;
use harness::clusters::registration::{NAMESPACE, Registration};
use harness::objects::kubectl_name;
use harness::world::World;
use media::network_set::{IPXE_SCRIPT, SHIM};
use qemu::disk::{Disk, GIB};
use qemu::firmware::Firmware;
use qemu::machine::{BootFile, BootFirst, MachineSpec};
use qemu::paths;
use qemu::port::Port;
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Where a machine gets its files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The operator, over HTTP: on BIOS and UEFI by iPXE in the ROM of the network card, with Secure Boot by UEFI itself.
    Operator,
    /// A folder that `ros-image customize` has written, over TFTP.
    Folder,
}

/// UEFI loads shim from the operator, which loads GRUB, which loads the rest.
#[tokio::test(flavor = "multi_thread")]
async fn vm_installs_on_secure_boot_from_the_network() {
    // Firmware loads a URL at the first power-on only: a restart would show nothing of the network.
    installs_once(Firmware::SecureBoot, Source::Operator, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn matrix_network_on_secure_boot_by_pxe() {
    installs_once(Firmware::SecureBoot, Source::Folder, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn matrix_network_on_bios_and_three_restarts() {
    installs_once(Firmware::Bios, Source::Folder, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn matrix_network_on_uefi_by_ipxe() {
    installs_once(Firmware::Uefi, Source::Operator, 1).await;
}

/// The network stays first, so that the live system must start the disk each time. So many restarts follow the one at the end
/// of the installation.
async fn installs_once(firmware: Firmware, source: Source, restarts: usize) {
    let name = format!("network-{}-{restarts}", firmware.name()).to_lowercase();
    let port = Port::reserve().unwrap();
    let iso = paths::iso().unwrap();
    let world = World::builder(&name)
        .unwrap()
        .setting("ROS_MEDIA", iso.to_str().unwrap())
        .setting("ROS_BOOT_LISTEN", &format!("127.0.0.1:{}", port.number()));
    let world = world.start().await.unwrap();
    let mut registration = world.example_registration().unwrap();
    registration["cloudConfig"]["ssh_authorized_keys"] = json!([world.key.public]);
    let boot_file = match source {
        Source::Operator => {
            Registration::apply(&world.cluster, "edge", registration).unwrap();
            let urls = boot_urls(&world, &iso).await.unwrap();
            if firmware == Firmware::SecureBoot { BootFile::UefiUrl(urls.uefi) } else { BootFile::IpxeUrl(urls.ipxe) }
        }
        Source::Folder => {
            let set = world.medium_from(&paths::output().join("image/pxe"), registration).await.unwrap();
            add_kernel_argument(&set.join(IPXE_SCRIPT), STATIC).unwrap();
            BootFile::Tftp(set.join(if firmware == Firmware::SecureBoot { SHIM } else { IPXE_SCRIPT }))
        }
    };
    // UEFI starts the entry that the installer makes once, at the restart that follows.
    let starts = if firmware == Firmware::Bios { 2 + restarts } else { 1 + restarts };
    let mut spec = MachineSpec::new(firmware, "NETWORK-1");
    spec.boot_file = Some(boot_file);
    spec.first = BootFirst::Medium;
    spec.memory_mib = 512;
    spec.disks.push(Disk::empty(world.path(), "root", 4 * GIB).unwrap());
    let mut machine = world.machine(spec).await.unwrap();
    machine.power_on().await.unwrap();
    becomes_ready(&world, &mut machine).await;
    for _ in 0..restarts {
        let port = machine.ssh_port();
        world.key.run("root", port, "systemctl --no-block reboot", SHORT).await.unwrap();
        machine.wait_for_milestone(Milestone::Healthy, INSTALLED).await.unwrap();
    }
    if source == Source::Folder && firmware == Firmware::Bios {
        let addresses = "ip -4 -oneline address show scope global; ls /etc/systemd/network";
        let addresses = world.key.run("root", machine.ssh_port(), addresses, SHORT).await.unwrap();
        assert!(addresses.contains("10.0.2.15/25") && !addresses.contains("dynamic"), "{addresses}");
        assert!(
            addresses.contains("70-enp0s2.network"),
            "the installed system has the network of the live one: {addresses}"
        );
    }
    let lines = machine.console().lines();
    let told = |milestone: Milestone| lines.iter().filter(|line| milestone.text_in(&line.text).is_some()).count();
    assert_eq!((told(Milestone::Planned), told(Milestone::Registered)), (1, 1), "one installation, one registration");
    let network = lines.iter().filter(|line| line.text.contains("ros-init: the medium came with the initrd")).count();
    assert_eq!(network, starts, "starts from the network");
    let token = "v1-rancheros/registration/";
    assert!(!lines.iter().any(|line| line.text.contains(token)), "the URL with the token is on the console");
    assert_eq!(world.inventory_names().unwrap().len(), 1);
    let log = world.operator_log().unwrap();
    assert!(!tokens(&world).unwrap().iter().any(|token| log.contains(token)), "a token is in the operator's log");
}

/// The address that QEMU forwards SSH to, with another prefix than DHCP gives. iPXE's script is read on BIOS alone.
const STATIC: &str = "ip=10.0.2.15::10.0.2.2:255.255.255.128::enp0s2:none";

/// Adds an argument for the kernel to a script of iPXE.
fn add_kernel_argument(script: &Path, argument: &str) -> Result<()> {
    let live = "ros.mode=live";
    let text = fs::read_to_string(script).context("reading iPXE's script")?;
    ensure!(text.contains(live), "{text}");
    fs::write(script, text.replace(live, &format!("{live} {argument}"))).context("writing iPXE's script")
}

/// The status of the registration.
fn status(world: &World) -> Result<Value> {
    Ok(world.cluster.get(&kubectl_name::<MachineRegistration>("edge"), NAMESPACE)?["status"].take())
}

/// The tokens of the registration.
fn tokens(world: &World) -> Result<Vec<String>> {
    let status = status(world)?;
    let fields = ["registrationToken", "installedToken", "bootToken"];
    fields.iter().map(|field| Ok(status[field].as_str().with_context(|| format!("no {field}"))?.to_owned())).collect()
}

/// The URLs in the status of the registration, once the operator has read its medium.
async fn boot_urls(world: &World, iso: &Path) -> Result<BootUrls> {
    let medium = iso.file_name().context("the ISO's name")?.to_string_lossy();
    until("the URLs of a network boot", SHORT, async || {
        let status = status(world)?;
        let urls = serde_json::from_value(status["bootURLs"][&*medium].clone()).ok();
        Ok(urls.map_or_else(|| Poll::Pending(status.to_string()), Poll::Ready))
    })
    .await
}
