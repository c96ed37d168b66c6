//! Reads everything that shows the progress of a roll-out: Fleet's Bundle, the Plan of this cluster with its Jobs and
//! Nodes, and the machines of the inventory.

use super::{Context, Desired, ReconcileError};
use crate::inventory::index::KnownMachine;
use crate::kube::apply;
use crate::registration::node_name;
use crate::rollout::PLAN;
use crate::rollout::engine::fleet::BUNDLE_API;
use crate::rollout::objects::PLAN_API;
use crate::rollout::progress::{JobEnd, LocalPlan, Machine, Node, PlanStatus};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use protocol::bounded::cut;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Fleet's labels of a BundleDeployment. There is one for each cluster that a Bundle selects.
const BUNDLE_NAME: &str = "fleet.cattle.io/bundle-name";
const BUNDLE_NAMESPACE: &str = "fleet.cattle.io/bundle-namespace";
const CLUSTER: &str = "fleet.cattle.io/cluster";
/// System Upgrade Controller's labels on its Jobs.
const JOB_PLAN: &str = "upgrade.cattle.io/plan";
const JOB_NODE: &str = "upgrade.cattle.io/node";
/// The most of a pod's termination message in a status, in bytes.
const LONGEST_REASON: usize = 1024;
/// The label that the kubelet sets on its Node.
const HOSTNAME: &str = "kubernetes.io/hostname";

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
pub(super) async fn fetch(context: &Context, desired: &Desired, applied: Value) -> Result<Found, ReconcileError> {
    let upgrade = &desired.upgrade;
    let machines = context.inventory.index.installed(&upgrade.image_namespace);
    if !upgrade.is_local() {
        let clusters = clusters(context, desired).await?;
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
    let nodes = Api::<v1::Node>::all(context.client.clone()).list(&ListParams::default()).await;
    let nodes = nodes.map_err(|source| ReconcileError::Reading { what: "Nodes".to_owned(), source })?;
    Ok(Found {
        bundle,
        plan: LocalPlan { status: plan, jobs },
        nodes: nodes.items.into_iter().map(node_of).collect(),
        machines: machines.iter().filter_map(|machine| machine_of(machine)).collect(),
    })
}

/// Names of the clusters that the Bundle selects, according to Fleet.
async fn clusters(context: &Context, desired: &Desired) -> Result<BTreeSet<String>, ReconcileError> {
    let (name, namespace) = (&desired.upgrade.name, &desired.upgrade.image_namespace);
    let selector = format!("{BUNDLE_NAME}={name},{BUNDLE_NAMESPACE}={namespace}");
    let api = apply::api(&context.client, &apply::resource(BUNDLE_API, "BundleDeployment"), None);
    let list = api.list_metadata(&ListParams::default().labels(&selector)).await;
    let list =
        list.map_err(|source| ReconcileError::Reading { what: format!("deployments of Bundle {name}"), source })?;
    Ok(list.iter().filter_map(|deployment| deployment.labels().get(CLUSTER).cloned()).collect())
}

/// The Plan that Fleet applied in this cluster. A missing Plan counts as one without a status.
async fn plan(context: &Context, desired: &Desired) -> Result<PlanStatus, ReconcileError> {
    if !desired.served.plans {
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
    let api = Api::<Job>::namespaced(context.client.clone(), desired.plan_namespace);
    let name = &desired.upgrade.name;
    let selector = format!("{JOB_PLAN}={name},plan.upgrade.cattle.io/{name}={hash}");
    let jobs = api.list(&ListParams::default().labels(&selector)).await;
    let jobs = jobs
        .map_err(|source| ReconcileError::Reading { what: format!("Jobs of Plan {}", desired.upgrade.name), source })?;
    let mut ends: BTreeMap<String, Option<JobEnd>> =
        jobs.items.into_iter().filter_map(|job| Some((job.labels().get(JOB_NODE)?.clone(), end_of(&job)))).collect();
    if ends.values().any(|end| matches!(end, Some(JobEnd::Failed(_)))) {
        // The right to list Pods is given where the operator makes Plans. Without it, a Job's conditions must do.
        let pods = Api::<v1::Pod>::namespaced(context.client.clone(), desired.plan_namespace);
        let pods = pods.list(&ListParams::default().labels(&selector)).await.map(|list| list.items).unwrap_or_default();
        add_reasons(&mut ends, &pods);
    }
    Ok(ends)
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

fn end_of(job: &Job) -> Option<JobEnd> {
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

fn node_of(node: v1::Node) -> Node {
    let status = node.status.unwrap_or_default();
    let ready = status.conditions.iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True");
    Node {
        name: node.metadata.name.unwrap_or_default(),
        labels: node.metadata.labels.unwrap_or_default(),
        os_image: status.node_info.map(|info| info.os_image).unwrap_or_default(),
        ready,
    }
}

pub(super) fn machine_of(machine: &KnownMachine) -> Option<Machine> {
    let os = machine.status.os.clone()?;
    let config = machine.config().cloned().unwrap_or_default();
    let given = || node_name(os.hostname.as_ref().unwrap_or(&machine.name));
    let name = config.node_name.unwrap_or_else(given);
    let mut labels = config.labels.unwrap_or_default();
    labels.entry(HOSTNAME.to_owned()).or_insert_with(|| name.clone());
    Some(Machine { name, cluster: machine.cluster().map(str::to_owned), labels, os })
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
    fn a_machine_has_the_name_of_its_node() {
        let mut machine = KnownMachine { name: "m".into(), ..KnownMachine::default() };
        assert_eq!(machine_of(&machine), None);
        machine.status.os = Some(api::OsStatus { hostname: Some("Host".into()), ..Default::default() });
        assert_eq!(machine_of(&machine).unwrap().labels[HOSTNAME], "host");
        let config = MachineConfig { node_name: Some("node".into()), ..MachineConfig::default() };
        machine.assignment = Some(Box::new(Assignment { config: Some(config), ..Assignment::default() }));
        assert_eq!(machine_of(&machine).unwrap().name, "node");
    }
}
