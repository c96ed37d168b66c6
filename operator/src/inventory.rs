//! The machines: an index over their inventories, the requests that read and write them, and the life of a machine.

pub mod erase_request;
pub mod index;
pub mod installed_config;
pub mod life;
pub mod limiter;
pub mod lookup;
pub mod seen;
pub mod store;
pub mod upgrade;
pub mod writer;

use crate::kube::clock::Clock;
use crate::kube::events::Events;
use index::{InventoryIndex, KnownMachine};
use limiter::WriteLimiter;
use lookup::Lookup;
use prometheus_client::metrics::counter::Counter;
use protocol::{Refusal, TpmHash};
use std::sync::Arc;
use store::InventoryStore;

/// Everything that finds, reads and writes inventories.
pub struct Inventory {
    pub index: InventoryIndex,
    pub store: InventoryStore,
    pub lookup: Lookup,
    /// How fast each registration may have inventories written.
    pub limiter: WriteLimiter,
    pub events: Events,
    /// Counts the requests that change an inventory.
    pub writes: Counter,
    pub clock: Clock,
}

impl Inventory {
    /// The inventory of a machine, also while the first listing goes on.
    pub async fn find(&self, hash: &TpmHash) -> Result<Option<Arc<KnownMachine>>, Refusal> {
        self.lookup.find(&self.index, &self.store, hash, None).await
    }

    /// The inventory of a machine in one namespace, for a machine that shows a registration of that namespace.
    pub async fn find_in(&self, namespace: &str, hash: &TpmHash) -> Result<Option<Arc<KnownMachine>>, Refusal> {
        self.lookup.find(&self.index, &self.store, hash, Some(namespace)).await
    }
}
