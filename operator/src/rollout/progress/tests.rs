//! Tests of `rollout::progress`.

use super::*;
use crate::rollout::{DefaultRegistry, FLEET};
use api::ManagedOSImage;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

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
