//! Reads the Nodes of this cluster with their Jobs and pods.

use super::words::{self, Words};
use super::{Context, ReconcileError};
use crate::controllers::managed_os_image::fetch::{copied_ids, end_of, machine_id, machine_of};
use crate::controllers::managed_os_image::listing::NodeListing;
use crate::rollout::LOCAL_NAMESPACE;
use crate::rollout::nodes::NodeRollout;
use crate::rollout::nodes::decide::needs_pods;
use crate::rollout::nodes::job::{ATTEMPT_LABEL, NODE_LABEL, label_of_attempt};
use crate::rollout::nodes::memory::{Memory, UPGRADE_ANNOTATION};
use crate::rollout::nodes::node::{Controller, Job, JobState, Node, Pod};
use crate::rollout::progress::JobEnd;
use api::OS_IMAGE_LABEL;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::batch::v1;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use std::collections::{BTreeMap, HashMap, HashSet};

/// The annotation of a pod that is defined by a file on its node.
const MIRROR: &str = "kubernetes.io/config.mirror";

#[derive(Debug, Default)]
pub(super) struct Cluster {
    pub(super) nodes: Vec<Node>,
    jobs: Vec<v1::Job>,
}

impl Cluster {
    /// Names of the Jobs of a ManagedOSImage whose Nodes are gone.
    pub(super) fn abandoned(&self, image: &str) -> Vec<String> {
        let uids: HashSet<&str> = self.nodes.iter().map(|node| node.uid.as_str()).collect();
        let gone = |job: &&v1::Job| job.labels().get(NODE_LABEL).is_some_and(|uid| !uids.contains(uid.as_str()));
        self.jobs.iter().filter(|job| is_of(job, image)).filter(gone).map(ResourceExt::name_any).collect()
    }

    /// Names of all Jobs of a ManagedOSImage.
    pub(super) fn jobs_of(&self, image: &str) -> Vec<String> {
        self.jobs.iter().filter(|job| is_of(job, image)).map(ResourceExt::name_any).collect()
    }
}

fn is_of(job: &v1::Job, image: &str) -> bool {
    job.labels().get(OS_IMAGE_LABEL).is_some_and(|label| label == image)
}

/// The Nodes as the roll-out sees them. Their pods are not read yet.
pub(super) async fn cluster(
    context: &Context,
    rollout: &NodeRollout,
    listing: &NodeListing,
) -> Result<Cluster, ReconcileError> {
    let mut cluster = all(context, listing).await?;
    let attempt = label_of_attempt(rollout);
    let pods = if cluster.jobs.is_empty() { Vec::new() } else { pods_of_jobs(context).await? };
    let mut words = words::of_jobs(pods);
    let mut by_node: HashMap<&str, Vec<&v1::Job>> = HashMap::new();
    for job in &cluster.jobs {
        by_node.entry(job.labels().get(NODE_LABEL).map_or("", String::as_str)).or_default().push(job);
    }
    let machines = context.inventory.index.installed(LOCAL_NAMESPACE);
    let machines = machines.iter().filter_map(|machine| machine_of(machine));
    let reports: HashMap<String, _> = machines.map(|machine| (machine.name, machine.os)).collect();
    for node in &mut cluster.nodes {
        node.report = reports.get(&node.name).cloned();
        let own = |job: &&&v1::Job| is_of(job, &rollout.name) && job.labels().get(ATTEMPT_LABEL) == Some(&attempt);
        let jobs = by_node.remove(node.uid.as_str()).unwrap_or_default();
        node.other_job = jobs.iter().any(|job| !own(&job) && end_of(job).is_none());
        node.job = jobs.iter().find(own).map(|job| {
            let Words { said, waits } = words.remove(&job.name_any()).unwrap_or_default();
            let state = match end_of(job) {
                None => JobState::Running,
                Some(JobEnd::Complete) => JobState::Complete,
                Some(JobEnd::Failed(words)) => JobState::Failed(words),
            };
            Job { state, said, waits }
        });
    }
    Ok(cluster)
}

/// The Nodes and Jobs, without what depends on a roll-out but for unfinished Jobs.
pub(super) async fn all(context: &Context, listing: &NodeListing) -> Result<Cluster, ReconcileError> {
    let nodes = listing.nodes(context).await?;
    let jobs = Api::<v1::Job>::namespaced(context.client.clone(), &context.namespace);
    let jobs = jobs.list(&ListParams::default().labels(&format!("{NODE_LABEL},{OS_IMAGE_LABEL}"))).await;
    let jobs = jobs.map_err(|source| ReconcileError::Reading { what: "upgrade Jobs".to_owned(), source })?.items;
    let copied = copied_ids(nodes);
    let mut nodes: Vec<Node> = nodes.iter().cloned().map(node_of).collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let busy: HashSet<&String> =
        jobs.iter().filter(|job| end_of(job).is_none()).filter_map(|job| job.labels().get(NODE_LABEL)).collect();
    for node in &mut nodes {
        node.is_copy = node.machine.as_ref().is_some_and(|machine| copied.contains(machine));
        node.other_job = busy.contains(&node.uid);
    }
    Ok(Cluster { nodes, jobs })
}

fn node_of(node: core::Node) -> Node {
    let machine = machine_id(&node);
    let annotations = node.metadata.annotations.unwrap_or_default();
    let spec = node.spec.unwrap_or_default();
    let status = node.status.unwrap_or_default();
    let ready = status.conditions.unwrap_or_default().into_iter().find(|condition| condition.type_ == "Ready");
    let info = status.node_info.unwrap_or_default();
    Node {
        name: node.metadata.name.unwrap_or_default(),
        uid: node.metadata.uid.unwrap_or_default(),
        resource_version: node.metadata.resource_version.unwrap_or_default(),
        machine,
        labels: node.metadata.labels.unwrap_or_default(),
        ready: ready.as_ref().is_some_and(|ready| ready.status == "True"),
        heartbeat: ready.and_then(|ready| ready.last_heartbeat_time).map_or(0, |time| time.0.as_second()),
        boot_id: info.boot_id,
        os_image: info.os_image,
        unschedulable: spec.unschedulable.unwrap_or(false),
        deleting: node.metadata.deletion_timestamp.is_some(),
        memory: annotations.get(UPGRADE_ANNOTATION).map(|text| Memory::parse(text).ok_or(())),
        ..Node::default()
    }
}

/// The pods of upgrade Jobs.
async fn pods_of_jobs(context: &Context) -> Result<Vec<core::Pod>, ReconcileError> {
    let api = Api::<core::Pod>::namespaced(context.client.clone(), &context.namespace);
    let pods = api.list(&ListParams::default().labels(NODE_LABEL)).await;
    Ok(pods.map_err(|source| ReconcileError::Reading { what: "pods of upgrade Jobs".to_owned(), source })?.items)
}

/// Reads the pods of the nodes that are being drained.
pub(super) async fn pods(context: &Context, rollout: &NodeRollout, nodes: &mut [Node]) -> Result<(), ReconcileError> {
    let api = Api::<core::Pod>::all(context.client.clone());
    let mut daemon_sets = HashMap::new();
    for node in nodes.iter_mut().filter(|node| needs_pods(node, rollout)) {
        let pods = api.list(&ListParams::default().fields(&format!("spec.nodeName={}", node.name))).await;
        let what = || format!("pods of Node {}", node.name);
        let pods = pods.map_err(|source| ReconcileError::Reading { what: what(), source })?;
        let mut pods: Vec<Pod> = pods.items.into_iter().map(|pod| pod_of(context, pod)).collect();
        find_orphans(context, &mut pods, &mut daemon_sets).await?;
        node.pods = Some(pods);
    }
    Ok(())
}

/// Notes which pods belong to a DaemonSet that was deleted without them. `known`: whether a DaemonSet exists, by namespace and
/// name.
async fn find_orphans(
    context: &Context,
    pods: &mut [Pod],
    known: &mut HashMap<(String, String), bool>,
) -> Result<(), ReconcileError> {
    for pod in pods {
        let Some(Controller::DaemonSet { name, exists }) = &mut pod.controller else { continue };
        let key = (pod.namespace.clone(), name.clone());
        if !known.contains_key(&key) {
            let api = Api::<DaemonSet>::namespaced(context.client.clone(), &pod.namespace);
            let what = || format!("DaemonSet {}/{name}", pod.namespace);
            let found = api.get_metadata_opt(name).await;
            let found = found.map_err(|source| ReconcileError::Reading { what: what(), source })?;
            known.insert(key.clone(), found.is_some());
        }
        *exists = known[&key];
    }
    Ok(())
}

fn controller_of(owner: OwnerReference) -> Controller {
    match (owner.api_version.as_str(), owner.kind.as_str()) {
        ("apps/v1", "DaemonSet") => Controller::DaemonSet { name: owner.name, exists: true },
        _ => Controller::Other,
    }
}

fn pod_of(context: &Context, pod: core::Pod) -> Pod {
    let labels: BTreeMap<String, String> = pod.metadata.labels.unwrap_or_default();
    let namespace = pod.metadata.namespace.unwrap_or_default();
    let name = pod.metadata.name.unwrap_or_default();
    let volumes = pod.spec.and_then(|spec| spec.volumes).unwrap_or_default();
    let owners = pod.metadata.owner_references.unwrap_or_default();
    let controller = owners.into_iter().find(|owner| owner.controller == Some(true)).map(controller_of);
    let phase = pod.status.and_then(|status| status.phase);
    let in_own = namespace == context.namespace;
    Pod {
        uid: pod.metadata.uid.unwrap_or_default(),
        own: in_own && (name == context.replica || labels.contains_key(NODE_LABEL)),
        mirror: pod.metadata.annotations.is_some_and(|annotations| annotations.contains_key(MIRROR)),
        empty_dir: volumes.iter().any(|volume| volume.empty_dir.is_some()),
        finished: matches!(phase.as_deref(), Some("Succeeded" | "Failed")),
        created: pod.metadata.creation_timestamp.map_or(0, |time| time.0.as_second()),
        deleted: pod.metadata.deletion_timestamp.map(|time| time.0.as_second()),
        controller,
        labels,
        namespace,
        name,
    }
}
