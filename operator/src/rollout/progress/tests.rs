//! Tests of `rollout::progress`.

use super::{
    CONTROL_PLANE, JobEnd, LISTED, LocalPlan, Machine, Node, PLAN_LABEL, PlanStatus, Progress, Upgrade, of_all,
};
use crate::rollout::{DefaultRegistry, FLEET};
use api::{ManagedOSImage, NodeProgress, OsStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(1_800_000_000 + second).unwrap())
}
fn upgrade(spec: Value) -> Upgrade {
    let mut object = ManagedOSImage::new("x", serde_json::from_value(spec).unwrap());
    object.metadata.namespace = Some("fleet-local".to_owned());
    Upgrade::of(&object, FLEET, &DefaultRegistry::default()).unwrap()
}
fn to_v2() -> Upgrade {
    upgrade(json!({"osImage": "a:v2"}))
}
fn machine(name: &str, version: &str, healthy: bool) -> Machine {
    let os = OsStatus { version: Some(version.into()), healthy, slot: Some("A".into()), ..OsStatus::default() };
    Machine { name: name.into(), id: Some(format!("id-{name}")), cluster: Some("c".into()), os, ..Machine::default() }
}
fn node(name: &str, hash: &str, os_image: &str) -> Node {
    let labels = [(format!("{PLAN_LABEL}mos-x"), hash.to_owned())].into();
    Node {
        name: name.into(),
        id: Some(format!("id-{name}")),
        labels,
        os_image: os_image.into(),
        ready: true,
        cordoned: false,
    }
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
fn downstream(upgrade: &Upgrade, machines: &[Machine], before: &[NodeProgress], now: &Time) -> Progress {
    super::downstream(upgrade, machines, &before.iter().collect::<Vec<_>>(), now)
}
fn local(
    upgrade: &Upgrade,
    nodes: &[Node],
    machines: &[Machine],
    plan: &LocalPlan,
    before: &[NodeProgress],
    now: &Time,
) -> Progress {
    super::local(upgrade, nodes, machines, plan, &before.iter().collect::<Vec<_>>(), now)
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
    assert!(progress.nodes[0].reason.as_ref().unwrap().contains("still runs RancherOS 1"));
    let foreign = upgrade(json!({"upgradeContainer": {"image": "ubuntu"}}));
    let progress = local(&foreign, &nodes[1..3], &[], &plan(&[], &[]), &[], &at(0));
    assert_eq!(phases(&progress), [("old", "Waiting"), ("lies", "Done")]);
}

#[test]
fn reports_of_a_machine_take_precedence_over_its_node() {
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
fn a_failed_job_is_remembered_after_its_deletion() {
    let nodes = [node("a", "g", "RancherOS 1"), node("b", "g", "RancherOS 1")];
    let jobs = [("a", Some(JobEnd::Failed("BackoffLimitExceeded".into()))), ("b", None)];
    let first = local(&to_v2(), &nodes, &[], &plan(&jobs, &["a", "b"]), &[], &at(0));
    assert_eq!(phases(&first), [("a", "Failed"), ("b", "Upgrading")]);
    assert_eq!(first.nodes[0].reason.as_deref(), Some("JobFailed: BackoffLimitExceeded"));
    // The node stays in the Plan, but its Job is deleted.
    let later = local(&to_v2(), &nodes, &[], &plan(&[], &["a"]), &first.nodes, &at(1000));
    assert_eq!(phases(&later), [("a", "Failed"), ("b", "Waiting")]);
    assert_eq!(later.nodes[0].since, first.nodes[0].since);
    let again = local(&to_v2(), &nodes, &[], &plan(&[("a", None)], &["a"]), &later.nodes, &at(2000));
    assert_eq!(phases(&again), [("a", "Upgrading"), ("b", "Waiting")]);
}

#[test]
fn a_status_lists_the_nodes_that_need_attention() {
    let machines: Vec<Machine> = (0..90).map(|n| machine(&format!("m{n:02}"), "2", true)).collect();
    let mut before = downstream(&to_v2(), &machines[..40], &[], &at(0)).nodes;
    before.retain(|node| node.name != "m07");
    let progress = downstream(&to_v2(), &[&machines[..40], &[machine("old", "1", true)]].concat(), &before, &at(9));
    assert_eq!(phases(&progress)[..2], [("old", "Waiting"), ("m07", "Done")]);
    assert_eq!(downstream(&to_v2(), &machines, &[], &at(0)).nodes.len(), LISTED);
    assert_eq!(counts(&downstream(&to_v2(), &machines, &[], &at(0))), [90, 90, 0, 0]);
}

#[test]
fn a_failed_job_does_not_stop_the_plan() {
    let status = |reason: &str| {
        let conditions = [json!({"type": "Complete", "status": "False", "reason": reason, "message": "m"})];
        PlanStatus::of(&json!({"status": {"conditions": conditions}}), "v")
    };
    assert_eq!(status("JobFailed").trouble(), None);
    assert_eq!(status("Error").trouble().as_deref(), Some("Complete: m"));
    assert_eq!(PlanStatus::of(&json!({"status": 5}), "v"), PlanStatus::default());
}

#[test]
fn the_status_of_an_earlier_plan_is_ignored() {
    let plan = json!({"status": {"latestVersion": "old", "latestHash": "h", "applying": ["a"]}});
    assert_eq!(PlanStatus::of(&plan, "new"), PlanStatus::default());
    assert_eq!(PlanStatus::of(&plan, "old").latest_hash.as_deref(), Some("h"));
    // For a container of the user's own only the label counts.
    let foreign = upgrade(json!({"upgradeContainer": {"image": "ubuntu"}}));
    let of_version = |version| LocalPlan { status: PlanStatus::of(&plan, version), jobs: BTreeMap::new() };
    let nodes = [node("a", "h", "RancherOS 2")];
    let done = |upgrade, version| counts(&local(upgrade, &nodes, &[], &of_version(version), &[], &at(0)))[1];
    assert_eq!((done(&foreign, "old"), done(&foreign, "new")), (1, 0));
    // The node runs the release already, but not with the new cloud-config.
    assert_eq!((done(&to_v2(), "old"), done(&to_v2(), "new")), (1, 0));
}

#[test]
fn a_machine_that_runs_the_release_is_done_when_its_job_is() {
    let at_v2 = |label| [node("a", label, "RancherOS 2")];
    let progress = |label, healthy, before: &[NodeProgress]| {
        let plan = plan(&[("a", Some(JobEnd::Complete))], &["a"]);
        local(&to_v2(), &at_v2(label), &[machine("a", "2", healthy)], &plan, before, &at(0))
    };
    let proving = progress("g", false, &[]);
    assert_eq!(phases(&proving), [("a", "Proving")]);
    let healthy = progress("g", true, &proving.nodes);
    assert_eq!(phases(&healthy), [("a", "Waiting")], "and it did not fall back");
    assert_eq!(phases(&progress("h", true, &healthy.nodes)), [("a", "Done")]);
}

#[test]
fn a_node_is_remembered_by_its_identity_and_not_by_its_name() {
    let before = downstream(&to_v2(), &[machine("a", "2", false)], &[], &at(0)).nodes;
    let mut renamed = machine("b", "1", true);
    renamed.id = Some("id-a".into());
    let fell = downstream(&to_v2(), &[renamed], &before, &at(9));
    assert_eq!(phases(&fell), [("b", "Failed")], "it fell back under another name");
    // Another machine with the name of one that failed has not failed.
    let mut other = machine("b", "1", true);
    other.id = Some("id-new".into());
    assert_eq!(phases(&downstream(&to_v2(), &[other], &fell.nodes, &at(19))), [("b", "Waiting")]);
}

#[test]
fn a_node_that_is_deleted_during_its_upgrade_does_not_count_any_more() {
    let nodes = [node("a", "g", "RancherOS 1"), node("b", "g", "RancherOS 1")];
    let begun = local(&to_v2(), &nodes, &[], &plan(&[("a", None)], &["a"]), &[], &at(0));
    assert_eq!(phases(&begun), [("a", "Upgrading"), ("b", "Waiting")]);
    let gone = local(&to_v2(), &nodes[1..], &[], &plan(&[("a", None)], &["a"]), &begun.nodes, &at(9));
    assert_eq!(phases(&gone), [("b", "Waiting"), ("a", "Gone")]);
    assert!(gone.nodes[1].reason.as_ref().unwrap().starts_with("NodeGone: "), "{:?}", gone.nodes[1]);
    assert_eq!(counts(&gone), [1, 0, 0, 0]);
    let still = local(&to_v2(), &nodes[1..], &[], &plan(&[], &[]), &gone.nodes, &at(99));
    assert_eq!(still.nodes, gone.nodes);
    // It is back under another name, with the release.
    let mut back = node("c", "h", "RancherOS 2");
    back.id = Some("id-a".into());
    let done = local(&to_v2(), &[nodes[1].clone(), back], &[], &plan(&[], &[]), &still.nodes, &at(199));
    assert_eq!(phases(&done), [("b", "Waiting"), ("c", "Done")]);
    assert_eq!(done.nodes[1].from.as_deref(), Some("RancherOS 1"));
    let waiting = local(&to_v2(), &nodes[1..], &[], &plan(&[], &[]), &begun.nodes[1..], &at(9));
    assert_eq!(phases(&waiting), [("b", "Waiting")], "one that only waited leaves no trace");
}

#[test]
fn a_downgrade_is_an_upgrade_to_another_release() {
    let down = upgrade(json!({"osImage": "a:v1"}));
    let before = downstream(&to_v2(), &[machine("a", "2", true)], &[], &at(0)).nodes;
    let begins = downstream(&down, &[machine("a", "2", true)], &[], &at(9));
    assert_eq!(
        (phases(&begins), phases(&downstream(&to_v2(), &[machine("a", "2", true)], &before, &at(9)))[0].1),
        (vec![("a", "Waiting")], "Done")
    );
    assert_eq!((begins.nodes[0].from.as_deref(), begins.nodes[0].to.as_deref()), (Some("2"), Some("v1")));
    let done = downstream(&down, &[machine("a", "1", true)], &begins.nodes, &at(19));
    assert_eq!((phases(&done), done.nodes[0].from.as_deref()), (vec![("a", "Done")], Some("2")));
}

#[test]
fn the_nodes_of_several_engines_are_one_list() {
    let machines: Vec<Machine> = (0..40).map(|n| machine(&format!("m{n:02}"), "2", true)).collect();
    let done = downstream(&to_v2(), &machines, &[], &at(0));
    let both = of_all(
        [&done, &downstream(&to_v2(), &[&machines[..30], &[machine("old", "1", true)]].concat(), &[], &at(0))]
            .into_iter(),
    );
    assert_eq!((phases(&both)[0], both.nodes.len(), counts(&both)), (("old", "Waiting"), LISTED, [71, 70, 0, 0]));
}

#[test]
fn roles_count_in_selectors_as_far_as_the_inventory_tells() {
    let with_role = |name: &str, role: Option<bool>| {
        let labels = (role == Some(true)).then(|| (CONTROL_PLANE[0].to_owned(), "true".to_owned()));
        Machine { has_role: role.is_some(), labels: labels.into_iter().collect(), ..machine(name, "1", true) }
    };
    let machines = [with_role("server", Some(true)), with_role("agent", Some(false)), with_role("silent", None)];
    let select = |key: &str, operator: &str| {
        let one = json!({"key": key, "operator": operator});
        downstream(
            &upgrade(json!({"osImage": "a:v2", "nodeSelector": {"matchExpressions": [one]}})),
            &machines,
            &[],
            &at(0),
        )
    };
    let servers = select(CONTROL_PLANE[0], "Exists");
    assert_eq!((phases(&servers), &servers.unclear[..]), (vec![("server", "Waiting")], &["silent".to_owned()][..]));
    let workers = select(CONTROL_PLANE[0], "DoesNotExist");
    assert_eq!((phases(&workers), workers.unclear.len()), (vec![("agent", "Waiting")], 1));
    assert_eq!(select("node-role.kubernetes.io/etcd", "Exists").unclear.len(), 3);
    let all = downstream(&to_v2(), &machines, &[], &at(0));
    assert_eq!((all.counts.desired, all.control_planes, all.unclear.len()), (3, 1, 0));
}

#[test]
fn a_failed_node_that_is_left_cordoned_says_so_until_it_is_not() {
    let mut nodes = [node("a", "g", "RancherOS 1")];
    nodes[0].cordoned = true;
    let failed = plan(&[("a", Some(JobEnd::Failed("DeadlineExceeded".into())))], &["a"]);
    let first = local(&to_v2(), &nodes, &[], &failed, &[], &at(0));
    let reason = |progress: &Progress| progress.nodes[0].reason.clone().unwrap();
    assert!(reason(&first).ends_with("kubectl uncordon a"), "{}", reason(&first));
    let later = local(&to_v2(), &nodes, &[], &plan(&[], &["a"]), &first.nodes, &at(9));
    assert_eq!(reason(&later), reason(&first));
    nodes[0].cordoned = false;
    assert_eq!(
        reason(&local(&to_v2(), &nodes, &[], &plan(&[], &["a"]), &later.nodes, &at(9))),
        "JobFailed: DeadlineExceeded"
    );
}
