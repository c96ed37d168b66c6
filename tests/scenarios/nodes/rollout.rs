//! Upgrades of the nodes by the operator (`engine: Operator`), with releases from the registry of the site.

use super::{LONG, ROLLED_OUT, Site};
use anyhow::{Context, Result};
use api::{ManagedOSImage, condition_type};
use harness::clusters::image_registry::{self, REPOSITORY};
use harness::clusters::operator::NAMESPACE as OPERATOR_NAMESPACE;
use harness::objects::{current_condition, kubectl_name, manifest};
use harness::other_release::OtherRelease;
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

/// The namespace of ManagedOSImages for the nodes of the operator's own cluster.
const NAMESPACE: &str = "fleet-local";
const NAME: &str = "nodes";

impl Site {
    /// Pushes the upgrade image that `node_image::build` has written into this folder.
    pub(super) async fn push(&self, folder: &Path, version: &str) -> Result<()> {
        let archive = folder.join(format!("ros-{version}.oci.tar"));
        image_registry::push(&archive, self.registry.port(), version).await.map(drop)
    }

    /// Pushes a release that no machine can start: the one of this folder, with an initrd that is none.
    pub(super) async fn push_bad(&self, folder: &Path, version: &str) -> Result<()> {
        let of = folder.join("release");
        let bad = OtherRelease { of: &of, version, initrd: Some(&[0; 4096]), mok_manager: None, signed_by: None };
        let archive = bad.image(&self.world.folder("bad")?)?;
        image_registry::push(&archive, self.registry.port(), version).await.map(drop)
    }

    /// Names the release that the nodes should run, and waits until the roll-out ends for this reason. Gives the
    /// ManagedOSImage.
    pub(super) async fn roll_out(&self, version: &str, reason: &str) -> Result<Value> {
        let begun = Instant::now();
        let spec = json!({
            "engine": "Operator", "osImage": format!("{REPOSITORY}:{version}"), "concurrency": 1, "maxFailures": 0,
            "drain": {"timeout": "10m"},
        });
        self.world.cluster.apply(&manifest::<ManagedOSImage>(NAMESPACE, NAME, &spec))?;
        let ended = until(&format!("the roll-out of {version} to end: {reason}"), ROLLED_OUT, async || {
            let object = self.world.cluster.get(&kubectl_name::<ManagedOSImage>(NAME), NAMESPACE)?;
            let ready = current_condition(&object, condition_type::READY);
            let status = &object["status"]["nodes"];
            Ok(if ready["reason"] == reason { Poll::Ready(object) } else { Poll::Pending(format!("{ready} {status}")) })
        })
        .await?;
        println!("{version}: {reason} after {:.0} s", begun.elapsed().as_secs_f64());
        Ok(ended)
    }

    /// What the upgrade Jobs' pods on a node came to, the first one first: their exit codes.
    pub(super) fn exit_codes(&self, node: &str, version: &str) -> Result<Vec<i64>> {
        let pods = self.world.cluster.get("pods", OPERATOR_NAMESPACE)?;
        let mut found = Vec::new();
        for pod in pods["items"].as_array().context("listing the pods of upgrades")? {
            let image = &pod["spec"]["containers"][0]["image"];
            if pod["spec"]["nodeName"] == node && *image == json!(format!("{REPOSITORY}:{version}")) {
                let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
                let created = pod["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned();
                println!("{} of {created}: {ended}", pod["metadata"]["name"]);
                found.push((created, ended["exitCode"].as_i64().unwrap_or(-1)));
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, code)| code).collect())
    }

    /// Waits until pods may be scheduled on the node again.
    pub(super) async fn uncordoned(&self, node: &str) -> Result<()> {
        until(&format!("node {node} to be given back"), LONG, async || {
            let node = self.world.cluster.get(&format!("node/{node}"), "")?;
            let is_cordoned = node["spec"]["unschedulable"] == true;
            Ok(if is_cordoned { Poll::Pending(node["metadata"]["annotations"].to_string()) } else { Poll::Ready(()) })
        })
        .await
    }
}
