//! Tests of `controllers::machine_inventory::finding`.

use super::*;
use crate::inventory::life::Step;
use k8s_openapi::jiff::Timestamp;
use protocol::message::{Failure, OsReport};
use std::sync::Arc;

fn now() -> Time {
    Time(Timestamp::from_second(1_800_000_000).unwrap())
}
fn machine(phase: Option<Phase>) -> KnownMachine {
    let mut machine = KnownMachine { uid: "u".into(), generation: Some(2), ..KnownMachine::default() };
    machine.status.phase = phase;
    machine
}
fn reason_of(machine: &KnownMachine, finding: &Finding) -> Option<String> {
    build(machine, finding, &now()).conditions.find(condition_type::READY).map(|ready| ready.reason.to_string())
}

#[test]
fn an_inventory_created_by_hand_is_expected_and_written_once() {
    let mut expected = machine(None);
    assert_eq!(validate(&expected, &Owner::Nobody, 0), Finding::Expected);
    expected.status = build(&expected, &Finding::Expected, &now());
    assert_eq!(expected.status.phase, Some(Phase::Expected));
    let later = Time(Timestamp::from_second(1_800_000_999).unwrap());
    assert_eq!(build(&expected, &validate(&expected, &Owner::Nobody, 0), &later), expected.status);
}

#[test]
fn the_first_status_is_left_to_the_server() {
    let mut fresh = machine(None);
    fresh.registration = Some("door".into());
    assert_eq!(validate(&fresh, &Owner::Nobody, STATUS_GRACE - 1), Finding::TooEarly);
    assert_eq!(build(&fresh, &Finding::TooEarly, &now()), fresh.status);
    assert_eq!(validate(&fresh, &Owner::Nobody, STATUS_GRACE), Finding::Unrecorded);
}

#[test]
fn duplicates_and_malformed_identities_are_found() {
    let first = KnownMachine { name: "first".into(), namespace: "n".into(), ..KnownMachine::default() };
    let elsewhere = machine(Some(Phase::Ready));
    let here = KnownMachine { namespace: "n".into(), ..elsewhere.clone() };
    let first = Owner::Inventory(Arc::new(first));
    for (second, owner, other) in [
        (&here, &first, OtherInventory::Here("first".into())),
        (&elsewhere, &first, OtherInventory::Elsewhere),
        (&here, &Owner::Disputed, OtherInventory::Equal),
    ] {
        let finding = validate(second, owner, 0);
        assert_eq!(finding, Finding::Duplicate(other));
        assert_eq!(reason_of(second, &finding).as_deref(), Some(reason::DUPLICATE_IDENTITY));
    }
    assert_eq!(validate(&here, &Owner::Inventory(Arc::new(here.clone())), 0), Finding::Nothing);
    let broken = KnownMachine { malformed_identity: true, ..machine(None) };
    assert_eq!(validate(&broken, &Owner::Nobody, 0), Finding::MalformedIdentity);
}

#[test]
fn an_inventory_that_counts_again_has_its_former_status() {
    let other = Owner::Inventory(Arc::new(KnownMachine { uid: "other".into(), ..KnownMachine::default() }));
    let report = |healthy| {
        let report = OsReport { version: "1".into(), healthy, ..OsReport::default() };
        Step::Reported(Box::new(report))
    };
    let failure = || Failure { reason: "NoDisk".into(), message: "no disk is there".into() };
    let installing = Step::Registered { approved: true, hardware: None, attestation: None, addresses: Vec::new() };
    for step in [installing, Step::Installed, report(false), report(true), Step::Failed(failure())] {
        let mut held = machine(None);
        let before = life::after(&held.status, &step, held.generation, &now());
        held.status.clone_from(&before);
        held.status = build(&held, &validate(&held, &other, 0), &now());
        assert!(!held.status.conditions.holds(condition_type::READY));
        // The machine continues to report through this inventory.
        let again = life::after(&held.status, &step, held.generation, &now());
        if !matches!(step, Step::Registered { .. }) {
            held.status = life::settled(&held.status, again, &now());
            let said = held.status.clone();
            held.status = build(&held, &validate(&held, &other, 0), &now());
            assert_eq!(held.status, said, "{step:?}: nothing alternates");
            held.status.last_seen = None;
        }
        let finding = validate(&held, &Owner::Inventory(Arc::new(held.clone())), 0);
        assert_eq!(finding, Finding::Released, "{step:?}");
        let mut after = build(&held, &finding, &now());
        let mut before = before;
        for status in [&mut before, &mut after] {
            status.conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        }
        assert_eq!(after, before, "{step:?}");
    }
}

#[test]
fn an_approval_is_found_and_a_running_machine_is_unchanged() {
    let mut waiting = machine(Some(Phase::ApprovalPending));
    waiting.approved = Some(false);
    assert_eq!(validate(&waiting, &Owner::Nobody, 0), Finding::Nothing);
    waiting.approved = Some(true);
    assert_eq!(validate(&waiting, &Owner::Nobody, 0), Finding::NowApproved);
    assert_eq!(validate(&machine(Some(Phase::Ready)), &Owner::Nobody, 0), Finding::Nothing);
}
