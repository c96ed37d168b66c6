//! The engine Fleet: a Bundle applies the objects of a roll-out in each selected cluster.

use super::{PLAN_NAMESPACE, RolloutEngine, ServedKinds};
use crate::rollout::desired::{Desired, DesiredObjects, everything, has_finalizer};
use crate::rollout::objects::{labels, objects};
use crate::rollout::verdict::{Observation, Verdict, stalled, waiting};
use crate::rollout::{Upgrade, names};
use api::{Engine, ManagedOSImage, reason};
use kube::Resource;
use serde::Deserialize;
use serde_json::{Map, Value, json};

pub const BUNDLE_API: &str = "fleet.cattle.io/v1alpha1";
/// The one cluster of the namespace `fleet-local`.
const LOCAL_CLUSTER: &str = "local";

/// Fleet.
#[derive(Debug)]
pub struct FleetEngine;

impl RolloutEngine for FleetEngine {
    fn kind(&self) -> Engine {
        Engine::Fleet
    }

    fn plan_namespace(&self, _: ServedKinds) -> &'static str {
        PLAN_NAMESPACE
    }

    fn exposes_content(&self) -> bool {
        true
    }

    fn objects(&self, object: &ManagedOSImage, desired: &Desired) -> DesiredObjects {
        let delete = if has_finalizer(object) { everything(&desired.upgrade.name) } else { Vec::new() };
        DesiredObjects { apply: vec![bundle(object, &desired.upgrade)], delete, predecessor: None, finalizer: false }
    }

    fn not_applied(&self, observation: Observation<'_>) -> Option<Verdict> {
        let Some(bundle) = observation.bundle else {
            let message = "Fleet has not processed the Bundle yet".to_owned();
            return Some(waiting(observation, reason::PROGRESSING, message));
        };
        if bundle.summary.desired_ready == 0 {
            let message = if observation.upgrade.is_local() {
                "Fleet has no cluster `local` in fleet-local; check that its agent is registered"
            } else if observation.upgrade.targets.is_empty() {
                "spec.targets is empty, which selects no cluster; add targets, or select all clusters with `- \
                 clusterSelector: {}`"
            } else {
                "spec.targets selects no cluster of this namespace"
            };
            return Some(stalled(reason::NO_TARGET_MATCHED, message.to_owned()));
        }
        let trouble = bundle.trouble()?;
        Some(stalled(reason::NOT_APPLIED, format!("Fleet could not apply the Bundle in every cluster: {trouble}")))
    }

    fn hint(&self) -> &'static str {
        "read the logs of Fleet and System Upgrade Controller in the clusters"
    }
}

/// The Bundle for a ManagedOSImage, which owns it.
///
/// One document for each object, so that Fleet deletes an object that is left out later. The documents are JSON, which
/// is also YAML: Fleet reads YAML 1.1, in which an unquoted `no` is false.
pub fn bundle(object: &ManagedOSImage, upgrade: &Upgrade) -> Value {
    let resources = objects(upgrade, PLAN_NAMESPACE).into_iter().filter_map(|(name, object)| {
        let content = format!("{:#}\n", object?);
        Some(json!({"name": format!("{name}.yaml"), "content": content}))
    });
    let resources: Vec<Value> = resources.collect();
    let targets = match upgrade.is_local() {
        // Without targets no cluster is selected, and the Bundle is Ready nevertheless.
        true => json!([{"clusterName": LOCAL_CLUSTER}]),
        false => json!(upgrade.targets),
    };
    let helm = json!({"releaseName": names::release(&upgrade.name)});
    let mut spec =
        json!({"defaultNamespace": PLAN_NAMESPACE, "helm": helm, "resources": resources, "targets": targets});
    if let Some(strategy) = &object.spec.cluster_rollout_strategy {
        spec["rolloutStrategy"] = json!(strategy);
    }
    json!({
        "apiVersion": BUNDLE_API,
        "kind": "Bundle",
        "metadata": {
            "name": upgrade.name,
            "namespace": upgrade.image_namespace,
            "labels": labels(upgrade),
            "ownerReferences": object.owner_ref(&()).into_iter().collect::<Vec<_>>(),
        },
        "spec": spec,
    })
}

/// The used part of a Bundle's status.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BundleStatus {
    pub observed_generation: Option<i64>,
    pub summary: Summary,
}

/// Clusters by state. The counts say whether the objects are applied, not whether nodes are upgraded.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Summary {
    pub desired_ready: u32,
    pub ready: u32,
    pub err_applied: u32,
    pub not_ready: u32,
    pub modified: u32,
    pub non_ready_resources: Vec<NonReady>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NonReady {
    pub name: String,
    pub bundle_state: String,
    pub message: String,
}

impl BundleStatus {
    /// `None`: Fleet has not processed this generation of the Bundle.
    pub fn of(bundle: &Value) -> Option<Self> {
        // A status that cannot be parsed counts as absent: Fleet writes it again.
        let status: Self = serde_json::from_value(bundle.get("status")?.clone()).ok()?;
        let generation = bundle.pointer("/metadata/generation").and_then(Value::as_i64);
        (status.observed_generation.is_some() && status.observed_generation >= generation).then_some(status)
    }

    /// The first cluster in which the Bundle could not be applied, with Fleet's message.
    pub fn trouble(&self) -> Option<String> {
        let summary = &self.summary;
        if summary.err_applied + summary.not_ready + summary.modified == 0 {
            return None;
        }
        let counts =
            [(summary.err_applied, "ErrApplied"), (summary.not_ready, "NotReady"), (summary.modified, "Modified")];
        let counts: Vec<_> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, state)| format!("{state}({n})")).collect();
        let troubled = |one: &&NonReady| matches!(one.bundle_state.as_str(), "ErrApplied" | "NotReady" | "Modified");
        let first = summary.non_ready_resources.iter().find(troubled);
        let first = first.map(|one| format!(" [{}: {}]", one.name, one.message)).unwrap_or_default();
        Some(format!("{}{first}", counts.join(" ")))
    }
}

/// The fields of a Bundle's status that are copied into the ManagedOSImage. Digests of contents are left out.
pub fn carried_back(bundle: &Value) -> Option<Map<String, Value>> {
    let status = bundle.get("status")?.as_object()?;
    let carried = ["conditions", "display", "observedGeneration", "partitions", "summary", "unavailable"];
    let fields = carried.iter().filter_map(|key| Some(((*key).to_owned(), status.get(*key)?.clone())));
    Some(fields.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_an_older_generation_is_ignored() {
        let bundle = |observed: Value| {
            json!({"metadata": {"generation": 2},
                "status": {"observedGeneration": observed, "summary": {"desiredReady": 1}}})
        };
        assert_eq!(BundleStatus::of(&bundle(json!(1))), None);
        assert_eq!(BundleStatus::of(&bundle(json!("x"))), None);
        assert_eq!(BundleStatus::of(&json!({"metadata": {"generation": 2}})), None);
        assert_eq!(BundleStatus::of(&bundle(json!(2))).unwrap().summary.desired_ready, 1);
    }

    #[test]
    fn trouble_contains_the_cluster_and_fleets_message() {
        let status = |state: &str, count: Value| -> BundleStatus {
            serde_json::from_value(json!({"summary": {
                count.as_str().unwrap(): 2,
                "nonReadyResources": [{"name": "fleet-default/a", "bundleState": state, "message": "no"}],
            }}))
            .unwrap()
        };
        assert_eq!(status("ErrApplied", json!("errApplied")).trouble().unwrap(), "ErrApplied(2) [fleet-default/a: no]");
        assert_eq!(status("WaitApplied", json!("waitApplied")).trouble(), None);
    }
}
