//! Network configuration, version 2 (netplan's).

use crate::node::{Fields, Node};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Network configuration, version 2: interfaces with their ids.
#[derive(Clone, Debug, Default)]
pub struct Network {
    pub ethernets: Vec<(String, Ethernet)>,
    pub vlans: Vec<(String, Vlan)>,
    pub bonds: Vec<(String, Bond)>,
    pub bridges: Vec<(String, Bridge)>,
}

#[derive(Clone, Debug, Default)]
pub struct Ethernet {
    pub matches: Match,
    pub interface: Interface,
}

#[derive(Clone, Debug, Default)]
pub struct Vlan {
    /// 0 to 4094.
    pub id: u32,
    /// The id of the interface that it is on.
    pub link: String,
    pub interface: Interface,
}

#[derive(Clone, Debug, Default)]
pub struct Bond {
    /// Ids of its members.
    pub interfaces: Vec<String>,
    pub mode: Option<String>,
    pub lacp_rate: Option<String>,
    /// In milliseconds.
    pub mii_monitor_interval: Option<u32>,
    pub transmit_hash_policy: Option<String>,
    pub interface: Interface,
}

#[derive(Clone, Debug, Default)]
pub struct Bridge {
    /// Ids of its members.
    pub interfaces: Vec<String>,
    /// Whether it takes part in the spanning tree protocol.
    pub stp: Option<bool>,
    /// In seconds.
    pub forward_delay: Option<u32>,
    pub interface: Interface,
}

/// What every kind of interface has. Every text in it is one line.
#[derive(Clone, Debug, Default)]
pub struct Interface {
    pub dhcp4: bool,
    pub dhcp6: bool,
    pub accept_ra: Option<bool>,
    /// With prefix length.
    pub addresses: Vec<String>,
    pub gateway4: Option<String>,
    pub gateway6: Option<String>,
    pub nameservers: Nameservers,
    pub routes: Vec<Route>,
    pub mtu: Option<u32>,
    /// The system does not wait for it when it starts.
    pub optional: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Match {
    pub name: Option<String>,
    pub macaddress: Option<String>,
    pub driver: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Nameservers {
    pub addresses: Vec<String>,
    pub search: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Route {
    pub to: String,
    pub via: Option<String>,
    pub on_link: Option<bool>,
    pub metric: Option<u32>,
    pub kind: Option<String>,
    pub table: Option<String>,
    pub scope: Option<String>,
    pub from: Option<String>,
    pub mtu: Option<u32>,
}

/// netplan's own files have everything below another `network`.
pub(super) fn network(node: &Node) -> Option<Network> {
    let inner = node.value.as_object().filter(|map| map.len() == 1).and_then(|map| map.get("network"));
    if inner.is_some_and(Value::is_object) {
        return node.named().first().and_then(|(_, node)| network(&node.clone().like("network")));
    }
    let mut fields = node.fields()?;
    let is_usable = fields.get("version").is_none_or(|version| {
        let number = version.number();
        if number.is_some_and(|number| number != 2) {
            version.refuse("it must be 2");
        }
        number == Some(2)
    });
    if let Some(renderer) = fields.get("renderer") {
        renderer.text_that(|name| name == "networkd", "it must be networkd");
    }
    let ethernets = interfaces(&mut fields, "ethernets", ethernet);
    let vlans = interfaces(&mut fields, "vlans", vlan);
    let bonds = interfaces(&mut fields, "bonds", bond);
    let bridges = interfaces(&mut fields, "bridges", bridge);
    Some(Network { ethernets, vlans, bonds, bridges }).filter(|_| is_usable)
}

/// The interfaces of a kind, by their ids.
fn interfaces<T>(fields: &mut Fields, kind: &str, read: fn(&str, &Node) -> Option<T>) -> Vec<(String, T)> {
    let named = fields.get(kind).map(|node| node.named()).unwrap_or_default();
    let present = named.into_iter().filter(|(_, node)| !node.value.is_null());
    present.filter_map(|(id, node)| Some((id.to_owned(), read(id, &node)?))).collect()
}

/// Where the keys of every kind of interface are described.
const COMMON: &str = "network.ethernets.*";

fn ethernet(id: &str, node: &Node) -> Option<Ethernet> {
    if !is_id(id) {
        node.refuse(ID_RULE);
        return None;
    }
    let mut fields = node.fields()?;
    // A `match` that is only partly understood could match another interface, or several.
    let matches = match fields.get("match") {
        Some(node) => matches(&node),
        None => Some(Match::default()),
    };
    let interface = interface(&mut fields);
    if matches.is_none() {
        fields.refuse("its `match` cannot be applied");
    }
    Some(Ethernet { matches: matches?, interface })
}

fn vlan(id: &str, node: &Node) -> Option<Vlan> {
    let mut fields = virtual_fields(id, node)?;
    let number = fields.get("id").and_then(|node| node.number()).filter(|number| *number <= 4094);
    let link = fields.get("link").and_then(|node| node.text_that(is_id, ID_RULE));
    let interface = interface(&mut fields);
    let (Some(id), Some(link)) = (number, link) else {
        fields.refuse("it needs an `id` from 0 to 4094 and a `link`");
        return None;
    };
    Some(Vlan { id, link, interface })
}

fn bond(id: &str, node: &Node) -> Option<Bond> {
    let mut fields = virtual_fields(id, node)?;
    let mut bond = Bond { interfaces: members(&mut fields), ..Bond::default() };
    if let Some(mut parameters) = fields.get("parameters").and_then(|node| node.fields()) {
        let modes =
            ["balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"];
        let mut one_of = |key: &str, words: &[&str]| {
            parameters.get(key)?.text_that(|word| words.contains(&word), "it is none of the supported words")
        };
        bond.mode = one_of("mode", &modes);
        bond.lacp_rate = one_of("lacp-rate", &["slow", "fast"]);
        let policies = ["layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4"];
        bond.transmit_hash_policy = one_of("transmit-hash-policy", &policies);
        bond.mii_monitor_interval = parameters.get("mii-monitor-interval").and_then(|node| node.number());
    }
    bond.interface = interface(&mut fields);
    Some(bond)
}

fn bridge(id: &str, node: &Node) -> Option<Bridge> {
    let mut fields = virtual_fields(id, node)?;
    let mut bridge = Bridge { interfaces: members(&mut fields), ..Bridge::default() };
    if let Some(mut parameters) = fields.get("parameters").and_then(|node| node.fields()) {
        bridge.stp = parameters.get("stp").and_then(|node| node.flag());
        bridge.forward_delay = parameters.get("forward-delay").and_then(|node| node.number());
    }
    bridge.interface = interface(&mut fields);
    Some(bridge)
}

/// The keys of an interface that is made under its id. Linux allows 15 characters.
fn virtual_fields<'a>(id: &str, node: &Node<'a>) -> Option<Fields<'a>> {
    if !is_id(id) || id.len() > 15 {
        node.refuse(ID_RULE);
        return None;
    }
    node.fields()
}

fn members(fields: &mut Fields) -> Vec<String> {
    let members = fields.get("interfaces").map(|node| node.items()).unwrap_or_default();
    members.iter().filter_map(|node| node.text_that(is_id, ID_RULE)).collect()
}

const ID_RULE: &str = "it is not a valid interface name";

fn is_id(id: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    !id.is_empty() && !id.starts_with('.') && id.chars().all(plain)
}

/// The keys of every kind of interface. Called last.
fn interface(fields: &mut Fields) -> Interface {
    fields.like(COMMON);
    let address = |node: Option<Node>| node.and_then(|node| node.text_that(is_address, ADDRESS_RULE));
    let flag = |node: Option<Node>| node.and_then(|node| node.flag());
    let addresses = fields.get("addresses").map(|node| node.items()).unwrap_or_default();
    let routes = fields.get("routes").map(|node| node.items()).unwrap_or_default();
    Interface {
        dhcp4: flag(fields.get("dhcp4")).unwrap_or_default(),
        dhcp6: flag(fields.get("dhcp6")).unwrap_or_default(),
        accept_ra: flag(fields.get("accept-ra")),
        addresses: addresses.iter().filter_map(own_address).collect(),
        gateway4: address(fields.get("gateway4")),
        gateway6: address(fields.get("gateway6")),
        nameservers: fields.get("nameservers").and_then(|node| nameservers(&node)).unwrap_or_default(),
        routes: routes.iter().filter_map(route).collect(),
        mtu: fields.get("mtu").and_then(|node| node.number()),
        optional: flag(fields.get("optional")).unwrap_or_default(),
    }
}

fn matches(node: &Node) -> Option<Match> {
    let mut fields = node.fields()?;
    let asked = node.value.as_object().map_or(0, |map| map.values().filter(|value| !value.is_null()).count());
    let [name, macaddress, driver] =
        ["name", "macaddress", "driver"].map(|key| fields.get(key).and_then(|node| node.line()));
    let found = [&name, &macaddress, &driver].into_iter().flatten().count();
    Some(Match { name, macaddress, driver }).filter(|_| found == asked)
}

/// An address, or a mapping from the address to its settings.
fn own_address(node: &Node) -> Option<String> {
    const RULE: &str = "it must be an address with a prefix length, such as 10.0.0.5/24";
    if !node.value.is_object() {
        return node.text_that(is_prefix, RULE);
    }
    let mut named = node.named().into_iter();
    match (named.next(), named.next()) {
        (Some((address, about)), None) if is_prefix(address) => {
            if !about.value.is_null() {
                about.refuse("only the address is applied");
            }
            Some(address.to_owned())
        }
        _ => {
            node.refuse(RULE);
            None
        }
    }
}

fn nameservers(node: &Node) -> Option<Nameservers> {
    let mut fields = node.fields()?;
    let addresses = fields.get("addresses").map(|node| node.one_or_more()).unwrap_or_default();
    let search = fields.get("search").map(|node| node.one_or_more()).unwrap_or_default();
    let domain = |name: &str| !name.is_empty() && !name.contains([' ', '\t', '\n', '\r']);
    Some(Nameservers {
        addresses: addresses.iter().filter_map(|node| node.text_that(is_address, ADDRESS_RULE)).collect(),
        search: search.iter().filter_map(|node| node.text_that(domain, "a name must not contain blanks")).collect(),
    })
}

/// A route with a part that cannot be used would lead elsewhere, so it is left out. Only an unusable metric or MTU is
/// left out alone.
fn route(node: &Node) -> Option<Route> {
    let mut fields = node.fields()?;
    let mut is_whole = true;
    let mut part = |fields: &mut Fields, key: &str, holds: &dyn Fn(&str) -> bool, rule| {
        let node = fields.get(key)?;
        let text = node.text_that(holds, rule);
        is_whole &= text.is_some();
        text
    };
    let destination = |to: &str| to == "default" || is_prefix(to) || is_address(to);
    let to = part(&mut fields, "to", &destination, "it must be `default` or an address with a prefix length");
    let via = part(&mut fields, "via", &is_address, ADDRESS_RULE);
    let from = part(&mut fields, "from", &is_address, ADDRESS_RULE);
    let kinds =
        ["unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit", "throw"];
    let kind = part(&mut fields, "type", &|kind| kinds.contains(&kind), "the type of route is not supported");
    let table = |table: &str| ["default", "main", "local"].contains(&table) || table.parse().is_ok_and(|n: u32| n > 0);
    let table = part(&mut fields, "table", &table, "it must be the number of a routing table");
    let scope = |scope: &str| ["global", "link", "host"].contains(&scope);
    let scope = part(&mut fields, "scope", &scope, "it must be global, link or host");
    let on_link = fields.get("on-link");
    let flag = on_link.as_ref().and_then(Node::flag);
    is_whole &= on_link.is_some() == flag.is_some();
    let metric = fields.get("metric").and_then(|node| node.number());
    let mtu = fields.get("mtu").and_then(|node| node.number());
    let Some(to) = to.filter(|_| is_whole) else {
        fields.refuse("the route is left out");
        return None;
    };
    Some(Route { to, via, on_link: flag, metric, kind, table, scope, from, mtu })
}

const ADDRESS_RULE: &str = "it must be an address";

fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

fn is_prefix(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let Ok(length) = length.parse::<u8>() else { return false };
    address.parse::<Ipv4Addr>().is_ok() && length <= 32 || address.parse::<Ipv6Addr>().is_ok() && length <= 128
}
