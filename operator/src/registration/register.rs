//! Takes machines in and keeps their inventories: decides with [`decide`], writes what the decision needs and no more.
//!
//! A new machine costs two writes (object, status), a known one none unless something changed. Neither costs a read:
//! what is known stands in the index. What a machine says is noted in a [`InventoryWriter`] first, so that several things said
//! in one breath are one write.

use crate::digest::Digest;
use crate::identity::attestation::Identity;
use crate::inventory::Inventory;
use crate::inventory::index::KnownMachine;
use crate::inventory::life::Step;
use crate::inventory::lookup;
use crate::inventory::names::CANDIDATES;
use crate::inventory::store::{Created, StoreError};
use crate::inventory::writer::{InventoryWriter, acquire_write, unknown_machine};
use crate::registration::decide::{self, Decision};
use crate::registration::record::Record;
use crate::registration::{Registration, Templates};
use api::AttestationStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use protocol::hardware::Hardware;
use protocol::message::MachineReport;
use protocol::{Refusal, RefusalCode, TpmHash};
use std::sync::Arc;

/// How often an inventory may vanish, or change hands, under one registration before the machine is sent away.
const ATTEMPTS: usize = 3;

/// Takes a machine in, or recognises it, and notes that it registered. When this returns its inventory exists; the
/// status of the writer is still to be written. A machine that waits for approval is recorded and refused.
pub async fn register(
    inventory: &Inventory,
    registration: &Registration,
    identity: &Identity,
    report: &MachineReport,
) -> Result<InventoryWriter, Refusal> {
    let templates = templates(registration)?;
    let record = Record::new(registration, templates, &report.smbios);
    for _ in 0..ATTEMPTS {
        // The operator's default is for more than anybody expects, and may be exceeded by who comes during the listing.
        if registration.spec.max_machines.is_some() && !inventory.index.is_complete() {
            return Err(lookup::starting());
        }
        let known = inventory.find_in(&registration.namespace, &identity.hash).await?;
        // Held until the machine is in the index, or is sent away.
        let reservation = (!decide::came_through(registration, known.as_deref()))
            .then(|| inventory.index.reserve(&registration.namespace, &registration.name));
        let admitted = reservation.as_ref().map_or(0, |reservation| reservation.admitted_before);
        let (machine, approved) = match decide::decide(registration, known, admitted, inventory.clock.now().0) {
            Decision::Refuse(refusal) => return Err(refusal),
            Decision::Enroll { approved } => {
                let _permit = inventory.limiter.acquire(&registration.key()).await?;
                (make(inventory, &record, &identity.hash, approved).await?, approved)
            }
            Decision::Known { machine, approved } => {
                let Some(machine) = update(inventory, &record, machine).await? else { continue };
                (machine, approved)
            }
        };
        drop(reservation);
        return note_registered(inventory, machine, approved, Some(identity.attestation.clone()), report).await;
    }
    Err(deleted_meanwhile())
}

/// The same for a machine that has an inventory already and proved itself by the shared secret of that one: it is
/// recognised or sent away, and nothing is made for it.
pub async fn register_known(
    inventory: &Inventory,
    registration: &Registration,
    machine: &Arc<KnownMachine>,
    report: &MachineReport,
) -> Result<InventoryWriter, Refusal> {
    let templates = templates(registration)?;
    let record = Record::new(registration, templates, &report.smbios);
    // As it is now, if it is the same still: somebody may have changed their mind since the proof began.
    let same = |newest: &Arc<KnownMachine>| newest.uid == machine.uid && newest.secret() == machine.secret();
    let newest = inventory.index.get(&machine.namespace, &machine.name).filter(same);
    let machine = newest.ok_or_else(unknown_machine)?;
    let reservation = (!decide::came_through(registration, Some(&machine)))
        .then(|| inventory.index.reserve(&registration.namespace, &registration.name));
    let admitted = reservation.as_ref().map_or(0, |reservation| reservation.admitted_before);
    match decide::decide(registration, Some(machine), admitted, inventory.clock.now().0) {
        Decision::Refuse(refusal) => Err(refusal),
        Decision::Enroll { .. } => Err(unknown_machine()),
        Decision::Known { machine, approved } => {
            let machine = update(inventory, &record, machine).await?.ok_or_else(deleted_meanwhile)?;
            drop(reservation);
            note_registered(inventory, machine, approved, None, report).await
        }
    }
}

fn templates(registration: &Registration) -> Result<&Templates, Refusal> {
    registration.templates.as_ref().map_err(|problem| {
        Refusal::new(RefusalCode::RegistrationInvalid, format!("{}: {}", problem.reason, problem.message))
    })
}

async fn note_registered(
    inventory: &Inventory,
    machine: Arc<KnownMachine>,
    approved: bool,
    attestation: Option<AttestationStatus>,
    report: &MachineReport,
) -> Result<InventoryWriter, Refusal> {
    // A client of the first release does not know its hardware, which is no reason to forget it.
    let told = report.hardware != Hardware::default();
    let news = told && machine.hardware != Some(Digest::of(&report.hardware));
    let hardware = news.then(|| Box::new(report.hardware.clone()));
    let attestation = attestation.map(|attestation| attested(inventory, &machine, attestation));
    let mut writer = InventoryWriter::new(machine);
    writer.note(inventory, Step::Registered { approved, hardware, attestation, addresses: report.addresses.clone() });
    if !approved {
        writer.write(inventory).await?;
        return Err(decide::approval_pending(&writer.name()));
    }
    Ok(writer)
}

/// What the machine proved. With a time where other inventories have its hash, too: from then on this one counts.
fn attested(inventory: &Inventory, machine: &KnownMachine, attestation: AttestationStatus) -> AttestationStatus {
    let all = machine.hash.as_ref().map(|hash| inventory.index.of_one_machine(hash)).unwrap_or_default();
    let others = all.iter().filter(|other| other.uid != machine.uid);
    let latest = others.filter_map(|other| other.attested_at()).max();
    let Some(latest) = latest.filter(|latest| machine.attested_at().is_none_or(|own| own <= *latest)) else {
        return attestation;
    };
    // Of two proofs in one second the later one must be the newer.
    let now = inventory.clock.now().0.as_second().max(latest + 1);
    AttestationStatus { time: Timestamp::from_second(now).ok().map(Time), ..attestation }
}

fn deleted_meanwhile() -> Refusal {
    Refusal::new(RefusalCode::Unavailable, "the machine's inventory was deleted meanwhile").retry_after(5)
}

/// The writer of a machine that has an inventory in the registration's namespace.
pub async fn find(
    inventory: &Inventory,
    registration: &Registration,
    hash: &TpmHash,
) -> Result<InventoryWriter, Refusal> {
    let known = inventory.find_in(&registration.namespace, hash).await?;
    known.filter(|machine| is_ours(registration, machine)).map(InventoryWriter::new).ok_or_else(unknown_machine)
}

/// The same of a machine that proved itself by the shared secret of its inventory.
pub fn find_known(registration: &Registration, machine: &Arc<KnownMachine>) -> Result<InventoryWriter, Refusal> {
    if is_ours(registration, machine) { Ok(InventoryWriter::new(machine.clone())) } else { Err(unknown_machine()) }
}

fn is_ours(registration: &Registration, machine: &KnownMachine) -> bool {
    machine.namespace == registration.namespace && !machine.deleting
}

/// Makes the inventory of a new machine. Where the name is taken by the same machine, that was another replica, or
/// another connection, in the same moment: the one that is there is taken.
async fn make(
    inventory: &Inventory,
    record: &Record<'_>,
    hash: &TpmHash,
    approved: bool,
) -> Result<Arc<KnownMachine>, Refusal> {
    for candidate in 0..CANDIDATES {
        let object = record.object(hash, approved, candidate);
        inventory.writes.inc();
        match inventory.store.make(object).await? {
            Created::New(made) => return Ok(inventory.index.assume_made(*made)),
            Created::NameTaken(there) if there.spec.tpm_hash().as_ref() == Some(hash) => {
                return Ok(inventory.index.enter(*there));
            }
            Created::NameTaken(_) => continue,
        }
    }
    Err(Refusal::new(
        RefusalCode::RegistrationInvalid,
        "all names for this machine are taken by others; use a field in machineName that tells machines apart",
    ))
}

/// Brings labels, annotations and SMBIOS up to date. `None`: the inventory is gone, or is not what it was.
async fn update(
    inventory: &Inventory,
    record: &Record<'_>,
    known: Arc<KnownMachine>,
) -> Result<Option<Arc<KnownMachine>>, Refusal> {
    let Some(patch) = record.patch(&known) else { return Ok(Some(known)) };
    let _permit = acquire_write(inventory, &known).await?;
    inventory.writes.inc();
    match inventory.store.patch(&known.namespace, &known.name, &patch).await {
        Ok(object) => Ok(Some(inventory.index.enter(object))),
        Err(StoreError::Gone) => {
            // The index has not heard of it yet; the next attempt must not find the machine again.
            inventory.index.forget(&known);
            Ok(None)
        }
        Err(StoreError::Changed) => Ok(None),
        Err(StoreError::Refused(refusal)) => Err(refusal),
    }
}

#[cfg(test)]
mod tests;
