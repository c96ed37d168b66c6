//! What every part of the operator is given.

use crate::cluster::rancher::Rancher;
use crate::identity::shared_secret::SharedSecrets;
use crate::inventory::index::{InventoryIndex, KnownMachine};
use crate::inventory::lookup::Lookup;
use crate::inventory::store::InventoryStore;
use crate::kube::events::Events;
use crate::kube::leadership::Leadership;
use crate::media::MediaStore;
use crate::observe::metrics::Metrics;
use crate::registration::index::{Authorities, RegistrationIndex};
use crate::registration::{Endpoint, Registration};
use crate::rollout::DefaultRegistry;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use protocol::{Refusal, TpmHash};
use std::sync::Arc;
use tokio::sync::watch;

/// Shared by controllers and server.
pub struct Context {
    pub client: Client,
    pub registrations: RegistrationIndex,
    pub inventories: InventoryIndex,
    pub inventory_store: InventoryStore,
    pub lookup: Lookup,
    pub secrets: SharedSecrets,
    pub rancher: Rancher,
    /// Base media, and places for who downloads them.
    pub media: MediaStore,
    pub events: Events,
    pub metrics: Metrics,
    /// Controllers write only while this replica leads.
    pub leadership: Leadership,
    /// How machines reach us; changes when the authority is renewed.
    pub endpoint: watch::Receiver<Endpoint>,
    /// Those of TPM vendors, for registrations that name none; perhaps none.
    pub tpm_vendors: Authorities,
    /// Of upgrade images that name none, where Rancher has no word on it.
    pub default_registry: DefaultRegistry,
    /// The time; an argument for the sake of tests.
    pub clock: fn() -> Timestamp,
}

impl Context {
    pub fn now(&self) -> Time {
        // Kubernetes keeps whole seconds; anything finer would differ when read back.
        let now = (self.clock)();
        Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
    }

    /// The inventory of a machine, also while the first listing goes on.
    pub async fn find_machine(&self, hash: &TpmHash) -> Result<Option<Arc<KnownMachine>>, Refusal> {
        self.lookup.find(&self.inventories, &self.inventory_store, hash, None).await
    }

    /// The same of those in one namespace, for a machine that shows a registration of it.
    pub async fn find_machine_in(&self, namespace: &str, hash: &TpmHash) -> Result<Option<Arc<KnownMachine>>, Refusal> {
        self.lookup.find(&self.inventories, &self.inventory_store, hash, Some(namespace)).await
    }

    /// How many installed machines do not have the settings that follow from this endpoint. `None`: not all of them are
    /// known yet.
    pub fn left_behind(&self, endpoint: &Endpoint) -> Option<usize> {
        if !self.registrations.is_complete() || !self.inventories.is_complete() {
            return None;
        }
        let behind = |registration: Arc<Registration>| {
            let newest = registration.operator_settings(endpoint).map(|settings| String::from(settings.revision));
            self.inventories.behind(&registration.namespace, &registration.name, newest.as_deref().unwrap_or_default())
        };
        Some(self.registrations.all().into_iter().map(behind).sum())
    }

    pub fn endpoint(&self) -> Endpoint {
        self.endpoint.borrow().clone()
    }
}
