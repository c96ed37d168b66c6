//! Virtual machines that are nodes of a real cluster: made from the ISO or the disk image of a node, they join by what
//! registration and inventory hand out, and the operator upgrades them.

mod rollout;
mod shop;
mod site;
mod two;

use anyhow::Result;
use api::reason;
use harness::node_image;
use harness::objects::condition;
use qemu::firmware::Firmware;
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use site::{Member, Site};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const VERSION: &str = "0.1.0";
/// A busy host takes several times as long as an idle one.
const INSTALLED: Duration = Duration::from_secs(900);
const ROLLED_OUT: Duration = Duration::from_secs(2400);
const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_secs(300);

/// With the firmware that checks the signature of what a release brings.
#[tokio::test(flavor = "multi_thread")]
async fn vm_node_joins_is_upgraded_and_falls_back() {
    let folder = release(VERSION, "raw").await;
    let site = Site::start("node", &folder, VERSION).await;
    let next = release("0.2.0", "oci").await;
    site.push(&next, "0.2.0").await.unwrap();
    site.push_bad(&next, "0.3.0").await.unwrap();
    let mut member = site.booted(site.power_on_image("NODE-1", Firmware::SecureBoot).await).await;
    joins(&site, &mut member).await;

    shop::apply(&site.world.cluster, 1, 0).unwrap();
    shop::whole(&site.world.cluster).await.unwrap();
    let before = boot(&site.node(&member));

    site.roll_out("0.2.0", reason::UPGRADED).await.unwrap();
    site.uncordoned(&member.name).await.unwrap();
    let good = site.node(&member);
    assert!(os_image(&good).contains("0.2.0"), "{good}");
    assert_ne!(boot(&good), before);
    let codes = site.exit_codes(&member.name, "0.2.0").unwrap();
    assert!(
        codes.len() > 1 && codes.ends_with(&[0]),
        "the restart ends the first pod, and the last one is done: {codes:?}"
    );
    shop::whole(&site.world.cluster).await.unwrap();
    let upgraded = |inventory: &Value| inventory["status"]["os"]["version"] == "0.2.0";
    let inventory = site.world.inventory_ready_and(&member.name, LONG, upgraded).await.unwrap();
    assert_eq!(inventory["status"]["os"]["slot"], "B", "{inventory}");
    assert_eq!(inventory["status"]["hardware"]["firmware"]["secureBoot"], true, "{inventory}");
    let joined =
        site.root(&member, "ros-installer status; journalctl --boot --output cat --unit ros-join.service").await;
    assert!(joined.contains("Cluster:     as agent, done at") && !joined.contains("kubelet was started"), "{joined}");

    let failed = site.roll_out("0.3.0", reason::FAILED).await.unwrap();
    let ready = condition(&failed, "Ready");
    let message = ready["message"].as_str().unwrap_or_default();
    assert!(message.contains(&member.name) && message.contains("0.3.0 did not come up"), "{message}");
    site.uncordoned(&member.name).await.unwrap();
    assert_ne!(boot(&site.node(&member)), boot(&good), "it has tried");
    shop::whole(&site.world.cluster).await.unwrap();
    let fell_back = |inventory: &Value| inventory["status"]["os"]["lastFailure"].is_object();
    let inventory = site.world.inventory_ready_and(&member.name, LONG, fell_back).await.unwrap();
    let os = &inventory["status"]["os"];
    assert_eq!((&os["lastFailure"]["version"], &os["slot"]), (&json!("0.3.0"), &json!("B")), "{inventory}");

    another_configuration_joins_again(&site, &mut member).await.unwrap();
}

/// A machine without a token waits for one; then it is a node, with what registration and inventory say.
async fn joins(site: &Site, member: &mut Member) {
    let waits = site.root(member, "ros-installer status").await;
    assert!(waits.contains("Cluster:     as agent"), "it has a role, and no token yet: {waits}");
    let asked = Instant::now();
    let node = site.join(member).await;
    println!("from the report to Ready: {:.1} s", asked.elapsed().as_secs_f64());
    let joined = "ros-installer: joined: the cluster as agent, by 50-kubelet";
    member.machine.console().wait_for_text(joined, SHORT).await.unwrap();
    let labels = &node["metadata"]["labels"];
    assert_eq!((&labels["site"], &labels["rack"]), (&json!("example"), &json!("3")), "{labels}");
    assert!(os_image(&node).contains(VERSION), "{node}");
    let told = "journalctl --boot --output cat; cat /proc/*/environ /proc/*/cmdline | tr '\\0' '\\n'";
    let told = site.root(member, told).await;
    assert!(told.contains("kubelet was started as a node of"), "{told}");
    assert!(!told.contains(&site.admission.token), "the token is in the journal, an environment or a command line");
}

/// A program that fails is seen on the machine and tried again.
async fn another_configuration_joins_again(site: &Site, member: &mut Member) -> Result<()> {
    let server = site.world.cluster.url_for_machines();
    site.world.patch_inventory(&member.name, &json!({"config": {"server": ""}}))?;
    let status = status_with(site, member, "failed at").await?;
    assert!(status.contains("the program 50-kubelet failed: spec.config.server is missing"), "{status}");
    let failed = "ros-installer: failed: joining the cluster as agent: the program 50-kubelet failed";
    member.machine.console().wait_for_text(failed, SHORT).await?;
    site.world.patch_inventory(&member.name, &json!({"config": {"server": server}}))?;
    status_with(site, member, "done at").await?;
    site.world.cluster.node_ready(&member.name, None, LONG).await?;
    Ok(())
}

/// Lets the machine report until its status shows this.
async fn status_with(site: &Site, member: &Member, shown: &str) -> Result<String> {
    until(&format!("the status to show {shown:?}"), LONG, async || {
        let command = "systemctl start ros-report.service; ros-installer status | grep Cluster:";
        let status = site.root(member, command).await;
        Ok(if status.contains(shown) { Poll::Ready(status) } else { Poll::Pending(status) })
    })
    .await
}

/// The folder of a release for nodes, with media of these formats.
async fn release(version: &'static str, formats: &'static str) -> PathBuf {
    tokio::task::spawn_blocking(move || node_image::build(version, formats)).await.unwrap().unwrap()
}

fn boot(node: &Value) -> String {
    node["status"]["nodeInfo"]["bootID"].as_str().unwrap_or_default().to_owned()
}

fn os_image(node: &Value) -> &str {
    node["status"]["nodeInfo"]["osImage"].as_str().unwrap_or_default()
}
