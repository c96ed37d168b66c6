//! Helm, built from `tests/go/helm/`, as users run it.

use crate::clusters::cluster::Cluster;
use crate::clusters::go_program::GoProgram;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

const HELM: GoProgram = GoProgram {
    name: "helm",
    package: "helm.sh/helm/v3/cmd/helm",
    // Without these flags Helm assumes Kubernetes 1.20 when it has no cluster.
    linker_flags: "-s -w -X helm.sh/helm/v3/internal/version.version=v3.22.0 \
    -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=36 \
    -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=36",
    links: &["helm"],
    effort: "Helm, one to three minutes",
};

/// Runs helm as the cluster's admin and gives its standard output.
pub fn helm(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let kubeconfig = cluster.kubeconfig();
    let folder = kubeconfig.parent().context("finding the cluster's folder")?;
    run(folder, Some(&kubeconfig), arguments)
}

/// Runs helm without a cluster and gives its standard output. `folder` is for helm's own files.
pub fn helm_alone(folder: &Path, arguments: &[&str]) -> Result<String> {
    run(folder, None, arguments)
}

fn run(folder: &Path, kubeconfig: Option<&Path>, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(HELM.folder()?.join("helm"));
    command.args(arguments).env("KUBECONFIG", kubeconfig.unwrap_or(Path::new("/nonexistent")));
    for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(name, folder.join("helm"));
    }
    let output = command.output().context("starting helm")?;
    if !output.status.success() {
        bail!("helm {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).context("reading what helm printed")
}
