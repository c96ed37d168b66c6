//! Many inventories, made quickly: copies of a registered machine's inventory, written into etcd as the API server
//! stores them. Each has its own name and identity.

use crate::clusters::etcd::{self, Etcd};
use crate::clusters::registration::NAMESPACE;
use anyhow::{Context, Result};
use api::MachineInventory;
use serde_json::{Value, json};
use std::ops::Range;

/// Copies the inventory called `original`.
pub async fn populate(etcd: &Etcd, original: &str, numbers: Range<usize>) -> Result<()> {
    let stored = etcd.get(&key(original)).await?;
    let template: Value = serde_json::from_slice(&stored).context("reading a stored inventory")?;
    etcd.put(numbers.map(|number| copy(&template, number))).await
}

/// Bytes of the inventory called `name`, as the API server stores it.
pub async fn stored_size(etcd: &Etcd, name: &str) -> Result<usize> {
    Ok(etcd.get(&key(name)).await?.len())
}

fn key(name: &str) -> String {
    etcd::key::<MachineInventory>(&format!("{NAMESPACE}/{name}"))
}

fn copy(template: &Value, number: usize) -> (String, Vec<u8>) {
    let name = format!("copy-{number:06}");
    let mut object = template.clone();
    object["metadata"]["name"] = json!(name);
    object["metadata"]["uid"] = json!(format!("00000000-0000-4000-8000-{number:012x}"));
    object["status"]["reinstall"]["uid"] = object["metadata"]["uid"].clone();
    object["spec"]["tpmHash"] = json!(format!("{number:064x}"));
    (key(&name), object.to_string().into_bytes())
}
