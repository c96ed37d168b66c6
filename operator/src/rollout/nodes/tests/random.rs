//! Whole roll-outs at random: with failures, delays, edits, deleted Nodes, and an operator that is killed after any write.

use super::*;
use crate::rollout::nodes::job::label_of_attempt;
use crate::rollout::windows::daily::Daily;
use proptest::prelude::*;

/// What becomes of a node's Job.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Succeeds,
    /// The container ends with an error, and nothing else happens.
    Fails,
    /// The release does not come up: the node is back with what it ran before, and the next pod says so.
    FallsBack,
    /// The node does not come back.
    StaysAway,
}

/// A Job that has not been deleted.
#[derive(Clone, Debug)]
struct SimulatedJob {
    attempt: String,
    release: u8,
    begun: i64,
    job: Job,
}

struct Simulated {
    node: Node,
    runs: u8,
    before: u8,
    fate: Fate,
    pods: Vec<Pod>,
    /// A budget does not let them be evicted.
    held: bool,
    jobs: Vec<SimulatedJob>,
    boots: u32,
    /// Whether somebody cordoned it.
    cordoned_by_hand: bool,
}

impl Simulated {
    fn new(number: usize, planes: usize) -> Self {
        let name = format!("n{number}");
        let node = if number < planes { plane(&name, 1) } else { super::node(&name, 1) };
        let daemon =
            Pod { controller: Some(Controller::DaemonSet { name: "daemon".into(), exists: true }), ..pod("daemon") };
        Self {
            node,
            runs: 1,
            before: 1,
            fate: Fate::Succeeds,
            pods: vec![daemon, pod(&format!("{name}-a")), pod(&format!("{name}-b"))],
            held: false,
            jobs: Vec::new(),
            boots: 0,
            cordoned_by_hand: number == 5,
        }
    }

    fn job_runs(&self) -> bool {
        self.jobs.iter().any(|job| job.job.state == JobState::Running)
    }

    /// Whether it may restart at any moment.
    /// Its upgrade has ended, it could be used again, and it is cordoned still.
    fn waits_to_be_given_back(&self) -> bool {
        let cordoned = self.node.remembered().is_some_and(|memory| memory.cordoned);
        cordoned && !self.is_in_flight() && self.node.ready
    }

    fn is_in_flight(&self) -> bool {
        self.job_runs() || self.node.remembered().is_some_and(Memory::is_in_flight)
    }

    fn restart(&mut self, release: u8) {
        self.boots += 1;
        (self.before, self.runs) = (self.runs, release);
        self.node.boot_id = format!("boot-{}", self.boots);
        self.node.os_image = format!("ROS {release}");
        self.node.heartbeat += 60;
        self.node.ready = true;
    }

    /// One step of the kubelet and of the Job's controller.
    fn work(&mut self, now: i64) {
        if !self.node.ready && self.fate != Fate::StaysAway && !self.job_runs() {
            self.restart(self.runs);
        }
        self.pods.retain(|pod| pod.deleted.is_none());
        let Some(at) = self.jobs.iter().position(|job| job.job.state == JobState::Running) else { return };
        let (release, begun) = (self.jobs[at].release, self.jobs[at].begun);
        let failed = JobState::Failed("BackoffLimitExceeded".into());
        let over = now - begun >= crate::inventory::upgrade::DEADLINE;
        match self.fate {
            _ if over => self.jobs[at].job.state = JobState::Failed("DeadlineExceeded".into()),
            Fate::Succeeds if self.runs == release && self.node.ready => self.jobs[at].job.state = JobState::Complete,
            Fate::Succeeds | Fate::FallsBack | Fate::StaysAway
                if self.node.ready && self.jobs[at].job.said.is_none() =>
            {
                self.node.ready = false;
                self.jobs[at].job.said = Some((255, "Unknown".into()));
            }
            Fate::Succeeds => self.restart(release),
            Fate::FallsBack if !self.node.ready => self.restart(self.runs),
            Fate::FallsBack if self.jobs[at].job.said == Some((255, "Unknown".into())) => {
                self.jobs[at].job.said = Some((1, "FellBack".into()));
            }
            Fate::Fails | Fate::FallsBack => self.jobs[at].job.state = failed,
            Fate::StaysAway => {}
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    /// The operator decides; it is killed after so many writes, before it has written the status.
    Decide(Option<u8>),
    Work(usize),
    Later(u16),
    Fate(usize, u8),
    Hold(usize, bool),
    Concurrency(u8),
    MaxFailures(u8),
    Release(u8),
    Retry(u8),
    /// The Node is deleted, and its machine comes back as another one, or never.
    Delete(usize, bool),
    /// The Job of a node is deleted.
    Forget(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        8 => prop_oneof![3 => Just(None), 1 => (0u8..4).prop_map(Some)].prop_map(Event::Decide),
        8 => any::<usize>().prop_map(Event::Work),
        3 => prop_oneof![6 => 1u16..400, 1 => 400u16..9000].prop_map(Event::Later),
        2 => (any::<usize>(), 0u8..4).prop_map(|(node, fate)| Event::Fate(node, fate)),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(node, held)| Event::Hold(node, held)),
        1 => (0u8..4).prop_map(Event::Concurrency),
        1 => (0u8..4).prop_map(Event::MaxFailures),
        1 => (1u8..4).prop_map(Event::Release),
        1 => (0u8..3).prop_map(Event::Retry),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(node, back)| Event::Delete(node, back)),
        1 => any::<usize>().prop_map(Event::Forget),
    ];
    prop::collection::vec(event, 0..120)
}

struct World {
    nodes: Vec<Simulated>,
    spec: Value,
    rollout: NodeRollout,
    window: Option<Daily>,
    now: i64,
    listed: Vec<NodeProgress>,
    attempt: String,
    made: usize,
}

impl World {
    fn new(count: usize, planes: usize, drain: bool, window: Option<Daily>) -> Self {
        let mut spec = json!({"osImage": "a:2", "release": "2", "concurrency": 2});
        if drain {
            spec["drain"] = json!({"timeout": "10m"});
        }
        if let Some(window) = window {
            spec["windows"] = window.spec();
        }
        let mut nodes: Vec<Simulated> = (0..count).map(|number| Simulated::new(number, planes)).collect();
        for node in &mut nodes {
            node.node.unschedulable = node.cordoned_by_hand;
        }
        let rollout = rollout(spec.clone());
        Self { nodes, attempt: rollout.attempt(), rollout, spec, window, now: START, listed: Vec::new(), made: count }
    }

    fn edit(&mut self, field: &str, value: Value) {
        self.spec[field] = value;
        self.rollout = rollout(self.spec.clone());
    }

    fn happens(&mut self, event: &Event) {
        let count = self.nodes.len();
        match event {
            Event::Later(seconds) => self.now += i64::from(*seconds),
            Event::Concurrency(most) => self.edit("concurrency", json!(most)),
            Event::MaxFailures(most) => self.edit("maxFailures", json!(most)),
            Event::Release(release) => {
                self.edit("osImage", json!(format!("a:{release}")));
                self.edit("release", json!(release.to_string()));
            }
            Event::Retry(text) => self.edit("retry", json!(text.to_string())),
            Event::Decide(killed_after) => {
                self.decide(*killed_after);
            }
            _ if count == 0 => {}
            Event::Work(node) => self.nodes[node % count].work(self.now),
            Event::Fate(node, fate) => {
                let fates = [Fate::Succeeds, Fate::Fails, Fate::FallsBack, Fate::StaysAway];
                self.nodes[node % count].fate = fates[usize::from(*fate)];
            }
            Event::Hold(node, held) => self.nodes[node % count].held = *held,
            Event::Forget(node) => {
                self.nodes[node % count].jobs.clear();
            }
            Event::Delete(node, back) => {
                let mut gone = self.nodes.remove(node % count);
                if *back {
                    self.made += 1;
                    gone.node = Node {
                        name: format!("n{}", self.made),
                        uid: format!("uid-n{}", self.made),
                        memory: None,
                        unschedulable: false,
                        ..gone.node
                    };
                    gone.cordoned_by_hand = false;
                    gone.jobs.clear();
                    self.nodes.push(gone);
                }
            }
        }
    }

    /// The Nodes as they are read.
    fn read(&self) -> Vec<Node> {
        let attempt = label_of_attempt(&self.rollout);
        let read = |simulated: &Simulated| {
            let own = simulated.jobs.iter().find(|job| job.attempt == attempt);
            let runs = |job: &&SimulatedJob| job.attempt != attempt && job.job.state == JobState::Running;
            let mut node = simulated.node.clone();
            node.job = own.map(|job| job.job.clone());
            node.other_job = simulated.jobs.iter().any(|job| runs(&job));
            node.pods = needs_pods(&node, &self.rollout).then(|| simulated.pods.clone());
            node
        };
        self.nodes.iter().map(read).collect()
    }

    fn decide(&mut self, killed_after: Option<u8>) -> Decision {
        let nodes = self.read();
        if self.attempt != self.rollout.attempt() {
            self.listed.clear();
        }
        let before: Vec<&NodeProgress> = self.listed.iter().collect();
        let observed = Observed { nodes: &nodes, others: &[], before: &before, now: self.now };
        let decision = decide(&self.rollout, observed);
        let count = |phase: Phase| decision.places.iter().filter(|place| place.phase == phase).count();
        let all = [Phase::Failed, Phase::Proving, Phase::Upgrading, Phase::Waiting, Phase::Done];
        assert_eq!(all.map(count).iter().sum::<usize>(), self.nodes.len(), "everybody is accounted for");
        let failed = count(Phase::Failed) + decision.gone.len();
        for (number, (at, action)) in decision.actions.iter().enumerate() {
            if killed_after.is_some_and(|writes| number >= usize::from(writes)) {
                return decision;
            }
            self.act(*at, action, failed);
        }
        let before: Vec<&NodeProgress> = self.listed.iter().collect();
        self.listed = listed(None, seen(&nodes, &decision), &before, &time(self.now)).nodes;
        self.attempt = self.rollout.attempt();
        decision
    }

    fn act(&mut self, at: usize, action: &Action, failed: usize) {
        let now = self.now;
        match action {
            Action::Write { memory, unschedulable } => {
                let begins = !self.nodes[at].is_in_flight() && memory.as_ref().is_some_and(Memory::is_in_flight);
                let node = &mut self.nodes[at];
                node.node.memory = memory.clone().map(Ok);
                node.node.unschedulable = unschedulable.unwrap_or(node.node.unschedulable);
                assert!(node.node.unschedulable || !node.cordoned_by_hand, "somebody else's cordon was removed");
                if begins {
                    self.begins(at, failed);
                }
            }
            Action::Evict(pods) => {
                let node = &mut self.nodes[at];
                for pod in node.pods.iter_mut().filter(|pod| !node.held && pods.contains(pod)) {
                    pod.deleted = Some(now);
                }
            }
            Action::CreateJob => {
                let drained = self.rollout.drain.is_none();
                let attempt = label_of_attempt(&self.rollout);
                let release = self.release();
                let node = &mut self.nodes[at];
                let daemons = node.pods.iter().all(|pod| matches!(pod.controller, Some(Controller::DaemonSet { .. })));
                assert!(drained || daemons, "a Job on a node that is not drained");
                assert!(node.node.unschedulable, "a Job on a node that is not cordoned");
                if node.jobs.iter().all(|job| job.attempt != attempt) {
                    assert!(!node.job_runs(), "two Jobs on one node");
                    node.jobs.push(SimulatedJob { attempt, release, begun: now, job: Job::default() });
                }
            }
            Action::DeleteJob => {
                let attempt = label_of_attempt(&self.rollout);
                self.nodes[at].jobs.retain(|job| job.attempt != attempt);
            }
        }
    }

    fn begins(&self, at: usize, failed: usize) {
        let in_flight = self.nodes.iter().filter(|node| node.is_in_flight());
        assert!(in_flight.count() <= self.rollout.concurrency, "more in flight than concurrency says");
        let taken = self.nodes.iter().filter(|node| node.is_in_flight() || node.waits_to_be_given_back());
        assert!(taken.count() <= self.rollout.concurrency, "more were cordoned than concurrency says");
        assert!(failed <= self.rollout.max_failures, "one was begun after too many failures");
        assert!(self.window.is_none_or(|window| window.is_open(self.now)), "one was begun outside the window");
        let planes = |node: &&Simulated| node.node.is_control_plane();
        if planes(&&self.nodes[at]) {
            let others = self.nodes.iter().filter(planes).filter(|node| node.node.uid != self.nodes[at].node.uid);
            for other in others {
                assert!(!other.is_in_flight() && other.node.ready, "two control planes at once");
            }
        } else {
            let all_ended = self.nodes.iter().filter(planes).all(|plane| self.has_ended(plane));
            assert!(all_ended, "a worker was begun before the control planes");
        }
    }

    /// Whether the node runs the release, or its upgrade has ended.
    fn has_ended(&self, node: &Simulated) -> bool {
        let current = node.node.remembered().filter(|memory| memory.is_current(&self.rollout));
        node.runs == self.release() || current.is_some_and(|memory| memory.end.is_some())
    }

    fn release(&self) -> u8 {
        self.spec["release"].as_str().unwrap().parse().unwrap()
    }

    /// From now on everything goes well, at any time of day. Whoever has not failed before ends on the release.
    fn settle(&mut self) {
        self.edit("concurrency", json!(2));
        self.edit("maxFailures", json!(1000));
        self.edit("windows", Value::Null);
        self.window = None;
        let release = self.release();
        for node in &mut self.nodes {
            (node.fate, node.held) = (Fate::Succeeds, false);
        }
        let mut last = Decision::default();
        for _ in 0..(self.nodes.len() * 20 + 20) {
            self.now += 60;
            last = self.decide(None);
            self.nodes.iter_mut().for_each(|node| node.work(self.now));
        }
        assert!(last.actions.is_empty(), "{last:?}");
        for (node, place) in self.nodes.iter().zip(&last.places) {
            match place.phase {
                Phase::Done => assert_eq!(node.runs, release),
                Phase::Failed => {}
                phase => panic!("{} is {phase}: {}", node.node.name, place.reason),
            }
            assert_eq!(node.node.unschedulable, node.cordoned_by_hand, "{} {place:?}", node.node.name);
            assert!(!node.is_in_flight() && node.node.remembered().is_none_or(|memory| !memory.cordoned));
        }
    }
}

proptest! {
    /// `PROPTEST_CASES=100000` runs as many roll-outs.
    #[test]
    fn limits_hold_and_every_roll_out_ends(
        count in 1usize..8,
        planes in 0usize..4,
        drain in any::<bool>(),
        window in prop::option::of((0i64..1440, 30i64..600)),
        events in events(),
    ) {
        let mut world = World::new(count, planes, drain, window.map(|(start, length)| Daily(start, length)));
        for event in &events {
            world.happens(event);
        }
        world.settle();
    }
}
