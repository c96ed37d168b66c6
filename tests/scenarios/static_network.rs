//! Machines where there is no DHCP server: the settings of their medium say how they reach the operator, and by which proxy, or
//! a router says it by IPv6.

use crate::install::becomes_ready;
use harness::fakes::dnsmasq::Dnsmasq;
use harness::fakes::http_proxy::{HttpProxy, PASSWORD};
use harness::fakes::tcp_forwarder::TcpForwarder;
use harness::world::World;
use qemu::disk::{Disk, GIB};
use qemu::firmware::Firmware;
use qemu::lan::Lan;
use qemu::machine::{MachineSpec, Network};
use qemu::paths;
use serde_json::{Value, json};
use std::fs;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::Path;

/// The card is in a bond, which has the address, and a VLAN is on the bond. Whether frames of the VLAN are tagged on the wire is
/// not seen: the kernel of this host may have no VLANs.
#[tokio::test(flavor = "multi_thread")]
async fn matrix_static_addresses_of_a_bond_and_a_vlan() {
    let world = World::builder("static-network").unwrap().start().await.unwrap();
    let registration = world.example_registration().unwrap();
    let network = json!({
        "version": 2,
        "ethernets": {"lan": {"match": {"name": "en*"}}},
        "bonds": {"bond0": {
            "interfaces": ["lan"],
            "parameters": {"mode": "active-backup", "mii-monitor-interval": 100},
            "addresses": ["10.0.2.77/24"],
        }},
        "vlans": {"storage": {"id": 7, "link": "bond0", "addresses": ["10.9.0.5/24"]}},
    });
    // The operator tells machines this address. Only a proxy is there.
    let operator: SocketAddrV4 = world.operator.url().trim_start_matches("https://").parse().unwrap();
    let lan = Lan::new(&[&format!("{}/24", operator.ip())]).unwrap();
    let proxy = HttpProxy::start_within(lan.servers(), SocketAddrV4::new(*operator.ip(), 3128)).unwrap();
    let install = json!({"proxy": proxy.url(PASSWORD), "noProxy": "10.9.0.0/24"});
    let settings = world.settings_with(registration, install).await.unwrap();
    let text = fs::read_to_string(&settings).unwrap();
    let mut document: Value = serde_yaml::from_str(&text).unwrap();
    document["network"] = network;
    fs::write(&settings, format!("#cloud-config\n{document}\n")).unwrap();
    let image = world.customized(&paths::disk_image("raw").unwrap(), &settings).unwrap();
    let mut machine = world.machine(on(&lan, "STATIC-1", &image)).await.unwrap();
    machine.power_on().await.unwrap();
    let inventory = becomes_ready(&world, &mut machine).await;
    let addresses = inventory["status"].to_string();
    for expected in ["10.0.2.77", "10.9.0.5", "bond0", "storage"] {
        assert!(addresses.contains(expected), "{expected}: {addresses}");
    }
    // The registration, and the reports of the system with its own configuration.
    let connected = proxy.connected();
    assert!(connected.len() > 1 && connected.iter().all(|host| *host == operator.to_string()), "{connected:?}");
    let told = machine.console().lines().iter().any(|line| line.text.contains(PASSWORD));
    assert!(!told, "the password is on the console");
}

/// Nobody in the network has an IPv4 address. The machine makes its own address of the router's prefix.
#[tokio::test(flavor = "multi_thread")]
async fn matrix_ipv6_only() {
    let world = World::builder("ipv6-only").unwrap().host("[fd00:5::2]").start().await.unwrap();
    let registration = world.example_registration().unwrap();
    let image = world.medium_from(&paths::disk_image("raw").unwrap(), registration).await.unwrap();
    let operator: SocketAddr = world.operator.url().trim_start_matches("https://").parse().unwrap();
    let lan = Lan::new(&[&format!("{}/64", operator.ip())]).unwrap();
    let _forwarder = TcpForwarder::start(lan.servers(), operator).unwrap();
    let _router = Dnsmasq::start_router(&lan, "fd00:5::", &world.folder("router").unwrap()).unwrap();
    let mut machine = world.machine(on(&lan, "IPV6-1", &image)).await.unwrap();
    machine.power_on().await.unwrap();
    let inventory = becomes_ready(&world, &mut machine).await;
    let addresses = inventory["status"]["addresses"].to_string();
    assert!(addresses.contains("fd00:5::") && !addresses.contains("10."), "{addresses}");
}

/// A machine with one card, and a disk that is made from an image.
fn on(lan: &Lan, serial: &str, image: &Path) -> MachineSpec {
    let mut spec = MachineSpec::new(Firmware::Uefi, serial);
    spec.network = Network::Lan { namespace: lan.servers().name().to_owned(), tap: lan.tap().unwrap(), pxe: false };
    spec.disks.push(Disk::of_image(image, "root", 6 * GIB).unwrap());
    spec
}
