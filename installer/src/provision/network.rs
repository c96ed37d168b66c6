//! Translates network configuration, version 2, into files for systemd-networkd (systemd.network(5)).

use cloud_config::document::{Ethernet, Network};
use std::fmt::Write;

/// Name and content of one `.network` file for each interface. The names sort before the image's own.
pub fn files(network: &Network) -> Vec<(String, String)> {
    let file = |(id, interface): &(String, Ethernet)| (format!("10-cloud-config-{id}.network"), file(id, interface));
    network.ethernets.iter().map(file).collect()
}

fn file(id: &str, interface: &Ethernet) -> String {
    let mut file = File { text: String::new() };
    file.section("Match");
    let matches = &interface.matches;
    // A bond or VLAN has the address of its parent, but the permanent address is the card's own.
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
        // A route with a gateway and no destination is the default route of the gateway's family for networkd.
        let is_default = route.to == "default" && route.via.is_some();
        let to = if route.to == "default" { "0.0.0.0/0" } else { &route.to };
        file.option("Destination", Some(to).filter(|_| !is_default));
        file.option("Gateway", route.via.as_deref());
        file.option("GatewayOnLink", route.on_link.map(|on_link| if on_link { "yes" } else { "no" }));
        file.option("Metric", route.metric.map(|metric| metric.to_string()).as_deref());
        file.option("Type", route.kind.as_deref());
        file.option("Table", route.table.as_deref());
        file.option("Scope", route.scope.as_deref());
        file.option("PreferredSource", route.from.as_deref());
        file.option("MTUBytes", route.mtu.map(|mtu| mtu.to_string()).as_deref());
    }
    file.text
}

struct File {
    text: String,
}

impl File {
    fn section(&mut self, name: &str) {
        let gap = if self.text.is_empty() { "" } else { "\n" };
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{gap}[{name}]");
    }

    fn line(&mut self, key: &str, value: &str) {
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
    use cloud_config::CloudConfig;
    use cloud_config::document::Document;

    fn of(text: &str) -> (Vec<(String, String)>, Vec<String>) {
        let (document, unapplied) =
            Document::read(&CloudConfig::parse(&format!("network:\n  version: 2\n  {text}")).unwrap());
        (files(&document.network.unwrap_or_default()), unapplied.into_iter().map(|one| one.path).collect())
    }

    #[test]
    fn an_interface_becomes_a_file() {
        let (files, unapplied) = of(
            "ethernets: {eth1: {dhcp4: yes}, lan0: {match: {macaddress: '52:54:00:12:34:56'}, \
            addresses: [10.0.0.5/24], gateway4: 10.0.0.1, nameservers: {addresses: [10.0.0.2], search: [a.example, b.example]}, \
            routes: [{to: 10.9.0.0/16, via: 10.0.0.9, metric: 5}, {to: default, via: 169.254.0.1, on-link: true}, \
            {to: 10.8.0.0/16, type: blackhole, table: 100}], mtu: 9000, optional: on}}",
        );
        assert_eq!(unapplied, Vec::<String>::new());
        assert_eq!(files[0].0, "10-cloud-config-eth1.network");
        assert_eq!(files[0].1, "[Match]\nName=eth1\n\n[Link]\nRequiredForOnline=yes\n\n[Network]\nDHCP=ipv4\n");
        let expected = "[Match]\nPermanentMACAddress=52:54:00:12:34:56\n\n[Link]\nMTUBytes=9000\nRequiredForOnline=no\n\n\
                        [Network]\nDHCP=no\nAddress=10.0.0.5/24\nGateway=10.0.0.1\nDNS=10.0.0.2\nDomains=a.example b.example\n\n\
                        [Route]\nDestination=10.9.0.0/16\nGateway=10.0.0.9\nMetric=5\n\n\
                        [Route]\nGateway=169.254.0.1\nGatewayOnLink=yes\n\n\
                        [Route]\nDestination=10.8.0.0/16\nType=blackhole\nTable=100\n";
        assert_eq!(files[1].1, expected);
    }

    #[test]
    fn a_value_cannot_become_a_line_of_its_own() {
        let (files, unapplied) =
            of("ethernets: {e: {addresses: [\"1.2.3.4/8\\n[Match]\", 10.0.0.1/8]}, '../x': {dhcp4: true}}");
        assert_eq!(unapplied, ["network.ethernets.../x", "network.ethernets.e.addresses[0]"]);
        assert!(files.len() == 1 && files[0].1.ends_with("DHCP=no\nAddress=10.0.0.1/8\n"), "{files:?}");
    }
}
