//! The addresses at which the machine can be reached.

use crate::sysfs;
use nix::ifaddrs::getifaddrs;
use protocol::hardware::Address;
use std::net::IpAddr;
use std::path::Path;

/// How many interfaces may lie on one another, such as a bridge on a VLAN on a bond on two cards.
const MOST_LAYERS: usize = 8;

/// All current addresses of the machine's interfaces, without loopback and link-local ones, sorted by interface. Those of
/// its containers' networks reach no machine.
pub fn addresses() -> Vec<Address> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let mut addresses: Vec<Address> = interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                (Some(v4), _) => IpAddr::V4(v4.ip()),
                (_, Some(v6)) => IpAddr::V6(v6.ip()),
                _ => return None,
            };
            let is_own = || leads_outside(Path::new("/sys/class/net"), &interface.interface_name, MOST_LAYERS);
            (is_reachable(ip) && is_own())
                .then(|| Address { interface: interface.interface_name, address: ip.to_string() })
        })
        .collect();
    addresses.sort_by(|a, b| (&a.interface, &a.address).cmp(&(&b.interface, &b.address)));
    addresses.dedup();
    addresses
}

/// Whether frames of the interface leave the machine: it is a device, or it lies on one, as bonds, bridges and VLANs do.
/// The bridge of a container network lies on nothing but the containers' ends of it. `class`: `/sys/class/net`.
fn leads_outside(class: &Path, name: &str, layers: usize) -> bool {
    let folder = class.join(name);
    if folder.join("device").exists() {
        return true;
    }
    // An overlay of containers lies on a card too, but its addresses are theirs.
    if layers == 0 || sysfs::text(&folder.join("uevent"), sysfs::LINE).contains("DEVTYPE=vxlan") {
        return false;
    }
    let below = sysfs::names(&folder);
    below.iter().filter_map(|entry| entry.strip_prefix("lower_")).any(|name| leads_outside(class, name, layers - 1))
}

fn is_reachable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => !(v4.is_loopback() || v4.is_link_local() || v4.is_unspecified()),
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, write};

    #[test]
    fn addresses_of_container_networks_are_left_out() {
        let root = tempfile::tempdir().unwrap();
        let class = root.path();
        let interfaces = [
            ("eth0", "", &["device"][..]),
            ("bond0", "DEVTYPE=bond", &["lower_eth0"]),
            ("bond0.7", "DEVTYPE=vlan", &["lower_bond0"]),
            ("br0", "DEVTYPE=bridge", &["lower_bond0.7", "lower_veth1"]),
            ("veth1", "", &[]),
            ("cni0", "DEVTYPE=bridge", &["lower_veth1"]),
            ("flannel.1", "DEVTYPE=vxlan", &["lower_eth0"]),
            ("circle", "DEVTYPE=bridge", &["lower_circle"]),
        ];
        for (name, kind, entries) in interfaces {
            for entry in entries {
                create_dir_all(class.join(name).join(entry)).unwrap();
            }
            create_dir_all(class.join(name)).unwrap();
            write(class.join(name).join("uevent"), format!("{kind}\nINTERFACE={name}\n")).unwrap();
        }
        let own = interfaces.map(|(name, ..)| name).into_iter().filter(|name| leads_outside(class, name, MOST_LAYERS));
        assert_eq!(own.collect::<Vec<_>>(), ["eth0", "bond0", "bond0.7", "br0"]);
        assert!(!leads_outside(class, "gone", MOST_LAYERS));
    }

    #[test]
    fn loopback_and_link_local_addresses_reach_nothing() {
        for (ip, expected) in
            [("127.0.0.1", false), ("169.254.1.1", false), ("::1", false), ("fe80::1", false), ("10.0.2.15", true)]
        {
            assert_eq!(is_reachable(ip.parse().unwrap()), expected, "{ip}");
        }
        assert!(addresses().iter().all(|address| address.interface != "lo"));
    }
}
