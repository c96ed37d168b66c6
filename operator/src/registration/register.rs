//! Takes machines in and keeps their inventories: decides with [`decide`], writes what the decision needs and no more.
//!
//! A new machine costs two writes (object, status), a known one none unless something changed. Neither costs a read:
//! what is known stands in the index. What a machine says is noted in a [`InventoryWriter`] first, so that several things said
//! in one breath are one write.

use crate::context::Context;
use crate::digest::Digest;
use crate::inventory::index::{KnownMachine, Owner};
use crate::inventory::life::{self, Step};
use crate::inventory::lookup;
use crate::inventory::names::CANDIDATES;
use crate::inventory::reinstall;
use crate::inventory::store::{Created, StoreError};
use crate::kube::status_writer::StatusPatch;
use crate::registration::decide::{self, Decision};
use crate::registration::record::Record;
use crate::registration::{Registration, Templates};
use api::{AttestationStatus, Conditions, MachineInventoryStatus, Phase, condition_type};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use protocol::hardware::Hardware;
use protocol::message::{MachineReport, OsReport};
use protocol::{Refusal, RefusalCode, ReinstallRequest, TpmHash};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// How often an inventory may vanish, or change hands, under one registration before the machine is sent away.
const ATTEMPTS: usize = 3;

/// What a machine proved by its TPM.
#[derive(Clone, Debug)]
pub struct Identity {
    pub hash: TpmHash,
    pub attestation: AttestationStatus,
}

/// Takes a machine in, or recognises it, and notes that it registered. When this returns its inventory exists; the
/// status of the writer is still to be written. A machine that waits for approval is recorded and refused.
pub async fn register(
    context: &Context,
    registration: &Registration,
    identity: &Identity,
    report: &MachineReport,
) -> Result<InventoryWriter, Refusal> {
    let templates = templates(registration)?;
    let record = Record::new(registration, templates, &report.smbios);
    for _ in 0..ATTEMPTS {
        // The operator's default is for more than anybody expects, and may be exceeded by who comes during the listing.
        if registration.spec.max_machines.is_some() && !context.inventories.is_complete() {
            return Err(lookup::starting());
        }
        let known = context.find_machine_in(&registration.namespace, &identity.hash).await?;
        // Held until the machine is in the index, or is sent away.
        let reservation = (!decide::came_through(registration, known.as_deref()))
            .then(|| context.inventories.reserve(&registration.namespace, &registration.name));
        let admitted = reservation.as_ref().map_or(0, |reservation| reservation.admitted_before);
        let (machine, approved) = match decide::decide(registration, known, admitted, context.now().0) {
            Decision::Refuse(refusal) => return Err(refusal),
            Decision::Enroll { approved } => {
                let _permit = context.registrations.limiter.acquire(&registration.key()).await?;
                (make(context, &record, &identity.hash, approved).await?, approved)
            }
            Decision::Known { machine, approved } => {
                let Some(machine) = update(context, &record, machine).await? else { continue };
                (machine, approved)
            }
        };
        drop(reservation);
        return note_registered(context, machine, approved, Some(identity.attestation.clone()), report).await;
    }
    Err(deleted_meanwhile())
}

/// The same for a machine that has an inventory already and proved itself by the shared secret of that one: it is
/// recognised or sent away, and nothing is made for it.
pub async fn register_known(
    context: &Context,
    registration: &Registration,
    machine: &Arc<KnownMachine>,
    report: &MachineReport,
) -> Result<InventoryWriter, Refusal> {
    let templates = templates(registration)?;
    let record = Record::new(registration, templates, &report.smbios);
    // As it is now, if it is the same still: somebody may have changed their mind since the proof began.
    let same = |newest: &Arc<KnownMachine>| newest.uid == machine.uid && newest.secret() == machine.secret();
    let newest = context.inventories.get(&machine.namespace, &machine.name).filter(same);
    let machine = newest.ok_or_else(unknown)?;
    let reservation = (!decide::came_through(registration, Some(&machine)))
        .then(|| context.inventories.reserve(&registration.namespace, &registration.name));
    let admitted = reservation.as_ref().map_or(0, |reservation| reservation.admitted_before);
    match decide::decide(registration, Some(machine), admitted, context.now().0) {
        Decision::Refuse(refusal) => Err(refusal),
        Decision::Enroll { .. } => Err(unknown()),
        Decision::Known { machine, approved } => {
            let machine = update(context, &record, machine).await?.ok_or_else(deleted_meanwhile)?;
            drop(reservation);
            note_registered(context, machine, approved, None, report).await
        }
    }
}

fn templates(registration: &Registration) -> Result<&Templates, Refusal> {
    registration.templates.as_ref().map_err(|problem| {
        Refusal::new(RefusalCode::RegistrationInvalid, format!("{}: {}", problem.reason, problem.message))
    })
}

async fn note_registered(
    context: &Context,
    machine: Arc<KnownMachine>,
    approved: bool,
    attestation: Option<AttestationStatus>,
    report: &MachineReport,
) -> Result<InventoryWriter, Refusal> {
    // A client of the first release does not know its hardware, which is no reason to forget it.
    let told = report.hardware != Hardware::default();
    let news = told && machine.hardware != Some(Digest::of(&report.hardware));
    let hardware = news.then(|| Box::new(report.hardware.clone()));
    let attestation = attestation.map(|attestation| attested(context, &machine, attestation));
    let mut writer = InventoryWriter::new(machine);
    writer.note(context, Step::Registered { approved, hardware, attestation, addresses: report.addresses.clone() });
    if !approved {
        writer.write(context).await?;
        return Err(decide::approval_pending(&writer.inventory()));
    }
    Ok(writer)
}

/// What the machine proved. With a time where other inventories have its hash, too: from then on this one counts.
fn attested(context: &Context, machine: &KnownMachine, attestation: AttestationStatus) -> AttestationStatus {
    let all = machine.hash.as_ref().map(|hash| context.inventories.of_one_machine(hash)).unwrap_or_default();
    let others = all.iter().filter(|other| other.uid != machine.uid);
    let latest = others.filter_map(|other| other.attested_at()).max();
    let Some(latest) = latest.filter(|latest| machine.attested_at().is_none_or(|own| own <= *latest)) else {
        return attestation;
    };
    // Of two proofs in one second the later one must be the newer.
    let now = context.now().0.as_second().max(latest + 1);
    AttestationStatus { time: Timestamp::from_second(now).ok().map(Time), ..attestation }
}

fn deleted_meanwhile() -> Refusal {
    Refusal::new(RefusalCode::Unavailable, "the machine's inventory was deleted meanwhile").retry_after(5)
}

/// The writer of a machine that has an inventory in the registration's namespace.
pub async fn find(context: &Context, registration: &Registration, hash: &TpmHash) -> Result<InventoryWriter, Refusal> {
    let known = context.find_machine_in(&registration.namespace, hash).await?;
    known.filter(|machine| is_ours(registration, machine)).map(InventoryWriter::new).ok_or_else(unknown)
}

/// The same of a machine that proved itself by the shared secret of its inventory.
pub fn find_known(registration: &Registration, machine: &Arc<KnownMachine>) -> Result<InventoryWriter, Refusal> {
    if is_ours(registration, machine) { Ok(InventoryWriter::new(machine.clone())) } else { Err(unknown()) }
}

fn is_ours(registration: &Registration, machine: &KnownMachine) -> bool {
    machine.namespace == registration.namespace && !machine.deleting
}

fn unknown() -> Refusal {
    Refusal::new(
        RefusalCode::UnknownMachine,
        "no inventory knows this machine; register it again, by booting the medium",
    )
}

/// What a machine said, and how much of it is written.
pub struct InventoryWriter {
    machine: Arc<KnownMachine>,
    /// What it said since the last write, and when. What that makes of the status is decided with the write, on the
    /// newest version of the inventory: others write, too.
    noted: Vec<(Step, Time)>,
}

/// What comes of everything that is noted.
struct Outcome {
    status: MachineInventoryStatus,
    news: Vec<EventText>,
}

/// What is to be told as an event: whether it is a warning, its reason, and the words.
type EventText = (bool, String, String);

impl InventoryWriter {
    /// Of a machine that proved who it is.
    pub fn new(machine: Arc<KnownMachine>) -> Self {
        Self { machine, noted: Vec::new() }
    }

    /// `namespace/name`.
    pub fn inventory(&self) -> String {
        format!("{}/{}", self.machine.namespace, self.machine.name)
    }

    /// As it was last written.
    pub fn machine(&self) -> &KnownMachine {
        &self.machine
    }

    /// Whether nothing is noted that is not written.
    pub fn is_written(&self) -> bool {
        self.noted.is_empty()
    }

    pub fn note(&mut self, context: &Context, step: Step) {
        // While the API server is away progress is noted again and again.
        if let (Some((last @ Step::Progress(_), _)), Step::Progress(_)) = (self.noted.last_mut(), &step) {
            *last = step;
        } else {
            self.noted.push((step, context.now()));
        }
    }

    /// Writes what is noted, if it says anything new. After an error it is still noted, unless the inventory is gone.
    pub async fn write(&mut self, context: &Context) -> Result<(), Refusal> {
        match self.try_to_write(context).await {
            Err(StoreError::Gone) => {
                context.inventories.forget(&self.machine);
                self.noted.clear();
                Err(unknown())
            }
            Err(StoreError::Changed) => {
                let message = "others write the machine's inventory at the same time";
                Err(Refusal::new(RefusalCode::Unavailable, message).retry_after(5))
            }
            Err(StoreError::Refused(refusal)) => Err(refusal),
            Ok(news) => {
                self.noted.clear();
                for (warning, reason, message) in news {
                    context.events.publish(self.machine.reference(), warning, &reason, &message);
                }
                Ok(())
            }
        }
    }

    /// What is to be told of it: the phases gone through, and what became of a request to install again.
    async fn try_to_write(&mut self, context: &Context) -> Result<Vec<EventText>, StoreError> {
        if self.noted.is_empty() {
            return Ok(Vec::new());
        }
        let newest = context.inventories.get(&self.machine.namespace, &self.machine.name);
        match newest {
            // Of the same name, and not this machine's.
            Some(newest) if newest.is_successor_of(&self.machine) => return Err(StoreError::Gone),
            Some(newest) if newest.uid == self.machine.uid => self.machine = newest,
            _ => {}
        }
        for _ in 0..ATTEMPTS {
            let mut before = self.machine.status.clone();
            let mut outcome = self.decide(context);
            if outcome.status.hardware.is_some() && self.machine.hardware.is_some() {
                // Of what is recorded only a digest is kept, which does not tell what vanished.
                before = self.read_again(context).await?;
                outcome = self.decide(context);
            }
            let Outcome { status, news } = outcome;
            let Some(patch) = StatusPatch::between(&before, &status, self.machine.resource_version()) else {
                return Ok(Vec::new());
            };
            let permit = acquire_write(context, &self.machine).await.map_err(StoreError::Refused)?;
            let sent = self.send(context, &patch, status).await;
            drop(permit);
            match sent {
                Ok(()) => return Ok(news),
                Err(StoreError::Changed) => self.read_again(context).await.map(drop)?,
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Changed)
    }

    /// What everything that is noted makes of the status.
    fn decide(&self, context: &Context) -> Outcome {
        let (mut status, mut news) = (self.machine.status.clone(), Vec::new());
        for (step, time) in &self.noted {
            let mut after = life::after(&status, step, self.machine.generation, time);
            reinstall::after(&self.machine, step, &mut after, time);
            if let Some(phase) = after.phase.filter(|phase| status.phase != Some(*phase)) {
                let ready = after.conditions.find(condition_type::READY);
                let message = ready.map(|ready| ready.message.to_string()).unwrap_or_default();
                news.push((phase == Phase::Failed, format!("{phase:?}"), message));
            }
            news.extend(reinstall::news(&status, &after));
            status = after;
        }
        Outcome { status: life::settled(&self.machine.status, status, &context.now()), news }
    }

    /// What the machine is to be told about installing itself again, in answer to this report. It is decided on what the
    /// API server has at this moment, and recorded first: without an API server the machine is told nothing.
    pub async fn send_reinstall(&mut self, context: &Context, report: &OsReport) -> Option<ReinstallRequest> {
        reinstall::due(&self.machine, report, self.counts(context))?;
        match self.try_to_send_reinstall(context, report).await {
            Ok(text) => text,
            Err(error) => {
                tracing::warn!(inventory = self.inventory(), ?error, "it is not told to install itself again");
                None
            }
        }
    }

    async fn try_to_send_reinstall(
        &mut self,
        context: &Context,
        report: &OsReport,
    ) -> Result<Option<ReinstallRequest>, StoreError> {
        self.read_again(context).await?;
        let due = |writer: &Self| reinstall::due(&writer.machine, report, writer.counts(context)).cloned();
        let Some(text) = due(self) else { return Ok(None) };
        self.note(context, Step::SentReinstall(text.clone()));
        self.write(context).await.map_err(StoreError::Refused)?;
        // The write may have found another version.
        Ok(due(self).filter(|still| *still == text))
    }

    /// Whether this is the inventory that counts for its machine, as far as all inventories are known.
    fn counts(&self, context: &Context) -> bool {
        let index = &context.inventories;
        index.is_complete()
            && match self.machine.hash.as_ref().map(|hash| index.owner(hash, None)) {
                Some(Owner::Inventory(machine)) => machine.uid == self.machine.uid,
                Some(Owner::Nobody | Owner::Disputed) => false,
                // By its shared secret.
                None => !self.machine.malformed_identity,
            }
    }

    /// Reads the inventory anew; its whole status.
    async fn read_again(&mut self, context: &Context) -> Result<MachineInventoryStatus, StoreError> {
        let object = context.inventory_store.get(&self.machine.namespace, &self.machine.name).await?;
        let status = object.status.clone().unwrap_or_default();
        let machine = Arc::new(KnownMachine::of(object.clone()));
        context.inventories.enter(object);
        if machine.uid != self.machine.uid {
            return Err(StoreError::Gone);
        }
        self.machine = machine;
        Ok(status)
    }

    async fn send(
        &mut self,
        context: &Context,
        patch: &StatusPatch,
        status: MachineInventoryStatus,
    ) -> Result<(), StoreError> {
        let (machine, index, client) = (&self.machine, &context.inventories, &context.inventory_store);
        context.metrics.writes.inc();
        let written = client.write_status(&machine.namespace, &machine.name, patch).await?;
        if let Some(machine) = index.assume_written(machine, status, &written) {
            self.machine = machine;
            return Ok(());
        }
        let newest = index.enter(client.get(&machine.namespace, &machine.name).await?);
        if newest.uid != machine.uid {
            return Err(StoreError::Gone);
        }
        self.machine = newest;
        Ok(())
    }
}

/// Makes the inventory of a new machine. Where the name is taken by the same machine, that was another replica, or
/// another connection, in the same moment: the one that is there is taken.
async fn make(
    context: &Context,
    record: &Record<'_>,
    hash: &TpmHash,
    approved: bool,
) -> Result<Arc<KnownMachine>, Refusal> {
    for candidate in 0..CANDIDATES {
        let object = record.object(hash, approved, candidate);
        context.metrics.writes.inc();
        match context.inventory_store.make(object).await? {
            Created::New(made) => return Ok(context.inventories.assume_made(*made)),
            Created::NameTaken(there) if there.spec.tpm_hash().as_ref() == Some(hash) => {
                return Ok(context.inventories.enter(*there));
            }
            Created::NameTaken(_) => continue,
        }
    }
    Err(Refusal::new(
        RefusalCode::RegistrationInvalid,
        "all names for this machine are taken by others; use a field in machineName that tells machines apart",
    ))
}

/// A write for a machine counts against the registration through which it came.
async fn acquire_write(context: &Context, machine: &KnownMachine) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
    let Some(name) = machine.registration.clone() else { return Ok(None) };
    context.registrations.limiter.acquire(&(machine.namespace.clone(), name)).await.map(Some)
}

/// Brings labels, annotations and SMBIOS up to date. `None`: the inventory is gone, or is not what it was.
async fn update(
    context: &Context,
    record: &Record<'_>,
    known: Arc<KnownMachine>,
) -> Result<Option<Arc<KnownMachine>>, Refusal> {
    let Some(patch) = record.patch(&known) else { return Ok(Some(known)) };
    let _permit = acquire_write(context, &known).await?;
    context.metrics.writes.inc();
    match context.inventory_store.patch(&known.namespace, &known.name, &patch).await {
        Ok(object) => Ok(Some(context.inventories.enter(object))),
        Err(StoreError::Gone) => {
            // The index has not heard of it yet; the next attempt must not find the machine again.
            context.inventories.forget(&known);
            Ok(None)
        }
        Err(StoreError::Changed) => Ok(None),
        Err(StoreError::Refused(refusal)) => Err(refusal),
    }
}

#[cfg(test)]
mod tests;
