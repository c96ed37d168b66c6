//! Tests of `rollout::turns`: single decisions, and whole roll-outs at random.

use super::*;
use crate::inventory::index::KnownMachine;
use crate::inventory::life::{LAST_SEEN_SECONDS, Step};
use crate::inventory::upgrade::{after, due};
use crate::rollout::DefaultRegistry;
use crate::rollout::machines::MachineRollout;
use crate::rollout::windows::daily::Daily;
use api::{MachineInventoryStatus, ManagedOSImage, OsStatus};
use proptest::prelude::*;
use protocol::message::{Failure, OsReport};
use protocol::upgrade_order::passes;
use protocol::{UpgradeOrder, UpgradeReport};
use serde_json::{Value, json};

const START: i64 = 1_800_000_000;

fn time(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}
fn rollout(spec: Value) -> MachineRollout {
    let object = ManagedOSImage::new("x", serde_json::from_value(spec).unwrap());
    MachineRollout::of(&object, &DefaultRegistry::default()).unwrap()
}
fn machine(name: &str, version: &str) -> KnownMachine {
    let os = OsStatus {
        version: Some(version.into()),
        slot: Some("A".into()),
        healthy: true,
        self_upgrading: true,
        ..OsStatus::default()
    };
    let status =
        MachineInventoryStatus { os: Some(os), last_seen: Some(time(START)), ..MachineInventoryStatus::default() };
    KnownMachine { name: name.into(), status, ..KnownMachine::default() }
}
fn decided(rollout: &MachineRollout, machines: &[KnownMachine], now: i64) -> Turns {
    let candidates: Vec<Candidate> = machines.iter().map(|machine| rollout.candidate(machine)).collect();
    let limits = Limits {
        concurrency: rollout.concurrency,
        max_failures: rollout.max_failures,
        failed_before: 0,
        windows: &rollout.windows,
    };
    decide(&candidates, &limits, now)
}
fn with_turn(mut machine: KnownMachine, rollout: &MachineRollout, told: Option<i64>) -> KnownMachine {
    let turn = rollout.turn(&time(START + TURN), &time(START));
    machine.status.upgrade = Some(Box::new(UpgradeTurn { told: told.map(time), ..turn }));
    machine
}
fn phases(turns: &Turns) -> Vec<Phase> {
    turns.places.iter().map(|place| place.phase).collect()
}

#[test]
fn one_begins_and_the_others_wait_for_it() {
    let rollout = rollout(json!({"osImage": "a:2"}));
    let mut machines = vec![machine("a", "1"), machine("b", "1"), machine("c", "2")];
    let first = decided(&rollout, &machines, START);
    assert_eq!((phases(&first), &first.begin[..]), (vec![Phase::Upgrading, Phase::Waiting, Phase::Done], &[0][..]));
    assert_eq!(first.until, time(START + TURN));
    machines[0] = with_turn(machines[0].clone(), &rollout, None);
    assert_eq!(decided(&rollout, &machines, START + 9).begin, [0; 0]);
    machines[0] = with_turn(machines[0].clone(), &rollout, Some(START + 9));
    assert_eq!(decided(&rollout, &machines, START + 9).begin, [0; 0]);
    machines[0].status.os.as_mut().unwrap().version = Some("2".into());
    assert_eq!(decided(&rollout, &machines, START + 9).begin, [1]);
}

#[test]
fn the_one_whose_report_is_nearest_begins() {
    let rollout = rollout(json!({"osImage": "a:2"}));
    let mut machines = vec![machine("late", "1"), machine("new", "1"), machine("near", "1")];
    machines[1].status.last_seen = Some(time(START + 890));
    machines[2].status.last_seen = Some(time(START + 600));
    assert_eq!(decided(&rollout, &machines, START + 900).begin, [2]);
}

#[test]
fn a_silent_machine_is_unknown_and_holds_no_place() {
    let rollout = rollout(json!({"osImage": "a:2"}));
    let mut machines =
        vec![with_turn(machine("a", "1"), &rollout, Some(START)), machine("b", "1"), machine("off", "1")];
    let later = START + UNKNOWN_AFTER + SKEW + 1;
    machines[1].status.last_seen = Some(time(later));
    let turns = decided(&rollout, &machines, later);
    assert_eq!(phases(&turns), [Phase::Unknown, Phase::Upgrading, Phase::Unknown]);
    assert_eq!(turns.begin, [1]);
}

#[test]
fn after_the_most_failures_none_is_begun_and_what_was_not_told_is_withdrawn() {
    let spec = |more: Value| {
        let mut spec = json!({"osImage": "a:2", "concurrency": 2});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        rollout(spec)
    };
    let strict = spec(json!({}));
    let mut failed = with_turn(machine("a", "1"), &strict, Some(START));
    let failure = Failure { reason: "NoSuchImage".into(), message: "a:2".into() };
    failed.status.upgrade.as_mut().unwrap().failure = Some(failure);
    let machines = [failed, with_turn(machine("b", "1"), &strict, None), machine("c", "1")];
    let turns = decided(&strict, &machines, START + 1);
    assert_eq!((turns.hold, &turns.withdraw[..], &turns.begin[..]), (Some(Hold::Failures), &[1][..], &[][..]));
    assert_eq!(turns.places[0].reason, "NoSuchImage: a:2");
    assert!(turns.places[2].reason.contains("spec.maxFailures is 0"), "{}", turns.places[2].reason);
    assert_eq!(decided(&spec(json!({"maxFailures": 1})), &machines, START + 1).begin, [2]);
    let other = decided(&spec(json!({"osImage": "a:3"})), &machines, START + 1);
    assert_eq!((other.begin, other.hold), (vec![0, 1], None), "another release begins anew");
    let again = decided(&spec(json!({"retry": "once more"})), &machines, START + 1);
    assert_eq!(again.begin, [0, 1]);
}

#[test]
fn a_machine_whose_registry_is_down_gives_its_place_to_the_next_and_is_told_again() {
    let rollout = rollout(json!({"osImage": "a:2"}));
    let mut machines = [with_turn(machine("a", "1"), &rollout, Some(START)), machine("b", "1")];
    let failure = Failure { reason: "RegistryUnreachable".into(), message: "refused".into() };
    machines[0].status.upgrade.as_mut().unwrap().failure = Some(failure);
    let turns = decided(&rollout, &machines, START + 900);
    assert_eq!(
        (phases(&turns), &turns.begin[..], turns.hold),
        (vec![Phase::Waiting, Phase::Upgrading], &[1][..], None)
    );
    assert!(turns.places[0].reason.contains("RegistryUnreachable: refused"), "{}", turns.places[0].reason);
    let soon = decided(&rollout, &machines[..1], START + 900);
    assert_eq!((soon.begin.len(), soon.look_again), (0, Some(361)), "when it would be silent");
    machines[0].status.last_seen = Some(time(START + 1799));
    assert_eq!(decided(&rollout, &machines[..1], START + 1799).look_again, Some(1));
    assert_eq!(decided(&rollout, &machines[..1], START + 1800).begin, [0]);
    machines[0].status.upgrade.as_mut().unwrap().failure.as_mut().unwrap().reason = "ImageNotFound".into();
    assert_eq!(phases(&decided(&rollout, &machines[..1], START + 1800)), [Phase::Failed]);
}

#[test]
fn nothing_begins_while_it_is_paused_or_no_window_is_open() {
    let paused = rollout(json!({"osImage": "a:2", "concurrency": 0}));
    let machines = [machine("a", "1"), with_turn(machine("b", "1"), &paused, None)];
    let turns = decided(&paused, &machines, START);
    assert_eq!((turns.hold, turns.begin.len(), &turns.withdraw[..]), (Some(Hold::Paused), 0, &[1][..]));
    // START is on 15 January 2027, at 08:00 UTC.
    let closed = rollout(json!({"osImage": "a:2", "windows": [{"startTime": "09:00", "endTime": "10:00"}]}));
    let turns = decided(&closed, &machines[..1], START);
    assert_eq!((turns.hold, turns.look_again), (Some(Hold::WindowClosed), Some(60)));
    let ends = rollout(json!({"osImage": "a:2", "windows": [{"startTime": "07:00", "endTime": "08:05"}]}));
    assert_eq!(decided(&ends, &machines[..1], START).until, time(START + 300), "not beyond the window");
}

#[test]
fn a_machine_that_does_not_do_it_in_time_has_failed() {
    let rollout = rollout(json!({"osImage": "a:2"}));
    let mut late = with_turn(machine("a", "1"), &rollout, Some(START));
    late.status.last_seen = Some(time(START + DEADLINE));
    let turns = decided(&rollout, &[late.clone()], START + DEADLINE);
    assert!(turns.places[0].phase == Phase::Failed && turns.places[0].reason.starts_with("NotUpgraded"));
    let os = late.status.os.as_mut().unwrap();
    (os.version, os.healthy) = (Some("2".into()), false);
    assert_eq!(phases(&decided(&rollout, &[late.clone()], START + DEADLINE - 1)), [Phase::Proving]);
    assert_eq!(phases(&decided(&rollout, &[late], START + DEADLINE)), [Phase::Failed]);
}

#[test]
fn a_machine_that_was_upgraded_by_hand_and_is_not_healthy_holds_up_nobody() {
    let rollout = rollout(json!({"osImage": "a:2"}));
    let mut machines = [machine("a", "2"), machine("b", "1")];
    machines[0].status.os.as_mut().unwrap().healthy = false;
    let turns = decided(&rollout, &machines, START);
    assert_eq!((phases(&turns), &turns.begin[..]), (vec![Phase::Proving, Phase::Upgrading], &[1][..]));
}

#[test]
fn an_order_before_holds_its_place_until_it_is_done() {
    let (before, now) = (rollout(json!({"osImage": "a:2"})), rollout(json!({"osImage": "a:3"})));
    let mut machines = [with_turn(machine("a", "1"), &before, Some(START)), machine("b", "1")];
    assert_eq!(decided(&now, &machines, START + 9).begin, [0; 0]);
    let back = rollout(json!({"osImage": "a:1"}));
    assert_eq!(phases(&decided(&back, &machines[..1], START + 9)), [Phase::Upgrading], "it may still restart");
    machines[0].status.os.as_mut().unwrap().version = Some("2".into());
    assert_eq!(decided(&now, &machines, START + 9).begin.len(), 1);
}

#[test]
fn a_machine_that_takes_no_orders_gets_no_turn_and_says_why() {
    let rollout = rollout(json!({"osImage": "a:2"}));
    let mut machines = [machine("a", "1"), machine("b", "1"), machine("c", "1")];
    machines[0].status.os.as_mut().unwrap().self_upgrading = false;
    machines[1].approved = Some(false);
    let turns = decided(&rollout, &machines, START);
    assert_eq!(turns.begin, [2]);
    assert!(turns.places[0].reason.contains("does not upgrade itself"), "{}", turns.places[0].reason);
    assert!(turns.places[1].reason.contains("spec.approved"), "{}", turns.places[1].reason);
}

/// What becomes of an upgrade on a machine.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Succeeds,
    CannotFetch,
    RegistryIsDown,
    FallsBack,
    Nothing,
}

/// A machine and its inventory.
struct Simulated {
    known: KnownMachine,
    fate: Fate,
    runs: u8,
    before: u8,
    healthy: bool,
    took: Option<UpgradeOrder>,
    failure: Option<Failure>,
    /// How many were allowed in flight when its turn began.
    allowed: usize,
    /// The leader has counted it as unknown since then.
    was_unknown: bool,
}

impl Simulated {
    fn new(number: usize) -> Self {
        Self {
            known: machine(&number.to_string(), "1"),
            fate: Fate::Succeeds,
            runs: 1,
            before: 1,
            healthy: true,
            took: None,
            failure: None,
            allowed: 0,
            was_unknown: false,
        }
    }

    /// Works, and says what came of it. Returns whether it was told something for the first time.
    fn report(&mut self, now: i64) -> bool {
        self.work();
        let report = OsReport {
            version: self.runs.to_string(),
            healthy: self.healthy,
            upgrade: Some(UpgradeReport { order: self.took.clone(), failure: self.failure.clone() }),
            ..OsReport::default()
        };
        let before = self.known.status.clone();
        let os = self.known.status.os.as_mut().unwrap();
        (os.version, os.healthy) = (Some(report.version.clone()), report.healthy);
        let step = Step::Reported(Box::new(report.clone()));
        after(&before, &step, &mut self.known.status, &time(now));
        let seen = before.last_seen.as_ref().map_or(0, seconds);
        if self.known.status != before || now - seen >= LAST_SEEN_SECONDS {
            self.known.status.last_seen = Some(time(now));
        }
        let Some(order) = due(&self.known, &report, true, &time(now)) else { return false };
        let before = self.known.status.clone();
        after(&before, &Step::SentUpgrade(order.clone()), &mut self.known.status, &time(now));
        if self.took.as_ref() != Some(&order) || self.failure.as_ref().is_some_and(passes) {
            (self.took, self.failure) = (Some(order), None);
        }
        before.upgrade.is_some_and(|turn| turn.told.is_none())
    }

    fn work(&mut self) {
        let Some(release) = self.took.as_ref().and_then(|order| order.release.parse::<u8>().ok()) else { return };
        match self.fate {
            Fate::Succeeds if self.runs == release || self.failure.is_some() => self.healthy = true,
            _ if self.failure.is_some() => {}
            Fate::FallsBack if self.runs == release && !self.healthy => {
                (self.runs, self.healthy) = (self.before, true);
                self.failure = Some(Failure { reason: "FellBack".into(), message: String::new() });
            }
            Fate::Succeeds | Fate::FallsBack if self.runs != release => {
                (self.before, self.runs, self.healthy) = (self.runs, release, false);
            }
            Fate::CannotFetch if self.runs != release => {
                self.failure = Some(Failure { reason: "NoSuchImage".into(), message: String::new() });
            }
            Fate::RegistryIsDown if self.runs != release => {
                self.failure = Some(Failure { reason: "RegistryUnreachable".into(), message: String::new() });
            }
            _ => {}
        }
    }

    /// Whether it may restart at any moment, as far as anybody can know.
    fn is_in_flight(&self, now: i64) -> bool {
        let Some(turn) = &self.known.status.upgrade else { return false };
        let seen = self.known.status.last_seen.as_ref().map_or(0, seconds);
        let runs = self.runs.to_string() == turn.release && self.healthy;
        let heard = now - seen <= UNKNOWN_AFTER && !turn.lapsed && !self.was_unknown;
        turn.told.as_ref().is_some_and(|told| now - seconds(told) < DEADLINE)
            && turn.failure.is_none()
            && !runs
            && heard
    }
}

/// What happens next. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Event {
    Report(usize),
    /// The leader reconciles; of its writes these may fail, as a bit mask.
    Decide(u8),
    Later(u16),
    Fate(usize, u8),
    Concurrency(u8),
    MaxFailures(u8),
    Release(u8),
    Retry(u8),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => any::<usize>().prop_map(Event::Report),
        6 => prop_oneof![3 => Just(0u8), 1 => any::<u8>()].prop_map(Event::Decide),
        4 => prop_oneof![4 => 1u16..400, 1 => 400u16..9000].prop_map(Event::Later),
        2 => (any::<usize>(), 0u8..5).prop_map(|(machine, fate)| Event::Fate(machine, fate)),
        1 => (0u8..4).prop_map(Event::Concurrency),
        1 => (0u8..3).prop_map(Event::MaxFailures),
        1 => (2u8..5).prop_map(Event::Release),
        1 => (0u8..3).prop_map(Event::Retry),
    ];
    prop::collection::vec(event, 0..80)
}

struct World {
    machines: Vec<Simulated>,
    spec: Value,
    rollout: MachineRollout,
    window: Option<Daily>,
    now: i64,
}

impl World {
    fn new(count: usize, window: Option<Daily>) -> Self {
        let mut spec = json!({"osImage": "a:2", "release": "2", "concurrency": 1});
        if let Some(window) = window {
            spec["windows"] = window.spec();
        }
        let machines = (0..count).map(Simulated::new).collect();
        Self { machines, rollout: rollout(spec.clone()), spec, window, now: START }
    }

    fn edit(&mut self, field: &str, value: Value) {
        self.spec[field] = value;
        self.rollout = rollout(self.spec.clone());
    }

    fn happens(&mut self, event: &Event) {
        let count = self.machines.len();
        match event {
            Event::Report(machine) => self.report(machine % count),
            Event::Decide(fails) => {
                self.decide(*fails);
            }
            Event::Later(seconds) => self.now += i64::from(*seconds),
            Event::Fate(machine, fate) => {
                let fates = [Fate::Succeeds, Fate::CannotFetch, Fate::FallsBack, Fate::Nothing, Fate::RegistryIsDown];
                self.machines[machine % count].fate = fates[usize::from(*fate)];
            }
            Event::Concurrency(most) => self.edit("concurrency", json!(most)),
            Event::MaxFailures(most) => self.edit("maxFailures", json!(most)),
            Event::Release(release) => self.edit("release", json!(release.to_string())),
            Event::Retry(text) => self.edit("retry", json!(text.to_string())),
        }
    }

    fn report(&mut self, at: usize) {
        if !self.machines[at].report(self.now) {
            return;
        }
        assert!(self.window.is_none_or(|window| window.is_open(self.now)), "told while no window is open");
        let in_flight = self.machines.iter().filter(|machine| machine.is_in_flight(self.now));
        let (count, allowed) = in_flight.fold((0, 0), |(count, most), one| (count + 1, one.allowed.max(most)));
        assert!(count <= allowed, "{count} in flight, {allowed} allowed");
    }

    fn decide(&mut self, fails: u8) -> Turns {
        for machine in &mut self.machines {
            let turn = machine.known.status.upgrade.as_deref();
            if turn.is_some_and(|turn| self.rollout.is_superfluous(turn, true, &time(self.now))) {
                machine.known.status.upgrade = None;
            }
        }
        let known: Vec<KnownMachine> = self.machines.iter().map(|machine| machine.known.clone()).collect();
        let turns = decided(&self.rollout, &known, self.now);
        let count = |phase: Phase| turns.places.iter().filter(|place| place.phase == phase).count();
        let phases = [Phase::Failed, Phase::Proving, Phase::Upgrading, Phase::Unknown, Phase::Waiting, Phase::Done];
        assert_eq!(phases.map(count).iter().sum::<usize>(), self.machines.len(), "everybody is accounted for");
        if !turns.begin.is_empty() {
            let in_flight = turns.places.iter().filter(|place| place.in_flight).count();
            assert!(in_flight <= self.rollout.concurrency, "{in_flight} in flight: {turns:?}");
            assert!(count(Phase::Failed) <= self.rollout.max_failures, "one was begun after too many failures");
            assert!(self.window.is_none_or(|window| window.is_open(self.now)), "one was begun outside the window");
        }
        for (machine, place) in self.machines.iter_mut().zip(&turns.places) {
            machine.was_unknown |= place.phase == Phase::Unknown;
        }
        let is_written = |number: usize| fails & (1 << (number % 8)) == 0;
        for (number, &at) in turns.withdraw.iter().enumerate() {
            if is_written(number) {
                self.machines[at].known.status.upgrade = None;
            }
        }
        for (number, &at) in turns.begin.iter().enumerate() {
            if is_written(number) {
                let machine = &mut self.machines[at];
                let turn = self.rollout.turn(&turns.until, &time(self.now));
                machine.known.status.upgrade = Some(Box::new(turn));
                (machine.allowed, machine.was_unknown) = (self.rollout.concurrency, false);
            }
        }
        turns
    }

    /// From now on everything goes well, at any time of day. Whoever has not failed before ends on the release.
    fn settle(&mut self) {
        self.edit("concurrency", json!(1));
        self.edit("maxFailures", json!(100));
        self.window = None;
        self.edit("windows", Value::Null);
        for machine in &mut self.machines {
            machine.fate = Fate::Succeeds;
        }
        let mut left = Vec::new();
        // An order that nobody works on ends after an hour.
        for _ in 0..60 * self.machines.len() {
            let turns = self.decide(0);
            left = turns.places.iter().filter(|p| !matches!(p.phase, Phase::Done | Phase::Failed)).cloned().collect();
            if left.is_empty() {
                return;
            }
            (0..self.machines.len()).for_each(|at| self.report(at));
            self.now += 130;
        }
        panic!("not settled: {left:?}");
    }
}

proptest! {
    #[test]
    fn no_limit_is_ever_exceeded_and_everybody_is_upgraded_in_the_end(
        count in 1usize..6,
        window in prop::option::of((0i64..1440, 2i64..1400).prop_map(|(start, length)| Daily(start, length))),
        events in events(),
    ) {
        let mut world = World::new(count, window);
        for event in &events {
            world.happens(event);
        }
        world.settle();
    }
}
