//! Machines as nodes of a test's cluster: how they are admitted, and what the cluster knows of them.

use crate::clusters::cluster::Cluster;
use anyhow::{Context, Result};
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;

/// What a machine needs to become a node.
pub struct Admission {
    /// URL of the API server, as a machine in QEMU's user network sees it.
    pub server: String,
    /// Bootstrap token. Any number of machines may use it.
    pub token: String,
    /// PEM of the cluster's authority.
    pub authority: String,
}

const TOKEN_ID: &str = "abcdef";
const TOKEN_SECRET: &str = "0123456789abcdef";
/// The group of everybody who has a bootstrap token, and that of the nodes.
const BOOTSTRAPPERS: &str = "system:bootstrappers";
const NODES: &str = "system:nodes";

impl Cluster {
    /// Lets machines become nodes by a bootstrap token, as kubeadm sets a cluster up. Needs the controllers, which sign the
    /// certificates of the nodes.
    pub fn admit_nodes(&self) -> Result<Admission> {
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
            "metadata": {"name": format!("bootstrap-token-{TOKEN_ID}"), "namespace": "kube-system"},
            "stringData": {
                "token-id": TOKEN_ID, "token-secret": TOKEN_SECRET, "usage-bootstrap-authentication": "true",
            },
        }))?;
        for (role, group) in [
            ("system:node-bootstrapper", BOOTSTRAPPERS),
            ("system:certificates.k8s.io:certificatesigningrequests:nodeclient", BOOTSTRAPPERS),
            ("system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", NODES),
        ] {
            self.apply(&json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                "metadata": {"name": format!("{group}:{role}")},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}],
            }))?;
        }
        let authority = self.authority_file();
        let authority = fs::read_to_string(&authority).with_context(|| format!("reading {}", authority.display()))?;
        Ok(Admission { server: self.url_for_machines(), token: format!("{TOKEN_ID}.{TOKEN_SECRET}"), authority })
    }

    /// Waits until a node is Ready, of another boot than `before`. Gives the Node.
    pub async fn node_ready(&self, name: &str, before: Option<&str>, limit: Duration) -> Result<Value> {
        until(&format!("node {name} to be Ready"), limit, async || {
            let found = self.kubectl(&["get", "node", name, "--ignore-not-found", "--output=json"], "")?;
            if found.trim().is_empty() {
                return Ok(Poll::Pending("no such node".to_owned()));
            }
            let node: Value = serde_json::from_str(&found).context("reading a node")?;
            let boot = &node["status"]["nodeInfo"]["bootID"];
            let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.iter().find(|condition| condition["type"] == "Ready").cloned().unwrap_or_default();
            let is_ready = ready["status"] == "True" && before.is_none_or(|before| boot != before);
            Ok(if is_ready { Poll::Ready(node) } else { Poll::Pending(format!("boot {boot}, Ready: {ready}")) })
        })
        .await
    }

    /// Waits until a pod of the namespace `default` runs and is ready. Gives the pod.
    pub async fn pod_ready(&self, name: &str, limit: Duration) -> Result<Value> {
        until(&format!("pod {name} to be ready"), limit, async || {
            let pod = self.get(&format!("pod/{name}"), "default")?;
            let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
            let is_ready = !statuses.is_empty() && statuses.iter().all(|status| status["ready"] == true);
            Ok(if is_ready { Poll::Ready(pod) } else { Poll::Pending(pod["status"].to_string()) })
        })
        .await
    }
}
