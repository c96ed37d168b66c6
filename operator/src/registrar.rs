//! Takes machines in and keeps their inventories: decides with [`enroll`], writes what the decision needs and no more.
//!
//! A new machine costs two writes (object, status), a known one none unless something changed. Neither costs a read:
//! what is known stands in the index.

use crate::context::Context;
use crate::crd::{AttestationStatus, MachineInventory, Phase};
use crate::digest::Digest;
use crate::enroll::machine_name::CANDIDATES;
use crate::enroll::record::Record;
use crate::enroll::{self, Decision};
use crate::inventory_client::{self, Made, WriteError};
use crate::inventory_index::KnownMachine;
use crate::machine_life::{self, Step};
use crate::registration::Registration;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use protocol::hardware::Hardware;
use protocol::message::MachineReport;
use protocol::{Refusal, RefusalCode, TpmHash};
use std::sync::Arc;

/// How often an inventory may vanish, or change hands, under one registration before the machine is sent away.
const ATTEMPTS: usize = 3;

/// What a machine proved.
#[derive(Clone, Debug)]
pub struct Identity {
    pub hash: TpmHash,
    pub attestation: AttestationStatus,
}

/// Takes a machine in, or recognises it, and records that it registered. Returns its inventory if it may have its
/// configuration.
pub async fn register(
    context: &Context,
    registration: &Registration,
    identity: &Identity,
    report: &MachineReport,
) -> Result<Arc<KnownMachine>, Refusal> {
    let templates = registration.templates.as_ref().map_err(|problem| {
        Refusal::new(RefusalCode::RegistrationInvalid, format!("{}: {}", problem.reason, problem.message))
    })?;
    let record = Record::new(registration, templates, identity.hash.clone(), &report.smbios);
    for _ in 0..ATTEMPTS {
        let known = context.inventories.find(&identity.hash);
        let admitted = context.inventories.count(&registration.namespace, &registration.name);
        let (machine, approved) = match enroll::decide(registration, known, admitted, context.now().0) {
            Decision::Refuse(refusal) => return Err(refusal),
            Decision::Enroll { approved } => (make(context, &record, approved).await?, approved),
            Decision::Known { machine, approved } => {
                let Some(machine) = update(context, &record, machine).await? else { continue };
                (machine, approved)
            }
        };
        // A client of the first release does not know its hardware, which is no reason to forget it.
        let told = report.hardware != Hardware::default();
        let news = told && machine.hardware != Some(Digest::of(&report.hardware));
        let step = Step::Registered {
            approved,
            hardware: news.then(|| Box::new(report.hardware.clone())),
            attestation: identity.attestation.clone(),
            addresses: &report.addresses,
        };
        let Some(machine) = write_step(context, &machine, step).await? else { continue };
        if !approved {
            return Err(enroll::approval_pending(&format!("{}/{}", machine.namespace, machine.name)));
        }
        return Ok(machine);
    }
    Err(Refusal::new(RefusalCode::Unavailable, "the machine's inventory was deleted meanwhile").retry_after(5))
}

/// Records what happened to a machine that has an inventory in the registration's namespace.
pub async fn record(
    context: &Context,
    registration: &Registration,
    hash: &TpmHash,
    step: Step<'_>,
) -> Result<Arc<KnownMachine>, Refusal> {
    let unknown = || {
        Refusal::new(
            RefusalCode::UnknownMachine,
            "no inventory knows this machine; register it again, by booting the medium",
        )
    };
    let machine = context
        .inventories
        .find(hash)
        .filter(|machine| machine.namespace == registration.namespace)
        .ok_or_else(unknown)?;
    write_step(context, &machine, step).await?.ok_or_else(unknown)
}

/// Makes the inventory of a new machine. Where the name is taken by the same machine, that was another replica, or
/// another connection, in the same moment: the one that is there is taken.
async fn make(context: &Context, record: &Record, approved: bool) -> Result<Arc<KnownMachine>, Refusal> {
    for candidate in 0..CANDIDATES {
        let object = record.object(approved, candidate);
        context.metrics.writes.inc();
        match inventory_client::make(&context.client, &object).await? {
            Made::New(made) => return Ok(context.inventories.enter(*made)),
            Made::Taken(there) if there.spec.tpm_hash() == object.spec.tpm_hash() => {
                return Ok(context.inventories.enter(*there));
            }
            Made::Taken(_) => continue,
        }
    }
    Err(Refusal::new(
        RefusalCode::RegistrationInvalid,
        "all names for this machine are taken by others; use a field in machineName that tells machines apart",
    ))
}

/// Brings labels, annotations and SMBIOS up to date. `None`: the inventory is gone.
async fn update(
    context: &Context,
    record: &Record,
    known: Arc<KnownMachine>,
) -> Result<Option<Arc<KnownMachine>>, Refusal> {
    let Some(patch) = record.patch(&known) else { return Ok(Some(known)) };
    context.metrics.writes.inc();
    match inventory_client::patch(&context.client, &known.namespace, &known.name, &patch).await {
        Ok(object) => Ok(Some(context.inventories.enter(object))),
        Err(WriteError::Gone) => Ok(gone(context, &known)),
        Err(WriteError::Refused(refusal)) => Err(refusal),
    }
}

/// Writes what a step changes in the status. `None`: the inventory is gone.
async fn write_step(
    context: &Context,
    machine: &Arc<KnownMachine>,
    step: Step<'_>,
) -> Result<Option<Arc<KnownMachine>>, Refusal> {
    let after = machine_life::after(&machine.status, step, machine.generation, &context.now());
    let Some(patch) = machine_life::status_patch(&machine.status, &after) else { return Ok(Some(machine.clone())) };
    context.metrics.writes.inc();
    match inventory_client::patch_status(&context.client, &machine.namespace, &machine.name, &patch).await {
        Ok(object) => {
            if after.phase != machine.status.phase {
                tell_phase(context, machine, &after);
            }
            Ok(Some(context.inventories.enter(object)))
        }
        Err(WriteError::Gone) => Ok(gone(context, machine)),
        Err(WriteError::Refused(refusal)) => Err(refusal),
    }
}

/// The index has not heard of the deletion yet; the next attempt must not find the machine again.
fn gone(context: &Context, machine: &KnownMachine) -> Option<Arc<KnownMachine>> {
    context.inventories.forget(&machine.namespace, &machine.name);
    None
}

fn tell_phase(context: &Context, machine: &KnownMachine, status: &crate::crd::MachineInventoryStatus) {
    let Some(phase) = status.phase else { return };
    let about = ObjectReference {
        api_version: Some(MachineInventory::api_version(&()).into_owned()),
        kind: Some(MachineInventory::kind(&()).into_owned()),
        namespace: Some(machine.namespace.clone()),
        name: Some(machine.name.clone()),
        uid: Some(machine.uid.clone()),
        ..ObjectReference::default()
    };
    use crate::crd::{Conditions, condition_type};
    let message = status.conditions.find(condition_type::READY).map_or("", |condition| &condition.message);
    context.events.tell(about, phase == Phase::Failed, &format!("{phase:?}"), message);
}
