//! ManagedOSImage: the release that the nodes of selected clusters should run.

use super::{Condition, SecondsOrDuration, free_form, free_form_list};
use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The release that nodes shall run, and how they get there. In the namespace `fleet-local` it is for the nodes of
/// this cluster; elsewhere, for the clusters of that namespace.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "rancheros.cattle.io",
    version = "v1",
    kind = "ManagedOSImage",
    plural = "managedosimages",
    doc = "The OS release that nodes shall run, and how they get there.",
    namespaced,
    derive = "PartialEq",
    status = "ManagedOSImageStatus",
    shortname = "mosi",
    category = "rancheros",
    printcolumn = r#"{"name":"Image","type":"string","jsonPath":".spec.osImage"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].reason"}"#,
    printcolumn = r#"{"name":"Done","type":"integer","jsonPath":".status.counts.done"}"#,
    printcolumn = r#"{"name":"Nodes","type":"integer","jsonPath":".status.counts.desired"}"#,
    printcolumn = r#"{"name":"Failed","type":"integer","jsonPath":".status.counts.failed"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Engine","type":"string","jsonPath":".status.engine","priority":1}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].message","priority":1}"#,
    validation = Rule::new("self.metadata.name.size() <= 59")
        .message("the name is at most 59 characters: a Fleet Bundle is named after it, as mos-<name>")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.targets) || !has(self.clusterTargets) || dyn(self.targets) == dyn(self.clusterTargets)")
        .message("targets and clusterTargets are two spellings of one field and say different things; remove one")
)]
pub struct ManagedOSImageSpec {
    /// The image that carries the release. Its entry point upgrades the node it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os_image: Option<String>,
    /// The release that the image carries, as machines report it: its name, or the `sha256:` digest of its
    /// `release.json`. Absent: the tag of `osImage` is the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub release: Option<String>,
    /// Cloud-config to lay over the nodes' own when they are upgraded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub cloud_config: Option<Map<String, Value>>,
    /// Which nodes; absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
    /// How many nodes are upgraded at a time. Absent means 1; 0 pauses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub concurrency: Option<i64>,
    /// Run on a node before it is upgraded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepare: Option<ContainerSpec>,
    /// Whether nodes are cordoned while they are upgraded, where `drain` does not do it already. Absent means yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordon: Option<bool>,
    /// How nodes are drained; absent means not at all. See `kubectl drain --help`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// How the roll-out goes over clusters; Fleet's `rolloutStrategy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub cluster_rollout_strategy: Option<Map<String, Value>>,
    /// Which clusters, in Fleet's syntax for targets. None in `fleet-local`, where it is always this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub targets: Option<Vec<ClusterTarget>>,
    /// Another spelling of `targets`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub cluster_targets: Option<Vec<ClusterTarget>>,
    /// Run instead of the upgrade that `osImage` brings. With an `image` of its own that image's entry point runs unless
    /// `command` is given; without, `/usr/sbin/suc-upgrade` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade_container: Option<ContainerSpec>,
    /// Who carries it out. `Auto` (default): Fleet where it is installed, else System Upgrade Controller, else this
    /// operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// When nodes may be upgraded; absent means at any time. An upgrade Plan knows one window and no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<Vec<Window>>,
    /// How many nodes may fail before no further ones are begun. With Plans a failed node keeps its place among those
    /// of `concurrency`, so that this is one less than `concurrency`, and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<u32>,
}

impl ManagedOSImageSpec {
    /// The targets, from whichever field holds them.
    pub fn targets(&self) -> &[ClusterTarget] {
        self.targets.as_deref().or(self.cluster_targets.as_deref()).unwrap_or_default()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerSpec {
    /// Image of the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Its entry point; the image's own by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Arguments of the entry point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<EnvVar>>,
    /// Another spelling of `env`, as in System Upgrade Controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envs: Option<Vec<EnvVar>>,
    /// Environment from ConfigMaps and Secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env_from: Option<Vec<EnvFromSource>>,
    /// Host paths to mount: `name`, `source`, `destination`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Vec<HostVolume>>,
    /// The container's securityContext.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub security_context: Option<Map<String, Value>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostVolume {
    /// What the volume is called in the pod.
    pub name: String,
    /// Path on the node.
    pub source: String,
    /// Path in the container.
    pub destination: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// After which the drain counts as failed: `5m`, or seconds. Absent or 0: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<SecondsOrDuration>,
    /// What pods get to end: `5m`, or seconds. Absent: what each pod asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_period: Option<SecondsOrDuration>,
    /// Whether pods with emptyDir volumes are evicted, and their data lost. Absent means no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_local_data: Option<bool>,
    /// Whether pods of DaemonSets are left alone. Absent means yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore_daemon_sets: Option<bool>,
    /// Whether pods without a controller are evicted too. Absent means no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
    /// Whether pods are deleted instead of evicted, past PodDisruptionBudgets. Absent means no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_eviction: Option<bool>,
    /// Pods that have been ending for longer than this many seconds are not waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_wait_for_delete_timeout: Option<SecondsOrDuration>,
    /// Only pods that this selects are drained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
}

/// A target in Fleet's syntax; fields not listed here are passed on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct ClusterTarget {
    /// Name of this target, for messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A cluster by name; `local` is this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_name: Option<String>,
    /// Clusters by label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_selector: Option<LabelSelector>,
    /// A group of clusters by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_group: Option<String>,
    /// Groups of clusters by label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_group_selector: Option<LabelSelector>,
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Map<String, Value>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Engine {
    #[default]
    Auto,
    Fleet,
    Plan,
    Operator,
}

/// A stretch of time on certain days.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// Days of the week, such as `monday` or `mo`. Absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<Vec<String>>,
    /// Such as `22:00`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<String>,
    /// Such as `04:00`; before `startTime`, it is on the next day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<String>,
    /// Name in the time zone database; UTC by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
}

/// How far the roll-out is. Written by the operator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ManagedOSImageStatus {
    /// The `metadata.generation` this status was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: every node concerned runs the release. `Stalled`: nothing goes on until somebody acts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Who carries it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// Namespace and name of the upgrade Plan, in each cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// The Plan's version: another one means that every node is upgraded anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// When a node last moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progressed_at: Option<Time>,
    /// How many nodes are where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<NodeCounts>,
    /// The nodes that are not done, and those that were done last; 50 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<NodeProgress>>,
    /// Status of the Fleet Bundle, where Fleet does the work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub bundle: Option<Map<String, Value>>,
    /// Fleet's summary, here as well: the first release kept it here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub summary: Option<Map<String, Value>>,
    /// Fleet's display, here as well: the first release kept it here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub display: Option<Map<String, Value>>,
    /// Fleet's partitions, here as well: the first release kept them here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form_list")]
    pub partitions: Option<Vec<Value>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeCounts {
    /// Nodes that shall run the release.
    #[serde(default)]
    pub desired: u32,
    /// Nodes that run it and are healthy.
    #[serde(default)]
    pub done: u32,
    /// Nodes being upgraded.
    #[serde(default)]
    pub updating: u32,
    /// Nodes on which it failed.
    #[serde(default)]
    pub failed: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeProgress {
    /// Name of the node.
    pub name: String,
    /// Its cluster; absent for this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The release it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The release it goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// What happens to it: `Waiting`, `Upgrading`, `Proving` (runs the release and is not healthy yet), `Done`,
    /// `Failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Why it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_have_two_spellings_and_keep_fleets_other_fields() {
        for field in ["targets", "clusterTargets"] {
            let text = format!(r#"{{"{field}":[{{"clusterName":"local","helm":{{"force":true}}}}]}}"#);
            let spec: ManagedOSImageSpec = serde_json::from_str(&text).unwrap();
            assert_eq!(spec.targets()[0].cluster_name.as_deref(), Some("local"));
            assert_eq!(serde_json::to_string(&spec).unwrap(), text);
        }
    }
}
