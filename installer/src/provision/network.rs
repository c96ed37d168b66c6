//! Translates network configuration, version 2, into files for systemd-networkd (systemd.network(5), systemd.netdev(5)).

use cloud_config::document::{Bond, Bridge, Ethernet, Interface, Network, Vlan};
use std::collections::BTreeSet;
use std::fmt::Write;

/// Names and contents of the files: one `.network` for each interface, and one `.netdev` for each that is made. The names sort
/// before the image's own.
pub fn files(network: &Network) -> Vec<(String, String)> {
    let links = Links { network };
    let none = Ethernet::default();
    let bare = links.undefined().into_iter().map(|id| (id, &none));
    let ethernets = network.ethernets.iter().map(|(id, ethernet)| (id.as_str(), ethernet)).chain(bare);
    let mut files: Vec<_> = ethernets.map(|(id, found)| of_card(id, found, &links)).collect();
    let made = (network.vlans.iter().map(|(id, vlan)| (id, of_vlan(id, vlan), &vlan.interface)))
        .chain(network.bonds.iter().map(|(id, bond)| (id, of_bond(id, bond), &bond.interface)))
        .chain(network.bridges.iter().map(|(id, bridge)| (id, of_bridge(id, bridge), &bridge.interface)));
    for (id, device, interface) in made {
        files.push((name(id, "netdev"), device));
        let mut file = File::default();
        file.section("Match");
        file.line("Name", id);
        files.push((name(id, "network"), of_interface(file, id, interface, &links)));
    }
    files
}

/// How the names of the files begin. They sort before the image's own.
pub const PREFIX: &str = "10-cloud-config-";

fn name(id: &str, kind: &str) -> String {
    format!("{PREFIX}{id}.{kind}")
}

/// Which interfaces are on or in which others.
struct Links<'a> {
    network: &'a Network,
}

impl<'a> Links<'a> {
    /// Interfaces that others name, and that have no entry of their own. Their id is their name.
    fn undefined(&self) -> BTreeSet<&'a str> {
        let Network { ethernets, vlans, bonds, bridges } = self.network;
        let named = vlans.iter().map(|(_, vlan)| vlan.link.as_str());
        let named = named.chain(bonds.iter().flat_map(|(_, bond)| &bond.interfaces).map(String::as_str));
        let named = named.chain(bridges.iter().flat_map(|(_, bridge)| &bridge.interfaces).map(String::as_str));
        let defined: BTreeSet<&str> = (ethernets.iter().map(|(id, _)| id.as_str()))
            .chain(vlans.iter().map(|(id, _)| id.as_str()))
            .chain(bonds.iter().map(|(id, _)| id.as_str()))
            .chain(bridges.iter().map(|(id, _)| id.as_str()))
            .collect();
        named.filter(|id| !defined.contains(id)).collect()
    }

    fn vlans_on(&self, id: &str) -> impl Iterator<Item = &str> {
        self.network.vlans.iter().filter(move |(_, vlan)| vlan.link == id).map(|(name, _)| name.as_str())
    }

    fn bond_of(&self, id: &str) -> Option<&str> {
        let has = |bond: &Bond| bond.interfaces.iter().any(|member| member == id);
        self.network.bonds.iter().find(|(_, bond)| has(bond)).map(|(name, _)| name.as_str())
    }

    fn bridge_of(&self, id: &str) -> Option<&str> {
        let has = |bridge: &Bridge| bridge.interfaces.iter().any(|member| member == id);
        self.network.bridges.iter().find(|(_, bridge)| has(bridge)).map(|(name, _)| name.as_str())
    }
}

fn of_vlan(id: &str, vlan: &Vlan) -> String {
    let mut file = device(id, "vlan");
    file.section("VLAN");
    file.line("Id", &vlan.id.to_string());
    file.text
}

fn of_bond(id: &str, bond: &Bond) -> String {
    let mut file = device(id, "bond");
    file.section("Bond");
    file.option("Mode", bond.mode.as_deref());
    file.option("LACPTransmitRate", bond.lacp_rate.as_deref());
    file.option("TransmitHashPolicy", bond.transmit_hash_policy.as_deref());
    file.option("MIIMonitorSec", bond.mii_monitor_interval.map(|milliseconds| format!("{milliseconds}ms")).as_deref());
    file.text
}

fn of_bridge(id: &str, bridge: &Bridge) -> String {
    let mut file = device(id, "bridge");
    file.section("Bridge");
    file.option("STP", bridge.stp.map(|stp| if stp { "yes" } else { "no" }));
    file.option("ForwardDelaySec", bridge.forward_delay.map(|seconds| seconds.to_string()).as_deref());
    file.text
}

fn device(id: &str, kind: &str) -> File {
    let mut file = File::default();
    file.section("NetDev");
    file.line("Name", id);
    file.line("Kind", kind);
    file
}

fn of_card(id: &str, ethernet: &Ethernet, links: &Links) -> (String, String) {
    let mut file = File::default();
    file.section("Match");
    let matches = &ethernet.matches;
    // A bond or VLAN has the address of its parent, but the permanent address is the card's own.
    file.option("PermanentMACAddress", matches.macaddress.as_deref());
    file.option("Driver", matches.driver.as_deref());
    file.option("Name", matches.name.as_deref());
    if matches.macaddress.is_none() && matches.driver.is_none() && matches.name.is_none() {
        file.line("Name", id);
    }
    (name(id, "network"), of_interface(file, id, &ethernet.interface, links))
}

/// The sections behind `[Match]`.
fn of_interface(mut file: File, id: &str, interface: &Interface, links: &Links) -> String {
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
    let (bond, bridge) = (links.bond_of(id), links.bridge_of(id));
    file.option("Bond", bond);
    file.option("Bridge", bridge);
    if bond.is_some() || bridge.is_some() {
        // The addresses are those of the whole.
        file.line("LinkLocalAddressing", "no");
    }
    links.vlans_on(id).for_each(|vlan| file.line("VLAN", vlan));

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

#[derive(Default)]
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
    fn a_vlan_on_a_bond_of_two_cards_and_a_bridge() {
        let (files, unapplied) = of("ethernets: {a: {match: {macaddress: '52:54:00:12:34:56'}}}\n  \
             bonds: {bond0: {interfaces: [a, b], parameters: {mode: 802.3ad, mii-monitor-interval: 100, lacp-rate: fast}}}\n  \
             vlans: {bond0.7: {id: 7, link: bond0, addresses: [10.0.0.5/24]}}\n  \
             bridges: {br0: {interfaces: [bond0.7], dhcp4: true, parameters: {stp: false}}}");
        assert_eq!(unapplied, Vec::<String>::new());
        let names: Vec<&str> = files.iter().map(|(name, _)| &name["10-cloud-config-".len()..]).collect();
        let made = ["bond0.7", "bond0", "br0"].map(|id| [format!("{id}.netdev"), format!("{id}.network")]).concat();
        assert_eq!(names, [&["a.network".to_owned(), "b.network".into()][..], &made].concat());
        let content = |name: &str| &files.iter().find(|(file, _)| file.ends_with(&format!("-{name}"))).unwrap().1;
        assert_eq!(
            content("b.network"),
            "[Match]\nName=b\n\n[Link]\nRequiredForOnline=yes\n\n[Network]\nDHCP=no\nBond=bond0\nLinkLocalAddressing=no\n"
        );
        assert!(content("a.network").starts_with("[Match]\nPermanentMACAddress=52:54:00:12:34:56\n"));
        assert_eq!(
            content("bond0.netdev"),
            "[NetDev]\nName=bond0\nKind=bond\n\n[Bond]\nMode=802.3ad\nLACPTransmitRate=fast\nMIIMonitorSec=100ms\n"
        );
        assert!(content("bond0.network").ends_with("[Network]\nDHCP=no\nVLAN=bond0.7\n"));
        assert_eq!(content("bond0.7.netdev"), "[NetDev]\nName=bond0.7\nKind=vlan\n\n[VLAN]\nId=7\n");
        assert!(content("bond0.7.network").ends_with("Address=10.0.0.5/24\nBridge=br0\nLinkLocalAddressing=no\n"));
        assert_eq!(content("br0.netdev"), "[NetDev]\nName=br0\nKind=bridge\n\n[Bridge]\nSTP=no\n");
    }

    #[test]
    fn a_value_cannot_become_a_line_of_its_own() {
        let (files, unapplied) =
            of("ethernets: {e: {addresses: [\"1.2.3.4/8\\n[Match]\", 10.0.0.1/8]}, '../x': {dhcp4: true}}");
        assert_eq!(unapplied, ["network.ethernets.../x", "network.ethernets.e.addresses[0]"]);
        assert!(files.len() == 1 && files[0].1.ends_with("DHCP=no\nAddress=10.0.0.1/8\n"), "{files:?}");
    }
}
