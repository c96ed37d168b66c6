//! The names of a machine's host and Node.

use super::templates::dashed;
use crate::inventory::index::KnownMachine;
use cloud_config::document;

/// Longest host name that is derived from the name of an inventory: the limit of a DNS label (RFC 1123).
const MAX_HOST_NAME: usize = 63;

/// The host name of a machine if its registration sets none: from the inventory's `spec.config`, else the inventory's
/// name with hyphens for dots, because a machine would use only the part before the first dot.
pub fn host_name(machine: &KnownMachine) -> String {
    let own = machine.config().and_then(|config| document::host_name(&config.cloud_config));
    match own {
        Some(name) => as_host_name(&name),
        None => dashed(&machine.name, &['-'], MAX_HOST_NAME),
    }
}

/// The default name of a machine's Node: the host name in lower case, as kubelet and k3s make it.
pub fn node_name(host_name: &str) -> String {
    host_name.to_lowercase()
}

/// A valid host name: letters, digits, hyphens and dots, with a letter or digit at both ends. A sequence of other
/// characters becomes one hyphen. Empty if nothing is left.
pub(super) fn as_host_name(text: &str) -> String {
    dashed(text, &['-', '.'], MAX_HOST_NAME)
}
