//! A cloud-config document: how it is parsed and written, how two are merged, and which keys the installed system
//! applies.

pub mod document;
pub mod keys;
mod node;
mod parse;
mod release_keys;
mod reset;
mod write;

pub use parse::CloudConfigError;
pub use release_keys::release_keys;
pub use reset::kept_over_reset;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The only key of a mapping that holds bytes that are not UTF-8, in base64.
const BINARY: &str = "!!binary";
/// The only key of a mapping that holds text of a template.
const TEMPLATE: &str = "!template";

/// The unknown YAML tag of a value: the only key of a mapping, with `!` in front. No key of a cloud-config begins with
/// it.
fn tag(value: &Value) -> Option<&str> {
    let only = value.as_object().filter(|map| map.len() == 1)?.keys().next()?;
    Some(only.as_str()).filter(|key| key.starts_with('!'))
}

/// A cloud-config: a mapping, as it stands below `#cloud-config`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CloudConfig(pub Map<String, Value>);

/// How a merge treats a list that both documents have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lists {
    /// The upper list replaces the lower one. Otherwise a document could not make a list shorter. Cloud-configs are
    /// merged this way.
    Replace,
    /// Items that the lower list does not have are appended to it. rancherd merges its configuration this way.
    Append,
}

impl CloudConfig {
    /// Largest YAML document, in bytes.
    pub const MAX_DOCUMENT: usize = 1024 * 1024;
    /// Most values of a document, with aliases expanded.
    pub const MAX_VALUES: usize = 128 * 1024;

    /// Reads a YAML document, with or without `#cloud-config` above it; `<<` merges as in YAML 1.1. A document of
    /// nothing but comments is an empty mapping. Scalars are read as YAML 1.2 does: `yes`, `NO` and `0644` are text.
    /// A number whose digits say more than its value, such as `1.50`, stays text.
    pub fn parse(document: &str) -> Result<Self, CloudConfigError> {
        parse::parse(document).map(Self)
    }

    /// The document as YAML, below `#cloud-config`. Text that YAML 1.1 would take for something else (`no`, `12:30`,
    /// `1_000`) is quoted, so that this crate, cloud-init and every other reader see the same document.
    pub fn to_yaml(&self) -> String {
        format!("#cloud-config\n{}", write::document(&self.0))
    }

    /// Merges `over` into this document. Mappings are merged key by key, at every depth; lists as `lists` says; everything
    /// else is replaced.
    pub fn merge(&mut self, over: CloudConfig, lists: Lists) {
        merge(&mut self.0, over.0, lists);
    }

    /// The settings below `rancheros.install`, by [`normal_key`]. If a key has two spellings, the one that sorts last
    /// counts.
    pub fn install(&self) -> BTreeMap<String, &Value> {
        let section = |map: &'_ Map<String, Value>, name: &str| -> Option<String> {
            map.keys().find(|key| normal_key(key) == name).cloned()
        };
        let below = section(&self.0, "rancheros").and_then(|key| self.0[&key].as_object()).and_then(|own| {
            let key = section(own, "install")?;
            own[&key].as_object()
        });
        below.into_iter().flatten().map(|(key, value)| (normal_key(key), value)).collect()
    }
}

/// The letters and digits of a setting's name, in lower case: `registrationURL`, `registration_url` and
/// `registration-url` are one setting, as in the first release.
pub fn normal_key(key: &str) -> String {
    key.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

fn merge(base: &mut Map<String, Value>, over: Map<String, Value>, lists: Lists) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Object(base)), Value::Object(over)) => merge(base, over, lists),
            (Some(Value::Array(base)), Value::Array(over)) if lists == Lists::Append => {
                for item in over {
                    if !base.contains(&item) {
                        base.push(item);
                    }
                }
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(value: Value) -> CloudConfig {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn lists_are_appended_on_request() {
        let mut base = config(json!({"a": {"taints": ["x", "y"]}, "b": [1], "c": "text"}));
        base.merge(config(json!({"a": {"taints": ["y", "z"]}, "b": 2, "c": ["list"]})), Lists::Append);
        assert_eq!(base, config(json!({"a": {"taints": ["x", "y", "z"]}, "b": 2, "c": ["list"]})));
    }

    #[test]
    fn mappings_merge_and_everything_else_is_replaced() {
        let mut base = config(json!({"a": {"b": 1, "c": [1, 2]}, "d": {"e": 1}, "f": "kept"}));
        base.merge(config(json!({"a": {"c": [3], "g": {"h": null}}, "d": "scalar"})), Lists::Replace);
        assert_eq!(base, config(json!({"a": {"b": 1, "c": [3], "g": {"h": null}}, "d": "scalar", "f": "kept"})));
    }

    #[test]
    fn merging_twice_is_merging_once() {
        let over = config(json!({"a": {"b": [1]}, "c": 2}));
        let mut once = config(json!({"a": {"b": 5, "x": 6}}));
        once.merge(over.clone(), Lists::Replace);
        let mut twice = once.clone();
        twice.merge(over, Lists::Replace);
        assert_eq!(once, twice);
    }

    #[test]
    fn installation_settings_are_found_however_they_are_spelled() {
        let text = "RancherOS:\n  install:\n    registration_url: https://a\n    force-efi: true\n";
        let config = CloudConfig::parse(text).unwrap();
        let install = config.install();
        assert_eq!(install["registrationurl"], "https://a");
        assert_eq!(install["forceefi"], &Value::Bool(true));
        assert_eq!(install.get("device"), None);
        assert!(CloudConfig::default().install().is_empty());
        assert!(self::config(json!({"rancheros": {"install": "text"}})).install().is_empty());
    }
}
