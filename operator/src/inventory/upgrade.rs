//! A machine's turn in a roll-out by the engine `Machine`: what a report makes of it, and which order is sent. Pure
//! functions.
//!
//! The leader alone begins turns, and writes each to the inventory (`status.upgrade`). Every replica may send the order,
//! after it has noted on the object that it does. So no replica needs to know the limits of a roll-out, and none can
//! send an order whose turn was withdrawn: that is a write to the same object.

use crate::inventory::index::KnownMachine;
use crate::inventory::life::Step;
use api::{MachineInventoryStatus, OsStatus, UpgradeTurn};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use protocol::UpgradeOrder;
use protocol::message::{Failure, OsReport, Slot};
use protocol::upgrade_order::{is_release, passes};

/// Seconds after which a silent machine is `Unknown`: three missed reports. A machine reports every five to six minutes,
/// or more often, and each of them is recorded if the last record is five minutes old.
pub const UNKNOWN_AFTER: i64 = 1200;
/// Seconds. A machine that does not run the release this long after it was told has failed. An upgrade Job has as long.
pub const DEADLINE: i64 = 3600;
/// Seconds. A machine that could not fetch the release is told again this long after it was told.
const TOLD_AGAIN_AFTER: i64 = 1800;

/// When a machine whose registry failed may get another turn. `None`: the turn did not end that way.
pub fn told_again_at(turn: &UpgradeTurn) -> Option<i64> {
    let told = turn.told.as_ref().filter(|_| turn.failure.as_ref().is_some_and(passes))?;
    Some(seconds(told) + TOLD_AGAIN_AFTER)
}

/// Whether the machine may be told the order now.
pub fn is_open(turn: &UpgradeTurn, now: &Time) -> bool {
    let in_time = match &turn.told {
        Some(told) => seconds(now) - seconds(told) < DEADLINE,
        None => seconds(now) < seconds(&turn.until),
    };
    in_time && !turn.lapsed && turn.failure.is_none()
}

/// The order of a turn.
pub fn order(turn: &UpgradeTurn) -> UpgradeOrder {
    UpgradeOrder { image: turn.image.clone(), release: turn.release.clone(), retry: turn.retry.clone() }
}

/// Updates the status after a step of the machine. `before`: the status before it.
pub fn after(before: &MachineInventoryStatus, step: &Step, status: &mut MachineInventoryStatus, now: &Time) {
    let Some(turn) = &mut status.upgrade else { return };
    match step {
        // The machine is installed anew, or was: what it was told is void.
        Step::Registered { .. } | Step::Installed => status.upgrade = None,
        Step::Reported(report) if report.slot != Slot::Live => {
            let silent = before.last_seen.as_ref().is_none_or(|seen| seconds(now) - seconds(seen) > UNKNOWN_AFTER);
            if silent && !is_running(turn, report) {
                turn.lapsed = true;
            }
            if turn.told.is_some() && turn.failure.is_none() {
                turn.failure = failure(turn, before.os.as_ref(), report);
            }
        }
        Step::SentUpgrade(sent) if order(turn) == *sent && turn.told.is_none() => turn.told = Some(now.clone()),
        _ => {}
    }
}

/// Why the machine could not carry out its order, according to this report.
fn failure(turn: &UpgradeTurn, before: Option<&OsStatus>, report: &OsReport) -> Option<Failure> {
    let said = report.upgrade.as_ref().filter(|said| said.order.as_ref() == Some(&order(turn)));
    if let Some(failure) = said.and_then(|said| said.failure.clone()) {
        return Some(failure);
    }
    let ran = before.is_some_and(|os| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        is_release(&turn.release, &text(&os.version), &text(&os.release))
    });
    (ran && !is_running(turn, report)).then(|| Failure {
        reason: "FellBack".to_owned(),
        message: format!("it ran release {}, and went back to release {}", turn.release, report.version),
    })
}

fn is_running(turn: &UpgradeTurn, report: &OsReport) -> bool {
    is_release(&turn.release, &report.version, &report.release)
}

/// The order to send in the answer to a report. `machine`: as stored in the API server. `counts`: whether the inventory
/// counts for its machine.
pub fn due(machine: &KnownMachine, report: &OsReport, counts: bool, now: &Time) -> Option<UpgradeOrder> {
    let turn = machine.status.upgrade.as_ref()?;
    let fits = counts && takes_orders(machine) && matches!(report.slot, Slot::A | Slot::B) && report.upgrade.is_some();
    (fits && is_open(turn, now) && !is_running(turn, report)).then(|| order(turn))
}

/// Whether somebody who may has let the machine in, and it is not about to go.
pub fn takes_orders(machine: &KnownMachine) -> bool {
    !machine.deleting && machine.approved != Some(false)
}

fn seconds(time: &Time) -> i64 {
    time.0.as_second()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;
    use protocol::UpgradeReport;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(1_800_000_000 + second).unwrap())
    }
    fn turn() -> UpgradeTurn {
        UpgradeTurn {
            managed_os_image: "x".into(),
            image: "a:v2".into(),
            release: "v2".into(),
            retry: None,
            since: at(0),
            until: at(600),
            told: None,
            lapsed: false,
            failure: None,
        }
    }
    fn machine(turn: UpgradeTurn) -> KnownMachine {
        let status = MachineInventoryStatus {
            upgrade: Some(Box::new(turn)),
            last_seen: Some(at(0)),
            ..MachineInventoryStatus::default()
        };
        KnownMachine { status, ..KnownMachine::default() }
    }
    fn report(version: &str) -> OsReport {
        OsReport { version: version.into(), upgrade: Some(UpgradeReport::default()), ..OsReport::default() }
    }
    /// The turn after a report at this second.
    fn reported(machine: &KnownMachine, report: OsReport, second: i64) -> UpgradeTurn {
        let mut status = machine.status.clone();
        after(&machine.status, &Step::Reported(Box::new(report)), &mut status, &at(second));
        *status.upgrade.unwrap()
    }

    #[test]
    fn an_order_is_sent_while_the_turn_is_open_and_the_machine_runs_another_release() {
        let due_at = |turn: UpgradeTurn, second| due(&machine(turn), &report("1"), true, &at(second)).is_some();
        let told = UpgradeTurn { told: Some(at(100)), ..turn() };
        assert!(due_at(turn(), 599) && !due_at(turn(), 600), "not begun outside its time");
        assert!(due_at(told.clone(), 3699) && !due_at(told.clone(), 3700));
        assert!(!due_at(UpgradeTurn { lapsed: true, ..told.clone() }, 200));
        let failure = Some(Failure { reason: "F".into(), message: String::new() });
        assert!(!due_at(UpgradeTurn { failure, ..told }, 200));
        assert_eq!(due(&machine(turn()), &report("2"), true, &at(1)), None, "it runs the release");
        assert_eq!(due(&machine(turn()), &report("1"), false, &at(1)), None, "another inventory counts");
        let older = OsReport { upgrade: None, ..report("1") };
        assert_eq!(due(&machine(turn()), &older, true, &at(1)), None, "it takes no orders");
        let recovery = OsReport { slot: Slot::Recovery, ..report("1") };
        assert_eq!(due(&machine(turn()), &recovery, true, &at(1)), None);
        let held = KnownMachine { approved: Some(false), ..machine(turn()) };
        assert_eq!(due(&held, &report("1"), true, &at(1)), None);
    }

    #[test]
    fn what_a_machine_was_told_is_noted_once() {
        let machine = machine(turn());
        let mut status = machine.status.clone();
        for second in [5, 9] {
            after(&machine.status, &Step::SentUpgrade(order(&turn())), &mut status, &at(second));
        }
        assert_eq!(status.upgrade.as_ref().unwrap().told, Some(at(5)));
        after(&machine.status, &Step::Installed, &mut status, &at(10));
        assert_eq!(status.upgrade, None, "a new installation begins anew");
    }

    #[test]
    fn a_failure_counts_for_the_order_that_it_names() {
        let told = machine(UpgradeTurn { told: Some(at(1)), ..turn() });
        let failure = Some(Failure { reason: "NoSuchImage".into(), message: "a:v2".into() });
        let said = |order: UpgradeOrder| OsReport {
            upgrade: Some(UpgradeReport { order: Some(order), failure: failure.clone() }),
            ..report("1")
        };
        assert_eq!(reported(&told, said(order(&turn())), 9).failure, failure);
        let other = UpgradeOrder { retry: Some("again".into()), ..order(&turn()) };
        assert_eq!(reported(&told, said(other), 9).failure, None);
    }

    #[test]
    fn a_machine_that_ran_the_release_and_runs_another_has_fallen_back() {
        let mut told = machine(UpgradeTurn { told: Some(at(1)), ..turn() });
        told.status.os = Some(OsStatus { version: Some("2".into()), ..OsStatus::default() });
        assert_eq!(reported(&told, report("2"), 9).failure, None);
        assert_eq!(reported(&told, report("1"), 9).failure.unwrap().reason, "FellBack");
    }

    #[test]
    fn a_machine_that_missed_three_reports_has_lost_its_turn() {
        let told = machine(UpgradeTurn { told: Some(at(1)), ..turn() });
        assert!(!reported(&told, report("1"), UNKNOWN_AFTER).lapsed);
        assert!(reported(&told, report("1"), UNKNOWN_AFTER + 1).lapsed);
        assert!(!reported(&told, report("2"), UNKNOWN_AFTER + 1).lapsed, "it did what it was told");
    }
}
