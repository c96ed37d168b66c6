//! Writes the status of an inventory, from what its machine says.
//!
//! Steps are noted first, so that several steps in quick succession are one write. What they make of the status is
//! decided with the write, on the newest version of the inventory. A write that another writer has overtaken is decided
//! again.

use crate::inventory::Inventory;
use crate::inventory::erase_request::{self, EventText};
use crate::inventory::index::{KnownMachine, Owner};
use crate::inventory::installed_config;
use crate::inventory::life::{self, Step};
use crate::inventory::store::StoreError;
use crate::inventory::upgrade;
use crate::kube::status_writer::StatusPatch;
use api::{Conditions, MachineInventoryStatus, Phase, condition_type};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use protocol::message::OsReport;
use protocol::{EraseRequest, Refusal, RefusalCode, UpgradeOrder};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// How often a status may be overtaken by another writer before the machine is told to come back.
const ATTEMPTS: usize = 3;

/// Collects the steps of a machine and writes them to the status of its inventory.
pub struct InventoryWriter {
    machine: Arc<KnownMachine>,
    /// The steps since the last write, and when they happened.
    noted: Vec<(Step, Time)>,
}

/// The result of all noted steps.
struct Outcome {
    status: MachineInventoryStatus,
    news: Vec<EventText>,
}

impl InventoryWriter {
    /// For a machine that has proved its identity.
    pub fn new(machine: Arc<KnownMachine>) -> Self {
        Self { machine, noted: Vec::new() }
    }

    /// `namespace/name`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.machine.namespace, self.machine.name)
    }

    /// The machine as last written.
    pub fn machine(&self) -> &KnownMachine {
        &self.machine
    }

    /// Whether all noted steps are written.
    pub fn is_written(&self) -> bool {
        self.noted.is_empty()
    }

    pub fn note(&mut self, inventory: &Inventory, step: Step) {
        // While the API server is unavailable, progress is noted repeatedly; only the last one counts.
        if let (Some((last @ Step::Progress(_), _)), Step::Progress(_)) = (self.noted.last_mut(), &step) {
            *last = step;
        } else {
            self.noted.push((step, inventory.clock.now()));
        }
    }

    /// Writes the noted steps if they change the status. After an error they stay noted, unless the inventory is
    /// deleted.
    pub async fn write(&mut self, inventory: &Inventory) -> Result<(), Refusal> {
        match self.try_to_write(inventory).await {
            Err(StoreError::Gone) => {
                inventory.index.forget(&self.machine);
                self.noted.clear();
                Err(unknown_machine())
            }
            Err(StoreError::Changed) => {
                let message = "other clients change the machine's inventory at the same time";
                Err(Refusal::new(RefusalCode::Unavailable, message).retry_after(5))
            }
            Err(StoreError::Refused(refusal)) => Err(refusal),
            Ok(news) => {
                self.noted.clear();
                for (warning, reason, message) in news {
                    inventory.events.publish(self.machine.reference(), warning, &reason, &message);
                }
                Ok(())
            }
        }
    }

    /// Returns the events to publish: new phases, and changes of a request to erase data.
    async fn try_to_write(&mut self, inventory: &Inventory) -> Result<Vec<EventText>, StoreError> {
        if self.noted.is_empty() {
            return Ok(Vec::new());
        }
        let newest = inventory.index.get(&self.machine.namespace, &self.machine.name);
        match newest {
            // Another object has been created under the same name.
            Some(newest) if newest.is_successor_of(&self.machine) => return Err(StoreError::Gone),
            Some(newest) if newest.uid == self.machine.uid => self.machine = newest,
            _ => {}
        }
        for _ in 0..ATTEMPTS {
            let mut before = self.machine.status.clone();
            let mut outcome = self.decide(inventory);
            if outcome.status.hardware.is_some() && self.machine.hardware.is_some() {
                // Only a digest of the recorded hardware is known, so the patch needs the full status to remove fields.
                before = self.read_again(inventory).await?;
                outcome = self.decide(inventory);
            }
            let Outcome { status, news } = outcome;
            let Some(patch) = StatusPatch::between(&before, &status, self.machine.resource_version()) else {
                return Ok(Vec::new());
            };
            let permit = acquire_write(inventory, &self.machine).await.map_err(StoreError::Refused)?;
            let sent = self.send(inventory, &patch, status).await;
            drop(permit);
            match sent {
                Ok(()) => return Ok(news),
                Err(StoreError::Changed) => self.read_again(inventory).await.map(drop)?,
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Changed)
    }

    /// The status after all noted steps.
    fn decide(&self, inventory: &Inventory) -> Outcome {
        let (mut status, mut news) = (self.machine.status.clone(), Vec::new());
        for (step, time) in &self.noted {
            let mut after = life::after(&status, step, self.machine.generation, time);
            erase_request::after(&self.machine, step, &mut after, time);
            upgrade::after(&status, step, &mut after, time);
            installed_config::after(&self.machine, step, &mut after, time);
            if let Some(phase) = after.phase.filter(|phase| status.phase != Some(*phase)) {
                let ready = after.conditions.find(condition_type::READY);
                let message = ready.map(|ready| ready.message.to_string()).unwrap_or_default();
                news.push((phase == Phase::Failed, format!("{phase:?}"), message));
            }
            news.extend(erase_request::news(&status, &after));
            status = after;
        }
        Outcome { status: life::settled(&self.machine.status, status, &inventory.clock.now()), news }
    }

    /// The request to erase data that the answer to this report contains. It is decided on the object that the API
    /// server has now, and recorded before it is sent. Without an API server nothing is sent.
    pub async fn send_request(&mut self, inventory: &Inventory, report: &OsReport) -> Option<EraseRequest> {
        erase_request::due(&self.machine, report, self.counts(inventory))?;
        match self.try_to_send_request(inventory, report).await {
            Ok(request) => request,
            Err(error) => {
                tracing::warn!(inventory = self.name(), ?error, "the machine is not told to install or reset itself");
                None
            }
        }
    }

    async fn try_to_send_request(
        &mut self,
        inventory: &Inventory,
        report: &OsReport,
    ) -> Result<Option<EraseRequest>, StoreError> {
        self.read_again(inventory).await?;
        let due = |writer: &Self| erase_request::due(&writer.machine, report, writer.counts(inventory));
        let Some(request) = due(self) else { return Ok(None) };
        self.note(inventory, Step::SentRequest(request.clone()));
        self.write(inventory).await.map_err(StoreError::Refused)?;
        // The write may have read a newer version.
        Ok(due(self).filter(|still| *still == request))
    }

    /// The order to upgrade that the answer to this report contains. It is decided and recorded like a request to
    /// reinstall.
    pub async fn send_upgrade(&mut self, inventory: &Inventory, report: &OsReport) -> Option<UpgradeOrder> {
        upgrade::due(&self.machine, report, self.counts(inventory), &inventory.clock.now())?;
        match self.try_to_send_upgrade(inventory, report).await {
            Ok(order) => order,
            Err(error) => {
                tracing::warn!(inventory = self.name(), ?error, "it is not told to upgrade");
                None
            }
        }
    }

    async fn try_to_send_upgrade(
        &mut self,
        inventory: &Inventory,
        report: &OsReport,
    ) -> Result<Option<UpgradeOrder>, StoreError> {
        self.read_again(inventory).await?;
        let due =
            |writer: &Self| upgrade::due(&writer.machine, report, writer.counts(inventory), &inventory.clock.now());
        let Some(order) = due(self) else { return Ok(None) };
        self.note(inventory, Step::SentUpgrade(order.clone()));
        self.write(inventory).await.map_err(StoreError::Refused)?;
        // The write may have read a newer version.
        Ok(due(self).filter(|still| *still == order && self.is_told()))
    }

    fn is_told(&self) -> bool {
        self.machine.status.upgrade.as_ref().is_some_and(|turn| turn.told.is_some())
    }

    /// Whether this inventory counts for its machine. False until all inventories are known.
    fn counts(&self, inventory: &Inventory) -> bool {
        let index = &inventory.index;
        index.is_complete()
            && match self.machine.hash.as_ref().map(|hash| index.owner(hash, None)) {
                Some(Owner::Inventory(machine)) => machine.uid == self.machine.uid,
                Some(Owner::Nobody | Owner::Disputed) => false,
                // A machine with a shared secret has no hash.
                None => !self.machine.malformed_identity,
            }
    }

    /// Reads the inventory again and returns its full status.
    async fn read_again(&mut self, inventory: &Inventory) -> Result<MachineInventoryStatus, StoreError> {
        let object = inventory.store.get(&self.machine.namespace, &self.machine.name).await?;
        let status = object.status.clone().unwrap_or_default();
        let machine = Arc::new(KnownMachine::of(object.clone()));
        inventory.index.enter(object);
        if machine.uid != self.machine.uid {
            return Err(StoreError::Gone);
        }
        self.machine = machine;
        Ok(status)
    }

    async fn send(
        &mut self,
        inventory: &Inventory,
        patch: &StatusPatch,
        status: MachineInventoryStatus,
    ) -> Result<(), StoreError> {
        let (machine, index, client) = (&self.machine, &inventory.index, &inventory.store);
        inventory.writes.inc();
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

/// A permit to write for a machine. The write counts against the registration through which the machine came.
pub async fn acquire_write(
    inventory: &Inventory,
    machine: &KnownMachine,
) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
    let Some(name) = machine.registration.clone() else { return Ok(None) };
    inventory.limiter.acquire(&(machine.namespace.clone(), name)).await.map(Some)
}

/// The refusal of a machine that has no inventory.
pub fn unknown_machine() -> Refusal {
    Refusal::new(
        RefusalCode::UnknownMachine,
        "there is no inventory of this machine; start it from its medium to register it again",
    )
}
