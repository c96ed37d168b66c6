//! Installation media that name the world's operator.

use super::World;
use crate::clusters::registration::{NAMESPACE, Registration};
use crate::objects::kubectl_name;
use anyhow::{Context, Result, bail};
use api::MachineRegistration;
use qemu::paths;
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The time limit for a change of the operator's media to appear in a registration's status.
pub const MEDIA_NOTICED: Duration = Duration::from_secs(60);
/// The user that the example registration makes on each machine.
pub const USER: &str = "admin";

impl World {
    /// The spec in `examples/machine-registration.yaml`, with this world's SSH key in place of the example's.
    pub fn example_registration(&self) -> Result<Value> {
        let file = paths::workspace().join("examples/machine-registration.yaml");
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let mut object: Value = serde_yaml::from_str(&text).with_context(|| format!("parsing {}", file.display()))?;
        object["spec"]["cloudConfig"]["users"][0]["ssh_authorized_keys"] = json!([self.key.public]);
        Ok(object["spec"].take())
    }

    /// Applies a MachineRegistration `edge` and makes an ISO that installs through it.
    pub async fn medium(&self, spec: Value) -> Result<PathBuf> {
        self.medium_from(&paths::iso()?, spec).await
    }

    /// The same from another ISO, from a disk image, or from the files of a network boot.
    pub async fn medium_from(&self, original: &Path, spec: Value) -> Result<PathBuf> {
        self.medium_with(original, spec, json!({})).await
    }

    /// The same with more settings of the installer, `rancheros.install`, beside those of the registration.
    pub async fn medium_with(&self, original: &Path, spec: Value, install: Value) -> Result<PathBuf> {
        let settings = self.settings_with(spec, install).await?;
        self.customized(original, &settings)
    }

    /// The medium with the settings in this file.
    pub fn customized(&self, original: &Path, settings: &Path) -> Result<PathBuf> {
        let ending = original.extension().and_then(OsStr::to_str).unwrap_or("pxe");
        let medium = self.folder("medium")?.join(format!("install.{ending}"));
        let output = Command::new(paths::program("ros-image")?)
            .arg("customize")
            .arg(original)
            .arg("--registration")
            .arg(settings)
            .arg("--output")
            .arg(&medium)
            .output()
            .context("running ros-image customize")?;
        if !output.status.success() {
            bail!("putting the registration into a medium: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(medium)
    }

    /// `status.mediaURLs` of the registration `edge`; null if there are none.
    pub fn listed_media(&self) -> Result<Value> {
        let registration = self.cluster.get(&kubectl_name::<MachineRegistration>("edge"), NAMESPACE)?;
        Ok(registration["status"]["mediaURLs"].clone())
    }

    /// The URL of a medium that the operator serves, for programs on this host. Waits until the status lists it.
    pub async fn media_url(&self, name: &str) -> Result<String> {
        let what = format!("{name} in status.mediaURLs");
        let url = until(&what, MEDIA_NOTICED, async || {
            let listed = self.listed_media()?;
            let url = listed[name].as_str().map(str::to_owned);
            Ok(url.map_or_else(|| Poll::Pending(listed.to_string()), Poll::Ready))
        });
        let url = url.await?;
        let path = url.strip_prefix(&self.operator.url()).context("an address that is not the operator's")?;
        Ok(self.operator.local_url(path))
    }

    /// The file with the settings for a medium, as a user fetches it from the operator: those of a registration with this
    /// spec.
    pub async fn settings(&self, spec: Value) -> Result<PathBuf> {
        self.settings_with(spec, json!({})).await
    }

    /// The same with more settings of the installer, `rancheros.install`.
    pub async fn settings_with(&self, spec: Value, install: Value) -> Result<PathBuf> {
        let registration = Registration::apply(&self.cluster, "edge", spec)?;
        let settings = self.folder("medium")?.join("registration.yaml");
        let mut text = self.operator.fetch(&registration.local_url(&self.operator)?).await?;
        if let Some(more) = install.as_object().filter(|more| !more.is_empty()) {
            let mut document: Value = serde_yaml::from_str(&text).context("reading the registration's settings")?;
            let install = document["rancheros"]["install"].as_object_mut().context("finding rancheros.install")?;
            install.extend(more.clone());
            text = document.to_string();
        }
        fs::write(&settings, text).with_context(|| format!("writing {}", settings.display()))?;
        Ok(settings)
    }
}
