//! The operator's Helm chart.

use anyhow::{Context, Result, ensure};
use qemu::paths;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The release's name, and the chart's.
pub const RELEASE: &str = "rancheros-operator";

/// Values that render everything that is not there by default.
pub const EVERYTHING: &str = "\
    replicas=3,ingress.host=ros.example.org,ingress.tlsSecretName=ros-tls,tls.secretName=own,\
    metrics.serviceMonitor.enabled=true,networkPolicy.enabled=true,\
    global.cattle.systemDefaultRegistry=registry.example.org,service.type=ClusterIP,\
    planNamespaces[0]=system-upgrade,defaultOSImage.osImage=ros:v2,\
    networkBoot.enabled=true,networkBoot.url=http://boot.example.org:8080,\
    media.url=https://media.example.org:8443/ros.iso,media.sha256=\
    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// The folder of the chart in the clone.
pub fn folder() -> String {
    paths::workspace().join("chart").display().to_string()
}

/// Packs the chart as `make chart` does. Gives the archive.
pub fn package(output: &Path) -> Result<PathBuf> {
    let made = Command::new(paths::program("ros-image")?)
        .args(["chart", "--version", "0.1.0", "--chart", &folder(), "--output"])
        .arg(output)
        .output()
        .context("running ros-image chart")?;
    ensure!(made.status.success(), "ros-image chart: {}", String::from_utf8_lossy(&made.stderr));
    Ok(output.join(format!("{RELEASE}-0.1.0.tgz")))
}
