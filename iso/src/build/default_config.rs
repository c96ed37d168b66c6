//! The cloud-config that an image brings: `/usr/lib/ros/cloud-config.yaml`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use boot_contract::paths::IMAGE_CLOUD_CONFIG;
use cloud_config::keys::{summary, unapplied_or_unknown};
use cloud_config::{CloudConfig, normal_key};

use super::tree::{Node, Tree};

/// What every machine has of its own: how it is installed, and how it joins a cluster.
const NOT_OF_AN_IMAGE: [&str; 2] = ["rancherd", "rancheros"];

/// Reads and checks a file. What machines would not apply is an error here, because it can still be corrected.
pub fn read(file: &Path) -> Result<String> {
    let text = fs::read_to_string(file).with_context(|| format!("reading --cloud-config {}", file.display()))?;
    let config = CloudConfig::parse(&text).with_context(|| format!("--cloud-config {}", file.display()))?;
    let unapplied = unapplied_or_unknown(&config);
    if !unapplied.is_empty() {
        bail!("--cloud-config {}: machines would not apply {}", file.display(), summary(&unapplied));
    }
    if let Some(key) = config.0.keys().find(|key| NOT_OF_AN_IMAGE.contains(&normal_key(key).as_str())) {
        bail!(
            "--cloud-config {}: {key} is taken from the medium and from the operator alone; put it into the medium with \
             `ros-image customize`, or into the MachineRegistration",
            file.display()
        );
    }
    Ok(text)
}

/// Users of a machine cannot read it. Whoever has the image can.
pub fn add(tree: &mut Tree, text: Option<&str>) -> Result<()> {
    match text {
        Some(text) => tree.insert(IMAGE_CLOUD_CONFIG.trim_start_matches('/'), Node::file(0o600, text)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_machines_would_not_apply_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            let file = folder.path().join("cloud-config.yaml");
            fs::write(&file, text).unwrap();
            read(&file).map_err(|error| format!("{error:#}"))
        };
        assert_eq!(read("timezone: UTC\n"), Ok("timezone: UTC\n".to_owned()));
        for (text, named) in [
            ("packages: [vim]", "packages"),
            ("- a", "mapping"),
            ("rancheros: {install: {debug: true}}", "customize"),
            ("rancherd: {role: agent}", "rancherd"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains("--cloud-config") && error.contains(named), "{error}");
        }
    }
}
