//! The addresses at which the machine can be reached.

use nix::ifaddrs::getifaddrs;
use protocol::hardware::Address;
use std::net::IpAddr;

/// All current addresses of the interfaces, without loopback and link-local ones, sorted by interface.
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
            is_reachable(ip).then(|| Address { interface: interface.interface_name, address: ip.to_string() })
        })
        .collect();
    addresses.sort_by(|a, b| (&a.interface, &a.address).cmp(&(&b.interface, &b.address)));
    addresses.dedup();
    addresses
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
