//! The progress of each node, from the reports of machines and from Nodes. A Ready Bundle and a Complete Plan only say that
//! objects are applied, even after a failed Job.

use super::{Release, Running, Upgrade};
use api::{NodeCounts, NodeProgress, OsStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::SelectorExt;
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};

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
    Waiting,
    Done,
}

impl Phase {
    const ALL: [Self; 5] = [Self::Failed, Self::Proving, Self::Upgrading, Self::Waiting, Self::Done];

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

/// The Plan in this cluster and its Jobs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LocalPlan {
    pub status: PlanStatus,
    /// By the name of the Node: how its Job ended. `None`: it is running.
    pub jobs: BTreeMap<String, Option<JobEnd>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEnd {
    Complete,
    Failed(String),
}

/// The used part of a Plan's status, for the desired version.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PlanStatus {
    pub latest_hash: Option<String>,
    pub latest_version: Option<String>,
    pub applying: BTreeSet<String>,
    pub conditions: Vec<PlanCondition>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PlanCondition {
    #[serde(rename = "type")]
    pub type_: String,
    pub status: String,
    pub reason: String,
    pub message: String,
}

impl PlanStatus {
    /// The status of a Plan for this version. Just after a change the status is still that of the former version; then nothing is
    /// known of any node.
    pub fn of(plan: &Value, version: &str) -> Self {
        let status = plan.get("status").cloned().unwrap_or_default();
        // A status that cannot be parsed counts as absent: its controller writes it again.
        let status: Self = serde_json::from_value(status).unwrap_or_default();
        if status.latest_version.as_deref() == Some(version) {
            return status;
        }
        Self { conditions: status.conditions, ..Self::default() }
    }

    /// Why the controller does not carry out the Plan at all. A failed Job is not such a reason.
    pub fn trouble(&self) -> Option<String> {
        let refused = |condition: &&PlanCondition| {
            condition.reason == "Error" || (condition.type_ == "Validated" && condition.status == "False")
        };
        self.conditions.iter().find(refused).map(|condition| format!("{}: {}", condition.type_, condition.message))
    }
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
                (Phase::Waiting, "it runs the release, and the Plan has not been carried out there".to_owned())
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
        None if plan.status.applying.contains(node) => Some((Phase::Upgrading, "the Plan has its turn".to_owned())),
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
    // If no os-release contains the name of the release (a container of the user's own, a digest), only the label counts.
    let named = upgrade.release.as_ref().and_then(|release| release.is_named_in(&node.os_image));
    match (carried_out, named) {
        (_, Some(true)) | (true, None) if node.ready => (Phase::Done, String::new()),
        (_, Some(true)) | (true, None) => (Phase::Proving, "its Node is not Ready".to_owned()),
        (true, Some(false)) => (Phase::Waiting, format!("its Job ended well, and it runs {} still", node.os_image)),
        (false, _) => under_way.unwrap_or((Phase::Waiting, String::new())),
    }
}

/// Adds the history: since when a node is in its phase, and that it has failed, which nothing else may show any more. A Job is
/// deleted 15 minutes after its end, and the node stays in the Plan without one.
fn remembered(upgrade: &Upgrade, seen: Vec<Seen>, before: &[NodeProgress], now: &Time) -> Progress {
    let key = |name: &str, cluster: Option<&str>| (name.to_owned(), cluster.map(str::to_owned));
    let before: HashMap<_, _> = before.iter().map(|node| (key(&node.name, node.cluster.as_deref()), node)).collect();
    let to = upgrade.release.as_ref().map(ToString::to_string);
    let mut nodes: Vec<(Phase, NodeProgress)> = Vec::with_capacity(seen.len());
    for node in seen {
        let earlier = before.get(&key(&node.name, node.cluster.as_deref()));
        let earlier_phase = earlier.and_then(|earlier| Phase::of(earlier));
        let (phase, reason) = match (earlier_phase, node.phase) {
            (Some(Phase::Failed), Phase::Waiting | Phase::Upgrading) if !node.has_job => {
                (Phase::Failed, earlier.and_then(|earlier| earlier.reason.clone()).unwrap_or_default())
            }
            (Some(Phase::Proving), Phase::Waiting | Phase::Upgrading) if !node.has_job && !node.is_there => {
                (Phase::Failed, "FellBack: it ran the release, and went back to the one before".to_owned())
            }
            (_, phase) => (phase, node.reason),
        };
        let since = earlier.filter(|_| earlier_phase == Some(phase)).and_then(|earlier| earlier.since.clone());
        let from = earlier.and_then(|earlier| earlier.from.clone());
        let from = from.or_else(|| node.runs.filter(|_| !matches!(phase, Phase::Done | Phase::Proving)));
        let progress = NodeProgress {
            name: node.name,
            cluster: node.cluster,
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
mod tests {
    use super::super::{DefaultRegistry, RolloutEngine};
    use super::*;
    use api::ManagedOSImage;
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(1_800_000_000 + second).unwrap())
    }
    fn upgrade(spec: Value) -> Upgrade {
        let mut object = ManagedOSImage::new("x", serde_json::from_value(spec).unwrap());
        object.metadata.namespace = Some("fleet-local".to_owned());
        Upgrade::of(&object, RolloutEngine::Fleet, &DefaultRegistry::default()).unwrap()
    }
    fn to_v2() -> Upgrade {
        upgrade(json!({"osImage": "a:v2"}))
    }
    fn machine(name: &str, version: &str, healthy: bool) -> Machine {
        let os = OsStatus { version: Some(version.into()), healthy, slot: Some("A".into()), ..OsStatus::default() };
        Machine { name: name.into(), cluster: Some("c".into()), os, ..Machine::default() }
    }
    fn node(name: &str, hash: &str, os_image: &str) -> Node {
        let labels = [(format!("{PLAN_LABEL}mos-x"), hash.to_owned())].into();
        Node { name: name.into(), labels, os_image: os_image.into(), ready: true }
    }
    fn plan(jobs: &[(&str, Option<JobEnd>)], applying: &[&str]) -> LocalPlan {
        LocalPlan {
            status: PlanStatus {
                latest_hash: Some("h".into()),
                applying: applying.iter().map(|name| (*name).to_owned()).collect(),
                ..PlanStatus::default()
            },
            jobs: jobs.iter().map(|(name, end)| ((*name).to_owned(), end.clone())).collect(),
        }
    }
    fn phases(progress: &Progress) -> Vec<(&str, &str)> {
        progress.nodes.iter().map(|node| (node.name.as_str(), node.phase.as_deref().unwrap())).collect()
    }
    fn counts(progress: &Progress) -> [u32; 4] {
        let counts = &progress.counts;
        [counts.desired, counts.done, counts.updating, counts.failed]
    }

    #[test]
    fn machines_count_by_release_and_health() {
        let machines = [machine("a", "1", true), machine("b", "2", false), machine("c", "2", true)];
        let progress = downstream(&to_v2(), &machines, &[], &at(0));
        assert_eq!(phases(&progress), [("b", "Proving"), ("a", "Waiting"), ("c", "Done")]);
        assert_eq!(counts(&progress), [3, 1, 1, 0]);
        assert_eq!((progress.nodes[1].from.as_deref(), progress.nodes[1].to.as_deref()), (Some("1"), Some("v2")));
        assert_eq!(counts(&downstream(&upgrade(json!({"osImage": "a"})), &machines, &[], &at(0))), [0; 4]);
    }

    #[test]
    fn a_machine_that_fell_back_failed_until_it_runs_the_release() {
        let before = downstream(&to_v2(), &[machine("a", "2", false)], &[], &at(0)).nodes;
        let fell = downstream(&to_v2(), &[machine("a", "1", true)], &before, &at(9));
        assert_eq!(phases(&fell), [("a", "Failed")]);
        assert!(fell.nodes[0].reason.as_ref().unwrap().starts_with("FellBack"));
        let still = downstream(&to_v2(), &[machine("a", "1", true)], &fell.nodes, &at(99));
        assert_eq!(still, fell);
        let done = downstream(&to_v2(), &[machine("a", "2", true)], &still.nodes, &at(199));
        assert_eq!(phases(&done), [("a", "Done")]);
    }

    #[test]
    fn a_node_without_inventory_is_done_by_label_and_name_of_its_system() {
        let nodes = [
            node("done", "h", "RancherOS 2"),
            node("lies", "h", "RancherOS 1"),
            node("old", "g", "RancherOS 1"),
            node("off", "disabled", "RancherOS 1"),
        ];
        let progress = local(&to_v2(), &nodes, &[], &plan(&[], &[]), &[], &at(0));
        assert_eq!(phases(&progress), [("lies", "Waiting"), ("old", "Waiting"), ("done", "Done")]);
        assert!(progress.nodes[0].reason.as_ref().unwrap().contains("RancherOS 1 still"));
        let foreign = upgrade(json!({"upgradeContainer": {"image": "ubuntu"}}));
        let progress = local(&foreign, &nodes[1..3], &[], &plan(&[], &[]), &[], &at(0));
        assert_eq!(phases(&progress), [("old", "Waiting"), ("lies", "Done")]);
    }

    #[test]
    fn what_a_machine_reports_outweighs_its_node() {
        let progress = local(
            &to_v2(),
            &[node("a", "h", "RancherOS 2")],
            &[machine("a", "2", false)],
            &plan(&[("a", Some(JobEnd::Complete))], &[]),
            &[],
            &at(0),
        );
        assert_eq!(phases(&progress), [("a", "Proving")]);
    }

    #[test]
    fn a_failed_job_is_remembered_when_it_is_gone() {
        let nodes = [node("a", "g", "RancherOS 1"), node("b", "g", "RancherOS 1")];
        let jobs = [("a", Some(JobEnd::Failed("BackoffLimitExceeded".into()))), ("b", None)];
        let first = local(&to_v2(), &nodes, &[], &plan(&jobs, &["a", "b"]), &[], &at(0));
        assert_eq!(phases(&first), [("a", "Failed"), ("b", "Upgrading")]);
        assert_eq!(first.nodes[0].reason.as_deref(), Some("JobFailed: BackoffLimitExceeded"));
        // The place in the Plan is kept, the Job is not.
        let later = local(&to_v2(), &nodes, &[], &plan(&[], &["a"]), &first.nodes, &at(1000));
        assert_eq!(phases(&later), [("a", "Failed"), ("b", "Waiting")]);
        assert_eq!(later.nodes[0].since, first.nodes[0].since);
        let again = local(&to_v2(), &nodes, &[], &plan(&[("a", None)], &["a"]), &later.nodes, &at(2000));
        assert_eq!(phases(&again), [("a", "Upgrading"), ("b", "Waiting")]);
    }

    #[test]
    fn a_status_names_the_nodes_that_matter() {
        let machines: Vec<Machine> = (0..90).map(|n| machine(&format!("m{n:02}"), "2", true)).collect();
        let mut before = downstream(&to_v2(), &machines[..40], &[], &at(0)).nodes;
        before.retain(|node| node.name != "m07");
        let progress = downstream(&to_v2(), &[&machines[..40], &[machine("old", "1", true)]].concat(), &before, &at(9));
        assert_eq!(phases(&progress)[..2], [("old", "Waiting"), ("m07", "Done")]);
        assert_eq!(downstream(&to_v2(), &machines, &[], &at(0)).nodes.len(), LISTED);
        assert_eq!(counts(&downstream(&to_v2(), &machines, &[], &at(0))), [90, 90, 0, 0]);
    }

    #[test]
    fn a_failed_job_is_no_trouble_of_the_plan() {
        let status = |reason: &str| {
            let conditions = [json!({"type": "Complete", "status": "False", "reason": reason, "message": "m"})];
            PlanStatus::of(&json!({"status": {"conditions": conditions}}), "v")
        };
        assert_eq!(status("JobFailed").trouble(), None);
        assert_eq!(status("Error").trouble().as_deref(), Some("Complete: m"));
        assert_eq!(PlanStatus::of(&json!({"status": 5}), "v"), PlanStatus::default());
    }

    #[test]
    fn what_was_observed_of_the_plan_before_says_nothing_of_this_one() {
        let plan = json!({"status": {"latestVersion": "old", "latestHash": "h", "applying": ["a"]}});
        assert_eq!(PlanStatus::of(&plan, "new"), PlanStatus::default());
        assert_eq!(PlanStatus::of(&plan, "old").latest_hash.as_deref(), Some("h"));
        // Of a container that nothing is known of the label says it all.
        let foreign = upgrade(json!({"upgradeContainer": {"image": "ubuntu"}}));
        let of_version = |version| LocalPlan { status: PlanStatus::of(&plan, version), jobs: BTreeMap::new() };
        let nodes = [node("a", "h", "RancherOS 2")];
        let done = |upgrade, version| counts(&local(upgrade, &nodes, &[], &of_version(version), &[], &at(0)))[1];
        assert_eq!((done(&foreign, "old"), done(&foreign, "new")), (1, 0));
        // The release runs there already; its new cloud-config does not.
        assert_eq!((done(&to_v2(), "old"), done(&to_v2(), "new")), (1, 0));
    }

    #[test]
    fn a_machine_that_runs_the_release_is_done_when_its_job_is() {
        let at_v2 = |label| [node("a", label, "RancherOS 2")];
        let look = |label, healthy, before: &[NodeProgress]| {
            let plan = plan(&[("a", Some(JobEnd::Complete))], &["a"]);
            local(&to_v2(), &at_v2(label), &[machine("a", "2", healthy)], &plan, before, &at(0))
        };
        let proving = look("g", false, &[]);
        assert_eq!(phases(&proving), [("a", "Proving")]);
        let healthy = look("g", true, &proving.nodes);
        assert_eq!(phases(&healthy), [("a", "Waiting")], "and it did not fall back");
        assert_eq!(phases(&look("h", true, &healthy.nodes)), [("a", "Done")]);
    }
}
