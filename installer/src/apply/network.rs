//! Network configuration, version 2, as files for systemd-networkd (systemd.network(5)).

use super::document::{Ethernet, Network};
use std::fmt::Write;

/// File name and content of one `.network` file for each interface; they come before the image's own. The error names
/// the interface and the value that cannot stand in such a file.
pub fn files(network: &Network) -> Result<Vec<(String, String)>, String> {
    network.ethernets.iter().map(|(id, interface)| file(id, interface)).collect()
}

fn file(id: &str, interface: &Ethernet) -> Result<(String, String), String> {
    let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) && !id.starts_with('.');
    if !plain || id.is_empty() {
        return Err(format!("network.ethernets: {id:?} is no name of an interface"));
    }
    let mut file = File { text: String::new(), invalid: None };
    file.section("Match");
    let matches = &interface.matches;
    // A bond or VLAN carries the address of its parent, the permanent one is the card's own.
    file.option("PermanentMACAddress", matches.macaddress.as_deref());
    file.option("Driver", matches.driver.as_deref());
    file.option("Name", matches.name.as_deref());
    if matches.macaddress.is_none() && matches.driver.is_none() && matches.name.is_none() {
        file.line("Name", id);
    }

    file.section("Link");
    file.option("MTUBytes", interface.mtu.map(|mtu| mtu.to_string()).as_deref());
    file.line("RequiredForOnline", if interface.optional { "no" } else { "yes" });

    file.section("Network");
    let dhcp = match (interface.dhcp4, interface.dhcp6) {
        (true, true) => "yes",
        (true, false) => "ipv4",
        (false, true) => "ipv6",
        (false, false) => "no",
    };
    file.line("DHCP", dhcp);
    file.option("IPv6AcceptRA", interface.accept_ra.map(|accept| if accept { "yes" } else { "no" }));
    file.each("Address", &interface.addresses);
    file.option("Gateway", interface.gateway4.as_deref());
    file.option("Gateway", interface.gateway6.as_deref());
    file.each("DNS", &interface.nameservers.addresses);
    if !interface.nameservers.search.is_empty() {
        file.line("Domains", &interface.nameservers.search.join(" "));
    }

    for route in &interface.routes {
        file.section("Route");
        // `default` and `0.0.0.0/0` are the same to networkd when there is no destination.
        file.option("Destination", Some(route.to.as_str()).filter(|to| *to != "default"));
        file.option("Gateway", route.via.as_deref());
        file.option("Metric", route.metric.map(|metric| metric.to_string()).as_deref());
    }
    match file.invalid {
        Some(value) => Err(format!("network.ethernets.{id}: {value:?} holds a line break")),
        None => Ok((format!("10-cloud-config-{id}.network"), file.text)),
    }
}

struct File {
    text: String,
    invalid: Option<String>,
}

impl File {
    fn section(&mut self, name: &str) {
        let gap = if self.text.is_empty() { "" } else { "\n" };
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{gap}[{name}]");
    }

    fn line(&mut self, key: &str, value: &str) {
        if value.contains(char::is_control) {
            self.invalid = Some(value.to_owned());
        }
        let _ = writeln!(self.text, "{key}={value}");
    }

    fn option(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.line(key, value);
        }
    }

    fn each(&mut self, key: &str, values: &[String]) {
        values.iter().for_each(|value| self.line(key, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<(String, String)>, String> {
        files(&serde_yaml::from_str(text).unwrap())
    }

    #[test]
    fn an_interface_becomes_a_file() {
        let files = of("version: 2\nethernets:\n  lan0:\n    match: {macaddress: '52:54:00:12:34:56'}\n    addresses: [10.0.0.5/24]\n\
                        \x20   gateway4: 10.0.0.1\n    nameservers: {addresses: [10.0.0.2], search: [a.example, b.example]}\n\
                        \x20   routes: [{to: 10.9.0.0/16, via: 10.0.0.9, metric: 5}]\n    mtu: 9000\n    optional: true\n  eth1: {dhcp4: true}\n")
            .unwrap();
        assert_eq!(files[0].0, "10-cloud-config-eth1.network");
        assert_eq!(files[0].1, "[Match]\nName=eth1\n\n[Link]\nRequiredForOnline=yes\n\n[Network]\nDHCP=ipv4\n");
        let expected = "[Match]\nPermanentMACAddress=52:54:00:12:34:56\n\n[Link]\nMTUBytes=9000\nRequiredForOnline=no\n\n\
                        [Network]\nDHCP=no\nAddress=10.0.0.5/24\nGateway=10.0.0.1\nDNS=10.0.0.2\nDomains=a.example b.example\n\n\
                        [Route]\nDestination=10.9.0.0/16\nGateway=10.0.0.9\nMetric=5\n";
        assert_eq!(files[1].1, expected);
    }

    #[test]
    fn a_value_cannot_become_a_line_of_its_own() {
        let error = of("version: 2\nethernets: {e: {addresses: [\"1.2.3.4/8\\n[Match]\"]}}").unwrap_err();
        assert!(error.contains("network.ethernets.e"), "{error}");
        assert!(of("version: 2\nethernets: {'../x': {dhcp4: true}}").is_err());
    }
}
