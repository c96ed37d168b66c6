//! A MachineRegistration, applied as a user applies it.

use crate::clusters::cluster::Cluster;
use crate::clusters::operator::Operator;
use crate::objects::{kubectl_name, manifest};
use anyhow::{Context, Result};
use api::MachineRegistration;
use serde_json::Value;

pub struct Registration {
    name: String,
    /// The registration URL that machines are told.
    pub url: String,
}

/// The namespace of registrations and of the inventories of their machines.
pub const NAMESPACE: &str = "fleet-default";

impl Registration {
    /// Applies it with kubectl and waits for its URL.
    pub fn apply(cluster: &Cluster, name: &str, spec: Value) -> Result<Self> {
        cluster.apply(&manifest::<MachineRegistration>(NAMESPACE, name, &spec))?;
        let object = kubectl_name::<MachineRegistration>(name);
        let path = "jsonpath={.status.registrationURL}";
        cluster.kubectl(&["wait", "--timeout=60s", "--for", path, "--namespace", NAMESPACE, &object], "")?;
        let url = cluster.kubectl(&["get", "--output", path, "--namespace", NAMESPACE, &object], "")?;
        Ok(Self { name: name.to_owned(), url })
    }

    /// The registration URL for programs on this host.
    pub fn local_url(&self, operator: &Operator) -> Result<String> {
        let path = self.url.strip_prefix(&operator.url()).with_context(|| {
            format!("registration {} has the URL {}, not below {}", self.name, self.url, operator.url())
        })?;
        Ok(operator.local_url(path))
    }
}
