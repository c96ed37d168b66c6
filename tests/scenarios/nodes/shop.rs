//! The workload of the nodes: pods that serve, and a budget of how many must.

use super::LONG;
use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use harness::clusters::cluster::Cluster;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt};
use qemu::wait::{Poll, until};
use serde_json::json;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use tokio::task::JoinHandle;

const NAME: &str = "shop";
const NAMESPACE: &str = "default";
const PORT: u16 = 8080;

/// A Deployment of so many pods, of which a PodDisruptionBudget wants `serving` at every moment.
pub(super) fn apply(cluster: &Cluster, replicas: usize, serving: usize) -> Result<()> {
    let labels = json!({"app": NAME});
    let metadata = json!({"name": NAME, "namespace": NAMESPACE});
    cluster.apply(&json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata,
        "spec": {"minAvailable": serving, "selector": {"matchLabels": labels}},
    }))?;
    cluster.apply(&json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {
                "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1,
                "topologySpreadConstraints": [{
                    "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": labels},
                }],
                "containers": [{
                    "name": NAME, "image": "registry.example.org/pod:1", "args": [format!(":{PORT}")],
                    // A node that is busy under translation answers late, which is no disruption by an upgrade.
                    "readinessProbe": {
                        "httpGet": {"path": "/", "port": PORT}, "periodSeconds": 2, "timeoutSeconds": 20, "failureThreshold": 6,
                    },
                }],
            }},
        },
    }))
}

/// Waits until all its pods serve. Gives the names of their nodes, one for each pod.
pub(super) async fn whole(cluster: &Cluster) -> Result<Vec<String>> {
    until("all pods of the shop to serve", LONG, async || {
        let deployment = cluster.get(&format!("deployment/{NAME}"), NAMESPACE)?;
        let nodes: Vec<String> =
            serving(cluster)?.into_iter().filter_map(|pod| pod.spec.unwrap_or_default().node_name).collect();
        let is_whole = deployment["spec"]["replicas"] == json!(nodes.len());
        Ok(if is_whole { Poll::Ready(nodes) } else { Poll::Pending(deployment["status"].to_string()) })
    })
    .await
}

/// The commands by which a machine asks each of its pods that serve, and how the answers begin.
pub(super) fn questions(cluster: &Cluster, node: &str) -> Result<(Vec<String>, &'static str)> {
    let here = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref() == Some(node));
    let pods = serving(cluster)?.into_iter().filter(here);
    let addresses = pods.filter_map(|pod| pod.status.unwrap_or_default().pod_ip);
    let command = |address: String| {
        // Backslashes are doubled for the shell between ssh and bash.
        let request = r"printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3";
        format!("bash -c \"exec 3<>/dev/tcp/{address}/{PORT} && {request} && cat <&3\"")
    };
    Ok((addresses.map(command).collect(), "HTTP/1.0 200"))
}

fn serving(cluster: &Cluster) -> Result<Vec<Pod>> {
    let pods = cluster.get("pods", NAMESPACE)?;
    let pods: Vec<Pod> = serde_json::from_value(pods["items"].clone()).context("reading the shop's pods")?;
    Ok(pods.into_iter().filter(serves).collect())
}

fn serves(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let is_ready = conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    is_ready && pod.metadata.deletion_timestamp.is_none()
}

/// Counts the pods that serve after each change of one of them, as long as this value lives.
pub(super) struct Watch {
    fewest: Arc<Mutex<Fewest>>,
    task: JoinHandle<()>,
}

/// The fewest pods that served at once, and what the others did then.
struct Fewest {
    serving: usize,
    others: Vec<String>,
}

impl Watch {
    /// Begins while all pods serve.
    pub(super) async fn begin(cluster: &Cluster) -> Result<Self> {
        let pods: Api<Pod> = Api::namespaced(cluster.client().await?, NAMESPACE);
        let fewest = Arc::new(Mutex::new(Fewest { serving: usize::MAX, others: Vec::new() }));
        let seen = fewest.clone();
        let task = tokio::spawn(async move {
            let events = watcher(pods, watcher::Config::default().labels(&format!("app={NAME}")));
            let mut events = pin!(events.default_backoff());
            let mut pods: BTreeMap<String, Pod> = BTreeMap::new();
            let mut is_complete = false;
            loop {
                // An error is one of the connection: the watcher lists again.
                let Ok(event) = events.try_next().await else { continue };
                match event {
                    None => return,
                    Some(Event::Init) => {
                        pods.clear();
                        is_complete = false;
                    }
                    Some(Event::InitDone) => is_complete = true,
                    Some(Event::InitApply(pod) | Event::Apply(pod)) => drop(pods.insert(pod.name_any(), pod)),
                    Some(Event::Delete(pod)) => drop(pods.remove(&pod.name_any())),
                }
                let (serving, others): (Vec<&Pod>, Vec<&Pod>) = pods.values().partition(|pod| serves(pod));
                let mut seen = seen.lock().unwrap();
                if is_complete && serving.len() < seen.serving {
                    *seen = Fewest { serving: serving.len(), others: others.into_iter().map(described).collect() };
                }
            }
        });
        Ok(Self { fewest, task })
    }

    /// Fails if fewer pods than this have served at a moment so far. Then the error says what the others did.
    pub(super) fn expect_at_least(&self, wanted: usize) -> Result<()> {
        ensure!(!self.task.is_finished(), "the watch of the shop's pods has ended");
        let fewest = self.fewest.lock().unwrap();
        ensure!(fewest.serving >= wanted, "{} pods served, and not: {}", fewest.serving, fewest.others.join("; "));
        Ok(())
    }

    /// The fewest pods that served at once so far.
    pub(super) fn fewest(&self) -> usize {
        self.fewest.lock().unwrap().serving
    }
}

fn described(pod: &Pod) -> String {
    let deleted = if pod.metadata.deletion_timestamp.is_some() { ", deleted" } else { "" };
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("no node");
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
    let why = ready.map(|ready| format!("{} {:?}", ready.status, ready.reason)).unwrap_or_default();
    format!("{} on {node}{deleted}: Ready {why}", pod.name_any())
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
