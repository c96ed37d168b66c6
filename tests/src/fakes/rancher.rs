//! A fake Rancher: its kinds on the API server, and methods that do what Rancher, its users and administrators do.

use crate::clusters::cluster::Cluster;
use crate::clusters::registration::NAMESPACE;
use anyhow::{Context, Result};
use qemu::paths;
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;

pub struct Rancher<'a> {
    cluster: &'a Cluster,
}

const TOKENS: &str = "clusterregistrationtokens.management.cattle.io";
const TIMEOUT: Duration = Duration::from_secs(60);

impl<'a> Rancher<'a> {
    /// Installs Rancher's kinds.
    pub fn install(cluster: &'a Cluster) -> Result<Self> {
        let path = paths::workspace().join("tests/fixtures/crds/rancher.yaml");
        let kinds = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        cluster.apply_definitions(&kinds)?;
        Ok(Self { cluster })
    }

    /// A Rancher that was installed before.
    pub fn of(cluster: &'a Cluster) -> Self {
        Self { cluster }
    }

    /// A user creates a cluster.
    pub fn make_cluster(&self, name: &str) -> Result<()> {
        let metadata = json!({"name": name, "namespace": NAMESPACE});
        self.cluster.apply(&json!({
            "apiVersion": "provisioning.cattle.io/v1", "kind": "Cluster", "metadata": metadata,
        }))
    }

    /// Rancher manages a cluster as the management cluster `managed_as`, in the namespace of that name.
    pub fn manage_cluster(&self, name: &str, managed_as: &str) -> Result<()> {
        self.cluster.kubectl(&["create", "namespace", managed_as], "")?;
        let object = format!("clusters.provisioning.cattle.io/{name}");
        self.cluster.patch_status(&object, NAMESPACE, &json!({"clusterName": managed_as}))
    }

    /// All ClusterRegistrationTokens of a management cluster.
    pub fn tokens(&self, managed_as: &str) -> Result<Vec<Value>> {
        Ok(self.cluster.get(TOKENS, managed_as)?["items"].as_array().cloned().unwrap_or_default())
    }

    /// Waits for a ClusterRegistrationToken without a token, and issues this one. Gives the object as it was created.
    pub async fn issue_token(&self, managed_as: &str, token: &str) -> Result<Value> {
        let asked = until(&format!("a token asked for in {managed_as}"), TIMEOUT, async || {
            let asked = self.tokens(managed_as)?.into_iter().find(|object| object["status"]["token"].is_null());
            Ok(asked.map_or_else(|| Poll::Pending("none".to_owned()), Poll::Ready))
        })
        .await?;
        let name = asked["metadata"]["name"].as_str().context("reading the token's name")?;
        self.cluster.patch_status(&format!("{TOKENS}/{name}"), managed_as, &json!({"token": token}))?;
        Ok(asked)
    }

    /// An administrator changes a Setting.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        self.cluster.apply(&json!({
            "apiVersion": "management.cattle.io/v3", "kind": "Setting", "metadata": {"name": name}, "value": value,
        }))
    }
}
