//! Reinstallation, requested by `spec.reinstall`: which request counts as honoured, the condition `Reinstall`, and
//! which request is sent to the machine. Pure functions.
//!
//! A reinstallation erases data, so every doubt is decided against it. A request that the object had when the operator
//! first saw it, or when the machine registered, counts as honoured. No request is sent before a stored condition has
//! announced it. The controller of one replica announces; every replica may send.

use crate::inventory::index::KnownMachine;
use crate::inventory::life::Step;
use api::{Conditions, MachineInventoryStatus, Phase, ReinstallStatus, condition_type::REINSTALL, reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use protocol::ReinstallRequest;
use protocol::message::{OsReport, Slot};
use protocol::reinstall::remember;

const ERASES: &str = "restart into its recovery system, which erases COS_PERSISTENT with all data of the machine and \
                      installs its release again";
const WITHDRAW: &str = "remove spec.reinstall before that to withdraw the request";

/// Updates the status from the object alone. `counts`: whether the inventory counts for its machine.
pub fn update(machine: &KnownMachine, counts: bool, status: &mut MachineInventoryStatus, now: &Time) {
    begin(machine, status, now);
    let Some(text) = &machine.reinstall else {
        withdraw(status);
        return;
    };
    let said = status.reinstall.clone().unwrap_or_default();
    let announced = said.announced.as_deref() == Some(text.as_str());
    if is_honoured(status, text) {
        if !announced {
            count_as_honoured(machine, text, status, now);
        }
    } else if !counts {
        let message = "the request is not sent: the operator does not use this inventory for the machine";
        hold_back(machine, reason::DUPLICATE_IDENTITY, message, status, now);
    } else if machine.approved == Some(false) {
        let message = "the request is not sent while spec.approved is false";
        hold_back(machine, reason::APPROVAL_PENDING, message, status, now);
    } else if !(announced && status.conditions.holds(REINSTALL)) {
        if let Some(note) = &mut status.reinstall {
            note.announced = Some(text.to_string());
        }
        let reports = status.os.is_some() && matches!(status.phase, Some(Phase::Booted | Phase::Ready));
        let reason = if reports { reason::REINSTALL_REQUESTED } else { reason::NOT_INSTALLED };
        announce(machine, text, reason, status, now);
    }
    // The condition holds for this generation as well; `kubectl wait` compares it.
    if let Some(condition) = status.conditions.iter_mut().find(|condition| condition.type_ == *REINSTALL) {
        condition.observed_generation = machine.generation;
    }
}

/// Whether [`update`] may change the status. An object without a request is noted with its next write.
pub fn concerns(machine: &KnownMachine) -> bool {
    machine.reinstall.is_some() || machine.status.conditions.find(REINSTALL).is_some()
}

/// Updates the status after a step of the machine.
pub fn after(machine: &KnownMachine, step: &Step, status: &mut MachineInventoryStatus, now: &Time) {
    begin(machine, status, now);
    match (step, &machine.reinstall) {
        // The machine is being installed anyway.
        (Step::Registered { .. }, Some(text)) => count_as_honoured(machine, text, status, now),
        (Step::Reported(report), Some(text)) => reported(machine, text, report, status, now),
        (Step::SentReinstall(sent), Some(text))
            if sent == text && is_announced(status, text) && reason_of(status) != reason::REINSTALL_FAILED =>
        {
            announce(machine, text, reason::REINSTALL_SENT, status, now);
        }
        (_, Some(_)) => {}
        (_, None) => withdraw(status),
    }
}

/// The request to send in the answer to a report. `machine`: as stored in the API server. `counts`: as in [`update`].
pub fn due<'a>(machine: &'a KnownMachine, report: &OsReport, counts: bool) -> Option<&'a ReinstallRequest> {
    let text = machine.reinstall.as_ref()?;
    let machines = report.reinstall.as_ref()?;
    let fits = counts && !machine.deleting && machine.approved != Some(false) && report.slot != Slot::Live;
    let own = machine.status.reinstall.as_ref().is_some_and(|note| note.uid == machine.uid);
    let wanted = own && is_announced(&machine.status, text) && !machines.honoured.contains(text);
    (fits && wanted).then_some(text)
}

/// The event to publish: whether it is a warning, its reason, and its message.
pub fn news(before: &MachineInventoryStatus, after: &MachineInventoryStatus) -> Option<(bool, String, String)> {
    const TOLD: [&str; 5] = [
        reason::REINSTALL_REQUESTED,
        reason::REINSTALL_SENT,
        reason::REINSTALL_DONE,
        reason::REINSTALL_FAILED,
        reason::NOT_SUPPORTED,
    ];
    let said = |status: &MachineInventoryStatus| {
        let announced = status.reinstall.as_ref().and_then(|note| note.announced.clone());
        (announced, reason_of(status).to_owned())
    };
    let condition = after.conditions.find(REINSTALL)?;
    let told = said(before) != said(after) && TOLD.contains(&&*condition.reason);
    let warning = !matches!(&*condition.reason, reason::REINSTALL_SENT | reason::REINSTALL_DONE);
    told.then(|| (warning, format!("Reinstall{}", condition.reason), condition.message.to_string()))
}

fn reported(
    machine: &KnownMachine,
    text: &ReinstallRequest,
    report: &OsReport,
    status: &mut MachineInventoryStatus,
    now: &Time,
) {
    if report.slot == Slot::Live || is_honoured(status, text) {
        return;
    }
    let was_sent = matches!(reason_of(status), reason::REINSTALL_SENT | reason::REINSTALL_FAILED);
    match &report.reinstall {
        Some(machines) if machines.honoured.contains(text) => {
            if is_announced(status, text) && was_sent {
                honour(status, text);
                let message = format!(
                    "the machine has installed itself again ({:?}); to install once more, write another text",
                    text.as_str()
                );
                put(machine, false, reason::REINSTALL_DONE, &message, status, now);
            } else {
                count_as_honoured(machine, text, status, now);
            }
        }
        _ if !is_announced(status, text) => {}
        None => {
            let message = format!(
                "the request ({:?}) is not sent: the machine's release {} does not support spec.reinstall; upgrade it, \
                 or install it from a medium",
                text.as_str(),
                report.version
            );
            put(machine, true, reason::NOT_SUPPORTED, &message, status, now);
        }
        Some(machines) => match &machines.failure {
            Some(failure) => {
                let message = format!("the machine cannot install itself again ({:?}): {failure}", text.as_str());
                put(machine, true, reason::REINSTALL_FAILED, &message, status, now);
            }
            None if was_sent => announce(machine, text, reason::REINSTALL_SENT, status, now),
            None => announce(machine, text, reason::REINSTALL_REQUESTED, status, now),
        },
    }
}

/// Begins the record of an object that is new, or whose status belongs to another object. Its request counts as
/// honoured.
fn begin(machine: &KnownMachine, status: &mut MachineInventoryStatus, now: &Time) {
    if status.reinstall.as_ref().is_some_and(|note| note.uid == machine.uid) {
        return;
    }
    let honoured = status.reinstall.take().map(|note| note.honoured).unwrap_or_default();
    status.reinstall = Some(Box::new(ReinstallStatus { uid: machine.uid.clone(), honoured, announced: None }));
    status.conditions.remove_type(REINSTALL);
    if let Some(text) = &machine.reinstall {
        count_as_honoured(machine, text, status, now);
    }
}

fn is_honoured(status: &MachineInventoryStatus, text: &ReinstallRequest) -> bool {
    status.reinstall.as_ref().is_some_and(|note| note.honoured.iter().any(|honoured| honoured == text.as_str()))
}

/// Whether the condition announces this request, and it is not honoured yet.
fn is_announced(status: &MachineInventoryStatus, text: &ReinstallRequest) -> bool {
    let announced = status.reinstall.as_ref().and_then(|note| note.announced.as_deref());
    announced == Some(text.as_str()) && status.conditions.holds(REINSTALL) && !is_honoured(status, text)
}

fn reason_of(status: &MachineInventoryStatus) -> &str {
    status.conditions.find(REINSTALL).map(|condition| &*condition.reason).unwrap_or_default()
}

fn honour(status: &mut MachineInventoryStatus, text: &ReinstallRequest) {
    if let Some(note) = &mut status.reinstall {
        remember(&mut note.honoured, text.to_string());
    }
}

/// Marks a request as honoured: it is never sent.
fn count_as_honoured(machine: &KnownMachine, text: &ReinstallRequest, status: &mut MachineInventoryStatus, now: &Time) {
    honour(status, text);
    let message = format!(
        "{:?} counts as honoured: it was set when the object was created or restored or when the machine registered, \
         or the machine has honoured it before; to install again, write another text",
        text.as_str()
    );
    hold(machine, (false, reason::ALREADY_HONOURED), &message, status, now);
}

fn hold_back(machine: &KnownMachine, reason: &str, message: &str, status: &mut MachineInventoryStatus, now: &Time) {
    hold(machine, (true, reason), message, status, now);
}

/// Sets a condition that does not announce a request.
fn hold(
    machine: &KnownMachine,
    (holds, reason): (bool, &str),
    message: &str,
    status: &mut MachineInventoryStatus,
    now: &Time,
) {
    if let Some(note) = &mut status.reinstall {
        note.announced = None;
    }
    put(machine, holds, reason, message, status, now);
}

fn withdraw(status: &mut MachineInventoryStatus) {
    if let Some(note) = &mut status.reinstall {
        note.announced = None;
    }
    status.conditions.remove_type(REINSTALL);
}

fn announce(
    machine: &KnownMachine,
    text: &ReinstallRequest,
    reason: &str,
    status: &mut MachineInventoryStatus,
    now: &Time,
) {
    let text = format!("asked to install again ({:?})", text.as_str());
    let message = match reason {
        reason::REINSTALL_SENT => {
            format!("{text}: the machine was told to {ERASES}; its report says when that is done")
        }
        reason::NOT_INSTALLED => {
            format!("{text}: once the installed system has reported, it is told to {ERASES}; {WITHDRAW}")
        }
        _ => format!("{text}: in answer to its next report the machine is told to {ERASES}; {WITHDRAW}"),
    };
    put(machine, true, reason, &message, status, now);
}

fn put(
    machine: &KnownMachine,
    holds: bool,
    reason: &str,
    message: &str,
    status: &mut MachineInventoryStatus,
    now: &Time,
) {
    status.conditions.put(REINSTALL, holds, reason, message, machine.generation, now);
}

#[cfg(test)]
mod tests;
