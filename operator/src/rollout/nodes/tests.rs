//! Tests of `rollout::nodes`: single decisions, and whole roll-outs at random.

use super::decide::{Decision, Observed, decide, give_back, needs_pods, seen};
use super::memory::{End, Memory};
use super::node::{Controller, Job, JobState, Node, Pod};
use super::step::{Action, LIMIT};
use super::*;
use crate::rollout::progress::{Phase, listed};
use api::NodeProgress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

mod random;

pub(super) const START: i64 = 1_800_000_000;

pub(super) fn time(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}
pub(super) fn rollout(spec: Value) -> NodeRollout {
    let mut object = ManagedOSImage::new("x", serde_json::from_value(spec).unwrap());
    object.metadata.namespace = Some(LOCAL_NAMESPACE.to_owned());
    NodeRollout::of(&object, &DefaultRegistry::default()).unwrap()
}
pub(super) fn node(name: &str, release: u8) -> Node {
    Node {
        name: name.into(),
        uid: format!("uid-{name}"),
        machine: Some(format!("machine-{name}")),
        ready: true,
        boot_id: "boot-0".into(),
        os_image: format!("ROS {release}"),
        ..Node::default()
    }
}
fn plane(name: &str, release: u8) -> Node {
    let labels = [("node-role.kubernetes.io/control-plane".to_owned(), String::new())].into();
    Node { labels, ..node(name, release) }
}
fn pod(name: &str) -> Pod {
    Pod {
        namespace: "shop".into(),
        name: name.into(),
        uid: name.into(),
        controller: Some(Controller::Other),
        ..Pod::default()
    }
}
fn decided(rollout: &NodeRollout, nodes: &[Node], now: i64) -> Decision {
    decide(rollout, Observed { nodes, others: &[], before: &[], now })
}
/// Does what was decided for one node, as far as it is on the Node.
fn write(node: &mut Node, action: &Action) {
    match action {
        Action::Write { memory, unschedulable } => {
            node.memory = memory.clone().map(Ok);
            node.unschedulable = unschedulable.unwrap_or(node.unschedulable);
        }
        Action::CreateJob => node.job = Some(Job::default()),
        Action::DeleteJob => node.job = None,
        Action::Evict(_) => {}
    }
}
/// One decision, with all that follows for the nodes.
fn pass(rollout: &NodeRollout, nodes: &mut [Node], now: i64) -> Decision {
    let decision = decided(rollout, nodes, now);
    for (at, action) in &decision.actions {
        write(&mut nodes[*at], action);
    }
    decision
}
fn phases(decision: &Decision) -> Vec<Phase> {
    decision.places.iter().map(|place| place.phase).collect()
}
fn reasons(decision: &Decision) -> Vec<&str> {
    decision.places.iter().map(|place| place.reason.as_str()).collect()
}
fn restarted(node: &mut Node, release: u8) {
    node.boot_id.push('1');
    node.heartbeat += 60;
    node.os_image = format!("ROS {release}");
}

#[test]
fn a_node_is_cordoned_drained_upgraded_and_uncordoned_before_the_next_begins() {
    let rollout = rollout(json!({"osImage": "a:2", "drain": {}}));
    let mut nodes = vec![node("a", 1), node("b", 1), node("c", 2)];
    assert_eq!(phases(&pass(&rollout, &mut nodes, START)), [Phase::Upgrading, Phase::Waiting, Phase::Done]);
    assert!(nodes[0].unschedulable && !nodes[1].unschedulable && needs_pods(&nodes[0], &rollout));

    nodes[0].pods = Some(vec![pod("p")]);
    let decision = pass(&rollout, &mut nodes, START + 1);
    assert_eq!(decision.actions.last(), Some(&(0, Action::Evict(vec![pod("p")]))));
    nodes[0].pods = Some(Vec::new());
    pass(&rollout, &mut nodes, START + 2);
    assert!(nodes[0].job.is_some() && !needs_pods(&nodes[0], &rollout));
    assert_eq!(reasons(&pass(&rollout, &mut nodes, START + 3))[0], "its Job runs");

    // The Job's end says nothing yet: the node has to come back, Ready, with the release.
    nodes[0].job.as_mut().unwrap().state = JobState::Complete;
    assert_eq!(phases(&pass(&rollout, &mut nodes, START + 4))[0], Phase::Upgrading);
    nodes[0].boot_id = "boot-1".into();
    nodes[0].os_image = "ROS 2".into();
    assert_eq!(phases(&pass(&rollout, &mut nodes, START + 5))[0], Phase::Upgrading, "Ready is from before the restart");
    nodes[0].heartbeat = 60;
    let decision = pass(&rollout, &mut nodes, START + 6);
    assert_eq!(phases(&decision), [Phase::Done, Phase::Upgrading, Phase::Done]);
    assert!(!nodes[0].unschedulable && nodes[1].unschedulable);
}

#[test]
fn control_planes_come_first_and_one_at_a_time() {
    let rollout = rollout(json!({"osImage": "a:2", "concurrency": 5}));
    let mut nodes = vec![node("a", 1), plane("b", 1), plane("c", 1), node("d", 1)];
    let decision = pass(&rollout, &mut nodes, START);
    assert_eq!(phases(&decision), [Phase::Waiting, Phase::Upgrading, Phase::Waiting, Phase::Waiting]);
    assert!(reasons(&decision)[0].contains("control planes come first"), "{decision:?}");
    let done = |node: &mut Node| {
        node.job = Some(Job { state: JobState::Complete, ..Job::default() });
        restarted(node, 2);
    };
    done(&mut nodes[1]);
    // One that is not Ready holds up the others, whether it is selected or not.
    nodes.push(Node { ready: false, ..plane("e", 2) });
    let decision = pass(&rollout, &mut nodes, START + 9);
    assert_eq!(phases(&decision)[1..3], [Phase::Done, Phase::Waiting]);
    nodes[4].ready = true;
    assert_eq!(phases(&pass(&rollout, &mut nodes, START + 10))[2], Phase::Upgrading);
    done(&mut nodes[2]);
    let decision = pass(&rollout, &mut nodes, START + 20);
    assert_eq!((phases(&decision)[0], phases(&decision)[3]), (Phase::Upgrading, Phase::Upgrading));
}

#[test]
fn a_control_plane_of_another_roll_out_counts() {
    let rollout = rollout(json!({"osImage": "a:2"}));
    let memory = Memory { image: "other".into(), ..Memory::default() };
    let nodes = vec![plane("a", 1), Node { memory: Some(Ok(memory)), older: Some("other".into()), ..plane("b", 1) }];
    let others = ["other".to_owned()];
    let decision = decide(&rollout, Observed { nodes: &nodes, others: &others, before: &[], now: START });
    assert!(decision.actions.is_empty());
    assert_eq!(decision.of_others, [("b".to_owned(), "other".to_owned())]);
}

#[test]
fn a_node_that_somebody_cordoned_stays_cordoned() {
    let rollout = rollout(json!({"osImage": "a:2"}));
    let mut nodes = vec![Node { unschedulable: true, ..node("a", 1) }];
    pass(&rollout, &mut nodes, START);
    nodes[0].job = Some(Job { state: JobState::Complete, ..Job::default() });
    restarted(&mut nodes[0], 2);
    assert_eq!(phases(&pass(&rollout, &mut nodes, START + 9)), [Phase::Done]);
    assert!(nodes[0].unschedulable);
}

#[test]
fn a_failure_says_why_and_the_node_is_used_again_when_it_is_ready() {
    let gave_up = Some((1, "NotARelease: no release.json".to_owned()));
    let failed = |said: Option<(i32, String)>| Job {
        state: JobState::Failed("BackoffLimitExceeded".into()),
        said,
        ..Job::default()
    };
    let done = Job { state: JobState::Complete, ..Job::default() };
    let running = |said: Option<(i32, String)>| Job { said, ..Job::default() };
    for (job, boots, runs, after, reason) in [
        (Some(failed(gave_up.clone())), 0, 1, 9, "JobFailed: NotARelease: no release.json"),
        (Some(failed(None)), 0, 1, 9, "JobFailed: BackoffLimitExceeded"),
        (Some(failed(Some((255, "Unknown".into())))), 1, 1, 9, "FellBack: BackoffLimitExceeded"),
        (Some(running(gave_up)), 1, 1, 9, "FellBack: NotARelease: no release.json"),
        (Some(running(None)), 0, 1, LIMIT, "NotUpgraded: its Job did not end within 65 minutes"),
        (None, 0, 1, LIMIT, "NotUpgraded: its Job is gone, and it runs ROS 1"),
        (Some(done.clone()), 1, 1, 9, "NotUpgraded: its Job succeeded, and it still runs ROS 1"),
        (Some(done), 0, 1, LIMIT, "NotUpgraded: its Job succeeded, and it still runs ROS 1"),
    ] {
        let rollout = rollout(json!({"osImage": "a:2"}));
        let mut nodes = vec![node("a", 1), node("b", 1)];
        pass(&rollout, &mut nodes, START);
        nodes[0].job = job.clone();
        (0..boots).for_each(|_| restarted(&mut nodes[0], runs));
        let decision = pass(&rollout, &mut nodes, START + after);
        assert_eq!((phases(&decision)[0], reasons(&decision)[0]), (Phase::Failed, reason), "{job:?}");
        nodes[0].ready = false;
        for second in 0..3 {
            pass(&rollout, &mut nodes, START + after + second);
        }
        assert!(nodes[0].unschedulable, "it is not Ready");
        nodes[0].ready = true;
        for second in 3..6 {
            let decision = pass(&rollout, &mut nodes, START + after + second);
            assert!(phases(&decision)[1] == Phase::Waiting && reasons(&decision)[1].contains("maxFailures"));
        }
        assert!(!nodes[0].unschedulable && nodes[0].job.as_ref().is_none_or(|job| job.state != JobState::Running));
    }
}

#[test]
fn an_image_that_cannot_be_pulled_is_said_while_the_job_waits_and_when_its_time_is_over() {
    let rollout = rollout(json!({"osImage": "a:2"}));
    let mut nodes = vec![node("a", 1)];
    pass(&rollout, &mut nodes, START);
    pass(&rollout, &mut nodes, START + 1);
    nodes[0].job = Some(Job { waits: Some("ImagePullBackOff: a:2: not found".into()), ..Job::default() });
    let waits = decided(&rollout, &nodes, START + 2);
    assert_eq!(reasons(&waits), ["its Job runs; ImagePullBackOff: a:2: not found"]);
    nodes[0].job = Some(Job { state: JobState::Failed("DeadlineExceeded".into()), ..Job::default() });
    let before = NodeProgress {
        id: Some("machine-a".into()),
        reason: Some(waits.places[0].reason.clone()),
        ..NodeProgress::default()
    };
    let observed = Observed { nodes: &nodes, others: &[], before: &[&before], now: START + 3 };
    let failed = decide(&rollout, observed);
    assert_eq!(reasons(&failed), ["JobFailed: DeadlineExceeded; last: ImagePullBackOff: a:2: not found"]);
}

#[test]
fn a_drain_that_cannot_be_done_fails_and_the_node_is_given_back() {
    let rollout = rollout(json!({"osImage": "a:2", "drain": {"timeout": "5m"}}));
    let mut nodes = vec![node("a", 1)];
    pass(&rollout, &mut nodes, START);
    nodes[0].pods = Some(vec![pod("web")]);
    // The operator was away since the cordon: the time begins with the first eviction.
    let late = START + 900;
    assert!(matches!(pass(&rollout, &mut nodes, late).actions[..], [_, (0, Action::Evict(_))]));
    let said = "draining: shop/web; error when evicting pods/\"web\" -n \"shop\" (will retry after 5s): Cannot evict pod as \
                it would violate the pod's disruption budget.";
    let before = NodeProgress { id: Some("machine-a".into()), reason: Some(said.into()), ..NodeProgress::default() };
    let observed = Observed { nodes: &nodes, others: &[], before: &[&before], now: late + 300 };
    let decision = decide(&rollout, observed);
    let reason = reasons(&decision)[0];
    let begins =
        "DrainFailed: error when evicting pods/\"web\" -n \"shop\": global timeout reached: 5m0s; last: draining";
    assert!(reason.starts_with(begins), "{reason}");
    assert!(reason.contains("would violate the pod's disruption budget"), "{reason}");
    write(&mut nodes[0], &decision.actions[0].1);
    pass(&rollout, &mut nodes, late + 301);
    assert!(!nodes[0].unschedulable && nodes[0].job.is_none());
}

#[test]
fn a_node_that_failed_keeps_its_place_until_it_is_uncordoned() {
    let rollout = rollout(json!({"osImage": "a:2", "maxFailures": 1}));
    let mut nodes = vec![node("a", 1), node("b", 1)];
    for second in 0..2 {
        pass(&rollout, &mut nodes, START + second);
    }
    nodes[0].job = Some(Job { state: JobState::Failed("x".into()), ..Job::default() });
    assert_eq!(phases(&pass(&rollout, &mut nodes, START + 2)), [Phase::Failed, Phase::Waiting]);
    assert!(nodes[0].unschedulable && !nodes[1].unschedulable);
    assert_eq!(phases(&pass(&rollout, &mut nodes, START + 3)), [Phase::Failed, Phase::Upgrading]);
    assert!(!nodes[0].unschedulable && nodes[1].unschedulable);
}

#[test]
fn a_retry_lets_failed_nodes_try_again_and_leaves_the_others() {
    let first = rollout(json!({"osImage": "a:2", "maxFailures": 9, "upgradeContainer": {"args": ["x"]}}));
    let mut nodes = vec![node("a", 1), node("b", 2)];
    let memory = |node: &Node, end: End| super::step::new_memory(node, &first, START).ended(end);
    let failure = End::Failed { reason: "JobFailed".into(), message: "x".into() };
    nodes[0].memory = Some(Ok(memory(&nodes[0], failure)));
    nodes[1].memory = Some(Ok(memory(&nodes[1], End::Done)));
    assert_eq!(phases(&decided(&first, &nodes, START)), [Phase::Failed, Phase::Done]);
    let again = rollout(json!({"osImage": "a:2", "retry": "again", "upgradeContainer": {"args": ["x"]}}));
    assert_eq!(phases(&decided(&again, &nodes, START)), [Phase::Upgrading, Phase::Done]);
    let other = rollout(json!({"osImage": "a:2", "upgradeContainer": {"args": ["y"]}, "concurrency": 2}));
    assert_eq!(phases(&decided(&other, &nodes, START)), [Phase::Upgrading, Phase::Upgrading]);
}

#[test]
fn a_cloud_config_reaches_nodes_that_run_the_release_and_counts_when_their_jobs_succeed() {
    let with = |hostname: &str| rollout(json!({"osImage": "a:2", "cloudConfig": {"hostname": hostname}}));
    let mut nodes = vec![node("a", 2)];
    assert!(pass(&with("h"), &mut nodes, START).actions.iter().all(|(_, action)| action.upgrades()));
    pass(&with("h"), &mut nodes, START + 1);
    nodes[0].job = Some(Job { state: JobState::Failed("deadline".into()), ..Job::default() });
    let decision = pass(&with("h"), &mut nodes, START + 2);
    assert_eq!(reasons(&decision), ["JobFailed: deadline"], "it runs the release, and not with the cloud-config");
    let given_back = pass(&with("h"), &mut nodes, START + 3);
    assert!(!nodes[0].unschedulable && given_back.actions.iter().all(|(_, action)| !action.upgrades()));

    nodes[0].job = None;
    pass(&with("g"), &mut nodes, START + 4);
    pass(&with("g"), &mut nodes, START + 5);
    nodes[0].job = Some(Job { state: JobState::Complete, ..Job::default() });
    assert_eq!(phases(&pass(&with("g"), &mut nodes, START + 6)), [Phase::Done]);
    assert_eq!(phases(&pass(&with("g"), &mut nodes, START + 7)), [Phase::Done]);
    nodes[0].job = None;
    assert_eq!(phases(&decided(&rollout(json!({"osImage": "a:2"})), &nodes, START + 8)), [Phase::Done]);
}

#[test]
fn an_edit_gives_a_node_back_that_is_not_upgraded_yet_and_waits_for_a_job() {
    let first = rollout(json!({"osImage": "a:2", "drain": {}}));
    let next = rollout(json!({"osImage": "a:3", "drain": {}}));
    let mut nodes = vec![node("a", 1)];
    pass(&first, &mut nodes, START);
    pass(&next, &mut nodes, START + 1);
    assert_eq!((nodes[0].unschedulable, &nodes[0].memory), (false, &None));

    pass(&first, &mut nodes, START);
    nodes[0].pods = Some(Vec::new());
    pass(&first, &mut nodes, START + 1);
    nodes[0].other_job = nodes[0].job.take().is_some();
    let decision = pass(&next, &mut nodes, START + 2);
    assert!(decision.places[0].in_flight && decision.actions.is_empty(), "{decision:?}");
    // Somebody takes the node out of the selection, and the Job ends.
    nodes[0].other_job = false;
    pass(&next, &mut nodes, START + 3);
    assert_eq!((nodes[0].unschedulable, &nodes[0].memory), (false, &None));
}

#[test]
fn an_edit_that_is_taken_back_does_not_count_the_job_of_the_first_time() {
    let rollout = rollout(json!({"osImage": "a:2"}));
    let mut nodes = vec![node("a", 3)];
    nodes[0].job = Some(Job { state: JobState::Complete, ..Job::default() });
    let decision = decided(&rollout, &nodes, START);
    let actions: Vec<&Action> = decision.actions.iter().map(|(_, action)| action).collect();
    assert!(matches!(actions[..], [Action::DeleteJob, Action::Write { memory: Some(_), .. }]), "{actions:?}");
}

#[test]
fn a_node_that_is_not_selected_any_more_is_given_back() {
    let all = rollout(json!({"osImage": "a:2", "drain": {}}));
    let none = rollout(json!({"osImage": "a:2", "drain": {}, "nodeSelector": {"matchLabels": {"a": "b"}}}));
    let mut nodes = vec![node("a", 1)];
    pass(&all, &mut nodes, START);
    assert!(nodes[0].unschedulable);
    pass(&none, &mut nodes, START + 1);
    assert!(!nodes[0].unschedulable && nodes[0].memory.is_none());
    assert!(pass(&none, &mut nodes, START + 2).places.is_empty());
}

#[test]
fn a_node_deleted_during_its_upgrade_is_a_failure_and_its_machine_keeps_it() {
    let rollout = rollout(json!({"osImage": "a:2"}));
    let mut nodes = vec![node("a", 1), node("b", 1)];
    let mut decision = pass(&rollout, &mut nodes, START);
    let list = |nodes: &[Node], decision: &Decision, before: &[NodeProgress]| {
        let before: Vec<&NodeProgress> = before.iter().collect();
        listed(None, seen(nodes, decision), &before, &time(START)).nodes
    };
    let mut before = list(&nodes, &decision, &[]);
    let decide_at = |nodes: &[Node], before: &[NodeProgress]| {
        let before: Vec<&NodeProgress> = before.iter().collect();
        decide(&rollout, Observed { nodes, others: &[], before: &before, now: START + 1 })
    };
    // It is back at once under another name: its upgrade begins anew, in its turn.
    let back = Node { uid: "other".into(), machine: nodes[0].machine.clone(), ..node("z", 1) };
    let with_back = [back.clone(), nodes[1].clone()];
    assert_eq!(phases(&decide_at(&with_back, &before)), [Phase::Upgrading, Phase::Waiting]);
    // It stays away: a failure, after which nobody begins.
    nodes.remove(0);
    for _ in 0..2 {
        decision = decide_at(&nodes, &before);
        assert_eq!(decision.gone[0].reason, "NodeGone: its Node was deleted during its upgrade");
        assert_eq!(phases(&decision), [Phase::Waiting]);
        before = list(&nodes, &decision, &before);
        assert_eq!(before.len(), 2);
    }
    // It is back after all, under its name: it keeps the failure, on its new Node.
    nodes.push(Node { name: "a".into(), ..back });
    decision = decide_at(&nodes, &before);
    assert_eq!(phases(&decision), [Phase::Waiting, Phase::Failed]);
    let Action::Write { memory: Some(memory), .. } = &decision.actions[0].1 else { panic!("{decision:?}") };
    assert!(matches!(&memory.end, Some(End::Failed { reason, .. }) if reason == "NodeGone"), "{memory:?}");
    assert!(decision.gone.is_empty());
}

#[test]
fn a_node_that_goes_back_later_has_failed() {
    let rollout = rollout(json!({"osImage": "a:2"}));
    let mut nodes = vec![node("a", 2)];
    nodes[0].memory = Some(Ok(super::step::new_memory(&nodes[0], &rollout, START).ended(End::Done)));
    assert_eq!(phases(&pass(&rollout, &mut nodes, START)), [Phase::Done]);
    restarted(&mut nodes[0], 1);
    let decision = pass(&rollout, &mut nodes, START);
    assert_eq!(reasons(&decision), ["FellBack: it ran the release, and went back to ROS 1"]);
    assert_eq!(phases(&pass(&rollout, &mut nodes, START)), [Phase::Failed]);
}

#[test]
fn the_end_of_a_roll_out_gives_all_nodes_back() {
    let rollout = rollout(json!({"osImage": "a:2", "concurrency": 2, "drain": {}}));
    let mut nodes = vec![node("a", 1), node("b", 1), node("c", 1)];
    pass(&rollout, &mut nodes, START);
    nodes[0].pods = Some(Vec::new());
    pass(&rollout, &mut nodes, START + 1);
    nodes[0].other_job = true;
    let (actions, held) = give_back(&nodes, "x", START + 2, true);
    assert_eq!((actions.len(), held), (1, 1));
    let (actions, held) = give_back(&nodes, "x", START + 2, false);
    assert_eq!((actions.len(), held), (2, 0));
    for (at, action) in actions {
        write(&mut nodes[at], &action);
    }
    assert!(nodes.iter().all(|node| node.memory.is_none() && !node.unschedulable));
}

#[test]
fn what_it_does_not_use_is_refused_by_name() {
    let of = |namespace: &str, spec: Value| {
        let mut object = ManagedOSImage::new("x", serde_json::from_value(spec).unwrap());
        object.metadata.namespace = Some(namespace.to_owned());
        NodeRollout::of(&object, &DefaultRegistry::default())
    };
    let windows = json!([{"startTime": "x"}]);
    for (spec, text) in [
        (json!({"osImage": "a:1", "clusterRolloutStrategy": {}}), "spec.clusterRolloutStrategy"),
        (json!({"osImage": "a:1", "targets": [{"clusterName": "c"}]}), "spec.targets"),
        (json!({"osImage": "a:1", "windows": windows}), "spec.windows[0].startTime"),
        (json!({"osImage": "a:1", "drain": {"timeout": "soon"}}), "spec.drain.timeout"),
    ] {
        let problem = of(LOCAL_NAMESPACE, spec.clone()).unwrap_err();
        assert!(problem.reason == reason::INVALID_SPEC && problem.message.contains(text), "{spec}: {problem:?}");
    }
    assert_eq!(of("fleet-default", json!({"osImage": "a:1"})).unwrap_err().reason, reason::NO_ENGINE);
    assert_eq!(of(LOCAL_NAMESPACE, json!({})).unwrap_err().reason, reason::NO_IMAGE);
}
