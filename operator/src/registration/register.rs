//! Registers machines: finds or creates the inventory of a machine, as [`decide`] says.
//!
//! A new machine costs two writes (object and status), a known one none unless something changed. Neither costs a read,
//! because the index has what is needed. The status is written by an [`InventoryWriter`].

use crate::digest::Digest;
use crate::inventory::Inventory;
use crate::inventory::index::KnownMachine;
use crate::inventory::life::Step;
use crate::inventory::lookup;
use crate::inventory::store::{Created, StoreError};
use crate::inventory::writer::{InventoryWriter, acquire_write, unknown_machine};
use crate::registration::decide::{self, Decision};
use crate::registration::machine_name::CANDIDATES;
use crate::registration::record::Identity;
use crate::registration::record::Record;
use crate::registration::{Registration, Templates};
use api::AttestationStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use protocol::hardware::Hardware;
use protocol::message::MachineReport;
use protocol::{Refusal, RefusalCode, TpmHash};
use std::sync::Arc;

/// How often the inventory may be deleted or changed during a registration before the machine is refused.
const ATTEMPTS: usize = 3;

/// Registers a machine that has proved its identity by its TPM. Afterwards its inventory exists; the caller writes its
/// status with the returned writer. A machine that waits for approval is recorded and refused.
pub async fn register(
    inventory: &Inventory,
    registration: &Registration,
    identity: &Identity,
    report: &MachineReport,
) -> Result<InventoryWriter, Refusal> {
    let templates = templates(registration)?;
    let record = Record::new(registration, templates, &report.smbios);
    for _ in 0..ATTEMPTS {
        // The operator's default limit is generous and may be exceeded during the first listing.
        if registration.spec.max_machines.is_some() && !inventory.index.is_complete() {
            return Err(lookup::starting());
        }
        let known = inventory.find_in(&registration.namespace, &identity.hash).await?;
        // Held until the index contains the machine, or the machine is refused.
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

/// Registers a machine that has proved its identity by the shared secret of its inventory. No inventory is created.
pub async fn register_known(
    inventory: &Inventory,
    registration: &Registration,
    machine: &Arc<KnownMachine>,
    report: &MachineReport,
) -> Result<InventoryWriter, Refusal> {
    let templates = templates(registration)?;
    let record = Record::new(registration, templates, &report.smbios);
    // The inventory may have changed since the proof began.
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
    // A client of the first release does not report its hardware; the recorded hardware stays.
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

/// The attestation to record. It has a time if other inventories have the same hash: from then on this one counts.
fn attested(inventory: &Inventory, machine: &KnownMachine, attestation: AttestationStatus) -> AttestationStatus {
    let all = machine.hash.as_ref().map(|hash| inventory.index.of_one_machine(hash)).unwrap_or_default();
    let others = all.iter().filter(|other| other.uid != machine.uid);
    let latest = others.filter_map(|other| other.attested_at()).max();
    let Some(latest) = latest.filter(|latest| machine.attested_at().is_none_or(|own| own <= *latest)) else {
        return attestation;
    };
    // Two proofs in one second must not have the same time.
    let now = inventory.clock.now().0.as_second().max(latest + 1);
    AttestationStatus { time: Timestamp::from_second(now).ok().map(Time), ..attestation }
}

fn deleted_meanwhile() -> Refusal {
    Refusal::new(RefusalCode::Unavailable, "the machine's inventory was deleted meanwhile").retry_after(5)
}

/// The writer for a machine that has an inventory in the registration's namespace.
pub async fn find(
    inventory: &Inventory,
    registration: &Registration,
    hash: &TpmHash,
) -> Result<InventoryWriter, Refusal> {
    let known = inventory.find_in(&registration.namespace, hash).await?;
    known.filter(|machine| is_ours(registration, machine)).map(InventoryWriter::new).ok_or_else(unknown_machine)
}

/// The writer for a machine that has proved its identity by the shared secret of its inventory.
pub fn find_known(registration: &Registration, machine: &Arc<KnownMachine>) -> Result<InventoryWriter, Refusal> {
    if is_ours(registration, machine) { Ok(InventoryWriter::new(machine.clone())) } else { Err(unknown_machine()) }
}

fn is_ours(registration: &Registration, machine: &KnownMachine) -> bool {
    machine.namespace == registration.namespace && !machine.deleting
}

/// Creates the inventory of a new machine. If the name belongs to the same machine, another replica or connection has
/// just created the inventory, and that one is used.
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
        "all names for this machine are taken by other machines; use a field in machineName that is different for each \
         machine",
    ))
}

/// Updates labels, annotations and SMBIOS. `None`: the inventory was deleted or changed.
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
            // The index does not know the deletion yet; the next attempt must not find the object again.
            inventory.index.forget(&known);
            Ok(None)
        }
        Err(StoreError::Changed) => Ok(None),
        Err(StoreError::Refused(refusal)) => Err(refusal),
    }
}

#[cfg(test)]
mod tests;
