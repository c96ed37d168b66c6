//! A Node of this cluster, its pods and its Job, as the decision sees them.

use super::NodeRollout;
use super::memory::Memory;
use crate::rollout::{Release, Running};
use api::OsStatus;
use std::collections::BTreeMap;

/// Roles whose nodes are upgraded first and one at a time.
const CONTROL_PLANE: [&str; 4] = ["control-plane", "controlplane", "master", "etcd"];

#[derive(Clone, Debug, Default)]
pub struct Node {
    pub name: String,
    pub uid: String,
    pub resource_version: String,
    /// Its machine-id, which stays when the machine comes back as another Node.
    pub machine: Option<String>,
    /// Whether another node has the same machine-id.
    pub is_copy: bool,
    pub labels: BTreeMap<String, String>,
    pub ready: bool,
    /// Of the condition `Ready`, in seconds since 1970 on the node's clock.
    pub heartbeat: i64,
    pub boot_id: String,
    /// `status.nodeInfo.osImage`.
    pub os_image: String,
    pub unschedulable: bool,
    /// Whether the Node is being deleted.
    pub deleting: bool,
    /// `Err`: the annotation is not one that the operator writes.
    pub memory: Option<Result<Memory, ()>>,
    /// What its machine reports, if it is in the inventory.
    pub report: Option<OsStatus>,
    /// The Job of the current attempt.
    pub job: Option<Job>,
    /// Whether a Job of another attempt, or of another ManagedOSImage, has not ended on it.
    pub other_job: bool,
    /// The pods on it. `None`: they were not read, because nothing depends on them.
    pub pods: Option<Vec<Pod>>,
    /// The older ManagedOSImage that selects this node and counts for it.
    pub older: Option<String>,
}

/// An upgrade Job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Job {
    pub state: JobState,
    /// What the last ended container of its pods said, and with which exit code.
    pub said: Option<(i32, String)>,
    /// What one of its containers waits for, such as an image that cannot be pulled.
    pub waits: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum JobState {
    #[default]
    Running,
    Complete,
    Failed(String),
}

/// A pod on a node that may have to be drained.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub labels: BTreeMap<String, String>,
    /// The controller that owns it.
    pub controller: Option<Controller>,
    /// It is defined by a file on the node.
    pub mirror: bool,
    pub empty_dir: bool,
    /// Its containers have ended for good.
    pub finished: bool,
    /// Its `creationTimestamp`, in seconds since 1970.
    pub created: i64,
    /// Its `deletionTimestamp`, in seconds since 1970.
    pub deleted: Option<i64>,
    /// It belongs to the operator: the pod itself, and those of upgrade Jobs.
    pub own: bool,
}

/// The controller that owns a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Controller {
    /// A DaemonSet of `apps/v1`. Those of others are not known to `kubectl drain` either.
    DaemonSet {
        name: String,
        /// Whether it exists: one that was deleted may have left its pods.
        exists: bool,
    },
    Other,
}

impl Node {
    /// By what it is recognized under another name: its machine-id, or the object's uid.
    pub fn id(&self) -> &str {
        self.machine.as_deref().filter(|_| !self.is_copy).unwrap_or(&self.uid)
    }

    /// Whether it may have been recognized by this: a copy of its disk may have joined since.
    pub fn may_have_been(&self, id: &str) -> bool {
        self.uid == id || self.machine.as_deref() == Some(id)
    }

    pub fn is_control_plane(&self) -> bool {
        let holds = |role: &&str| {
            let value = self.labels.get(&format!("node-role.kubernetes.io/{role}"));
            value.is_some_and(|value| value != "false")
        };
        CONTROL_PLANE.iter().any(holds)
    }

    /// Its memory, if it is readable.
    pub fn remembered(&self) -> Option<&Memory> {
        self.memory.as_ref()?.as_ref().ok()
    }

    /// Whether the kubelet is Ready since a restart, or at all if it has not restarted since then.
    pub fn is_back(&self, memory: &Memory) -> bool {
        self.ready && (self.boot_id == memory.boot_id || self.heartbeat != memory.heartbeat)
    }

    /// What it runs, compared with this release. `None`: nothing says so.
    pub fn running(&self, release: &Release) -> Option<Running> {
        let named = release.is_named_in(&self.os_image);
        let reported = self.report.as_ref().map(|report| release.running(report));
        // The name of the running system is in the Node as soon as the node is back; the report says whether it is healthy.
        match (named, reported) {
            (_, Some(Running::Recovery)) => Some(Running::Recovery),
            (Some(false), _) => Some(Running::Another),
            (Some(true), Some(Running::Healthy)) if self.ready => Some(Running::Healthy),
            (Some(true), None) if self.ready => Some(Running::Healthy),
            (Some(true), _) => Some(Running::Unproven),
            (None, Some(Running::Healthy)) if !self.ready => Some(Running::Unproven),
            (None, reported) => reported,
        }
    }

    /// Whether it runs the release and is well, so that nothing is to be done.
    pub fn is_there(&self, rollout: &NodeRollout) -> bool {
        rollout.release.as_ref().and_then(|release| self.running(release)) == Some(Running::Healthy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(os_image: &str, report: Option<(&str, bool)>) -> Node {
        let report = report.map(|(version, healthy)| OsStatus {
            version: Some(version.into()),
            slot: Some("A".into()),
            healthy,
            ..OsStatus::default()
        });
        Node { os_image: os_image.into(), ready: true, report, ..Node::default() }
    }

    #[test]
    fn the_node_says_what_runs_and_the_report_whether_it_is_healthy() {
        let release = Release::Name("2".into());
        for (os_image, report, running) in [
            ("ROS 1", None, Running::Another),
            ("ROS 2", None, Running::Healthy),
            ("ROS 2", Some(("1", true)), Running::Unproven),
            ("ROS 2", Some(("2", false)), Running::Unproven),
            ("ROS 2", Some(("2", true)), Running::Healthy),
            // It has just gone back, and has not reported since.
            ("ROS 1", Some(("2", true)), Running::Another),
        ] {
            assert_eq!(node(os_image, report).running(&release), Some(running), "{os_image} {report:?}");
        }
        let digest = Release::Digest("sha256:ab".into());
        assert_eq!(node("ROS 2", None).running(&digest), None);
        let late = Node { ready: false, ..node("ROS 2", None) };
        assert_eq!(late.running(&release), Some(Running::Unproven));
    }

    #[test]
    fn any_of_the_usual_labels_makes_a_control_plane() {
        let with =
            |key: &str, value: &str| Node { labels: [(key.to_owned(), value.to_owned())].into(), ..Node::default() };
        assert!(with("node-role.kubernetes.io/control-plane", "").is_control_plane());
        assert!(with("node-role.kubernetes.io/etcd", "true").is_control_plane());
        assert!(!with("node-role.kubernetes.io/control-plane", "false").is_control_plane());
        assert!(!with("node-role.kubernetes.io/worker", "true").is_control_plane());
    }
}
