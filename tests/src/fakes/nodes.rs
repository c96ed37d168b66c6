//! Nodes of a cluster that has no kubelet and no controllers: their kubelets, the controllers of Jobs, ReplicaSets and
//! PodDisruptionBudgets, as far as an upgrade of nodes meets them. What must never be seen is written down.

use crate::clusters::cluster::Cluster;
use crate::clusters::operator::NAMESPACE as OPERATOR_NAMESPACE;
use anyhow::{Context, Result};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Pause between two polls of everything.
const PAUSE: Duration = Duration::from_millis(200);
/// The namespace of the workload.
pub const SHOP: &str = "shop";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
const TIME: &str = "2026-11-30T00:00:00Z";

/// What becomes of the Jobs that begin from now on.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Fate {
    /// The node restarts with the release of the Job's image, and the Job succeeds.
    #[default]
    Succeeds,
    /// The container ends with this message. The node does not restart.
    Fails(String),
    /// The Job goes on until the fate changes.
    Runs,
    /// One Job in twenty fails, and each takes its time.
    Mixed,
}

/// What was seen, and what is to happen.
#[derive(Debug, Default)]
pub struct Seen {
    pub fate: Fate,
    /// Names of the nodes whose Jobs began, in their order.
    pub begun: Vec<String>,
    /// What must not happen, in words.
    pub wrong: Vec<String>,
    /// Jobs at once, at most.
    pub most: usize,
    /// Cordoned nodes at once, at most.
    pub most_cordoned: usize,
    polls: u64,
    /// Grace periods of deleted pods, in seconds.
    pub grace: BTreeSet<i64>,
    boots: BTreeMap<String, u32>,
    jobs: BTreeMap<String, Progress>,
    replacements: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Progress {
    Begun,
    Restarted,
    Ended,
}

/// The fake. It ends when it is dropped.
pub struct FakeNodes {
    pub seen: Arc<Mutex<Seen>>,
    client: Client,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for FakeNodes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeNodes {
    /// Begins to act for the Nodes that exist, now and later.
    pub async fn start(cluster: &Cluster) -> Result<Self> {
        cluster.ensure_namespace(SHOP)?;
        for namespace in [SHOP, OPERATOR_NAMESPACE] {
            let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": "default", "namespace": namespace}});
            cluster.apply(&account)?;
        }
        let client = cluster.client().await?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let task = tokio::spawn(act(client.clone(), seen.clone()));
        Ok(Self { seen, client, task })
    }

    /// Creates a Node as its kubelet would.
    pub async fn node(&self, name: &str, labels: Value, os_image: &str) -> Result<()> {
        let api = Api::<Node>::all(self.client.clone());
        let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
        node["metadata"]["labels"]["kubernetes.io/hostname"] = json!(name);
        let node: Node = serde_json::from_value(node).context("making a Node")?;
        api.create(&PostParams::default(), &node).await.context("creating a Node")?;
        boot(&self.client, name, 0, os_image).await
    }

    /// Creates a pod of a ReplicaSet on a node, which runs and is ready.
    pub async fn pod(&self, name: &str, node: &str) -> Result<()> {
        pod(&self.client, name, node).await
    }

    /// A budget for all of them.
    pub async fn budget(&self, least: i32) -> Result<()> {
        let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": "web", "namespace": SHOP},
            "spec": {"minAvailable": least, "selector": {"matchLabels": {"app": "web"}}}});
        let api = Api::<PodDisruptionBudget>::namespaced(self.client.clone(), SHOP);
        let parameters = PatchParams::apply("test").force();
        api.patch("web", &parameters, &Patch::Apply(&budget)).await.context("applying the budget").map(drop)
    }

    pub fn fate(&self, fate: Fate) {
        self.seen.lock().unwrap().fate = fate;
    }

    /// The boots of a node since it was made.
    pub fn boots(&self, node: &str) -> u32 {
        self.seen.lock().unwrap().boots.get(node).copied().unwrap_or(0)
    }
}

async fn act(client: Client, seen: Arc<Mutex<Seen>>) {
    loop {
        if let Err(error) = look(&client, &seen).await {
            eprintln!("the fake nodes: {error:#}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn look(client: &Client, seen: &Mutex<Seen>) -> Result<()> {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?.items;
    let open = |node: &&Node| node.spec.as_ref().is_none_or(|spec| spec.unschedulable != Some(true));
    let schedulable: BTreeSet<String> = nodes.iter().filter(open).map(ResourceExt::name_any).collect();
    let budgets = Api::<PodDisruptionBudget>::namespaced(client.clone(), SHOP);
    // Before the pods: one that is evicted meanwhile then makes the write of the budget fail.
    let budget = budgets.get_opt("web").await?;
    let pods = Api::<Pod>::namespaced(client.clone(), SHOP);
    let mut there = Vec::new();
    for one in pods.list(&ListParams::default()).await?.items {
        if one.metadata.deletion_timestamp.is_none() {
            there.push(one);
            continue;
        }
        seen.lock().unwrap().grace.extend(one.metadata.deletion_grace_period_seconds);
        // The kubelet has ended its containers; its ReplicaSet makes another one where it may run.
        pods.delete(&one.name_any(), &DeleteParams::default().grace_period(0)).await.ok();
        if let Some(node) = schedulable.iter().next() {
            let number = {
                let mut seen = seen.lock().unwrap();
                seen.replacements += 1;
                seen.replacements
            };
            pod(client, &format!("web-again-{number}"), node).await?;
        }
    }
    if let Some(budget) = budget {
        let wrong = count(&budgets, &budget, &there).await?;
        seen.lock().unwrap().wrong.extend(wrong);
    }
    let jobs = Api::<Job>::namespaced(client.clone(), OPERATOR_NAMESPACE);
    let jobs = jobs.list(&ListParams::default().labels("rancheros.cattle.io/node-uid")).await?.items;
    let mut running = 0;
    for job in &jobs {
        running += usize::from(!ended(job));
        work(client, seen, job, &nodes, &there).await?;
    }
    let planes: BTreeSet<String> = nodes.iter().filter(|node| is_plane(node)).map(ResourceExt::name_any).collect();
    let on = |job: &Job| Some(job.spec.as_ref()?.template.spec.as_ref()?.node_name.clone().unwrap_or_default());
    let on_planes = jobs.iter().filter(|job| !ended(job)).filter_map(on).filter(|node| planes.contains(node)).count();
    let mut seen = seen.lock().unwrap();
    if on_planes > 1 {
        seen.wrong.push(format!("{on_planes} control planes at once"));
    }
    seen.most = seen.most.max(running);
    seen.most_cordoned = seen.most_cordoned.max(nodes.len() - schedulable.len());
    seen.polls += 1;
    Ok(())
}

fn is_plane(node: &Node) -> bool {
    node.labels().contains_key("node-role.kubernetes.io/control-plane")
}

/// A number that follows from a value, in every run the same.
fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What the controller of budgets writes. Returns what must not be.
async fn count(api: &Api<PodDisruptionBudget>, budget: &PodDisruptionBudget, pods: &[Pod]) -> Result<Option<String>> {
    let least = match budget.spec.as_ref().and_then(|spec| spec.min_available.clone()) {
        Some(IntOrString::Int(least)) => least,
        _ => 0,
    };
    let names: BTreeSet<String> = pods.iter().map(ResourceExt::name_any).collect();
    // Their eviction is allowed already, and counts.
    let disrupted = budget.status.as_ref().and_then(|status| status.disrupted_pods.clone()).unwrap_or_default();
    let (going, gone): (Vec<_>, Vec<_>) = disrupted.into_keys().partition(|name| names.contains(name));
    let gone: BTreeMap<String, Value> = gone.into_iter().map(|name| (name, Value::Null)).collect();
    let healthy = i32::try_from(names.len()).unwrap_or(0);
    let left = healthy - i32::try_from(going.len()).unwrap_or(0);
    let status = json!({"metadata": {"resourceVersion": budget.metadata.resource_version}, "status": {
        "observedGeneration": budget.metadata.generation, "disruptedPods": gone, "currentHealthy": left,
        "desiredHealthy": least, "expectedPods": healthy, "disruptionsAllowed": (left - least).max(0)}});
    match api.patch_status("web", &PatchParams::default(), &Patch::Merge(&status)).await {
        Err(kube::Error::Api(status)) if status.is_conflict() => {}
        answer => drop(answer?),
    }
    Ok((healthy < least).then(|| format!("{healthy} pods serve, and the budget says {least}")))
}

fn ended(job: &Job) -> bool {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| matches!(condition.type_.as_str(), "Complete" | "Failed"))
}

/// One step of a Job.
async fn work(client: &Client, seen: &Mutex<Seen>, job: &Job, nodes: &[Node], pods: &[Pod]) -> Result<()> {
    let name = job.name_any();
    let spec = job.spec.as_ref().and_then(|spec| spec.template.spec.clone()).unwrap_or_default();
    let node = spec.node_name.clone().unwrap_or_default();
    let image = spec.containers.first().and_then(|container| container.image.clone()).unwrap_or_default();
    let release = image.rsplit(":v").next().unwrap_or_default().to_owned();
    let (progress, fate) = {
        let seen = seen.lock().unwrap();
        let chance = |of: u64, salt: u64| hash((&name, salt)).is_multiple_of(of);
        let fate = match &seen.fate {
            Fate::Mixed if !chance(3, seen.polls) => Fate::Runs,
            Fate::Mixed if chance(20, 0) => Fate::Fails("NotARelease: by chance".to_owned()),
            Fate::Mixed => Fate::Succeeds,
            fate => fate.clone(),
        };
        (seen.jobs.get(&name).copied(), fate)
    };
    let next = match (progress, fate) {
        (None, _) => {
            let mut seen = seen.lock().unwrap();
            let found = nodes.iter().find(|one| one.name_any() == node);
            let cordoned = found.and_then(|node| node.spec.as_ref()).and_then(|spec| spec.unschedulable) == Some(true);
            if !cordoned {
                seen.wrong.push(format!("a Job on {node}, which is not cordoned"));
            }
            let on_it = |pod: &&Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) == Some(&node);
            if let Some(pod) = pods.iter().find(on_it) {
                seen.wrong.push(format!("a Job on {node}, where {} runs", pod.name_any()));
            }
            seen.begun.push(node);
            Progress::Begun
        }
        (Some(Progress::Begun), Fate::Succeeds) => {
            let boots = {
                let mut seen = seen.lock().unwrap();
                let boots = seen.boots.entry(node.clone()).or_default();
                *boots += 1;
                *boots
            };
            boot(client, &node, boots, &format!("RancherOS {release}")).await?;
            Progress::Restarted
        }
        (Some(Progress::Begun), Fate::Fails(message)) => {
            failed_pod(client, job, &message).await?;
            end(client, &name, false).await?;
            Progress::Ended
        }
        (Some(Progress::Restarted), _) => {
            end(client, &name, true).await?;
            Progress::Ended
        }
        (Some(Progress::Begun), Fate::Runs | Fate::Mixed) | (Some(Progress::Ended), _) => return Ok(()),
    };
    seen.lock().unwrap().jobs.insert(name, next);
    Ok(())
}

/// The status that a kubelet writes after its node has started.
async fn boot(client: &Client, node: &str, boots: u32, os_image: &str) -> Result<()> {
    let mut info =
        json!({"bootID": format!("{node}-{boots}"), "osImage": os_image, "machineID": format!("machine-{node}")});
    let others = [
        "systemUUID",
        "kernelVersion",
        "containerRuntimeVersion",
        "kubeletVersion",
        "kubeProxyVersion",
        "operatingSystem",
        "architecture",
    ];
    for key in others {
        info[key] = json!("x");
    }
    let heartbeat = format!("2026-11-30T{:02}:{:02}:00Z", boots / 60 % 24, boots % 60);
    let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
        "lastHeartbeatTime": heartbeat, "lastTransitionTime": TIME});
    let status = json!({"status": {"nodeInfo": info, "conditions": [ready]}});
    let api = Api::<Node>::all(client.clone());
    api.patch_status(node, &PatchParams::default(), &Patch::Strategic(&status))
        .await
        .context("writing a Node's status")?;
    Ok(())
}

async fn pod(client: &Client, name: &str, node: &str) -> Result<()> {
    let api = Api::<Pod>::namespaced(client.clone(), SHOP);
    let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "controller": true,
        "uid": "00000000-0000-0000-0000-000000000001"});
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web"}, "ownerReferences": [owner]},
        "spec": {"nodeName": node, "containers": [{"name": "web", "image": "web"}]}});
    let pod: Pod = serde_json::from_value(pod).context("making a pod")?;
    api.create(&PostParams::default(), &pod).await.with_context(|| format!("creating the pod {name}"))?;
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await.context("starting a pod")?;
    Ok(())
}

/// The pod of a Job whose container has ended with a message.
async fn failed_pod(client: &Client, job: &Job, message: &str) -> Result<()> {
    let api = Api::<Pod>::namespaced(client.clone(), OPERATOR_NAMESPACE);
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut labels = template.metadata.unwrap_or_default().labels.unwrap_or_default();
    labels.insert(JOB_NAME.to_owned(), job.name_any());
    let name = format!("{}-pod", job.name_any());
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
        "spec": template.spec});
    let pod: Pod = serde_json::from_value(pod).context("making a Job's pod")?;
    api.create(&PostParams::default(), &pod).await.context("creating a Job's pod")?;
    let terminated =
        json!({"exitCode": 1, "reason": "Error", "message": message, "startedAt": TIME, "finishedAt": TIME});
    let container = json!({"name": "upgrade", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": terminated}});
    let status = json!({"status": {"phase": "Failed", "containerStatuses": [container]}});
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await.context("ending a Job's pod")?;
    Ok(())
}

async fn end(client: &Client, job: &str, succeeded: bool) -> Result<()> {
    let condition = |type_: &str, reason: &str| {
        json!({"type": type_, "status": "True", "reason": reason, "message": "", "lastProbeTime": TIME,
            "lastTransitionTime": TIME})
    };
    let status = if succeeded {
        json!({"startTime": TIME, "completionTime": TIME, "succeeded": 1, "conditions": [
            condition("SuccessCriteriaMet", "CompletionsReached"), condition("Complete", "CompletionsReached")]})
    } else {
        json!({"startTime": TIME, "failed": 7, "conditions": [
            condition("FailureTarget", "BackoffLimitExceeded"), condition("Failed", "BackoffLimitExceeded")]})
    };
    let api = Api::<Job>::namespaced(client.clone(), OPERATOR_NAMESPACE);
    let status = json!({"status": status});
    api.patch_status(job, &PatchParams::default(), &Patch::Merge(&status)).await.context("ending a Job")?;
    Ok(())
}
