//! Reads everything that shows the progress of a roll-out: Fleet's Bundle, the Plan of this cluster with its Jobs and
//! Nodes, and the machines of the inventory.

use super::listing::NodeListing;
use super::{Context, Desired, ReconcileError};
use crate::inventory::index::KnownMachine;
use crate::inventory::upgrade::DEADLINE;
use crate::kube::apply;
use crate::registration::node_name;
use crate::rollout::engine::fleet::BUNDLE_API;
use crate::rollout::objects::PLAN_API;
use crate::rollout::progress::{CONTROL_PLANE, JobEnd, LocalPlan, Machine, Node, PlanStatus};
use crate::rollout::{HOSTNAME, PLAN};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use protocol::bounded::cut;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Fleet's labels of a BundleDeployment. There is one for each cluster that a Bundle selects.
const BUNDLE_NAME: &str = "fleet.cattle.io/bundle-name";
const BUNDLE_NAMESPACE: &str = "fleet.cattle.io/bundle-namespace";
const CLUSTER: &str = "fleet.cattle.io/cluster";
/// Roles of a machine in its cluster that make its Node a control plane.
const SERVERS: [&str; 2] = ["cluster-init", "server"];
/// System Upgrade Controller's labels on its Jobs.
const JOB_PLAN: &str = "upgrade.cattle.io/plan";
const JOB_NODE: &str = "upgrade.cattle.io/node";
/// The most of a pod's termination message in a status, in bytes.
const LONGEST_REASON: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Found {
    /// With Fleet.
    pub(super) bundle: Option<Value>,
    /// In this cluster.
    pub(super) plan: LocalPlan,
    pub(super) nodes: Vec<Node>,
    /// The machines of the selected clusters.
    pub(super) machines: Vec<Machine>,
}

/// `applied`: the Bundle or the Plan as stored.
pub(super) async fn fetch(
    context: &Context,
    desired: &Desired,
    applied: Value,
    listing: &NodeListing,
) -> Result<Found, ReconcileError> {
    let upgrade = &desired.upgrade;
    let machines = context.inventory.index.installed(&upgrade.image_namespace);
    if !upgrade.is_local() {
        let clusters = clusters(context, &upgrade.image_namespace, &[upgrade.name.as_str()]).await?;
        let reached = |machine: &KnownMachine| machine.cluster().is_some_and(|name| clusters.contains(name));
        let machines = machines.iter().filter(|machine| reached(machine)).filter_map(|machine| machine_of(machine));
        return Ok(Found { bundle: Some(applied), machines: machines.collect(), ..Found::default() });
    }
    let (bundle, plan) = if desired.engine == PLAN {
        (None, PlanStatus::of(&applied, &upgrade.plan.version))
    } else {
        (Some(applied), plan(context, desired).await?)
    };
    let jobs = jobs(context, desired, &plan).await?;
    let nodes = nodes_of(listing.nodes(context).await?);
    Ok(Found {
        bundle,
        plan: LocalPlan { status: plan, jobs },
        nodes,
        machines: machines.iter().filter_map(|machine| machine_of(machine)).collect(),
    })
}

/// Names of the clusters that these Bundles of a namespace select, according to Fleet.
pub(super) async fn clusters(
    context: &Context,
    namespace: &str,
    names: &[&str],
) -> Result<BTreeSet<String>, ReconcileError> {
    let selector = format!("{BUNDLE_NAME} in ({}),{BUNDLE_NAMESPACE}={namespace}", names.join(","));
    let api = apply::api(&context.client, &apply::resource(BUNDLE_API, "BundleDeployment"), None);
    let list = api.list_metadata(&ListParams::default().labels(&selector)).await;
    let what = || format!("deployments of Bundle {}", names.join(", "));
    let list = list.map_err(|source| ReconcileError::Reading { what: what(), source })?;
    Ok(list.iter().filter_map(|deployment| deployment.labels().get(CLUSTER).cloned()).collect())
}

/// The Plan that Fleet applied in this cluster. A missing Plan counts as one without a status.
async fn plan(context: &Context, desired: &Desired) -> Result<PlanStatus, ReconcileError> {
    if !desired.served.plans.is_served() {
        return Ok(PlanStatus::default());
    }
    let api = apply::api(&context.client, &apply::resource(PLAN_API, "Plan"), Some(desired.plan_namespace));
    let plan = api.get_opt(&desired.upgrade.name).await.map_err(|source| ReconcileError::Reading {
        what: format!("Plan {}/{}", desired.plan_namespace, desired.upgrade.name),
        source,
    })?;
    Ok(plan.map(|plan| PlanStatus::of(&plan.data, &desired.upgrade.plan.version)).unwrap_or_default())
}

async fn jobs(
    context: &Context,
    desired: &Desired,
    plan: &PlanStatus,
) -> Result<BTreeMap<String, Option<JobEnd>>, ReconcileError> {
    // Jobs of another version are about to be deleted.
    let Some(hash) = &plan.latest_hash else { return Ok(BTreeMap::new()) };
    let (namespace, name) = (desired.plan_namespace, &desired.upgrade.name);
    let jobs = plan_jobs(context, namespace, name, Some(hash)).await?;
    let mut ends: BTreeMap<String, Option<JobEnd>> =
        jobs.into_iter().filter_map(|job| Some((job.labels().get(JOB_NODE)?.clone(), end_of(&job)))).collect();
    if ends.values().any(|end| matches!(end, Some(JobEnd::Failed(_)))) {
        // The right to list Pods is given where the operator makes Plans. Without it, a Job's conditions must do.
        let pods = Api::<v1::Pod>::namespaced(context.client.clone(), namespace);
        let selector = plan_selector(name, Some(hash));
        let pods = pods.list(&ListParams::default().labels(&selector)).await.map(|list| list.items).unwrap_or_default();
        add_reasons(&mut ends, &pods);
    }
    Ok(ends)
}

/// Selects the Jobs of a Plan, and their Pods. `hash`: only those of this version.
fn plan_selector(name: &str, hash: Option<&str>) -> String {
    let of_version = hash.map(|hash| format!(",plan.upgrade.cattle.io/{name}={hash}")).unwrap_or_default();
    format!("{JOB_PLAN}={name}{of_version}")
}

/// The Jobs of a Plan of this cluster. `hash`: only those of this version.
pub(super) async fn plan_jobs(
    context: &Context,
    namespace: &str,
    name: &str,
    hash: Option<&str>,
) -> Result<Vec<Job>, ReconcileError> {
    let selector = plan_selector(name, hash);
    let api = Api::<Job>::namespaced(context.client.clone(), namespace);
    let jobs = api.list(&ListParams::default().labels(&selector)).await;
    let jobs = jobs.map_err(|source| ReconcileError::Reading { what: format!("Jobs of Plan {name}"), source })?;
    Ok(jobs.items)
}

/// The node on which a Job runs, and when it ends at the latest, in seconds since 1970. `None`: it has ended.
pub(super) fn running_until(job: &Job) -> Option<(String, i64)> {
    if end_of(job).is_some() {
        return None;
    }
    let started = job.status.as_ref().and_then(|status| status.start_time.clone());
    let begun = started.or_else(|| job.creation_timestamp())?;
    let deadline = job.spec.as_ref().and_then(|spec| spec.active_deadline_seconds).unwrap_or(DEADLINE);
    let node = job.labels().get(JOB_NODE).cloned().unwrap_or_else(|| job.name_any());
    Some((node, begun.0.as_second() + deadline))
}

/// Adds the reason that the last pod of each failed Job gave.
fn add_reasons(ends: &mut BTreeMap<String, Option<JobEnd>>, pods: &[v1::Pod]) {
    for (node, end) in ends {
        let Some(JobEnd::Failed(message)) = end else { continue };
        let of_node = pods.iter().filter(|pod| pod.labels().get(JOB_NODE) == Some(node));
        let last = of_node.filter_map(termination).max_by(|one, other| one.0.cmp(&other.0));
        if let Some((_, reason)) = last {
            *message = format!("{reason} ({message})");
        }
    }
}

/// When the upgrade ended in this pod, and its termination message.
fn termination(pod: &v1::Pod) -> Option<(Option<Time>, String)> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find_map(|status| {
        let states = [&status.state, &status.last_state].into_iter().flatten();
        let ended = states.filter_map(|state| state.terminated.as_ref()).find(|ended| ended.exit_code != 0)?;
        let message = ended.message.as_deref().map(str::trim).filter(|message| !message.is_empty())?;
        Some((ended.finished_at.clone(), cut(message, LONGEST_REASON)))
    })
}

pub(super) fn end_of(job: &Job) -> Option<JobEnd> {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().filter(|condition| condition.status == "True").find_map(|condition| {
        match condition.type_.as_str() {
            "Complete" => Some(JobEnd::Complete),
            "Failed" => {
                let words = [&condition.reason, &condition.message].into_iter().flatten().map(String::as_str);
                Some(JobEnd::Failed(words.collect::<Vec<_>>().join(": ")))
            }
            _ => None,
        }
    })
}

/// The Nodes, each with what it is recognized by.
fn nodes_of(nodes: &[v1::Node]) -> Vec<Node> {
    let copied = copied_ids(nodes);
    let id = |node: &v1::Node| machine_id(node).filter(|id| !copied.contains(id)).or_else(|| node.uid());
    nodes.iter().map(|node| Node { id: id(node), ..node_of(node) }).collect()
}

/// A node's machine-id, if its kubelet has said it.
pub(super) fn machine_id(node: &v1::Node) -> Option<String> {
    let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
    info.map(|info| info.machine_id.clone()).filter(|id| !id.is_empty())
}

/// The machine-ids that several nodes have. Copied disks have one between them, which then tells nothing.
pub(super) fn copied_ids(nodes: &[v1::Node]) -> HashSet<String> {
    let mut seen = HashSet::new();
    nodes.iter().filter_map(machine_id).filter(|id| !seen.insert(id.clone())).collect()
}

fn node_of(node: &v1::Node) -> Node {
    let status = node.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    Node {
        name: node.name_any(),
        id: None,
        labels: node.metadata.labels.clone().unwrap_or_default(),
        os_image: status
            .and_then(|status| status.node_info.as_ref())
            .map(|info| info.os_image.clone())
            .unwrap_or_default(),
        cordoned: node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true),
        ready: conditions.iter().any(|one| one.type_ == "Ready" && one.status == "True"),
    }
}

pub(super) fn machine_of(machine: &KnownMachine) -> Option<Machine> {
    let os = machine.status.os.clone()?;
    let config = machine.config().cloned().unwrap_or_default();
    let given = || node_name(os.hostname.as_ref().unwrap_or(&machine.name));
    let name = config.node_name.unwrap_or_else(given);
    let mut labels = config.labels.unwrap_or_default();
    labels.entry(HOSTNAME.to_owned()).or_insert_with(|| name.clone());
    if config.role.as_deref().is_some_and(|role| SERVERS.contains(&role)) {
        for label in CONTROL_PLANE {
            labels.entry(label.to_owned()).or_insert_with(|| "true".to_owned());
        }
    }
    let (id, cluster) = (Some(machine.uid.clone()), machine.cluster().map(str::to_owned));
    Some(Machine { name, id, cluster, labels, has_role: config.role.is_some(), os })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::index::Assignment;
    use api::MachineConfig;
    use serde_json::json;

    #[test]
    fn a_job_ends_as_its_conditions_say() {
        let end = |conditions: Value| {
            let job = json!({"metadata": {"name": "j"}, "status": {"conditions": conditions}});
            end_of(&serde_json::from_value(job).unwrap())
        };
        assert_eq!(end(json!([])), None);
        assert_eq!(end(json!([{"type": "Complete", "status": "True"}])), Some(JobEnd::Complete));
        let failed = json!([{"type": "FailureTarget", "status": "True"},
            {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "three pods"}]);
        assert_eq!(end(failed), Some(JobEnd::Failed("BackoffLimitExceeded: three pods".into())));
    }

    #[test]
    fn a_failed_job_tells_what_its_last_pod_said() {
        let pod = |node: &str, at: &str, state: Value| {
            let labels = json!({JOB_NODE: node});
            let mut status = json!({"name": "upgrade", "image": "", "imageID": "", "ready": false, "restartCount": 0});
            status["state"] = state;
            status["state"]["terminated"]["finishedAt"] = json!(at);
            let pod = json!({"metadata": {"name": "p", "labels": labels}, "status": {"containerStatuses": [status]}});
            serde_json::from_value::<v1::Pod>(pod).unwrap()
        };
        let ended = |code: i32, message: &str| json!({"terminated": {"exitCode": code, "message": message}});
        let pods = [
            pod("a", "2026-11-30T10:02:00Z", ended(17, "release 2 did not come up\n")),
            pod("a", "2026-11-30T10:01:00Z", ended(1, "an earlier reason")),
            pod("a", "2026-11-30T10:03:00Z", ended(255, "")),
            pod("b", "2026-11-30T10:04:00Z", ended(17, "of another node")),
        ];
        let failed = |text: &str| Some(JobEnd::Failed(text.into()));
        let mut ends: BTreeMap<String, Option<JobEnd>> =
            [("a", failed("BackoffLimitExceeded")), ("c", failed("DeadlineExceeded")), ("d", None)]
                .map(|(node, end)| (node.to_owned(), end))
                .into();
        add_reasons(&mut ends, &pods);
        assert_eq!(ends["a"], failed("release 2 did not come up (BackoffLimitExceeded)"));
        assert_eq!((&ends["c"], &ends["d"]), (&failed("DeadlineExceeded"), &None));
    }

    #[test]
    fn a_running_job_has_a_deadline() {
        let until = |status: Value, deadline: Value| {
            let labels = json!({JOB_NODE: "n1"});
            let job = json!({"metadata": {"name": "j", "labels": labels}, "status": status,
                "spec": {"activeDeadlineSeconds": deadline, "template": {}}});
            running_until(&serde_json::from_value(job).unwrap())
        };
        let started = json!({"startTime": "1970-01-01T00:01:40Z"});
        assert_eq!(until(started.clone(), json!(60)), Some(("n1".to_owned(), 160)));
        assert_eq!(until(started, json!(null)), Some(("n1".to_owned(), 100 + DEADLINE)));
        assert_eq!(until(json!({"conditions": [{"type": "Complete", "status": "True"}]}), json!(60)), None);
    }

    #[test]
    fn a_node_is_recognized_by_its_machine_id_unless_another_has_it_too() {
        let node = |name: &str, id: &str| -> v1::Node {
            let info: Value = [
                "architecture",
                "bootID",
                "containerRuntimeVersion",
                "kernelVersion",
                "kubeProxyVersion",
                "kubeletVersion",
                "operatingSystem",
                "osImage",
                "systemUUID",
            ]
            .map(|key| (key, "x"))
            .into_iter()
            .collect();
            let mut node =
                json!({"metadata": {"name": name, "uid": format!("uid-{name}")}, "status": {"nodeInfo": info}});
            node["status"]["nodeInfo"]["machineID"] = json!(id);
            serde_json::from_value(node).unwrap()
        };
        let nodes = nodes_of(&[node("a", "1"), node("b", "2"), node("c", "2"), node("d", "")]);
        let ids: Vec<&str> = nodes.iter().map(|node| node.id.as_deref().unwrap()).collect();
        assert_eq!(ids, ["1", "uid-b", "uid-c", "uid-d"]);
    }

    #[test]
    fn a_machine_has_the_name_of_its_node() {
        let mut machine = KnownMachine { name: "m".into(), ..KnownMachine::default() };
        assert_eq!(machine_of(&machine), None);
        machine.status.os = Some(api::OsStatus { hostname: Some("Host".into()), ..Default::default() });
        assert_eq!(machine_of(&machine).unwrap().labels[HOSTNAME], "host");
        let config = MachineConfig { node_name: Some("node".into()), ..MachineConfig::default() };
        machine.assignment = Some(Box::new(Assignment { config: Some(config), ..Assignment::default() }));
        assert_eq!(machine_of(&machine).unwrap().name, "node");
        let role = |role: &str| {
            let config = MachineConfig { role: Some(role.into()), ..MachineConfig::default() };
            let assignment = Assignment { config: Some(config), ..Assignment::default() };
            let machine =
                machine_of(&KnownMachine { assignment: Some(Box::new(assignment)), ..machine.clone() }).unwrap();
            (machine.has_role, machine.labels.contains_key(CONTROL_PLANE[0]))
        };
        assert_eq!((role("server"), role("agent")), ((true, true), (true, false)));
    }
}
