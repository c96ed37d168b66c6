//! The configuration by which the machine joins, and the form in which the programs of `join.d` get it.

use super::answer::StoredJoin;
use crate::installed::drop_ins::DropIn;
use crate::installed::files::write_secret;
use crate::path_error::PathError;
use cloud_config::CloudConfig;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Folder of the files for the programs. It is in memory, and only root can read it.
const FOLDER: &str = "run/ros/join";
/// The token of a cloud-config that nobody has replaced: rancherd then asks the operator by its TPM.
const BY_TPM: &str = "tpm://";

/// `rancherd` of the cloud-config, completed by the operator's answer.
#[derive(Clone, PartialEq)]
pub struct Configuration {
    values: CloudConfig,
    cluster: Option<String>,
    role: String,
}

impl Configuration {
    /// `None` if no role is given: the machine is to join no cluster.
    pub fn new(rancherd: &CloudConfig, answer: &StoredJoin) -> Option<Self> {
        let values = answer.merge_over(rancherd);
        let role = text(values.0.get("role")?)?;
        Some(Self { values, cluster: answer.cluster.clone(), role })
    }

    pub fn role(&self) -> &str {
        &self.role
    }

    /// The token of the cluster, a secret. Empty if there is none.
    pub fn token(&self) -> String {
        self.text("token").filter(|token| token != BY_TPM).unwrap_or_default()
    }

    /// SHA-256 of the configuration, as hex digits.
    pub fn digest(&self) -> String {
        let whole = json!({"cluster": self.cluster, "configuration": self.values});
        release::digest::of_bytes(whole.to_string().as_bytes())
    }

    fn text(&self, key: &str) -> Option<String> {
        self.values.0.get(key).and_then(text)
    }

    /// The items of a list, separated by commas, as kubelet takes labels and taints.
    fn list(&self, key: &str) -> Option<String> {
        let items: Vec<String> = self.values.0.get(key)?.as_array()?.iter().filter_map(text).collect();
        Some(items.join(",")).filter(|list| !list.is_empty())
    }

    /// Writes the files below `root` that programs read. They are removed with the returned value.
    pub fn hand_over(&self, root: &Path) -> Result<HandedOver, PathError> {
        let folder = root.join(FOLDER);
        let [config, token] = ["config.json", "token"].map(|name| folder.join(name));
        let mut handed_over = HandedOver { folder, environment: Vec::new() };
        let json = Value::Object(self.values.0.clone()).to_string();
        write_secret(&config, json.as_bytes()).map_err(PathError::of("writing", &config))?;
        handed_over.set("CONFIG", Some(config.display().to_string()));
        if !self.token().is_empty() {
            write_secret(&token, self.token().as_bytes()).map_err(PathError::of("writing", &token))?;
            handed_over.set("TOKEN_FILE", Some(token.display().to_string()));
        }
        handed_over.set("CLUSTER", self.cluster.clone());
        for (name, key) in [
            ("ROLE", "role"),
            ("SERVER", "server"),
            ("NODE_NAME", "nodeName"),
            ("ADDRESS", "address"),
            ("INTERNAL_ADDRESS", "internalAddress"),
        ] {
            handed_over.set(name, self.text(key));
        }
        handed_over.set("LABELS", self.list("labels"));
        handed_over.set("TAINTS", self.list("taints"));
        Ok(handed_over)
    }
}

/// The files for the programs, and the environment that names them.
pub struct HandedOver {
    folder: PathBuf,
    environment: Vec<(String, String)>,
}

impl HandedOver {
    fn set(&mut self, name: &str, value: Option<String>) {
        // A zero byte cannot be in an environment.
        let value = value.filter(|value| !value.contains('\0'));
        self.environment.extend(value.map(|value| (format!("ROS_JOIN_{name}"), value)));
    }

    /// The program with the environment.
    pub fn to(&self, program: &DropIn) -> DropIn {
        self.environment.iter().fold(program.clone(), |program, (name, value)| program.env(name, value))
    }
}

impl Drop for HandedOver {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!("removing {}: {error}", self.folder.display());
        }
    }
}

/// Text that is not empty, or a number as text.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;

    fn configuration(rancherd: Value) -> Option<Configuration> {
        let Value::Object(rancherd) = rancherd else { panic!("no mapping") };
        Configuration::new(&CloudConfig(rancherd), &StoredJoin::default())
    }

    #[test]
    fn a_machine_without_a_role_joins_nothing() {
        assert!(configuration(json!({"server": "https://ros", "token": "tpm://"})).is_none());
        assert!(configuration(json!({"role": ""})).is_none());
        assert_eq!(configuration(json!({"role": "agent"})).unwrap().role(), "agent");
    }

    #[test]
    fn programs_get_files_and_an_environment_without_the_token() {
        let root = tempfile::tempdir().unwrap();
        let whole = json!({
            "role": "agent", "server": "https://c:6443", "token": "s3cret", "nodeName": "one", "extra": {"a": [1]},
            "labels": ["a=1", "b=2"], "taints": ["k=v:NoSchedule"], "address": "", "internalAddress": null,
        });
        let config = configuration(whole.clone()).unwrap();
        let handed_over = config.hand_over(root.path()).unwrap();
        let environment: BTreeMap<&str, &str> =
            handed_over.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let folder = root.path().join(FOLDER);
        let path = |name: &str| folder.join(name).display().to_string();
        let (config_file, token_file) = (path("config.json"), path("token"));
        let expected = [
            ("ROS_JOIN_CONFIG", config_file.as_str()),
            ("ROS_JOIN_LABELS", "a=1,b=2"),
            ("ROS_JOIN_NODE_NAME", "one"),
            ("ROS_JOIN_ROLE", "agent"),
            ("ROS_JOIN_SERVER", "https://c:6443"),
            ("ROS_JOIN_TAINTS", "k=v:NoSchedule"),
            ("ROS_JOIN_TOKEN_FILE", token_file.as_str()),
        ];
        assert_eq!(environment, BTreeMap::from(expected));
        assert_eq!(serde_json::from_slice::<Value>(&fs::read(&config_file).unwrap()).unwrap(), whole);
        assert_eq!(fs::read_to_string(&token_file).unwrap(), "s3cret");
        for file in [&config_file, &token_file] {
            assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
        }
        drop(handed_over);
        assert!(!folder.exists());
    }

    #[test]
    fn the_placeholder_of_rancherd_is_no_token() {
        let root = tempfile::tempdir().unwrap();
        let handed_over = configuration(json!({"role": "agent", "token": "tpm://"})).unwrap().hand_over(root.path());
        assert!(handed_over.unwrap().environment.iter().all(|(name, _)| name != "ROS_JOIN_TOKEN_FILE"));
    }
}
