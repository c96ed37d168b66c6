//! Requests to erase data of a machine, `spec.reinstall` and `spec.reset`: which request counts as honoured, the
//! conditions `Reinstall` and `Reset`, and which request is sent to the machine. Pure functions.
//!
//! Every doubt is decided against erasing. A request that the object had when the operator first saw it, or when the
//! machine registered, counts as honoured. No request is sent before a stored condition has announced it. The controller
//! of one replica announces; every replica may send.

mod kind;

use crate::inventory::index::KnownMachine;
use crate::inventory::life::Step;
use api::{Conditions, MachineInventoryStatus, Phase, RequestStatus, reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kind::{Asked, Kind};
use protocol::EraseRequest;
use protocol::erase_request::remember;
use protocol::message::{OsReport, Slot};

/// Updates the status from the object alone. `counts`: whether the inventory counts for its machine.
pub fn update(machine: &KnownMachine, counts: bool, status: &mut MachineInventoryStatus, now: &Time) {
    begin(machine, status, now);
    for kind in Kind::ALL {
        match kind.asked(machine) {
            Some(asked) => update_asked(machine, asked, counts, status, now),
            None => withdraw(kind, status),
        }
    }
}

fn update_asked(machine: &KnownMachine, asked: Asked, counts: bool, status: &mut MachineInventoryStatus, now: &Time) {
    let announced = is_noted_as_announced(status, asked);
    if is_honoured(status, asked) {
        if !announced {
            count_as_honoured(machine, asked, status, now);
        }
    } else if !counts {
        let message = "the request is not sent: the operator does not use this inventory for the machine";
        hold(machine, asked, (true, reason::DUPLICATE_IDENTITY), message, status, now);
    } else if machine.approved == Some(false) {
        let message = "the request is not sent while spec.approved is false";
        hold(machine, asked, (true, reason::APPROVAL_PENDING), message, status, now);
    } else if !(announced && status.conditions.holds(asked.kind.condition())) {
        let note = note(machine, asked.kind, status);
        note.announced = Some(asked.text.to_string());
        note.scope = asked.scope;
        let reports = status.os.is_some() && matches!(status.phase, Some(Phase::Booted | Phase::Ready));
        let reason = if reports { reason::REQUESTED } else { reason::NOT_INSTALLED };
        announce(machine, asked, reason, status, now);
    }
    // The condition holds for this generation as well; `kubectl wait` compares it.
    let type_ = asked.kind.condition();
    if let Some(condition) = status.conditions.iter_mut().find(|condition| condition.type_ == *type_) {
        condition.observed_generation = machine.generation;
    }
}

/// Whether [`update`] may change the status. An object without a request is noted with its next write.
pub fn concerns(machine: &KnownMachine) -> bool {
    Kind::ALL
        .into_iter()
        .any(|kind| kind.asked(machine).is_some() || machine.status.conditions.find(kind.condition()).is_some())
}

/// Updates the status after a step of the machine.
pub fn after(machine: &KnownMachine, step: &Step, status: &mut MachineInventoryStatus, now: &Time) {
    begin(machine, status, now);
    for kind in Kind::ALL {
        let Some(asked) = kind.asked(machine) else {
            withdraw(kind, status);
            continue;
        };
        match step {
            // The machine is being installed anyway.
            Step::Registered { .. } => count_as_honoured(machine, asked, status, now),
            Step::Reported(report) => reported(machine, asked, report, status, now),
            Step::SentRequest(sent)
                if Asked::of(sent) == asked
                    && is_announced(status, asked)
                    && reason_of(status, kind) != reason::REQUEST_FAILED =>
            {
                announce(machine, asked, reason::REQUEST_SENT, status, now);
            }
            _ => {}
        }
    }
}

/// The request to send in the answer to a report. `machine`: as stored in the API server. `counts`: as in [`update`].
pub fn due(machine: &KnownMachine, report: &OsReport, counts: bool) -> Option<EraseRequest> {
    let fits = counts && !machine.deleting && machine.approved != Some(false) && report.slot != Slot::Live;
    let is_due = |asked: &Asked| {
        let knows = asked.kind.report(report).is_some_and(|machines| !machines.honoured.contains(asked.text));
        knows && is_announced(&machine.status, *asked)
    };
    let due = Kind::ALL.into_iter().filter_map(|kind| kind.asked(machine)).find(is_due);
    due.filter(|_| fits && is_known(machine, &machine.status)).map(Asked::to_request)
}

/// An event to publish: whether it is a warning, its reason, and its message.
pub type EventText = (bool, String, String);

/// The events to publish.
pub fn news(before: &MachineInventoryStatus, after: &MachineInventoryStatus) -> impl Iterator<Item = EventText> {
    Kind::ALL.into_iter().filter_map(|kind| news_of(kind, before, after))
}

fn news_of(kind: Kind, before: &MachineInventoryStatus, after: &MachineInventoryStatus) -> Option<EventText> {
    const TOLD: [&str; 5] =
        [reason::REQUESTED, reason::REQUEST_SENT, reason::REQUEST_DONE, reason::REQUEST_FAILED, reason::NOT_SUPPORTED];
    let said = |status: &MachineInventoryStatus| {
        let announced = kind.note(status).map(|note| (note.announced.clone(), note.scope));
        (announced, reason_of(status, kind).to_owned())
    };
    let condition = after.conditions.find(kind.condition())?;
    let told = said(before) != said(after) && TOLD.contains(&&*condition.reason);
    let warning = !matches!(&*condition.reason, reason::REQUEST_SENT | reason::REQUEST_DONE);
    told.then(|| (warning, format!("{}{}", kind.condition(), condition.reason), condition.message.to_string()))
}

fn reported(machine: &KnownMachine, asked: Asked, report: &OsReport, status: &mut MachineInventoryStatus, now: &Time) {
    if report.slot == Slot::Live || is_honoured(status, asked) {
        return;
    }
    let Asked { kind, text, .. } = asked;
    let was_sent = matches!(reason_of(status, kind), reason::REQUEST_SENT | reason::REQUEST_FAILED);
    match kind.report(report) {
        Some(machines) if machines.honoured.contains(text) => {
            if is_announced(status, asked) && was_sent {
                honour(machine, asked, status);
                let message =
                    format!("{} ({:?}); to ask for it once more, write another text", kind.done(), text.as_str());
                put(machine, kind, (false, reason::REQUEST_DONE), &message, status, now);
            } else {
                count_as_honoured(machine, asked, status, now);
            }
        }
        _ if !is_announced(status, asked) => {}
        None => {
            let message = format!(
                "the request ({:?}) is not sent: the machine's release {} does not support {}; upgrade it, or install it \
                 from a medium",
                text.as_str(),
                report.version,
                kind.field()
            );
            put(machine, kind, (true, reason::NOT_SUPPORTED), &message, status, now);
        }
        Some(machines) => match &machines.failure {
            Some(failure) => {
                let message = format!("the machine cannot {} ({:?}): {failure}", kind.deed(), text.as_str());
                put(machine, kind, (true, reason::REQUEST_FAILED), &message, status, now);
            }
            None if was_sent => announce(machine, asked, reason::REQUEST_SENT, status, now),
            None => announce(machine, asked, reason::REQUESTED, status, now),
        },
    }
}

/// Whether this status was written for this object. The note of `reinstall`, which every object has, tells for both kinds.
fn is_known(machine: &KnownMachine, status: &MachineInventoryStatus) -> bool {
    status.reinstall.as_ref().is_some_and(|note| note.uid == machine.uid)
}

/// Begins the record of an object that is new, or whose status belongs to another object. Its requests count as honoured.
fn begin(machine: &KnownMachine, status: &mut MachineInventoryStatus, now: &Time) {
    if is_known(machine, status) {
        return;
    }
    for kind in Kind::ALL {
        let honoured = kind.note_mut(status).take().map(|note| note.honoured).unwrap_or_default();
        if kind == Kind::Reinstall || !honoured.is_empty() {
            note(machine, kind, status).honoured = honoured;
        }
        status.conditions.remove_type(kind.condition());
        if let Some(asked) = kind.asked(machine) {
            count_as_honoured(machine, asked, status, now);
        }
    }
}

/// The note of this kind. It is made if there is none.
fn note<'a>(machine: &KnownMachine, kind: Kind, status: &'a mut MachineInventoryStatus) -> &'a mut RequestStatus {
    kind.note_mut(status)
        .get_or_insert_with(|| Box::new(RequestStatus { uid: machine.uid.clone(), ..RequestStatus::default() }))
}

fn is_honoured(status: &MachineInventoryStatus, asked: Asked) -> bool {
    let note = asked.kind.note(status);
    note.is_some_and(|note| note.honoured.iter().any(|honoured| honoured == asked.text.as_str()))
}

fn is_noted_as_announced(status: &MachineInventoryStatus, asked: Asked) -> bool {
    let note = asked.kind.note(status);
    note.is_some_and(|note| note.announced.as_deref() == Some(asked.text.as_str()) && note.scope == asked.scope)
}

/// Whether the condition announces this request, and it is not honoured yet.
fn is_announced(status: &MachineInventoryStatus, asked: Asked) -> bool {
    let holds = status.conditions.holds(asked.kind.condition());
    holds && is_noted_as_announced(status, asked) && !is_honoured(status, asked)
}

fn reason_of(status: &MachineInventoryStatus, kind: Kind) -> &str {
    status.conditions.find(kind.condition()).map(|condition| &*condition.reason).unwrap_or_default()
}

fn honour(machine: &KnownMachine, asked: Asked, status: &mut MachineInventoryStatus) {
    remember(&mut note(machine, asked.kind, status).honoured, asked.text.to_string());
}

/// Marks a request as honoured: it is never sent.
fn count_as_honoured(machine: &KnownMachine, asked: Asked, status: &mut MachineInventoryStatus, now: &Time) {
    honour(machine, asked, status);
    let message = format!(
        "{:?} counts as honoured: it was set when the object was created or restored or when the machine registered, or the \
         machine has honoured it before; to ask the machine to {}, write another text",
        asked.text.as_str(),
        asked.kind.deed()
    );
    hold(machine, asked, (false, reason::ALREADY_HONOURED), &message, status, now);
}

/// Sets a condition that does not announce a request.
fn hold(
    machine: &KnownMachine,
    asked: Asked,
    says: (bool, &str),
    message: &str,
    status: &mut MachineInventoryStatus,
    now: &Time,
) {
    forget_announcement(asked.kind, status);
    put(machine, asked.kind, says, message, status, now);
}

fn withdraw(kind: Kind, status: &mut MachineInventoryStatus) {
    forget_announcement(kind, status);
    status.conditions.remove_type(kind.condition());
}

fn forget_announcement(kind: Kind, status: &mut MachineInventoryStatus) {
    if let Some(note) = kind.note_mut(status) {
        (note.announced, note.scope) = (None, None);
    }
}

fn announce(machine: &KnownMachine, asked: Asked, reason: &str, status: &mut MachineInventoryStatus, now: &Time) {
    let Asked { kind, text, .. } = asked;
    let (erases, field) = (asked.erases(), kind.field());
    let text = format!("asked to {} ({:?})", kind.deed(), text.as_str());
    let withdraw = format!("remove {field} before that to withdraw the request");
    let message = match reason {
        reason::REQUEST_SENT => {
            format!("{text}: the machine was told to {erases}; its report says when that is done")
        }
        reason::NOT_INSTALLED => {
            format!("{text}: once the installed system has reported, it is told to {erases}; {withdraw}")
        }
        _ => format!("{text}: in answer to its next report the machine is told to {erases}; {withdraw}"),
    };
    put(machine, kind, (true, reason), &message, status, now);
}

fn put(
    machine: &KnownMachine,
    kind: Kind,
    (holds, reason): (bool, &str),
    message: &str,
    status: &mut MachineInventoryStatus,
    now: &Time,
) {
    status.conditions.put(kind.condition(), holds, reason, message, machine.generation, now);
}

#[cfg(test)]
mod tests;
