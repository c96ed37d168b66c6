//! Tests of `inventory::erase_request`.

use super::*;
use crate::inventory::life;
use api::condition_type::{REINSTALL, RESET};
use api::{Condition, ConditionStatus, MachineInventory, MachineInventorySpec, Reset};
use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;
use protocol::erase_request::MAX_HONOURED;
use protocol::{RequestReport, ResetScope};
use std::collections::HashSet;

fn now() -> Time {
    Time(Timestamp::from_second(1_800_000_000).unwrap())
}

/// The inventory as the API server stores it. Its methods are the actions of users, the machine and the controller.
#[derive(Clone, Default)]
struct Stored {
    uid: String,
    generation: i64,
    text: Option<String>,
    reset: Option<Reset>,
    status: Option<MachineInventoryStatus>,
}

impl Stored {
    fn made(uid: &str, text: Option<&str>) -> Self {
        Self { uid: uid.into(), generation: 1, text: text.map(str::to_owned), ..Self::default() }
    }
    fn edit(&mut self, text: Option<&str>) {
        self.text = text.map(str::to_owned);
        self.generation += 1;
    }
    /// The object as a replica reads it that was just started.
    fn known(&self) -> KnownMachine {
        let (reinstall, reset) = (self.text.clone(), self.reset.clone());
        let spec = MachineInventorySpec { reinstall, reset, ..MachineInventorySpec::default() };
        let mut object = MachineInventory::new("m", spec);
        object.metadata.uid = Some(self.uid.clone());
        object.metadata.generation = Some(self.generation);
        object.status =
            self.status.as_ref().map(|status| serde_json::from_value(serde_json::to_value(status).unwrap()).unwrap());
        KnownMachine::of(object)
    }
    /// Updates the status as the controller does.
    fn update(&mut self) {
        let machine = self.known();
        let mut status = machine.status.clone();
        update(&machine, true, &mut status, &now());
        self.status = Some(status);
    }
    fn step(&mut self, step: &Step) {
        let machine = self.known();
        let mut status = life::after(&machine.status, step, machine.generation, &now());
        after(&machine, step, &mut status, &now());
        self.status = Some(status);
    }
    fn register(&mut self) {
        self.step(&Step::Registered { approved: true, hardware: None, attestation: None, addresses: Vec::new() });
    }
    /// Records a report and returns the text in its answer.
    fn report(&mut self, report: &OsReport) -> Option<String> {
        self.step(&Step::Reported(Box::new(report.clone())));
        match self.report_to_either(report)? {
            EraseRequest::Reinstall(text) => Some(text.into()),
            EraseRequest::Reset(reset) => panic!("{reset:?}"),
        }
    }
    /// Records a report and returns the request in its answer.
    fn report_to_either(&mut self, report: &OsReport) -> Option<EraseRequest> {
        self.step(&Step::Reported(Box::new(report.clone())));
        let request = due(&self.known(), report, true)?;
        self.step(&Step::SentRequest(request.clone()));
        Some(request)
    }
    fn edit_reset(&mut self, scope: ResetScope, text: &str) {
        self.reset = Some(Reset { scope, request: text.to_owned() });
        self.generation += 1;
    }
    fn condition(&self) -> Option<Condition> {
        self.status.as_ref()?.conditions.find(REINSTALL).cloned()
    }
    /// The condition's status and reason, and whether its message contains the warning.
    fn says(&self) -> Option<(bool, String, bool)> {
        let condition = self.condition()?;
        assert_eq!(condition.observed_generation, Some(self.generation));
        let warns = condition.message.contains("erases COS_PERSISTENT");
        Some((condition.status == ConditionStatus::True, condition.reason.to_string(), warns))
    }
}

fn says(holds: bool, reason: &str, warns: bool) -> Option<(bool, String, bool)> {
    Some((holds, reason.to_owned(), warns))
}

fn running(honoured: &[&str]) -> OsReport {
    let honoured = honoured.iter().map(|text| text.parse().unwrap()).collect();
    OsReport { reinstall: Some(RequestReport { honoured, failure: None }), ..OsReport::default() }
}

/// The inventory of a running machine without a request.
fn ready() -> Stored {
    let mut stored = Stored::made("u", None);
    stored.register();
    assert_eq!(stored.report(&running(&[])), None);
    stored
}

#[test]
fn a_request_is_announced_then_sent_then_done_and_each_text_counts_once() {
    let mut stored = ready();
    stored.edit(Some("a"));
    assert_eq!(stored.report(&running(&[])), None, "it was not announced yet");
    stored.update();
    assert_eq!(stored.says(), says(true, reason::REQUESTED, true));
    for _ in 0..2 {
        assert_eq!(stored.report(&running(&[])).as_deref(), Some("a"));
        assert_eq!(stored.says(), says(true, reason::REQUEST_SENT, true));
    }
    assert_eq!(stored.report(&running(&["a"])), None);
    assert_eq!(stored.says(), says(false, reason::REQUEST_DONE, false));
    let done = stored.status.clone();
    stored.update();
    assert_eq!(stored.status, done, "nothing is to be said");
    // The machine has forgotten the text, the inventory has not.
    assert_eq!(stored.report(&running(&[])), None);

    stored.edit(Some("b"));
    stored.update();
    assert_eq!(stored.report(&running(&["a"])).as_deref(), Some("b"));
    stored.edit(Some("a"));
    stored.update();
    assert_eq!(stored.says(), says(false, reason::ALREADY_HONOURED, false));
    assert_eq!(stored.report(&running(&["a"])), None);
}

#[test]
fn a_request_that_exists_from_the_beginning_counts_as_honoured() {
    // Created by hand or by GitOps, before the machine registers.
    let mut expected = Stored::made("u", Some("a"));
    expected.update();
    assert_eq!(expected.says(), says(false, reason::ALREADY_HONOURED, false));
    // Recreated without its status while the machine runs. Either the controller or the server writes first.
    for controller_first in [true, false] {
        let mut recreated = Stored::made("u2", Some("a"));
        if controller_first {
            recreated.update();
        }
        for _ in 0..2 {
            assert_eq!(recreated.report(&running(&[])), None);
            recreated.update();
        }
        assert_eq!(recreated.says(), says(false, reason::ALREADY_HONOURED, false));
    }
    // Restored with the status of the former object, in which the text was announced.
    let mut before = ready();
    before.edit(Some("a"));
    before.update();
    let mut restored = Stored { uid: "u2".into(), ..before.clone() };
    assert_eq!(restored.report(&running(&[])), None);
    restored.update();
    assert_eq!(restored.says(), says(false, reason::ALREADY_HONOURED, false));
    // A machine that registers is being installed.
    before.register();
    assert_eq!(before.says(), says(false, reason::ALREADY_HONOURED, false));
    assert_eq!(before.report(&running(&[])), None);
}

#[test]
fn an_empty_text_withdraws_a_request() {
    let mut stored = ready();
    stored.edit(Some(""));
    stored.update();
    assert_eq!(stored.says(), None);
    stored.edit(Some("a"));
    stored.update();
    stored.edit(None);
    assert_eq!(stored.report(&running(&[])), None);
    stored.update();
    assert_eq!(stored.says(), None);
    stored.edit(Some("a"));
    assert_eq!(stored.report(&running(&[])), None, "the announcement was withdrawn, too");
    stored.update();
    assert_eq!(stored.report(&running(&[])).as_deref(), Some("a"));
}

#[test]
fn the_condition_says_why_a_request_is_not_honoured() {
    let mut stored = ready();
    stored.edit(Some("a"));
    stored.update();
    let older = OsReport { version: "0.0.9".into(), ..OsReport::default() };
    assert_eq!(stored.report(&older), None);
    assert_eq!(stored.says(), says(true, reason::NOT_SUPPORTED, false));
    assert!(stored.condition().unwrap().message.contains("0.0.9"));
    let mut failing = running(&[]);
    failing.reinstall.as_mut().unwrap().failure = Some("recovery is gone".into());
    for _ in 0..2 {
        assert_eq!(stored.report(&failing).as_deref(), Some("a"), "what failed may have passed");
        assert_eq!(stored.says(), says(true, reason::REQUEST_FAILED, false));
        assert!(stored.condition().unwrap().message.contains("recovery is gone"));
    }
    // The request is sent to a slot and to the recovery system, but not to a medium.
    let from = |slot| OsReport { slot, ..running(&[]) };
    assert_eq!(stored.report(&from(Slot::Live)), None);
    assert_eq!(stored.report(&from(Slot::Recovery)).as_deref(), Some("a"));
    assert_eq!(stored.report(&running(&["a"])), None);
    assert_eq!(stored.says(), says(false, reason::REQUEST_DONE, false));
}

#[test]
fn a_request_waits_until_the_machine_is_installed() {
    let mut stored = Stored::made("u", None);
    stored.register();
    stored.edit(Some("a"));
    stored.update();
    assert_eq!(stored.says(), says(true, reason::NOT_INSTALLED, true));
    stored.step(&Step::Installed);
    assert_eq!(stored.report(&running(&[])).as_deref(), Some("a"));
}

#[test]
fn no_request_is_sent_to_a_machine_that_does_not_count_or_is_not_approved() {
    let mut stored = ready();
    stored.edit(Some("a"));
    stored.update();
    let machine = stored.known();
    assert_eq!(due(&machine, &running(&[]), true), Some(EraseRequest::Reinstall("a".parse().unwrap())));
    assert_eq!(due(&machine, &running(&[]), false), None);
    assert_eq!(due(&KnownMachine { deleting: true, ..machine.clone() }, &running(&[]), true), None);
    let disapproved = KnownMachine { approved: Some(false), ..machine };
    assert_eq!(due(&disapproved, &running(&[]), true), None);
    for (counts, reason) in [(false, reason::DUPLICATE_IDENTITY), (true, reason::APPROVAL_PENDING)] {
        let mut status = disapproved.status.clone();
        update(&disapproved, counts, &mut status, &now());
        let condition = status.conditions.find(REINSTALL).unwrap();
        assert_eq!((condition.status, &*condition.reason), (ConditionStatus::True, reason));
        // A request that was held back must be announced again.
        let machine = KnownMachine { status, approved: None, ..disapproved.clone() };
        assert_eq!(due(&machine, &running(&[]), true), None);
    }
}

#[test]
fn a_text_that_the_machine_reports_as_honoured_stays_honoured() {
    // The inventory's status was lost, and the text is an earlier one.
    let mut stored = Stored::made("u2", None);
    stored.update();
    stored.edit(Some("a"));
    stored.update();
    assert_eq!(stored.report(&running(&["a"])), None);
    assert_eq!(stored.says(), says(false, reason::ALREADY_HONOURED, false));
    assert_eq!(stored.report(&running(&[])), None);
}

#[test]
fn the_oldest_of_too_many_texts_are_forgotten() {
    let mut status = MachineInventoryStatus::default();
    for n in 0..MAX_HONOURED + 3 {
        let text = n.to_string().parse().unwrap();
        honour(&KnownMachine::default(), Asked { kind: Kind::Reinstall, text: &text, scope: None }, &mut status);
    }
    let honoured = status.reinstall.unwrap().honoured;
    assert_eq!((honoured.len(), honoured[0].as_str()), (MAX_HONOURED, "3"));
}

#[test]
fn each_change_publishes_one_event() {
    let mut stored = ready();
    let mut told = Vec::new();
    let mut tell = |stored: &mut Stored, act: &dyn Fn(&mut Stored)| {
        let before = stored.status.clone().unwrap();
        act(stored);
        told.extend(news(&before, stored.status.as_ref().unwrap()).map(|(warning, reason, _)| (warning, reason)));
    };
    stored.edit(Some("a"));
    for _ in 0..2 {
        tell(&mut stored, &|stored| stored.update());
    }
    for honoured in [&[][..], &[], &["a"], &["a"]] {
        tell(&mut stored, &|stored| drop(stored.report(&running(honoured))));
    }
    stored.edit(Some("b"));
    tell(&mut stored, &|stored| stored.update());
    let told: Vec<_> = told.iter().map(|(warning, reason)| (*warning, reason.as_str())).collect();
    let requested = (true, "ReinstallRequested");
    assert_eq!(told, [requested, (false, "ReinstallSent"), (false, "ReinstallDone"), requested]);
}

/// A machine that knows both kinds of request and has honoured these texts.
fn resets(reinstalls: &[&str], resets: &[&str]) -> OsReport {
    let honoured = resets.iter().map(|text| text.parse().unwrap()).collect();
    OsReport { reset: Some(RequestReport { honoured, failure: None }), ..running(reinstalls) }
}

fn reset(scope: ResetScope, text: &str) -> Option<EraseRequest> {
    Some(EraseRequest::Reset(protocol::ResetRequest { scope, request: text.parse().unwrap() }))
}

fn reset_says(stored: &Stored) -> (bool, String) {
    let condition = stored.status.as_ref().unwrap().conditions.find(RESET).unwrap();
    (condition.status == ConditionStatus::True, condition.reason.to_string())
}

#[test]
fn a_reset_is_announced_with_its_scope_then_sent_then_done() {
    let mut stored = ready();
    stored.edit_reset(ResetScope::Persistent, "a");
    stored.update();
    assert_eq!(reset_says(&stored), (true, reason::REQUESTED.into()));
    assert_eq!(stored.report_to_either(&running(&[])), None, "its release knows no reset");
    assert_eq!(reset_says(&stored), (true, reason::NOT_SUPPORTED.into()));
    // What was announced is not what would be erased.
    stored.edit_reset(ResetScope::All, "a");
    assert_eq!(stored.report_to_either(&resets(&[], &[])), None);
    stored.update();
    let condition = stored.status.as_ref().unwrap().conditions.find(RESET).unwrap().clone();
    assert!(condition.message.contains("cloud-config"), "{}", condition.message);
    assert_eq!(stored.report_to_either(&resets(&[], &[])), reset(ResetScope::All, "a"));
    assert_eq!(reset_says(&stored), (true, reason::REQUEST_SENT.into()));
    assert_eq!(stored.report_to_either(&resets(&[], &["a"])), None);
    assert_eq!(reset_says(&stored), (false, reason::REQUEST_DONE.into()));
    stored.edit_reset(ResetScope::Persistent, "a");
    stored.update();
    assert_eq!(reset_says(&stored), (false, reason::ALREADY_HONOURED.into()), "the text counts, not the scope");
    assert_eq!(stored.report_to_either(&resets(&[], &[])), None);
}

#[test]
fn a_machine_is_asked_for_one_thing_after_the_other_and_a_text_counts_for_its_kind() {
    let mut stored = ready();
    stored.edit(Some("a"));
    stored.edit_reset(ResetScope::Persistent, "a");
    stored.update();
    assert_eq!(stored.report_to_either(&resets(&[], &[])), Some(EraseRequest::Reinstall("a".parse().unwrap())));
    assert_eq!(stored.report_to_either(&resets(&["a"], &[])), reset(ResetScope::Persistent, "a"));
}

#[test]
fn a_reset_that_exists_from_the_beginning_counts_as_honoured() {
    let mut stored = Stored::made("u", None);
    stored.edit_reset(ResetScope::All, "a");
    stored.update();
    assert_eq!(reset_says(&stored), (false, reason::ALREADY_HONOURED.into()));
    // Restored under another UID, with a status in which the text was announced.
    let mut before = ready();
    before.edit_reset(ResetScope::All, "b");
    before.update();
    let mut restored = Stored { uid: "u2".into(), ..before.clone() };
    assert_eq!(restored.report_to_either(&resets(&[], &[])), None);
    assert_eq!(reset_says(&restored), (false, reason::ALREADY_HONOURED.into()));
    before.register();
    assert_eq!(reset_says(&before), (false, reason::ALREADY_HONOURED.into()), "it is being installed");
}

#[derive(Clone, Debug)]
enum Act {
    Edit(Option<u8>),
    /// Deletes and recreates the object, without a status or with its former status.
    Recreate {
        text: Option<u8>,
        with_status: bool,
    },
    WipeStatus,
    /// Copies etcd. `RestoreEtcd` returns to the copy.
    CopyEtcd,
    RestoreEtcd,
    Reconcile,
    /// The machine is installed from a medium and has forgotten everything.
    Register,
    Report {
        knows: bool,
        recovery: bool,
    },
    /// The machine reinstalls itself if it was sent a request.
    Obey,
}

fn acts() -> impl Strategy<Value = Act> {
    let text = prop::option::of(0..4u8);
    prop_oneof![
        3 => text.clone().prop_map(Act::Edit),
        1 => (text, any::<bool>()).prop_map(|(text, with_status)| Act::Recreate { text, with_status }),
        1 => Just(Act::WipeStatus),
        1 => Just(Act::CopyEtcd),
        1 => Just(Act::RestoreEtcd),
        5 => Just(Act::Reconcile),
        1 => Just(Act::Register),
        5 => (prop::bool::weighted(0.8), any::<bool>()).prop_map(|(knows, recovery)| Act::Report { knows, recovery }),
        3 => Just(Act::Obey),
    ]
}

/// The stored object. `there`: texts that it had when the operator first saw it, or when the machine registered.
#[derive(Clone, Default)]
struct World {
    stored: Stored,
    there: HashSet<String>,
    first_sight: bool,
}

impl World {
    fn see(&mut self) {
        if std::mem::take(&mut self.first_sight) {
            self.there.extend(self.stored.text.clone());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn nothing_is_erased_without_a_request(acts in prop::collection::vec(acts(), 0..40)) {
        let name = |text: &Option<u8>| text.map(|text| format!("text {text}"));
        let stored = Stored::made("0", None);
        let mut world = World { stored, first_sight: true, ..World::default() };
        let mut copy = world.clone();
        // The texts that the machine remembers, and the request that it was sent and has not carried out.
        let (mut honoured, mut told) = (Vec::<String>::new(), None::<String>);
        for (number, act) in acts.iter().enumerate() {
            match act {
                Act::Edit(text) => world.stored.edit(name(text).as_deref()),
                Act::Recreate { text, with_status } => {
                    let status = world.stored.status.clone().filter(|_| *with_status);
                    let stored = Stored::made(&(number + 1).to_string(), name(text).as_deref());
                    world = World { stored: Stored { status, ..stored }, first_sight: true, ..World::default() };
                }
                Act::WipeStatus => {
                    // The operator sees the present text for the first time and has forgotten earlier ones.
                    let stored = Stored { status: None, ..world.stored.clone() };
                    world = World { stored, first_sight: true, ..World::default() };
                }
                Act::CopyEtcd => copy = world.clone(),
                Act::RestoreEtcd => world = copy.clone(),
                Act::Reconcile => {
                    world.see();
                    world.stored.update();
                }
                Act::Register => {
                    world.see();
                    world.there.extend(world.stored.text.clone());
                    world.stored.register();
                    (honoured, told) = (Vec::new(), None);
                }
                Act::Report { knows, recovery } => {
                    world.see();
                    let texts: Vec<_> = honoured.iter().map(String::as_str).collect();
                    let report = OsReport {
                        reinstall: running(&texts).reinstall.filter(|_| *knows),
                        slot: if *recovery { Slot::Recovery } else { Slot::A },
                        ..OsReport::default()
                    };
                    let announced = world.stored.condition();
                    if let Some(text) = world.stored.report(&report) {
                        prop_assert_eq!(Some(&text), world.stored.text.as_ref());
                        prop_assert!(!world.there.contains(&text), "{text} was there");
                        prop_assert!(*knows && !honoured.contains(&text), "{text} was honoured");
                        let announced = announced.unwrap();
                        prop_assert!(announced.status == ConditionStatus::True && announced.message.contains(&text));
                        told = Some(text);
                    }
                }
                Act::Obey => honoured.extend(told.take()),
            }
            // A second reconciliation changes nothing.
            let settled = world.stored.status.clone();
            if matches!(act, Act::Reconcile) {
                world.stored.update();
                prop_assert_eq!(&world.stored.status, &settled);
            }
        }
    }
}
