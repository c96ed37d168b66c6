//! What a machine keeps of its cloud-config when its settings are reset.

use crate::{CloudConfig, normal_key};
use serde_json::Value;

/// Keys without which a machine would not reach its operator, or would call itself something else: without the network and
/// the time it has no TLS connection.
const KEPT: [&str; 5] = ["fqdn", "hostname", "network", "ntp", "prefer_fqdn_over_hostname"];

/// The part of a cloud-config that a reset keeps: host name, network, time servers, and the keys for releases. Without a
/// key the machine would take releases that nobody signed.
pub fn kept_over_reset(config: &CloudConfig) -> CloudConfig {
    let mut kept = config.0.clone();
    kept.retain(|key, value| match value {
        _ if KEPT.contains(&key.as_str()) => true,
        Value::Object(own) if normal_key(key) == "rancheros" => {
            own.retain(|key, _| normal_key(key) == "release");
            !own.is_empty()
        }
        _ => false,
    });
    CloudConfig(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release_keys;

    #[test]
    fn name_network_time_and_release_keys_stay() {
        let text = "hostname: h\nusers: [{name: u}]\nwrite_files: []\nruncmd: [x]\nntp: {servers: [t]}\n\
                    network: {version: 2, ethernets: {e: {dhcp4: true}}}\npassword: p\nrancherd: {role: server}\n\
                    RancherOS: {install: {tty: ttyS0}, release: {keys: ['-----BEGIN PUBLIC KEY-----']}}\n";
        let kept = kept_over_reset(&CloudConfig::parse(text).unwrap());
        assert_eq!(kept.0.keys().collect::<Vec<_>>(), ["RancherOS", "hostname", "network", "ntp"]);
        assert_eq!(release_keys(&kept).unwrap().len(), 1);
        assert!(kept.install().is_empty());
        assert_eq!(kept_over_reset(&kept), kept);
        assert_eq!(kept_over_reset(&CloudConfig::default()), CloudConfig::default());
    }
}
