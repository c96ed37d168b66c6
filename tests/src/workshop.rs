//! A place where machines get installed: a cluster, the operator on it, and media that name the operator.

use crate::clusters::cluster::{Cluster, Controllers};
use crate::clusters::operator::Operator;
use crate::clusters::registration::{NAMESPACE, Registration};
use anyhow::{Context, Result, bail};
use qemu::paths;
use qemu::process::KeptProcess;
use qemu::ssh::SshKey;
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub struct Workshop {
    folder: PathBuf,
    /// Logs in to every machine installed through the example registration.
    pub key: SshKey,
    pub operator: Operator,
    pub cluster: Cluster,
}

/// The user that the example registration makes on each machine.
pub const USER: &str = "admin";

impl Workshop {
    pub async fn open(folder: &Path, controllers: Controllers) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let key = SshKey::generate(folder)?;
        let cluster = Cluster::start(folder, controllers).await?;
        let operator = Operator::start(&cluster, folder).await?;
        Ok(Self { folder: folder.to_owned(), key, operator, cluster })
    }

    /// The spec in `examples/machine-registration.yaml`, with this workshop's SSH key in place of the example's.
    pub fn example_registration(&self) -> Result<Value> {
        let file = paths::workspace().join("examples/machine-registration.yaml");
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let mut object: Value = serde_yaml::from_str(&text).with_context(|| format!("parsing {}", file.display()))?;
        object["spec"]["cloudConfig"]["users"][0]["ssh_authorized_keys"] = json!([self.key.public]);
        Ok(object["spec"].take())
    }

    /// Applies a MachineRegistration and makes an ISO that installs through it.
    pub async fn medium(&self, registration: &str, spec: Value) -> Result<PathBuf> {
        self.medium_from(&paths::iso()?, registration, spec).await
    }

    /// The same from an ISO of the caller's.
    pub async fn medium_from(&self, original: &Path, registration: &str, spec: Value) -> Result<PathBuf> {
        self.medium_saying(original, registration, spec, json!({})).await
    }

    /// The same with more settings for the installer beside those of the registration.
    pub async fn medium_saying(
        &self,
        original: &Path,
        registration: &str,
        spec: Value,
        install: Value,
    ) -> Result<PathBuf> {
        let registration = Registration::apply(&self.cluster, registration, spec)?;
        let settings = self.folder.join("registration.yaml");
        let mut text = self.operator.fetch(&registration.local_url(&self.operator)?).await?;
        if let Some(more) = install.as_object().filter(|more| !more.is_empty()) {
            let mut document: Value = serde_yaml::from_str(&text).context("reading the registration's settings")?;
            let install = document["rancheros"]["install"].as_object_mut().context("finding rancheros.install")?;
            install.extend(more.clone());
            text = document.to_string();
        }
        fs::write(&settings, text).with_context(|| format!("writing {}", settings.display()))?;
        let iso = self.folder.join("install.iso");
        let output = Command::new(paths::program("ros-image")?)
            .arg("customize")
            .arg(original)
            .arg("--registration")
            .arg(&settings)
            .arg("--output")
            .arg(&iso)
            .output()
            .context("running ros-image customize")?;
        if !output.status.success() {
            bail!("putting the registration into an ISO: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(iso)
    }

    /// The MachineInventory of this name, when its phase is the one asked for.
    pub async fn machine_in_phase(&self, name: &str, phase: &str, limit: Duration) -> Result<Value> {
        let object = format!("machineinventories.rancheros.cattle.io/{name}");
        let what = format!("machine {name} in phase {phase}");
        until(&what, limit, async || {
            let arguments = ["get", "--ignore-not-found", "--output=json", "--namespace", NAMESPACE, &object];
            let found = self.cluster.kubectl(&arguments, "")?;
            if found.trim().is_empty() {
                return Ok(Poll::Pending("no such machine".to_owned()));
            }
            let machine: Value = serde_json::from_str(&found).context("parsing what kubectl printed")?;
            if machine["status"]["phase"] == phase {
                return Ok(Poll::Ready(machine));
            }
            Ok(Poll::Pending(machine["status"].to_string()))
        })
        .await
    }

    /// Names of all machines.
    pub fn machines(&self) -> Result<Vec<String>> {
        let arguments =
            ["get", "machineinventories", "--namespace", NAMESPACE, "--output=jsonpath={.items[*].metadata.name}"];
        Ok(self.cluster.kubectl(&arguments, "")?.split_whitespace().map(str::to_owned).collect())
    }

    /// What runs here, in the order of ending.
    pub fn processes(&self) -> Result<Vec<KeptProcess>> {
        Ok([self.operator.processes()?, self.cluster.processes()?].concat())
    }
}
