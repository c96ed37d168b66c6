//! Virtual machines that are nodes of a real cluster: installed from the ISO of a node, they join by what registration and
//! inventory hand out.

use anyhow::Result;
use api::Phase;
use boot_contract::Milestone;
use harness::clusters::cluster::Controllers;
use harness::clusters::image_registry::ImageRegistry;
use harness::clusters::nodes::Admission;
use harness::clusters::operator::HOST_SEEN_BY_MACHINES;
use harness::clusters::pod_image;
use harness::node_image;
use harness::world::World;
use qemu::disk::{Disk, GIB};
use qemu::firmware::Firmware;
use qemu::machine::{Drive, Machine, MachineSpec, Medium};
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const VERSION: &str = "0.1.0";
/// A busy host takes several times as long as an idle one.
const INSTALLED: Duration = Duration::from_secs(900);
const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
async fn matrix_node_joins_and_runs_pods() {
    let folder = tokio::task::spawn_blocking(|| node_image::build(VERSION)).await.unwrap().unwrap();
    let builder = World::builder("node").unwrap().controllers(Controllers::Running);
    let registry = ImageRegistry::start(&builder.folder("registry").unwrap()).await.unwrap();
    for image in ["pause:3.10", "pod:1"] {
        pod_image::push(registry.port(), image).await.unwrap();
    }
    let world = builder.start().await.unwrap();
    let admission = world.cluster.admit_nodes().unwrap();
    let registration = registration(&world, &admission, registry.port());
    let medium = world.medium_from(&node_image::iso(&folder, VERSION), registration).await.unwrap();
    let mut spec = MachineSpec::new(Firmware::Uefi, "NODE-1");
    spec.disks.push(Disk::empty(world.path(), "root", 8 * GIB).unwrap());
    spec.medium = Some(Medium { file: medium, drive: Drive::Cd });
    let mut machine = world.machine(spec).await.unwrap();
    machine.power_on().await.unwrap();
    machine.wait_for_milestone(Milestone::Booted, INSTALLED).await.unwrap();

    let name = world.inventory_names().unwrap().remove(0);
    let waits = root(&world, &machine, "ros-installer status").await;
    assert!(waits.contains("Cluster:     as agent"), "it has a role, and no token yet: {waits}");
    let config = json!({"server": admission.server, "token": admission.token, "labels": {"rack": "3"}});
    world.patch_inventory(&name, &json!({"config": config})).unwrap();
    let asked = Instant::now();
    root(&world, &machine, "systemctl start ros-report.service").await;
    let node = world.cluster.node_ready(&name, None, LONG).await.unwrap();
    println!("from the report to Ready: {:.1} s", asked.elapsed().as_secs_f64());
    machine.console().wait_for_text("ros-installer: joined: the cluster as agent, by 50-kubelet", SHORT).await.unwrap();
    let labels = &node["metadata"]["labels"];
    assert_eq!((&labels["site"], &labels["rack"]), (&json!("example"), &json!("3")), "{labels}");
    let version = node["status"]["nodeInfo"]["osImage"].as_str().unwrap();
    assert!(version.contains(VERSION), "{version}");

    world.cluster.apply(&pod(&name)).unwrap();
    let ready = world.cluster.pod_ready("shop", LONG).await.unwrap();
    let status = root(&world, &machine, "ros-installer status; free -m; ps -eo rss,comm --sort=-rss | head -6").await;
    println!("{status}");
    assert!(status.contains("Cluster:     as agent, done at"), "{status}");
    let told = "journalctl --boot --output cat; cat /proc/*/environ /proc/*/cmdline | tr '\\0' '\\n'";
    let told = root(&world, &machine, told).await;
    assert!(told.contains("kubelet was started as a node of"), "{told}");
    assert!(!told.contains(&admission.token), "the token is in the journal, an environment or a command line");

    let boot = node["status"]["nodeInfo"]["bootID"].as_str().unwrap().to_owned();
    let restarted = Instant::now();
    root(&world, &machine, "systemctl --no-block reboot").await;
    world.cluster.node_ready(&name, Some(&boot), LONG).await.unwrap();
    println!("from the restart to Ready: {:.1} s", restarted.elapsed().as_secs_f64());
    machine.console().wait_for_text("healthy: slot A is good", LONG).await.unwrap();
    let again = world.cluster.pod_ready("shop", LONG).await.unwrap();
    assert_eq!(again["metadata"]["uid"], ready["metadata"]["uid"], "the same pod");
    world.inventory_in_phase(&name, Phase::Ready, SHORT).await.unwrap();
    let joined = root(&world, &machine, "journalctl --boot --output cat --unit ros-join.service").await;
    assert!(!joined.contains("kubelet was started"), "it has joined already: {joined}");

    another_configuration_joins_again(&world, &mut machine, &name).await.unwrap();
}

/// A program that fails is seen on the machine and tried again.
async fn another_configuration_joins_again(world: &World, machine: &mut Machine, name: &str) -> Result<()> {
    let server = world.cluster.url_for_machines();
    world.patch_inventory(name, &json!({"config": {"server": ""}}))?;
    let status = status_with(world, machine, "failed at").await?;
    assert!(status.contains("the program 50-kubelet failed: spec.config.server is missing"), "{status}");
    let failed = "ros-installer: failed: joining the cluster as agent: the program 50-kubelet failed";
    machine.console().wait_for_text(failed, SHORT).await?;
    world.patch_inventory(name, &json!({"config": {"server": server}}))?;
    status_with(world, machine, "done at").await?;
    world.cluster.node_ready(name, None, LONG).await?;
    Ok(())
}

/// Lets the machine report until its status shows this.
async fn status_with(world: &World, machine: &Machine, shown: &str) -> Result<String> {
    until(&format!("the status to show {shown:?}"), LONG, async || {
        let command = "systemctl start ros-report.service; ros-installer status | grep Cluster:";
        let status = world.key.run("root", machine.ssh_port(), command, SHORT).await?;
        Ok(if status.contains(shown) { Poll::Ready(status) } else { Poll::Pending(status) })
    })
    .await
}

/// The example registration with what every node of this cluster needs.
fn registration(world: &World, admission: &Admission, registry_port: u16) -> Value {
    let mut registration = world.example_registration().unwrap();
    let config = &mut registration["cloudConfig"];
    config["ssh_authorized_keys"] = json!([world.key.public]);
    config["rancherd"] = json!({"role": "agent", "labels": ["site=example"]});
    let mirror = format!("[host.\"http://{HOST_SEEN_BY_MACHINES}:{registry_port}\"]\n");
    let files = [
        ("/etc/kubernetes/pki/ca.crt", admission.authority.as_str()),
        ("/etc/containerd/certs.d/_default/hosts.toml", mirror.as_str()),
    ];
    let files = files.map(|(path, content)| json!({"path": path, "content": content}));
    config["write_files"].as_array_mut().unwrap().extend(files);
    registration
}

fn pod(node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shop", "namespace": "default"},
        "spec": {
            "nodeName": node, "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "shop", "image": "registry.example.org/pod:1", "args": [":8080"],
                "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 2},
            }],
        },
    })
}

async fn root(world: &World, machine: &Machine, command: &str) -> String {
    world.key.run("root", machine.ssh_port(), command, SHORT).await.unwrap()
}
