//! The machine inventories of a world.

use super::World;
use crate::clusters::registration::NAMESPACE;
use anyhow::{Context, Result};
use qemu::wait::{Poll, until};
use serde_json::Value;
use std::time::Duration;

impl World {
    /// All MachineInventory objects, in every namespace.
    pub fn inventories(&self) -> Result<Vec<Value>> {
        let kind = "machineinventories.rancheros.cattle.io";
        let list = self.cluster.kubectl(&["get", kind, "--all-namespaces", "--output", "json"], "")?;
        let list: Value = serde_json::from_str(&list).context("reading the inventories")?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// The names of all machine inventories.
    pub fn inventory_names(&self) -> Result<Vec<String>> {
        let name = |inventory: &Value| inventory["metadata"]["name"].as_str().map(str::to_owned);
        self.inventories()?.iter().map(|inventory| name(inventory).context("an inventory without a name")).collect()
    }

    /// Waits until the MachineInventory of this name is in this phase.
    pub async fn inventory_in_phase(&self, name: &str, phase: &str, limit: Duration) -> Result<Value> {
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
}
