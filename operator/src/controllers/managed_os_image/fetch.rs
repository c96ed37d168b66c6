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
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Fleet's labels of a BundleDeployment. There is one for each cluster that a Bundle selects.
const BUNDLE_NAME: &str = "fleet.cattle.io/bundle-name";
const BUNDLE_NAMESPACE: &str = "fleet.cattle.io/bundle-namespace";
const CLUSTER: &str = "fleet.cattle.io/cluster";
/// System Upgrade Controller's labels on its Jobs.
const JOB_PLAN: &str = "upgrade.cattle.io/plan";
const JOB_NODE: &str = "upgrade.cattle.io/node";
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
    Ok(jobs.items.into_iter().filter_map(|job| Some((job.labels().get(JOB_NODE)?.clone(), end_of(&job)))).collect())
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
