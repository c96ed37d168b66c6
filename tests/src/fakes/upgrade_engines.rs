//! Fake Fleet and System Upgrade Controller: their kinds, and functions that write what the real ones were seen to
//! write.

use crate::clusters::cluster::Cluster;
use anyhow::{Context, Result};
use qemu::paths;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Which CRDs are installed.
#[derive(Clone, Debug)]
pub enum Kinds {
    /// `tests/fixtures/crds`: the fields that we use, and no others.
    Strict,
    /// Those of the projects themselves, in this folder.
    Real(PathBuf),
}

impl Kinds {
    /// The strict ones, and the real ones if they exist in `$ROS_UPSTREAM_CRDS` or `../shared/upstream-crds`.
    pub fn available() -> Vec<Self> {
        let folder = std::env::var_os("ROS_UPSTREAM_CRDS").map(PathBuf::from);
        let folder = folder.unwrap_or_else(|| paths::workspace().join("../shared/upstream-crds"));
        if folder.join("fleet.yaml").is_file() {
            return vec![Self::Strict, Self::Real(folder)];
        }
        eprintln!("not tested against Fleet's and the upgrade controller's own schemas: none in {}", folder.display());
        vec![Self::Strict]
    }

    pub fn install_fleet(&self, cluster: &Cluster) -> Result<()> {
        self.install(cluster, "fleet.yaml", "fleet.yaml")
    }

    pub fn install_plans(&self, cluster: &Cluster) -> Result<()> {
        self.install(cluster, "plans.yaml", "system-upgrade-controller-plans.yaml")
    }

    fn install(&self, cluster: &Cluster, strict: &str, real: &str) -> Result<()> {
        let file = match self {
            Self::Strict => Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/crds").join(strict),
            Self::Real(folder) => folder.join(real),
        };
        let definitions = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        cluster.apply_definitions(&definitions)
    }
}

/// Does what Fleet does with a Bundle for each of `clusters`, all of which are this one: applies the resources as
/// strictly as Helm does, and writes the status.
pub fn deploy_bundle(cluster: &Cluster, bundle: &Value, clusters: &[&str]) -> Result<()> {
    let text = |pointer: &str| bundle.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    cluster.ensure_namespace(&text("/spec/defaultNamespace"))?;
    for resource in bundle["spec"]["resources"].as_array().context("finding the Bundle's resources")? {
        let content = resource["content"].as_str().context("finding a resource's content")?;
        let apply = ["apply", "--server-side", "--force-conflicts", "--field-manager=helm", "--validate=strict"];
        cluster.kubectl(&[&apply[..], &["-f", "-"]].concat(), content)?;
    }
    for target in clusters {
        let place = format!("cluster-{target}");
        cluster.ensure_namespace(&place)?;
        let deployment = json!({
            "apiVersion": "fleet.cattle.io/v1alpha1",
            "kind": "BundleDeployment",
            "metadata": {"name": name, "namespace": place, "labels": {
                "fleet.cattle.io/bundle-name": name,
                "fleet.cattle.io/bundle-namespace": namespace,
                "fleet.cattle.io/cluster": target,
                "fleet.cattle.io/cluster-namespace": namespace,
            }},
        });
        cluster.apply(&deployment)?;
    }
    set_bundle_status(cluster, bundle, clusters.len(), clusters.len())
}

/// Writes Fleet's status of a Bundle's generation. It is Ready if `desired` equals `ready`, also when both are 0.
pub fn set_bundle_status(cluster: &Cluster, bundle: &Value, desired: usize, ready: usize) -> Result<()> {
    let text = |pointer: &str| bundle.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let holds = if desired == ready { "True" } else { "False" };
    let status = json!({
        "observedGeneration": bundle["metadata"]["generation"],
        "summary": {"desiredReady": desired, "ready": ready},
        "display": {"readyClusters": format!("{ready}/{desired}")},
        "conditions": [{"type": "Ready", "status": holds}],
    });
    let object = format!("bundles.fleet.cattle.io/{}", text("/metadata/name"));
    cluster.patch_status(&object, &text("/metadata/namespace"), &status)
}
