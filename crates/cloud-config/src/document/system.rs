//! Settings of the whole system: host name, time, trusted certificates, and the configuration of rancherd.

use crate::node::{Fields, Node};
use crate::{CloudConfig, tag};
use serde_json::Value;

#[derive(Clone, Debug, Default)]
pub struct Ntp {
    pub enabled: Option<bool>,
    pub servers: Vec<String>,
    pub pools: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct CaCerts {
    /// PEM certificates that are trusted in addition to those of the root image.
    pub trusted: Vec<String>,
    /// Trust only these.
    pub remove_defaults: bool,
}

/// The host name, as in cloud-init's `get_hostname_fqdn`. A name with a domain is the full name. An empty name counts
/// as absent.
pub(super) fn hostname(top: &mut Fields) -> Option<String> {
    let given = |node: Node| node.line().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    let [fqdn, hostname] = ["fqdn", "hostname"].map(|key| top.get(key).and_then(given));
    let prefers_full = top.get("prefer_fqdn_over_hostname").and_then(|node| node.flag()) == Some(true);
    let full = fqdn.or_else(|| hostname.clone());
    let short = hostname.or_else(|| full.clone()).map(|name| match name.split_once('.') {
        Some((short, _)) if !short.is_empty() && !name.contains("${") => short.to_owned(),
        _ => name,
    });
    if prefers_full { full } else { short }
}

pub(super) fn ntp(node: &Node) -> Option<Ntp> {
    let mut fields = node.fields()?;
    let enabled = fields.get("enabled").and_then(|node| node.flag());
    let [servers, pools] = ["servers", "pools"].map(|key| {
        let plain = |name: &str| !name.is_empty() && !name.contains([' ', '\t', '\n', '\r']);
        let nodes = fields.get(key).map(|node| node.one_or_more()).unwrap_or_default();
        nodes.iter().filter_map(|node| node.text_that(plain, "a name must not contain blanks")).collect()
    });
    Some(Ntp { enabled, servers, pools })
}

pub(super) fn ca_certs(node: &Node) -> Option<CaCerts> {
    let mut fields = node.fields()?;
    let trusted = fields.get("trusted").map(|node| node.one_or_more()).unwrap_or_default();
    let pem = |text: &str| text.contains("-----BEGIN CERTIFICATE-----");
    Some(CaCerts {
        trusted: trusted.iter().filter_map(|node| node.text_that(pem, "it must be a PEM certificate")).collect(),
        remove_defaults: fields.get("remove_defaults").and_then(|node| node.flag()).unwrap_or_default(),
    })
}

/// Everything except values with an unknown tag.
pub(super) fn rancherd(node: &Node) -> Option<CloudConfig> {
    fn plain(node: &Node) -> Option<Value> {
        if tag(node.value).is_some() {
            node.refuse("a value with a YAML tag cannot be passed on to rancherd");
            return None;
        }
        Some(match node.value {
            Value::Object(_) => Value::Object(
                node.named().iter().filter_map(|(key, node)| Some(((*key).to_owned(), plain(node)?))).collect(),
            ),
            Value::Array(_) => node.items().iter().filter_map(plain).collect(),
            other => other.clone(),
        })
    }
    match plain(node)? {
        Value::Object(map) => Some(CloudConfig(map)),
        _ => {
            node.refuse("it must be a mapping");
            None
        }
    }
}
