//! Which keys of a cloud-config the installed system applies. What it does not apply is named, never dropped in
//! silence: before an installation, in the registration's conditions, and on the machine's console.
//!
//! Names and meaning are cloud-init's (its "Module reference"), `rancherd` and `rancheros` ours.

use crate::CloudConfig;
use serde_json::Value;

/// Top-level keys, sorted.
pub const APPLIED: &[&str] = &[
    "bootcmd",
    "ca-certs",
    "ca_certs",
    "chpasswd",
    "fqdn",
    "groups",
    "hostname",
    "network",
    "ntp",
    "password",
    "prefer_fqdn_over_hostname",
    "rancherd",
    "rancheros",
    "runcmd",
    "ssh_authorized_keys",
    "ssh_pwauth",
    "timezone",
    "users",
    "write_files",
];

/// Keys of the mapping (or of each mapping in the list) below a top-level key.
const BELOW: &[(&str, &[&str])] = &[
    ("ca-certs", &["remove-defaults", "remove_defaults", "trusted"]),
    ("ca_certs", &["remove-defaults", "remove_defaults", "trusted"]),
    ("chpasswd", &["expire", "list", "users"]),
    ("network", &["version", "ethernets"]),
    ("ntp", &["enabled", "pools", "servers"]),
    (
        "users",
        &[
            "gecos",
            "groups",
            "hashed_passwd",
            "homedir",
            "lock-passwd",
            "lock_passwd",
            "name",
            "no_create_home",
            "no_user_group",
            "passwd",
            "plain_text_passwd",
            "primary_group",
            "shell",
            "ssh_authorized_keys",
            "sudo",
            "system",
            "uid",
        ],
    ),
    ("write_files", &["append", "content", "defer", "encoding", "owner", "path", "permissions"]),
];

/// Keys of one interface in `network.ethernets`.
const ETHERNET: &[&str] = &[
    "accept-ra",
    "addresses",
    "dhcp4",
    "dhcp6",
    "gateway4",
    "gateway6",
    "match",
    "mtu",
    "nameservers",
    "optional",
    "routes",
];

/// One line for each key that is not applied, such as `packages` or `users[1].ssh_import_id`.
pub fn unapplied(config: &CloudConfig) -> Vec<String> {
    let mut unapplied = Vec::new();
    for (key, value) in &config.0 {
        if !APPLIED.contains(&key.as_str()) {
            unapplied.push(format!("cloud-config key `{key}` is not applied"));
            continue;
        }
        if let Some((_, known)) = BELOW.iter().find(|(name, _)| name == key) {
            below(key, value, known, &mut unapplied);
        }
    }
    let ethernets = config.0.get("network").and_then(|n| n.get("ethernets")).and_then(Value::as_object);
    for (id, interface) in ethernets.into_iter().flatten() {
        below(&format!("network.ethernets.{id}"), interface, ETHERNET, &mut unapplied);
    }
    unapplied
}

fn below(path: &str, value: &Value, known: &[&str], unapplied: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let unknown = fields.keys().filter(|field| !known.contains(&field.as_str()));
            unapplied.extend(unknown.map(|field| format!("cloud-config key `{path}.{field}` is not applied")));
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate().filter(|(_, item)| item.is_object()) {
                below(&format!("{path}[{index}]"), item, known, unapplied);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(document: Value) -> Vec<String> {
        unapplied(&serde_json::from_value(document).unwrap())
    }

    #[test]
    fn what_is_applied_is_not_mentioned() {
        let document = json!({
            "hostname": "h",
            "users": ["default", {"name": "u", "sudo": "ALL=(ALL) ALL"}],
            "write_files": [{"path": "/x", "content": "y"}],
            "chpasswd": {"expire": false},
            "network": {"version": 2, "ethernets": {"eth0": {"dhcp4": true}}},
            "rancherd": {"role": "server"},
        });
        assert_eq!(of(document), Vec::<String>::new());
    }

    #[test]
    fn each_key_that_is_not_applied_is_named_with_its_place() {
        let document = json!({
            "pakages": ["vim"],
            "users": [{"name": "u", "ssh_import_id": ["gh:u"]}],
            "network": {"version": 2, "bonds": {}, "ethernets": {"e": {"wakeonlan": true}}},
        });
        let all = of(document).join("\n");
        for key in ["`pakages`", "`users[0].ssh_import_id`", "`network.bonds`", "`network.ethernets.e.wakeonlan`"] {
            assert!(all.contains(key), "{key} is missing from {all}");
        }
    }

    #[test]
    fn the_list_is_sorted() {
        assert!(APPLIED.is_sorted());
    }
}
