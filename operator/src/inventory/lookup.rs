//! Finds the inventory of a machine, also during the first listing. That takes seconds with a large fleet, and new
//! machines need not wait for its end.

use crate::inventory::index::{InventoryIndex, KnownMachine, Owner};
use crate::inventory::store::InventoryStore;
use protocol::{Refusal, RefusalCode, TpmHash};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Concurrent lookups. The API server reads all inventories for each one, so more of them would delay the listing.
const AT_ONCE: usize = 4;
/// Seconds after which a machine should come back while the operator is starting.
const RETRY_AFTER: u64 = 2;

/// Looks machines up, a few at a time.
pub struct Lookup(Semaphore);

impl Default for Lookup {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }
}

impl Lookup {
    /// The inventory that counts for a machine, among all inventories or among those of one namespace.
    pub async fn find(
        &self,
        index: &InventoryIndex,
        client: &InventoryStore,
        hash: &TpmHash,
        namespace: Option<&str>,
    ) -> Result<Option<Arc<KnownMachine>>, Refusal> {
        let mut owner = index.owner(hash, namespace);
        // An inventory that was not listed yet may count, unless the machine has attested to this one.
        let certain = |machine: &KnownMachine| namespace.is_some() || machine.attested_at().is_some();
        let is_certain = matches!(&owner, Owner::Inventory(machine) if certain(machine));
        if !is_certain && !index.is_complete() {
            let _permit = self.0.try_acquire().map_err(|_| starting())?;
            for object in client.with_hash(hash).await? {
                index.enter(object);
            }
            owner = index.owner(hash, namespace);
        }
        match owner {
            Owner::Nobody => Ok(None),
            Owner::Inventory(machine) => Ok(Some(machine)),
            Owner::Disputed => Err(disputed()),
        }
    }
}

/// The refusal of a machine for which several inventories could count.
fn disputed() -> Refusal {
    let message = "several inventories that were created by hand have this machine's TPM hash; register the machine, \
                   or delete all but one of them";
    Refusal::new(RefusalCode::DuplicateIdentity, message)
}

/// The refusal of a machine that must wait until the listing is complete.
pub fn starting() -> Refusal {
    Refusal::new(RefusalCode::Unavailable, "the operator is reading the inventory").retry_after(RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Context;
    use crate::fixtures::{self, FakeApi};
    use serde_json::json;

    fn starting_with(api: &FakeApi) -> Context {
        let mut context = fixtures::context(api);
        context.inventory.index = InventoryIndex::default();
        context
    }

    #[tokio::test]
    async fn machines_are_looked_up_only_until_the_listing_is_complete() {
        let (api, hash) = (FakeApi::default(), TpmHash::of_public_key(b"a"));
        let object = fixtures::inventory("a", json!({"tpmHash": hash.as_str()}));
        api.put(
            "/apis/rancheros.cattle.io/v1/namespaces/n/machineinventories/a",
            serde_json::to_value(object).unwrap(),
        );
        let context = starting_with(&api);
        let found = context.inventory.find(&hash).await.unwrap();
        assert_eq!(found.map(|machine| machine.name.clone()), Some("a".to_owned()));
        let stranger = TpmHash::of_public_key(b"b");
        assert_eq!(context.inventory.find(&stranger).await.unwrap(), None);
        assert!(!api.take_requests().is_empty());

        let context = fixtures::context(&api);
        assert_eq!(context.inventory.find(&hash).await.unwrap(), None);
        assert_eq!(api.take_requests(), [] as [&str; 0]);
    }

    #[tokio::test]
    async fn an_inventory_created_by_hand_counts_if_there_is_no_other() {
        let (api, hash) = (FakeApi::default(), TpmHash::of_public_key(b"a"));
        let of = |namespace: &str| {
            let mut object = fixtures::inventory("a", json!({"tpmHash": hash.as_str()}));
            object.metadata.namespace = Some(namespace.to_owned());
            object
        };
        api.put(
            "/apis/rancheros.cattle.io/v1/namespaces/m/machineinventories/a",
            serde_json::to_value(of("m")).unwrap(),
        );
        let context = starting_with(&api);
        context.inventory.index.enter(of("n"));
        let here = context.inventory.find_in("n", &hash).await.unwrap().unwrap();
        assert_eq!((here.namespace.as_str(), api.take_requests().len()), ("n", 0));
        assert_eq!(context.inventory.find(&hash).await.unwrap_err().code, RefusalCode::DuplicateIdentity);
        assert!(!api.take_requests().is_empty());
    }

    #[tokio::test]
    async fn one_lookup_too_many_is_refused_with_a_time_to_come_back() {
        let context = starting_with(&FakeApi::default());
        let _places = context.inventory.lookup.0.try_acquire_many(AT_ONCE as u32).unwrap();
        let refusal = context.inventory.find(&TpmHash::of_public_key(b"a")).await.unwrap_err();
        assert_eq!((refusal.code, refusal.retry_after), (RefusalCode::Unavailable, Some(RETRY_AFTER)));
    }
}
