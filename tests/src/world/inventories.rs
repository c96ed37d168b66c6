//! The machine inventories of a world.

use super::{World, status_when};
use crate::clusters::registration::NAMESPACE;
use crate::objects::{condition, current_condition, kubectl_kind, kubectl_name, manifest};
use anyhow::{Context, Result};
use api::{MachineInventory, Phase, SHARED_SECRET_KEY, SHARED_SECRET_TYPE};
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);

impl World {
    /// Creates a MachineInventory by hand.
    pub fn create_inventory(&self, name: &str, spec: Value) -> Result<()> {
        self.cluster.apply(&manifest::<MachineInventory>(NAMESPACE, name, &spec))
    }

    /// Creates or changes the Secret that `machineTokenSecretName` of an inventory names.
    pub fn apply_token_secret(&self, name: &str, token: &str) -> Result<()> {
        self.cluster.apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "type": SHARED_SECRET_TYPE,
            "metadata": {"name": name, "namespace": NAMESPACE}, "stringData": {SHARED_SECRET_KEY: token},
        }))
    }

    /// Changes the spec of a MachineInventory by a merge patch.
    pub fn patch_inventory(&self, name: &str, spec: &Value) -> Result<()> {
        self.cluster.patch(&kubectl_name::<MachineInventory>(name), NAMESPACE, &json!({"spec": spec}))
    }

    /// Waits until a condition of a MachineInventory has this reason, for the current generation. An empty reason
    /// stands for no such condition. Gives the condition.
    pub async fn inventory_condition(&self, name: &str, kind: &str, reason: &str) -> Result<Value> {
        until(&format!("{kind} of {name}: {reason:?}"), TIMEOUT, async || {
            let inventories = self.inventories()?;
            let inventory = inventories.iter().find(|inventory| inventory["metadata"]["name"] == name);
            let inventory = inventory.with_context(|| format!("finding the inventory {name}"))?;
            let (found, current) = (condition(inventory, kind), current_condition(inventory, kind));
            let ready = found == current && found["reason"].as_str().unwrap_or_default() == reason;
            Ok(if ready { Poll::Ready(found) } else { Poll::Pending(found.to_string()) })
        })
        .await
    }

    /// All MachineInventory objects, in every namespace.
    pub fn inventories(&self) -> Result<Vec<Value>> {
        let kind = kubectl_kind::<MachineInventory>();
        let list = self.cluster.kubectl(&["get", &kind, "--all-namespaces", "--output", "json"], "")?;
        let list: Value = serde_json::from_str(&list).context("reading the inventories")?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// The names of all machine inventories.
    pub fn inventory_names(&self) -> Result<Vec<String>> {
        let name = |inventory: &Value| inventory["metadata"]["name"].as_str().map(str::to_owned);
        self.inventories()?.iter().map(|inventory| name(inventory).context("an inventory without a name")).collect()
    }

    /// Waits until the MachineInventory of this name is in this phase.
    pub async fn inventory_in_phase(&self, name: &str, phase: Phase, limit: Duration) -> Result<Value> {
        self.inventory_when(name, &format!("in phase {phase:?}"), limit, |machine| {
            machine["status"]["phase"] == json!(phase)
        })
        .await
    }

    /// Waits until the machine is ready, and its last report is the `expected` one.
    pub async fn inventory_ready_and(
        &self,
        name: &str,
        limit: Duration,
        expected: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let ready = |machine: &Value| machine["status"]["phase"] == json!(Phase::Ready) && expected(machine);
        self.inventory_when(name, "ready, with the report of its present system", limit, ready).await
    }

    /// Waits until the MachineInventory of this name is `right`. `what` says how, for the message at the deadline.
    pub async fn inventory_when(
        &self,
        name: &str,
        what: &str,
        limit: Duration,
        right: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let object = kubectl_name::<MachineInventory>(name);
        let fetch = || {
            let arguments = ["get", "--ignore-not-found", "--output=json", "--namespace", NAMESPACE, &object];
            let found = self.cluster.kubectl(&arguments, "")?;
            let found = Some(found.trim()).filter(|found| !found.is_empty());
            found.map(serde_json::from_str).transpose().context("parsing what kubectl printed")
        };
        status_when(&format!("machine {name} {what}"), limit, fetch, right).await
    }
}
