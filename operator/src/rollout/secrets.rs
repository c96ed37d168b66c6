//! Finds secrets in a cloud-config. They must not be in a Bundle: Fleet also stores its content in a cluster-scoped
//! object, which more people may read than the ManagedOSImage.

use cloud_config::normal_key;
use serde_json::{Map, Value};

/// Keys whose values are secrets, as [`normal_key`] writes them.
const SECRET_KEYS: [&str; 9] =
    ["chpasswd", "hashedpasswd", "passwd", "password", "plaintextpasswd", "privatekey", "secret", "secretkey", "token"];
/// Marks a private key in PEM, whatever the name of its field.
const PRIVATE_KEY: &str = "PRIVATE KEY-----";
/// A token of this form names a device and is not secret.
const TPM: &str = "tpm://";

/// The first secret in a cloud-config, as a path such as `users[0].passwd`.
pub fn first_secret(config: &Map<String, Value>) -> Option<String> {
    in_map("", config)
}

fn in_map(path: &str, map: &Map<String, Value>) -> Option<String> {
    map.iter().find_map(|(key, value)| {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        if SECRET_KEYS.contains(&normal_key(key).as_str()) && !says_nothing(value) {
            return Some(path);
        }
        in_value(&path, value)
    })
}

fn in_value(path: &str, value: &Value) -> Option<String> {
    match value {
        Value::Object(map) => in_map(path, map),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(index, item)| in_value(&format!("{path}[{index}]"), item))
        }
        Value::String(text) if text.contains(PRIVATE_KEY) => Some(path.to_owned()),
        _ => None,
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) => true,
        Value::String(text) => text.is_empty() || text.starts_with(TPM),
        Value::Array(items) => items.is_empty(),
        // `chpasswd: {expire: false}` sets no password.
        Value::Object(map) => map.values().all(says_nothing),
        Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(config: Value) -> Option<String> {
        first_secret(config.as_object().unwrap())
    }

    #[test]
    fn secrets_are_named_by_their_path() {
        assert_eq!(secret(json!({"users": [{"name": "u", "passwd": "$6$x"}]})).unwrap(), "users[0].passwd");
        assert_eq!(secret(json!({"rancherd": {"token": "abc"}})).unwrap(), "rancherd.token");
        assert_eq!(secret(json!({"chpasswd": {"list": "u:p"}})).unwrap(), "chpasswd");
        assert_eq!(secret(json!({"password": 123})).unwrap(), "password");
        let key = "-----BEGIN EC PRIVATE KEY-----";
        assert_eq!(secret(json!({"write_files": [{"content": key}]})).unwrap(), "write_files[0].content");
    }

    #[test]
    fn a_cloud_config_without_secrets_is_accepted() {
        let config = json!({
            "chpasswd": {"expire": false},
            "users": [{"name": "u", "lock_passwd": true, "ssh_authorized_keys": ["ssh-ed25519 AAAA"]}],
            "rancherd": {"token": "tpm://", "server": "https://s"},
            "ssh_pwauth": true,
        });
        assert_eq!(secret(config), None);
    }
}
