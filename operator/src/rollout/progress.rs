//! The progress of each node, from the reports of machines and from Nodes. A Ready Bundle and a Complete Plan only say
//! that objects are applied, even after a failed Job.

mod plan_status;

pub use plan_status::{JobEnd, LocalPlan, PlanCondition, PlanStatus};

use super::{Release, Running, Upgrade};
use api::{NodeCounts, NodeProgress, OsStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::SelectorExt;
use std::collections::{BTreeMap, HashMap};

/// Prefix of the label of a Node with the hash of the Plan that was carried out on it. The Plan's name follows.
const PLAN_LABEL: &str = "plan.upgrade.cattle.io/";
/// The value of that label on a Node that is not to be upgraded.
const DISABLED: &str = "disabled";
/// Nodes in a status, at most: people read it, and the object must stay small.
const LISTED: usize = 50;

/// The phase of a node, in the order of listing: nodes that need attention, or must be remembered, come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Failed,
    /// It runs the release in a trial boot and is not healthy yet. If it falls back, the release has failed.
    Proving,
    Upgrading,
    /// It has missed three reports.
    Unknown,
    Waiting,
    Done,
}

impl Phase {
    const ALL: [Self; 6] = [Self::Failed, Self::Proving, Self::Upgrading, Self::Unknown, Self::Waiting, Self::Done];

    fn of(progress: &NodeProgress) -> Option<Self> {
        let text = progress.phase.as_deref()?;
        Self::ALL.into_iter().find(|phase| phase.to_string() == text)
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
    pub cluster: Option<String>,
    /// Labels of its Node, according to the inventory.
    pub labels: BTreeMap<String, String>,
    pub os: OsStatus,
}

/// A Node of this cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// `status.nodeInfo.osImage`.
    pub os_image: String,
    pub ready: bool,
}

/// The state of a node, without its history.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    name: String,
    cluster: Option<String>,
    /// The release it runs.
    runs: Option<String>,
    phase: Phase,
    reason: String,
    /// Whether a Job is running on it.
    has_job: bool,
    /// Whether it runs the release, healthy or not.
    is_there: bool,
}

/// The progress of all nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    pub counts: NodeCounts,
    pub nodes: Vec<NodeProgress>,
}

/// The progress of machines in other clusters. Empty if the release is not known.
pub fn downstream(upgrade: &Upgrade, machines: &[Machine], before: &[NodeProgress], now: &Time) -> Progress {
    let Some(release) = &upgrade.release else { return Progress::default() };
    let concerned = machines.iter().filter(|machine| upgrade.selector.matches(&machine.labels));
    let seen = concerned.map(|machine| {
        let (phase, reason) = by_report(release, &machine.os, None);
        let (name, cluster) = (machine.name.clone(), machine.cluster.clone());
        let is_there = is_there(phase);
        Seen { name, cluster, runs: machine.os.version.clone(), phase, reason, has_job: false, is_there }
    });
    remembered(upgrade, seen.collect(), before, now)
}

/// The progress of the Nodes of this cluster. `machines`: machines of the inventory that may be among them.
pub fn local(
    upgrade: &Upgrade,
    nodes: &[Node],
    machines: &[Machine],
    plan: &LocalPlan,
    before: &[NodeProgress],
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
        Seen { name: node.name.clone(), cluster: None, runs: Some(runs), phase, reason, has_job, is_there }
    });
    remembered(upgrade, seen.collect(), before, now)
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
fn remembered(upgrade: &Upgrade, mut seen: Vec<Seen>, before: &[NodeProgress], now: &Time) -> Progress {
    let known = by_name(before);
    for node in &mut seen {
        let earlier = known.get(&(node.name.as_str(), node.cluster.as_deref()));
        let said = || earlier.and_then(|earlier| earlier.reason.clone()).unwrap_or_default();
        match (earlier.and_then(|earlier| Phase::of(earlier)), node.phase) {
            (Some(Phase::Failed), Phase::Waiting | Phase::Upgrading) if !node.has_job => {
                (node.phase, node.reason) = (Phase::Failed, said());
            }
            (Some(Phase::Proving), Phase::Waiting | Phase::Upgrading) if !node.has_job && !node.is_there => {
                let reason = "FellBack: it started the release and went back to the previous one".to_owned();
                (node.phase, node.reason) = (Phase::Failed, reason);
            }
            _ => {}
        }
    }
    let to = upgrade.release.as_ref().map(ToString::to_string);
    let seen = seen.into_iter().map(|node| (node.name, node.cluster, node.runs, node.phase, node.reason));
    listed(to, seen, before, now)
}

/// By name and cluster.
fn by_name(nodes: &[NodeProgress]) -> HashMap<(&str, Option<&str>), &NodeProgress> {
    nodes.iter().map(|node| ((node.name.as_str(), node.cluster.as_deref()), node)).collect()
}

/// The list in the status, and the counts. Adds since when a node is in its phase, and what it ran before. `seen`: name,
/// cluster, the release it runs, phase and reason.
pub fn listed(
    to: Option<String>,
    seen: impl Iterator<Item = (String, Option<String>, Option<String>, Phase, String)>,
    before: &[NodeProgress],
    now: &Time,
) -> Progress {
    let known = by_name(before);
    let mut nodes: Vec<(Phase, NodeProgress)> = Vec::new();
    for (name, cluster, runs, phase, reason) in seen {
        let earlier = known.get(&(name.as_str(), cluster.as_deref()));
        let same = |earlier: &&&NodeProgress| Phase::of(earlier) == Some(phase);
        let since = earlier.filter(same).and_then(|earlier| earlier.since.clone());
        let from = earlier.and_then(|earlier| earlier.from.clone());
        let from = from.or_else(|| runs.filter(|_| !is_there(phase)));
        let progress = NodeProgress {
            name,
            cluster,
            from,
            to: to.clone(),
            phase: Some(phase.to_string()),
            reason: (!reason.is_empty()).then_some(reason),
            since: Some(since.unwrap_or_else(|| now.clone())),
        };
        nodes.push((phase, progress));
    }
    let count = |phases: &[Phase]| {
        u32::try_from(nodes.iter().filter(|(phase, _)| phases.contains(phase)).count()).unwrap_or(u32::MAX)
    };
    let counts = NodeCounts {
        desired: count(&Phase::ALL),
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
    Progress { counts, nodes: nodes.into_iter().take(LISTED).map(|(_, node)| node).collect() }
}

#[cfg(test)]
mod tests;
