//! The progress of each node, from the reports of machines and from Nodes. A Ready Bundle and a Complete Plan only say
//! that objects are applied, even after a failed Job.

mod plan_status;

pub use plan_status::{JobEnd, LocalPlan, PlanCondition, PlanStatus};

use super::{Release, Running, Upgrade};
use api::{NodeCounts, NodeProgress, OsStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use kube::core::SelectorExt;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Prefix of the label of a Node with the hash of the Plan that was carried out on it. The Plan's name follows.
const PLAN_LABEL: &str = "plan.upgrade.cattle.io/";
/// The value of that label on a Node that is not to be upgraded.
const DISABLED: &str = "disabled";
/// Prefix of the labels of a Node with its roles.
const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
/// The labels of a control plane, of which `master` is the former name.
pub const CONTROL_PLANE: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
/// What follows the reason of a failed node that is cordoned.
const CORDONED: &str = "; its Node is still cordoned, which ends with: kubectl uncordon ";
/// Nodes in a status, at most: people read it, and the object must stay small.
const LISTED: usize = 50;

/// The phase of a node, in the order of listing: nodes that need attention, or must be remembered, come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Failed,
    /// It runs the release in a trial boot and is not healthy yet. If it falls back, the release has failed.
    Proving,
    Upgrading,
    /// It has missed three reports.
    Unknown,
    #[default]
    Waiting,
    Done,
    /// It was deleted during its upgrade. It does not count any more; under another name it is recognized.
    Gone,
}

impl Phase {
    const COUNTED: [Self; 6] = [Self::Failed, Self::Proving, Self::Upgrading, Self::Unknown, Self::Waiting, Self::Done];

    pub fn of(progress: &NodeProgress) -> Option<Self> {
        let text = progress.phase.as_deref()?;
        Self::COUNTED.into_iter().chain([Self::Gone]).find(|phase| phase.to_string() == text)
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// An installed machine of the inventory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine {
    /// Name of its Node, according to the inventory.
    pub name: String,
    /// The uid of its inventory.
    pub id: Option<String>,
    pub cluster: Option<String>,
    /// Labels of its Node, according to the inventory.
    pub labels: BTreeMap<String, String>,
    /// Whether the inventory says which role it has in its cluster.
    pub has_role: bool,
    pub os: OsStatus,
}

impl Machine {
    /// Whether the inventory tells if this selector selects the Node: labels of roles come from the cluster.
    fn tells(&self, selector: &LabelSelector) -> bool {
        let labels = selector.match_labels.iter().flatten().map(|(key, _)| key);
        let mut keys = labels.chain(selector.match_expressions.iter().flatten().map(|one| &one.key));
        keys.all(|key| {
            let by_role = self.has_role && CONTROL_PLANE.contains(&key.as_str());
            !key.starts_with(ROLE_PREFIX) || by_role || self.labels.contains_key(key)
        })
    }
}

/// A Node of this cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    pub name: String,
    /// By what it is recognized under another name: its machine-id, or the object's uid.
    pub id: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// `status.nodeInfo.osImage`.
    pub os_image: String,
    pub ready: bool,
    pub cordoned: bool,
}

/// The state of a node, without its history.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    pub name: String,
    pub id: Option<String>,
    pub cluster: Option<String>,
    /// The release it runs.
    pub runs: Option<String>,
    pub phase: Phase,
    pub reason: String,
    /// Whether a Job is running on it.
    pub has_job: bool,
    /// Whether it runs the release, healthy or not.
    pub is_there: bool,
    pub cordoned: bool,
    pub control_plane: bool,
}

/// The progress of all nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    pub counts: NodeCounts,
    pub nodes: Vec<NodeProgress>,
    /// Control planes among those that should run the release.
    pub control_planes: u32,
    /// Machines of which the inventory does not tell whether they are selected. They are not counted.
    pub unclear: Vec<String>,
}

/// The progress of machines in other clusters. Empty if the release is not known.
pub fn downstream(upgrade: &Upgrade, machines: &[Machine], before: &[&NodeProgress], now: &Time) -> Progress {
    let Some(release) = &upgrade.release else { return Progress::default() };
    let (told, unclear): (Vec<&Machine>, Vec<&Machine>) =
        machines.iter().partition(|machine| machine.tells(&upgrade.plan.node_selector));
    let concerned = told.into_iter().filter(|machine| upgrade.selector.matches(&machine.labels));
    let seen = concerned.map(|machine| {
        let (phase, reason) = by_report(release, &machine.os, None);
        let (name, id, cluster) = (machine.name.clone(), machine.id.clone(), machine.cluster.clone());
        let (is_there, control_plane) = (is_there(phase), is_control_plane(&machine.labels));
        let runs = machine.os.version.clone();
        Seen { name, id, cluster, runs, phase, reason, is_there, control_plane, ..Seen::default() }
    });
    let unclear = unclear.into_iter().map(|machine| machine.name.clone()).collect();
    Progress { unclear, ..remembered(upgrade, seen.collect(), before, now) }
}

/// The progress of the Nodes of this cluster. `machines`: machines of the inventory that may be among them.
pub fn local(
    upgrade: &Upgrade,
    nodes: &[Node],
    machines: &[Machine],
    plan: &LocalPlan,
    before: &[&NodeProgress],
    now: &Time,
) -> Progress {
    let reports: HashMap<&str, &Machine> = machines.iter().map(|machine| (machine.name.as_str(), machine)).collect();
    let label = format!("{PLAN_LABEL}{}", upgrade.name);
    let concerned = nodes.iter().filter(|node| {
        upgrade.selector.matches(&node.labels) && node.labels.get(&label).map(String::as_str) != Some(DISABLED)
    });
    let seen = concerned.map(|node| {
        let carried_out =
            plan.status.latest_hash.is_some() && node.labels.get(&label) == plan.status.latest_hash.as_ref();
        let under_way = under_way(&node.name, plan);
        let report = reports.get(node.name.as_str());
        let (phase, reason) = match (&upgrade.release, report) {
            (Some(release), Some(machine)) => by_report(release, &machine.os, under_way.clone()),
            _ => by_node(upgrade, node, carried_out, under_way.clone()),
        };
        let is_there = is_there(phase);
        // The same release with another cloud-config or container still has to be applied.
        let (phase, reason) = match phase {
            Phase::Done if !carried_out => under_way.unwrap_or_else(|| {
                (Phase::Waiting, "it runs the release, and the Plan has not run on it yet".to_owned())
            }),
            phase => (phase, reason),
        };
        let runs = report.and_then(|machine| machine.os.version.clone()).unwrap_or_else(|| node.os_image.clone());
        let has_job = plan.jobs.get(&node.name) == Some(&None);
        let (name, id) = (node.name.clone(), node.id.clone());
        let (cordoned, control_plane) = (node.cordoned, is_control_plane(&node.labels));
        Seen { name, id, cluster: None, runs: Some(runs), phase, reason, has_job, is_there, cordoned, control_plane }
    });
    remembered(upgrade, seen.collect(), before, now)
}

fn is_control_plane(labels: &BTreeMap<String, String>) -> bool {
    CONTROL_PLANE.iter().any(|label| labels.contains_key(*label))
}

fn is_there(phase: Phase) -> bool {
    matches!(phase, Phase::Done | Phase::Proving)
}

/// What the Plan's controller is doing with a node, if it is known.
fn under_way(node: &str, plan: &LocalPlan) -> Option<(Phase, String)> {
    match plan.jobs.get(node) {
        Some(Some(JobEnd::Failed(message))) => Some((Phase::Failed, format!("JobFailed: {message}"))),
        Some(None) => Some((Phase::Upgrading, "its Job runs".to_owned())),
        Some(Some(JobEnd::Complete)) => None,
        None if plan.status.applying.contains(node) => {
            Some((Phase::Upgrading, "the Plan is being applied to it".to_owned()))
        }
        None => None,
    }
}

fn by_report(release: &Release, os: &OsStatus, under_way: Option<(Phase, String)>) -> (Phase, String) {
    match release.running(os) {
        Running::Healthy => (Phase::Done, String::new()),
        Running::Unproven => (Phase::Proving, "it runs the release, which is not healthy yet".to_owned()),
        Running::Recovery => (Phase::Failed, "it runs the recovery system; its console says why".to_owned()),
        Running::Another => under_way.unwrap_or((Phase::Waiting, String::new())),
    }
}

fn by_node(upgrade: &Upgrade, node: &Node, carried_out: bool, under_way: Option<(Phase, String)>) -> (Phase, String) {
    // If no os-release contains the name of the release (a container of the user's own, a digest), only the label
    // counts.
    let named = upgrade.release.as_ref().and_then(|release| release.is_named_in(&node.os_image));
    match (carried_out, named) {
        (_, Some(true)) | (true, None) if node.ready => (Phase::Done, String::new()),
        (_, Some(true)) | (true, None) => (Phase::Proving, "its Node is not Ready".to_owned()),
        (true, Some(false)) => (Phase::Waiting, format!("its Job succeeded, and it still runs {}", node.os_image)),
        (false, _) => under_way.unwrap_or((Phase::Waiting, String::new())),
    }
}

/// Adds that a node has failed, which nothing else may show any more. A Job is deleted 15 minutes after its end, and the
/// node stays in the Plan without one.
fn remembered(upgrade: &Upgrade, mut seen: Vec<Seen>, before: &[&NodeProgress], now: &Time) -> Progress {
    let known = Known::of(before);
    for node in &mut seen {
        let earlier = known.find(node);
        let said = || earlier.and_then(|earlier| earlier.reason.clone()).unwrap_or_default();
        match (earlier.and_then(Phase::of), node.phase) {
            (Some(Phase::Failed), Phase::Waiting | Phase::Upgrading) if !node.has_job => {
                (node.phase, node.reason) = (Phase::Failed, said());
            }
            (Some(Phase::Proving), Phase::Waiting | Phase::Upgrading) if !node.has_job && !node.is_there => {
                let reason = "FellBack: it started the release and went back to the previous one".to_owned();
                (node.phase, node.reason) = (Phase::Failed, reason);
            }
            _ => {}
        }
        // A Job that failed leaves its node cordoned, and neither Plan nor Bundle says so.
        if node.phase == Phase::Failed {
            let reason = node.reason.split(CORDONED).next().unwrap_or_default();
            let cordoned = if node.cordoned { format!("{CORDONED}{}", node.name) } else { String::new() };
            node.reason = format!("{reason}{cordoned}");
        }
    }
    listed(upgrade.release.as_ref().map(ToString::to_string), seen, before, now)
}

/// Nodes as they were, by identity; by name and cluster where one of both has no identity.
struct Known<'a> {
    by_id: HashMap<&'a str, &'a NodeProgress>,
    by_name: HashMap<(&'a str, Option<&'a str>), &'a NodeProgress>,
}

impl<'a> Known<'a> {
    fn of(nodes: &[&'a NodeProgress]) -> Self {
        let by_id = nodes.iter().filter_map(|node| Some((node.id.as_deref()?, *node)));
        let by_name = nodes.iter().map(|node| ((node.name.as_str(), node.cluster.as_deref()), *node));
        Self { by_id: by_id.collect(), by_name: by_name.collect() }
    }

    fn find(&self, seen: &Seen) -> Option<&'a NodeProgress> {
        let by_id = seen.id.as_deref().and_then(|id| self.by_id.get(id));
        let by_name = || {
            let node = self.by_name.get(&(seen.name.as_str(), seen.cluster.as_deref()));
            node.filter(|node| node.id.is_none() || seen.id.is_none())
        };
        by_id.or_else(by_name).copied()
    }
}

/// The list in the status, and the counts. Adds since when a node is in its phase, what it ran before, and those that were
/// in flight and are gone.
pub fn listed(to: Option<String>, seen: Vec<Seen>, before: &[&NodeProgress], now: &Time) -> Progress {
    let known = Known::of(before);
    let control_planes = u32::try_from(seen.iter().filter(|node| node.control_plane).count()).unwrap_or(u32::MAX);
    let mut found: HashSet<*const NodeProgress> = HashSet::new();
    let mut nodes: Vec<(Phase, NodeProgress)> = Vec::new();
    for node in seen {
        let earlier = known.find(&node);
        found.extend(earlier.map(std::ptr::from_ref));
        let since = earlier.filter(|earlier| Phase::of(earlier) == Some(node.phase));
        let since = since.and_then(|earlier| earlier.since.clone()).unwrap_or_else(|| now.clone());
        let from = earlier.and_then(|earlier| earlier.from.clone());
        let from = from.or_else(|| node.runs.filter(|_| !is_there(node.phase)));
        let progress = NodeProgress {
            name: node.name,
            cluster: node.cluster,
            engine: None,
            id: node.id,
            from,
            to: to.clone(),
            phase: Some(node.phase.to_string()),
            reason: (!node.reason.is_empty()).then_some(node.reason),
            since: Some(since),
        };
        nodes.push((node.phase, progress));
    }
    let gone = before.iter().filter(|node| !found.contains(&std::ptr::from_ref(**node)));
    nodes.extend(gone.filter_map(|node| Some((Phase::Gone, gone_since(node, now)?))));
    let count = |phases: &[Phase]| {
        u32::try_from(nodes.iter().filter(|(phase, _)| phases.contains(phase)).count()).unwrap_or(u32::MAX)
    };
    let counts = NodeCounts {
        desired: count(&Phase::COUNTED),
        done: count(&[Phase::Done]),
        updating: count(&[Phase::Upgrading, Phase::Proving]),
        failed: count(&[Phase::Failed]),
    };
    let newest_first = |node: &NodeProgress| std::cmp::Reverse(node.since.as_ref().map(|time| time.0));
    nodes.sort_by(|(a_phase, a), (b_phase, b)| {
        let done = || newest_first(a).cmp(&newest_first(b));
        let order = a_phase.cmp(b_phase);
        let order = if *a_phase == Phase::Done { order.then_with(done) } else { order };
        order.then_with(|| (&a.cluster, &a.name).cmp(&(&b.cluster, &b.name)))
    });
    let nodes = nodes.into_iter().take(LISTED).map(|(_, node)| node).collect();
    Progress { counts, nodes, control_planes, unclear: Vec::new() }
}

/// A node that is not there any more, if it was in flight.
fn gone_since(node: &NodeProgress, now: &Time) -> Option<NodeProgress> {
    let phase = Phase::of(node)?;
    match phase {
        Phase::Gone => Some(node.clone()),
        Phase::Upgrading | Phase::Proving => Some(NodeProgress {
            phase: Some(Phase::Gone.to_string()),
            reason: Some(format!("NodeGone: it was deleted, or is not selected any more, while it was {phase}")),
            since: Some(now.clone()),
            ..node.clone()
        }),
        Phase::Failed | Phase::Unknown | Phase::Waiting | Phase::Done => None,
    }
}

/// The progress of several engines.
pub fn of_all<'a>(all: impl Iterator<Item = &'a Progress>) -> Progress {
    let mut whole = Progress::default();
    for Progress { counts, nodes, .. } in all {
        whole.counts.desired += counts.desired;
        whole.counts.done += counts.done;
        whole.counts.updating += counts.updating;
        whole.counts.failed += counts.failed;
        whole.nodes.extend(nodes.iter().cloned());
    }
    whole.nodes.sort_by_key(Phase::of);
    whole.nodes.truncate(LISTED);
    whole
}

#[cfg(test)]
mod tests;
