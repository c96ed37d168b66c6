//! ManagedOSImage: the release that the nodes of selected clusters should run.

use super::duration::grace_period;
use super::{Condition, NO_CONTROL_CHARACTERS, SecondsOrDuration, free_form, free_form_list};
use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, LocalObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The release that nodes should run, and how they are upgraded to it. In the namespace `fleet-local` it applies to the
/// nodes of this cluster. In another namespace it applies to the clusters of that namespace.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "rancheros.cattle.io",
    version = "v1",
    kind = "ManagedOSImage",
    plural = "managedosimages",
    doc = "The OS release that nodes should run, and how they are upgraded to it.",
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
    printcolumn = r#"{"name":"Updating","type":"integer","jsonPath":".status.counts.updating"}"#,
    printcolumn = r#"{"name":"Failed","type":"integer","jsonPath":".status.counts.failed"}"#,
    printcolumn = r#"{"name":"Engine","type":"string","jsonPath":".status.engine"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].message","priority":1}"#,
    validation = Rule::new("self.metadata.name.size() <= 59")
        .message("the name is longer than 59 characters, and the Fleet Bundle is called mos-<name>; use a shorter name")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.targets) || !has(self.clusterTargets) || dyn(self.targets) == dyn(self.clusterTargets)")
        .message("targets and clusterTargets are two names of the same field and hold different values; remove one")
)]
pub struct ManagedOSImageSpec {
    /// The container image that contains the release. Its entry point upgrades the node on which it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os_image: Option<String>,
    /// The release in the image, as machines report it: its name, or the `sha256:` digest of its `release.json`. The
    /// default is the tag of `osImage`, as the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub release: Option<String>,
    /// Cloud-config that is merged over the nodes' own when they are upgraded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub cloud_config: Option<Map<String, Value>>,
    /// Which nodes are upgraded. Absent means all. With the engine `Machine`: which MachineInventories, by their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
    /// The number of nodes that are upgraded at the same time. The default is 1. 0 pauses the roll-out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub concurrency: Option<i64>,
    /// A container that runs on each node before the node is upgraded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepare: Option<ContainerSpec>,
    /// Whether a node is cordoned while it is upgraded, if `drain` does not do so already. Absent means yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordon: Option<bool>,
    /// How a node is drained before it is upgraded. Absent means not at all. See `kubectl drain --help`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// In which order and how fast the clusters are upgraded: Fleet's `rolloutStrategy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub cluster_rollout_strategy: Option<Map<String, Value>>,
    /// Which clusters are upgraded, in Fleet's syntax for targets. In `fleet-local`, which always means this cluster,
    /// leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub targets: Option<Vec<ClusterTarget>>,
    /// Another name for `targets`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub cluster_targets: Option<Vec<ClusterTarget>>,
    /// A container that runs in place of the upgrade in `osImage`. With `image`, the entry point of that image runs
    /// unless `command` is given. Without `image`, `/usr/sbin/suc-upgrade` of `osImage` runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade_container: Option<ContainerSpec>,
    /// What upgrades the nodes. `Auto` (default): Fleet if it is installed, otherwise System Upgrade Controller if it
    /// is installed, otherwise in `fleet-local` `Operator`: this operator cordons, drains and upgrades the nodes of its own
    /// cluster; and beside it `Machine`: the machines of this namespace's MachineInventories fetch the release and
    /// upgrade themselves, if they are assigned to no cluster and are no node of this one. `status.engines` names those
    /// at work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// The Secrets with which the image is pulled, in the namespace of the upgrade Plan in each cluster; with the engine
    /// `Operator`, in the operator's namespace. With the engine `Machine` they are not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_secrets: Option<Vec<LocalObjectReference>>,
    /// When nodes may be upgraded. Absent means at any time. An upgrade Plan can have only one window; with the
    /// engines `Machine` and `Operator` it is enough that one of several is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<Vec<Window>>,
    /// The number of nodes that may fail before the roll-out stops. With Plans, a failed node still counts as one of
    /// the `concurrency` nodes in progress, so the only possible value is `concurrency` minus 1. With the engines
    /// `Machine` and `Operator`, absent means 0: the first failure stops the roll-out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<u32>,
    /// Asks machines on which the release failed to try it once more. A free text, such as a date and a reason; each text
    /// counts once on each machine. With Plans all nodes get Jobs again, and are cordoned and drained for them; those
    /// that run the release are not restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = NO_CONTROL_CHARACTERS))]
    pub retry: Option<String>,
}

impl ManagedOSImageSpec {
    /// The targets, from `targets` or `clusterTargets`.
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
    /// Entry point of the container. The default is the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Arguments of the entry point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Environment variables of the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<EnvVar>>,
    /// Another name for `env`, as in System Upgrade Controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envs: Option<Vec<EnvVar>>,
    /// ConfigMaps and Secrets whose keys become environment variables.
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
    /// Name of the volume in the pod.
    pub name: String,
    /// Path on the node.
    pub source: String,
    /// Path in the container.
    pub destination: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// How long a drain may take before it counts as failed, such as `5m`, or in seconds. Absent or 0 means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<SecondsOrDuration>,
    /// How long pods may take to terminate, such as `5m`, or in seconds. Absent or -1: the grace period of each pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "grace_period")]
    pub grace_period: Option<SecondsOrDuration>,
    /// Whether pods with emptyDir volumes are evicted. Their data in these volumes is lost. Absent means no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_local_data: Option<bool>,
    /// Whether pods of DaemonSets are ignored. Absent means yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore_daemon_sets: Option<bool>,
    /// Whether pods without a controller are evicted too. Absent means no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
    /// Whether pods are deleted instead of evicted, which bypasses PodDisruptionBudgets. Absent means no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_eviction: Option<bool>,
    /// The drain does not wait for pods that were deleted longer ago than this, such as `5m`, or in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_wait_for_delete_timeout: Option<SecondsOrDuration>,
    /// Which pods are drained. Absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
}

/// A target in Fleet's syntax. Fields that are not listed here are passed on to Fleet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct ClusterTarget {
    /// Name of this target, used in messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Name of a cluster. `local` is this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_name: Option<String>,
    /// Selects clusters by their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_selector: Option<LabelSelector>,
    /// Name of a cluster group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_group: Option<String>,
    /// Selects cluster groups by their labels.
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
    Machine,
}

/// A maintenance window: a period on certain days of the week.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// Days of the week on which the window is open, such as `monday` or `mo`. Absent means all. A window over midnight
    /// is open on a named day both until `endTime` and from `startTime` on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<Vec<String>>,
    /// The time at which the window starts, such as `22:00`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<String>,
    /// The time at which the window ends, such as `04:00`. A time before `startTime` is on the next day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<String>,
    /// Time zone of the two times, as its name in the time zone database. The default is UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
}

/// Progress of the roll-out. Written by the operator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ManagedOSImageStatus {
    /// The `metadata.generation` that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: every selected node runs the release. `Stalled`: nothing happens until a person acts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// What upgrades the nodes. It changes when `spec.engine` asks for another one, or when the kinds of this one have
    /// been absent for ten minutes. `Machine`: only machines that upgrade themselves take part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// The engines at work, each with the nodes that it upgrades.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["engine"]))]
    pub engines: Vec<EngineProgress>,
    /// Namespace and name of the upgrade Plan in each cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Version of the upgrade Plan. When it changes, every node is upgraded again. If only machines that upgrade
    /// themselves take part, a digest of image, release and `retry`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The time at which the phase of a node last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progressed_at: Option<Time>,
    /// Number of nodes in each state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<NodeCounts>,
    /// The nodes whose upgrade is not done, and those that were done last. At most 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<NodeProgress>>,
    /// Status of the Fleet Bundle, if Fleet upgrades the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub bundle: Option<Map<String, Value>>,
    /// Fleet's summary. It is also in `bundle`, and stays here because the first release has it here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub summary: Option<Map<String, Value>>,
    /// Fleet's display. It is also in `bundle`, and stays here because the first release has it here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub display: Option<Map<String, Value>>,
    /// Fleet's partitions. They are also in `bundle`, and stay here because the first release has them here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form_list")]
    pub partitions: Option<Vec<Value>>,
}

/// The part of a roll-out that one engine carries out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EngineProgress {
    /// What upgrades these nodes.
    pub engine: Engine,
    /// How far it is, in the words of the condition `Ready`.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub reason: String,
    /// An explanation for people.
    #[serde(default)]
    #[schemars(length(max = 4096))]
    pub message: String,
    /// Whether nothing happens until a person acts.
    #[serde(default)]
    pub stalled: bool,
    /// What nodes are upgraded to. When it changes, every node is upgraded again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The time at which the phase of a node last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progressed_at: Option<Time>,
    /// Number of nodes in each state.
    #[serde(default)]
    pub counts: NodeCounts,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeCounts {
    /// Nodes that should run the release.
    #[serde(default)]
    pub desired: u32,
    /// Nodes that run the release and are healthy.
    #[serde(default)]
    pub done: u32,
    /// Nodes that are being upgraded.
    #[serde(default)]
    pub updating: u32,
    /// Nodes whose upgrade failed.
    #[serde(default)]
    pub failed: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeProgress {
    /// Name of the node.
    pub name: String,
    /// Name of the node's cluster. Absent means this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// What upgrades it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// By what it is recognized under another name: the machine-id of a node, or the uid of a MachineInventory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The release from which the node is upgraded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The release to which the node is upgraded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// State of the node's upgrade: `Waiting`, `Upgrading`, `Proving` (the node runs the release but is not healthy
    /// yet), `Unknown` (the machine has missed three reports), `Done`, `Failed` or `Gone` (it was deleted during its
    /// upgrade, and does not count any more).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Why the node is in this phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The time at which this phase began.
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
