//! The operator's latest answer about how this machine joins its cluster. It is stored, and merged over `rancherd` of the
//! cloud-config whenever rancherd's configuration is written, at each boot and after a report, and for the programs of
//! `join.d`.

use crate::installed::files::{RANCHERD_CONFIG, write_secret};
use crate::path_error::PathError;
use boot_contract::paths::{OEM_CLOUD_CONFIG, below};
use cloud_config::{CloudConfig, CloudConfigError, Lists};
use protocol::{Join, JoinConfiguration};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// File with the operator's latest answer. It holds the cluster's token, so only root can read it. A new installation
/// removes it.
const JOIN_FILE: &str = "/var/lib/ros/join.json";

/// The stored answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoredJoin {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cluster: Option<String>,
    #[serde(default)]
    configuration: JoinConfiguration,
}

/// The differences from the previous answer. `Display` names keys and never shows a value.
#[derive(Debug, PartialEq, Eq)]
pub struct JoinChange {
    cluster: Option<String>,
    keys: Vec<String>,
}

/// Why the operator's answer was not applied.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    #[error("reading {OEM_CLOUD_CONFIG}")]
    CloudConfig(#[from] CloudConfigError),
    #[error(transparent)]
    Path(#[from] PathError),
}

impl StoredJoin {
    /// Reads the answer stored below `root`. `None` if there is none yet.
    pub fn read(root: &Path) -> Result<Option<Self>, PathError> {
        let path = below(root, JOIN_FILE);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(PathError::of("reading", &path)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PathError::of("reading", &path)(error)),
        }
    }

    /// rancherd's configuration: the operator's answer merged over `rancherd` of the cloud-config, as rancherd itself
    /// would do it.
    pub fn merge_over(&self, rancherd: &CloudConfig) -> CloudConfig {
        let mut whole = rancherd.clone();
        whole.merge(CloudConfig(self.configuration.0.clone()), Lists::Append);
        whole
    }
}

/// Applies the operator's answer to a report: writes rancherd's configuration, if the cloud-config asks for rancherd,
/// and stores the answer. `None` if nothing has changed, or if the operator has no answer yet.
pub fn take(root: &Path, join: &Join) -> Result<Option<JoinChange>, AnswerError> {
    let Some(configuration) = join.configuration.clone() else { return Ok(None) };
    let stored = StoredJoin { cluster: join.cluster.clone(), configuration };
    let before = StoredJoin::read(root)?;
    let Some(rancherd) = rancherd(root)? else { return Ok(None) };
    let [config, answer] = [RANCHERD_CONFIG, JOIN_FILE].map(|file| below(root, file));
    let is_written = stored.configuration.is_empty() || config.exists();
    if before.as_ref() == Some(&stored) && is_written {
        return Ok(None);
    }
    let before = before.unwrap_or_default();
    // An empty answer is stored as well: it says that the cloud-config alone counts.
    let has_changed = before != stored || !is_written;
    if has_changed {
        write_secret(&config, stored.merge_over(&rancherd).to_yaml().as_bytes())
            .map_err(PathError::of("writing", &config))?;
    }
    // The answer is stored last. If this fails, the next report repeats everything.
    let kept = serde_json::to_vec(&stored).map_err(PathError::of("writing", &answer))?;
    write_secret(&answer, &kept).map_err(PathError::of("writing", &answer))?;
    let keys = changed(&before.configuration, &stored.configuration);
    Ok(has_changed.then_some(JoinChange { keys, cluster: stored.cluster }))
}

impl fmt::Display for JoinChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cluster {
            Some(cluster) => write!(f, "to cluster {cluster}")?,
            None => f.write_str("to no cluster of the operator")?,
        }
        if !self.keys.is_empty() {
            write!(f, "; changed: {}", self.keys.join(", "))?;
        }
        write!(f, "; {RANCHERD_CONFIG} is written")
    }
}

/// `rancherd` of the cloud-config. `None` if the cloud-config does not ask for it.
pub(super) fn rancherd(root: &Path) -> Result<Option<CloudConfig>, AnswerError> {
    let path = below(root, OEM_CLOUD_CONFIG);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(PathError::of("reading", &path)(error).into()),
    };
    let mut config = CloudConfig::parse(&text)?;
    Ok(match config.0.remove("rancherd") {
        Some(Value::Object(rancherd)) => Some(CloudConfig(rancherd)),
        _ => None,
    })
}

fn changed(before: &JoinConfiguration, after: &JoinConfiguration) -> Vec<String> {
    let keys: BTreeSet<&String> = before.0.keys().chain(after.0.keys()).collect();
    keys.into_iter().filter(|key| before.0.get(*key) != after.0.get(*key)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    fn system(cloud_config: &str) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("oem")).unwrap();
        fs::write(root.path().join("oem/cloud-config.yaml"), cloud_config).unwrap();
        root
    }
    fn answer(cluster: &str, configuration: Value) -> Join {
        let configuration = Some(serde_json::from_value(configuration).unwrap());
        Join { cluster: Some(cluster.into()), configuration, pending: None }
    }
    fn written(root: &TempDir) -> Value {
        let text = fs::read_to_string(below(root.path(), RANCHERD_CONFIG)).unwrap();
        Value::Object(CloudConfig::parse(&text).unwrap().0)
    }
    const RANCHERD: &str = "rancherd: {server: 'https://ros', token: 'tpm://', labels: [a=1]}";

    #[test]
    fn the_operators_answer_completes_the_cloud_config_for_root_alone() {
        let root = system(RANCHERD);
        let join = answer("c", json!({"role": "agent", "token": "s3cret", "labels": ["a=1", "b=2"]}));
        let change = take(root.path(), &join).unwrap().unwrap().to_string();
        assert_eq!(
            written(&root),
            json!({"server": "https://ros", "token": "s3cret", "role": "agent", "labels": ["a=1", "b=2"]})
        );
        assert!(change.contains("cluster c; changed: labels, role, token;") && !change.contains("s3cret"), "{change}");
        for path in [RANCHERD_CONFIG, JOIN_FILE] {
            let mode = fs::metadata(below(root.path(), path)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{path}");
        }
        assert_eq!(take(root.path(), &join).unwrap(), None, "nothing new");
        fs::remove_file(below(root.path(), RANCHERD_CONFIG)).unwrap();
        assert!(take(root.path(), &join).unwrap().is_some(), "a file that is gone is written again");
    }

    #[test]
    fn another_cluster_takes_the_place_of_the_one_before() {
        let root = system(RANCHERD);
        take(root.path(), &answer("c", json!({"role": "agent", "token": "one", "taints": ["x:NoSchedule"]}))).unwrap();
        let pending = Join { cluster: Some("d".into()), ..Join::default() };
        assert_eq!(take(root.path(), &pending).unwrap(), None);
        assert_eq!(written(&root)["token"], "one", "what is pending changes nothing");
        let change = take(root.path(), &answer("d", json!({"role": "agent", "token": "two"}))).unwrap().unwrap();
        assert_eq!(change.to_string(), format!("to cluster d; changed: taints, token; {RANCHERD_CONFIG} is written"));
        assert_eq!((&written(&root)["token"], written(&root).get("taints")), (&json!("two"), None));
        let nothing = Join { configuration: Some(JoinConfiguration::default()), ..Join::default() };
        let change = take(root.path(), &nothing).unwrap().unwrap();
        assert!(change.to_string().starts_with("to no cluster"), "{change}");
        assert_eq!(written(&root), json!({"server": "https://ros", "token": "tpm://", "labels": ["a=1"]}));
    }

    #[test]
    fn without_rancherd_in_the_cloud_config_nothing_is_written() {
        let root = system("hostname: a");
        assert_eq!(take(root.path(), &answer("c", json!({"token": "t"}))).unwrap(), None);
        assert!(!below(root.path(), RANCHERD_CONFIG).exists() && !below(root.path(), JOIN_FILE).exists());
    }

    #[test]
    fn an_empty_answer_changes_nothing() {
        let root = system(RANCHERD);
        let nothing = Join { configuration: Some(JoinConfiguration::default()), ..Join::default() };
        assert_eq!(take(root.path(), &nothing).unwrap(), None);
        assert!(!below(root.path(), RANCHERD_CONFIG).exists());
        assert_eq!(StoredJoin::read(root.path()).unwrap(), Some(StoredJoin::default()), "the operator has answered");
    }
}
