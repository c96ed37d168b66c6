//! `engine: Operator`: the operator cordons, drains and upgrades the Nodes of a real API server. Their kubelets, and the
//! controllers of Jobs, pods and budgets, are fakes.

use anyhow::{Context, Result, bail, ensure};
use api::{MachineInventory, ManagedOSImage, condition_type, reason};
use harness::clusters::cluster::Cluster;
use harness::clusters::operator::NAMESPACE as OPERATOR_NAMESPACE;
use harness::fakes::nodes::{FakeNodes, Fate};
use harness::objects::{condition, kubectl_name, manifest};
use harness::world::World;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::DeleteParams;
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

const NAMESPACE: &str = "fleet-local";
const NAME: &str = "default-os-image";
/// The inventory of a machine that is no node.
const KIOSK: &str = "kiosk";
const HOSTNAME: &str = "kubernetes.io/hostname";
/// The namespace of pods that are not those of the workload.
const KEPT: &str = "kept";
/// Where upgrade Jobs find their cloud-config.
const SECRET: &str = "secret/ros-operator-cloud-configs";
const TIMEOUT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_drained_and_upgraded_one_after_the_other_though_the_operator_is_killed() {
    let mut world = World::builder("rollout-by-operator").unwrap().start().await.unwrap();
    let nodes = FakeNodes::start(&world.cluster).await.unwrap();
    let plane = json!({"node-role.kubernetes.io/control-plane": ""});
    nodes.node("z-plane", plane, "RancherOS 0.1.0").await.unwrap();
    for (node, pod) in [("w1", "web-1"), ("w2", "web-2"), ("w3", "web-3")] {
        nodes.node(node, json!({"pool": "workers"}), "RancherOS 0.1.0").await.unwrap();
        nodes.pod(pod, node).await.unwrap();
    }
    nodes.budget(2).await.unwrap();
    let rollout = Rollout { nodes };

    // The budget holds, and so does the order, though the operator is killed at each kind of step.
    let spec = json!({"osImage": "registry.example.org/os2:v0.2.0", "drain": {"timeout": "10m", "gracePeriod": 7}});
    world.cluster.apply(&manifest::<ManagedOSImage>(NAMESPACE, NAME, &spec)).unwrap();
    rollout.cordoned(&world, "z-plane").await.unwrap();
    restart(&mut world).await.unwrap();
    rollout.begun(2).await.unwrap();
    restart(&mut world).await.unwrap();
    let done = rollout.reason(&world, reason::UPGRADED).await.unwrap();
    assert_eq!(done["status"]["engine"], "Operator");
    assert_eq!(done["status"]["counts"], json!({"desired": 4, "done": 4, "updating": 0, "failed": 0}));
    {
        let seen = rollout.nodes.seen.lock().unwrap();
        assert_eq!(seen.wrong, [""; 0]);
        assert_eq!((seen.begun[0].as_str(), seen.begun.len(), seen.most), ("z-plane", 4, 1));
        assert_eq!(seen.grace, [7].into());
    }
    assert_eq!(rollout.all_cordoned(&world).unwrap(), [""; 0]);

    // A release that cannot be installed: one node tries, says why and is used again. The others are not touched.
    rollout.nodes.fate(Fate::Fails("NotARelease: it has no release.json".to_owned()));
    rollout.edit(&world, json!({"osImage": "registry.example.org/os2:v0.3.0", "concurrency": 3})).unwrap();
    let failed = rollout.reason(&world, reason::FAILED).await.unwrap();
    assert!(
        message(&failed).contains("z-plane: JobFailed: NotARelease: it has no release.json"),
        "{}",
        message(&failed)
    );
    assert_eq!(condition(&failed, condition_type::STALLED)["status"], "True");
    rollout.nobody_cordoned(&world).await.unwrap();
    restart(&mut world).await.unwrap();
    rollout.reason(&world, reason::FAILED).await.unwrap();
    assert_eq!(rollout.nodes.seen.lock().unwrap().begun.len(), 5);
    rollout.drains_as_kubectl_does(&world).await.unwrap();

    // Another digest goes on by itself, two at a time, but for a node whose pods nothing may move.
    rollout.nodes.fate(Fate::Succeeds);
    rollout.nodes.budget(3).await.unwrap();
    let workers = json!({"matchLabels": {"pool": "workers"}});
    rollout
        .edit(
            &world,
            json!({"osImage": "registry.example.org/os2:v0.4.0", "nodeSelector": workers, "concurrency": 1,
        "drain": {"timeout": "12s"}}),
        )
        .unwrap();
    let stuck = rollout.found(&world, "an eviction that is refused", |image| {
        let text = image["status"]["nodes"][0]["reason"].as_str().unwrap_or_default();
        text.contains("Cannot evict pod as it would violate the pod's disruption budget")
    });
    stuck.await.unwrap();
    let failed = rollout.reason(&world, reason::FAILED).await.unwrap();
    assert!(message(&failed).contains("global timeout reached: 12s"), "{}", message(&failed));
    assert!(message(&failed).contains("disruption budget"), "{}", message(&failed));
    rollout.nobody_cordoned(&world).await.unwrap();
    rollout.nodes.budget(1).await.unwrap();
    // Beside the nodes a machine that is none upgrades itself.
    let mut kiosk = manifest::<MachineInventory>(NAMESPACE, KIOSK, &json!({}));
    kiosk["metadata"]["labels"] = json!({"pool": "workers"});
    world.cluster.apply(&kiosk).unwrap();
    rollout.kiosk_runs(&world, "0.2.0").unwrap();
    rollout.edit(&world, json!({"retry": "the budget is smaller", "concurrency": 2})).unwrap();
    let both = rollout.found(&world, "the roll-outs of two engines", |image| {
        let engines = &image["status"]["engines"];
        engines[0]["counts"]["done"] == 3 && engines[1]["counts"]["updating"] == 1
    });
    let both = both.await.unwrap();
    assert_eq!(both["status"]["engines"][0]["engine"], "Operator", "{}", both["status"]);
    assert_eq!(both["status"]["engines"][1]["engine"], "Machine", "{}", both["status"]);
    rollout.kiosk_runs(&world, "0.4.0").unwrap();
    let done = rollout.reason(&world, reason::UPGRADED).await.unwrap();
    assert_eq!(done["status"]["counts"]["done"], 4, "{}", done["status"]);
    assert_eq!((rollout.nodes.boots("w1"), rollout.nodes.boots("z-plane")), (2, 1));
    assert_eq!(rollout.nodes.seen.lock().unwrap().wrong, [""; 0]);

    rollout.hands_out_a_cloud_config(&world).await.unwrap();

    // A Node that is deleted while its Job runs. Then the ManagedOSImage is deleted: every node is given back, and the cloud-config
    // removed.
    rollout.nodes.fate(Fate::Runs);
    rollout.kiosk_runs(&world, "0.5.0").unwrap();
    let spec = json!({"osImage": "registry.example.org/os2:v0.5.0", "cloudConfig": {"timezone": "UTC"}});
    rollout.edit(&world, spec).unwrap();
    rollout.begun(14).await.unwrap();
    let gone = rollout.nodes.seen.lock().unwrap().begun[12].clone();
    world.cluster.kubectl(&["delete", "node", &gone], "").unwrap();
    let failed = rollout.reason(&world, reason::FAILED).await.unwrap();
    assert!(message(&failed).contains(&format!("{gone}: NodeGone")), "{}", message(&failed));
    let object = kubectl_name::<ManagedOSImage>(NAME);
    world.cluster.kubectl(&["delete", &object, "--namespace", NAMESPACE, "--timeout=60s"], "").unwrap();
    assert_eq!(rollout.all_cordoned(&world).unwrap(), [""; 0]);
    let left = world.cluster.get("nodes", "").unwrap();
    assert!(!left.to_string().contains("rancheros.cattle.io/upgrade"), "{left}");
    let jobs = world.cluster.get("jobs", OPERATOR_NAMESPACE).unwrap();
    assert_eq!(jobs["items"], json!([]));
    assert_eq!(world.cluster.get(SECRET, OPERATOR_NAMESPACE).unwrap().get("data"), None);
}

/// A large cluster with failures, delays and kills of the operator. Part of `make matrix`.
#[tokio::test(flavor = "multi_thread")]
async fn matrix_a_thousand_nodes_end_on_the_release_or_say_why_not() {
    const NODES: usize = 1000;
    const PLANES: usize = 5;
    const CONCURRENCY: usize = 50;
    let mut world = World::builder("rollout-thousand-nodes").unwrap().start().await.unwrap();
    let nodes = FakeNodes::start(&world.cluster).await.unwrap();
    for number in 0..NODES {
        let labels = if number < PLANES { json!({"node-role.kubernetes.io/control-plane": ""}) } else { json!({}) };
        nodes.node(&format!("n{number}"), labels, "RancherOS 0.1.0").await.unwrap();
    }
    nodes.fate(Fate::Mixed);
    let rollout = Rollout { nodes };
    let begin = std::time::Instant::now();
    let spec = json!({"osImage": "registry.example.org/os2:v0.2.0", "drain": {}, "concurrency": CONCURRENCY,
        "maxFailures": NODES});
    world.cluster.apply(&manifest::<ManagedOSImage>(NAMESPACE, NAME, &spec)).unwrap();
    for jobs in [2, 30, 200, 500, 800] {
        rollout.begun_within(jobs, Duration::from_secs(900)).await.unwrap();
        restart(&mut world).await.unwrap();
    }
    let ended = until("the end of the roll-out", Duration::from_secs(900), async || {
        let image = world.cluster.get(&kubectl_name::<ManagedOSImage>(NAME), NAMESPACE)?;
        let counts = &image["status"]["counts"];
        let ended = counts["done"].as_u64().unwrap_or(0) + counts["failed"].as_u64().unwrap_or(0);
        Ok(if ended == NODES as u64 { Poll::Ready(image) } else { Poll::Pending(counts.to_string()) })
    });
    let ended = ended.await.unwrap();
    eprintln!("{NODES} nodes in {:?}: {}", begin.elapsed(), ended["status"]["counts"]);
    rollout.nobody_cordoned(&world).await.unwrap();
    let seen = rollout.nodes.seen.lock().unwrap();
    assert_eq!(seen.wrong, [""; 0]);
    assert_eq!(seen.begun.len(), NODES, "each node once");
    assert!(seen.most <= CONCURRENCY && seen.most_cordoned <= CONCURRENCY, "{} {}", seen.most, seen.most_cordoned);
}

struct Rollout {
    nodes: FakeNodes,
}

impl Rollout {
    fn edit(&self, world: &World, spec: Value) -> Result<()> {
        world.cluster.patch(&kubectl_name::<ManagedOSImage>(NAME), NAMESPACE, &json!({"spec": spec}))
    }

    /// Sets the status of the inventory as if its machine had reported this release.
    fn kiosk_runs(&self, world: &World, version: &str) -> Result<()> {
        let status = json!({"phase": "Ready", "lastSeen": Timestamp::now().to_string(),
            "os": {"version": version, "slot": "A", "healthy": true, "selfUpgrading": true}});
        world.cluster.patch_status(&kubectl_name::<MachineInventory>(KIOSK), NAMESPACE, &status)
    }

    /// Waits until so many Jobs have begun.
    async fn begun(&self, count: usize) -> Result<()> {
        self.begun_within(count, TIMEOUT).await
    }

    async fn begun_within(&self, count: usize, limit: Duration) -> Result<()> {
        until(&format!("{count} Jobs"), limit, async || {
            let begun = self.nodes.seen.lock().unwrap().begun.clone();
            Ok(if begun.len() >= count { Poll::Ready(()) } else { Poll::Pending(format!("{begun:?}")) })
        })
        .await
    }

    /// A cloud-config alone is upgraded to on every node, by Jobs that find it in a Secret of the operator.
    async fn hands_out_a_cloud_config(&self, world: &World) -> Result<()> {
        let secret = || world.cluster.get(SECRET, OPERATOR_NAMESPACE);
        let before = self.nodes.seen.lock().unwrap().begun.len();
        let metadata = json!({"name": "ros-operator-cloud-configs", "namespace": OPERATOR_NAMESPACE});
        let foreign = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"theirs": "eA=="}});
        world.cluster.apply(&foreign)?;
        self.edit(world, json!({"cloudConfig": {"hostname": "h"}}))?;
        self.reason(world, reason::NAME_TAKEN).await?;
        ensure!(secret()?["data"] == json!({"theirs": "eA=="}), "it was written over");
        ensure!(self.all_cordoned(world)?.is_empty() && self.nodes.seen.lock().unwrap().begun.len() == before);

        let (kind, name) = SECRET.split_once('/').context("a kind and a name")?;
        world.cluster.kubectl(&["delete", kind, name, "--namespace", OPERATOR_NAMESPACE], "")?;
        // The operator reconciles once a minute, or at an edit.
        self.edit(world, json!({"maxFailures": 1}))?;
        self.begun(before + 1).await?;
        let jobs = world.cluster.get("jobs", OPERATOR_NAMESPACE)?;
        let volume = json!({"secretName": name, "optional": true, "defaultMode": 420,
            "items": [{"key": NAME, "path": "cloud-config"}]});
        let mut volumes = jobs["items"].as_array().into_iter().flatten();
        ensure!(
            volumes.any(|job| job["spec"]["template"]["spec"]["volumes"][1]["secret"] == volume),
            "no Job has the cloud-config: {jobs}"
        );
        ensure!(secret()?["data"][NAME] == "I2Nsb3VkLWNvbmZpZwpob3N0bmFtZTogaAo=", "{}", secret()?);
        self.reason(world, reason::UPGRADED).await?;
        ensure!(self.nodes.seen.lock().unwrap().begun.len() == before + 3, "each node of the selector once");
        // Without it nothing is to be done, and it is gone.
        self.edit(world, json!({"cloudConfig": null, "maxFailures": null}))?;
        self.reason(world, reason::UPGRADED).await?;
        ensure!(secret()?.get("data").is_none(), "{}", secret()?);
        ensure!(self.nodes.seen.lock().unwrap().begun.len() == before + 3);
        Ok(())
    }

    /// `kubectl drain` says which pods of a node may not be deleted; the operator says the same. With the options that allow it
    /// they are evicted.
    async fn drains_as_kubectl_does(&self, world: &World) -> Result<()> {
        pods_of_all_kinds(&world.cluster)?;
        let Err(said) = world.cluster.kubectl(&["drain", "w1", "--dry-run=server"], "") else {
            bail!("kubectl drain does not refuse anything")
        };
        let expected = refusals(&format!("{said:#}"));
        ensure!(expected.len() == 4, "{said:#}");
        let only = json!({"matchLabels": {HOSTNAME: "w1"}});
        let spec = json!({"osImage": "registry.example.org/os2:v0.3.1", "nodeSelector": only,
            "drain": {"ignoreDaemonSets": false}});
        self.edit(world, spec)?;
        let failed = self.reason(world, reason::FAILED).await?;
        let found = refusals(&message(&failed));
        ensure!(found == expected, "the operator refuses {found:?}, kubectl {expected:?}");

        // Nobody ends these pods, so that they are not waited for either.
        let drain = json!({"ignoreDaemonSets": true, "force": true, "deleteLocalData": true, "gracePeriod": 1,
            "skipWaitForDeleteTimeout": 1});
        self.edit(world, json!({"drain": drain, "retry": "with all options"}))?;
        self.begun(6).await?;
        let pods = world.cluster.get("pods", KEPT)?;
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        let left = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let left: Vec<&Value> = left.map(|pod| &pod["metadata"]["name"]).collect();
        ensure!(left == ["of-daemon-set"], "{left:?}");
        self.reason(world, reason::FAILED).await?;
        let before =
            json!({"ignoreDaemonSets": null, "force": null, "deleteLocalData": null, "skipWaitForDeleteTimeout": null});
        self.edit(world, json!({"nodeSelector": null, "drain": before}))?;
        world
            .cluster
            .kubectl(&["delete", "pods", "--all", "--namespace", KEPT, "--grace-period=0", "--force"], "")
            .map(drop)
    }

    /// Names of the cordoned nodes.
    fn all_cordoned(&self, world: &World) -> Result<Vec<String>> {
        let nodes = world.cluster.get("nodes", "")?;
        let nodes = nodes["items"].as_array().cloned().unwrap_or_default();
        let cordoned = nodes.into_iter().filter(|node| node["spec"]["unschedulable"] == true);
        Ok(cordoned.map(|node| node["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect())
    }

    async fn cordoned(&self, world: &World, name: &str) -> Result<()> {
        until(&format!("{name} to be cordoned"), TIMEOUT, async || {
            let cordoned = self.all_cordoned(world)?;
            Ok(if cordoned == [name] { Poll::Ready(()) } else { Poll::Pending(cordoned.join(", ")) })
        })
        .await
    }

    async fn nobody_cordoned(&self, world: &World) -> Result<()> {
        until("all nodes to be given back", TIMEOUT, async || {
            let cordoned = self.all_cordoned(world)?;
            Ok(if cordoned.is_empty() { Poll::Ready(()) } else { Poll::Pending(cordoned.join(", ")) })
        })
        .await
    }

    /// Waits until the status is of this spec and `Ready` has this reason.
    async fn reason(&self, world: &World, reason: &str) -> Result<Value> {
        let right = |image: &Value| {
            let ready = condition(image, condition_type::READY);
            ready["reason"] == reason && ready["observedGeneration"] == image["metadata"]["generation"]
        };
        self.found(world, &format!("the reason {reason}"), right).await
    }

    async fn found(&self, world: &World, what: &str, right: impl Fn(&Value) -> bool) -> Result<Value> {
        until(what, TIMEOUT, async || {
            let image = world.cluster.get(&kubectl_name::<ManagedOSImage>(NAME), NAMESPACE)?;
            Ok(if right(&image) { Poll::Ready(image) } else { Poll::Pending(image["status"].to_string()) })
        })
        .await
    }
}

/// Pods of every kind that `kubectl drain` makes a difference of.
fn pods_of_all_kinds(cluster: &Cluster) -> Result<()> {
    cluster.ensure_namespace(KEPT)?;
    let metadata = json!({"name": "default", "namespace": KEPT});
    cluster.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}))?;
    let template = json!({"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    cluster.apply(
        &json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "here", "namespace": KEPT},
        "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": template}}),
    )?;
    let owner = |kind: &str, name: &str| {
        json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "controller": true,
            "uid": "00000000-0000-0000-0000-000000000002"}])
    };
    for (name, owners, volumes) in [
        ("of-daemon-set", owner("DaemonSet", "here"), json!([])),
        ("of-deleted-daemon-set", owner("DaemonSet", "gone"), json!([])),
        ("of-nobody", json!([]), json!([])),
        ("with-local-data", owner("ReplicaSet", "r"), json!([{"name": "v", "emptyDir": {}}])),
    ] {
        let metadata = json!({"name": name, "namespace": KEPT, "ownerReferences": owners});
        cluster.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
            "spec": {"nodeName": "w1", "containers": [{"name": "c", "image": "i"}], "volumes": volumes}}))?;
    }
    Ok(())
}

/// What a drain refuses, in the words of kubectl, each with its pod.
fn refusals(text: &str) -> BTreeSet<String> {
    let refusal = |part: &str| {
        let pod = part.find(&format!(": {KEPT}/"))?;
        let end = part[pod..].find([',', ';', ']', '\n']).map_or(part.len(), |end| pod + end);
        Some(part[..end].to_owned())
    };
    text.split("cannot delete ").skip(1).filter_map(refusal).collect()
}

/// Kills the operator, and starts another one as soon as it may lead.
async fn restart(world: &mut World) -> Result<()> {
    world.operator.kill();
    let leases = Api::<Lease>::namespaced(world.cluster.client().await?, OPERATOR_NAMESPACE);
    leases.delete("ros-operator", &DeleteParams::default()).await.context("deleting the dead leader's Lease")?;
    world.operator.resume().await
}

fn message(object: &Value) -> String {
    condition(object, condition_type::READY)["message"].as_str().unwrap_or_default().to_owned()
}
