//! Everything but the machines: a cluster, the operator in it, and one registration.

use crate::clusters::cluster::{Cluster, Controllers};
use crate::clusters::operator::Operator;
use crate::clusters::registration::{NAMESPACE, Registration};
use crate::fakes::software_machine::Endpoint;
use anyhow::{Context, Result};
use qemu::scratch::Scratch;
use serde_json::Value;

pub struct Site {
    pub operator: Operator,
    pub cluster: Cluster,
    pub registration: Registration,
    /// Goes last: everything else lies in it.
    pub scratch: Scratch,
}

impl Site {
    /// `name` is the test's; `spec` that of the MachineRegistration.
    pub async fn start(name: &str, spec: Value) -> Result<Self> {
        Self::start_with(name, spec, &[]).await
    }

    /// The same with an operator that has settings of its own, as environment variables.
    pub async fn start_with(name: &str, spec: Value, settings: &[(&str, &str)]) -> Result<Self> {
        let scratch = Scratch::new(name)?;
        let cluster = Cluster::start(&scratch.folder("cluster")?, Controllers::Absent).await?;
        let operator = Operator::start_with(&cluster, &scratch.folder("operator")?, settings).await?;
        let registration = Registration::apply(&cluster, "edge", spec)?;
        Ok(Self { operator, cluster, registration, scratch })
    }

    /// The registration's URL for programs on this host.
    pub fn url(&self) -> Result<String> {
        self.registration.local_url(&self.operator)
    }

    /// For machines in memory.
    pub async fn endpoint(&self) -> Result<Endpoint> {
        Endpoint::new(&self.url()?, &self.operator.ca().await?)
    }

    /// All MachineInventory objects there are.
    pub fn inventories(&self) -> Result<Vec<Value>> {
        let kind = "machineinventories.rancheros.cattle.io";
        let list = self.cluster.kubectl(&["get", kind, "--namespace", NAMESPACE, "--output", "json"], "")?;
        let list: Value = serde_json::from_str(&list).context("reading the inventories")?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }
}
