//! Shared secrets, which identify machines without a TPM, and how the Secret of a shared secret is found.
//!
//! Only Secrets that inventories name are read, by name; nothing is listed or watched. The cache keeps digests, which
//! only find a Secret: a machine is believed because the Secret, read again at that moment, contains the shared secret.
//! So the deletion or change of a Secret takes effect at once. An unknown shared secret causes Secrets to be read
//! again, a bounded number at bounded intervals, however many strangers ask.

mod content;

pub use content::SecretContent;

use crate::inventory::index::{InventoryIndex, Key, KnownMachine};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use protocol::{Refusal, RefusalCode, SharedSecret};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Least time between two rounds of reading.
const ROUND_EVERY: Duration = Duration::from_secs(5);
/// Secrets read in a round, at most.
const ROUND: usize = 256;
/// Concurrent reads.
const AT_ONCE: usize = 8;
/// How long one request may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// Seconds after which a machine should come back while the API server is unavailable.
const RETRY_AFTER: u64 = 15;

/// The cache of Secrets that inventories name.
pub struct SharedSecrets {
    client: Client,
    known: Mutex<Known>,
    /// When the last round of reading ended. Locked during a round.
    round: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Known {
    by_secret: HashMap<Key, (Option<[u8; 32]>, Instant)>,
    by_digest: HashMap<[u8; 32], BTreeSet<Key>>,
    /// Changed Secrets whose inventories must be reconciled.
    changed: HashSet<Key>,
}

impl SharedSecrets {
    pub fn new(client: Client) -> Self {
        Self { client, known: Mutex::default(), round: tokio::sync::Mutex::default() }
    }

    /// The machine that is identified by this shared secret.
    pub async fn find(&self, index: &InventoryIndex, shown: &SharedSecret) -> Result<Arc<KnownMachine>, Refusal> {
        let (machine, held) = self.find_claimed(index, &shown.digest()).await?;
        verify_slices_are_equal(held.expose(), shown.expose()).map_err(|_| unknown())?;
        Ok(machine)
    }

    /// The machine whose shared secret has this digest, and the secret. The peer must still prove that it has it.
    pub async fn find_claimed(
        &self,
        index: &InventoryIndex,
        digest: &[u8],
    ) -> Result<(Arc<KnownMachine>, SharedSecret), Refusal> {
        let digest: [u8; 32] = digest.try_into().map_err(|_| unknown())?;
        let mut machines = Vec::new();
        for secret in self.holders(index, &digest).await? {
            if let SecretContent::Valid(held) = self.read(&secret).await.map_err(unavailable)?
                && held.digest() == digest
            {
                machines.extend(index.with_secret(&secret).into_iter().map(|machine| (machine, held.clone())));
            }
        }
        machines.retain(|(machine, _)| !machine.deleting);
        match machines.len() {
            0 => Err(unknown()),
            1 => Ok(machines.remove(0)),
            _ => Err(Refusal::new(
                RefusalCode::SecretNotUnique,
                "several MachineInventories have this shared secret; give each machine its own",
            )
            .retry_after(RETRY_AFTER)),
        }
    }

    /// The shared secret with this digest.
    pub async fn find_by_digest(
        &self,
        index: &InventoryIndex,
        digest: &[u8; 32],
    ) -> Result<Option<SharedSecret>, Refusal> {
        for secret in self.holders(index, digest).await? {
            if let SecretContent::Valid(held) = self.read(&secret).await.map_err(unavailable)?
                && held.digest() == *digest
            {
                return Ok(Some(held));
            }
        }
        Ok(None)
    }

    /// Reads one Secret and enters it into the cache. The error says why it could not be read.
    pub async fn read(&self, key: &Key) -> Result<SecretContent, String> {
        let api = Api::<Secret>::namespaced(self.client.clone(), &key.0);
        let content = match timeout(DEADLINE, api.get_opt(&key.1)).await {
            Ok(Ok(secret)) => SecretContent::of(secret.as_ref()),
            Ok(Err(kube::Error::Api(status))) if status.is_forbidden() => SecretContent::Forbidden,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(format!("no answer within {} s", DEADLINE.as_secs())),
        };
        self.change(|known| known.enter(key, &content));
        Ok(content)
    }

    /// Other Secrets in the cache with the same shared secret.
    pub fn others(&self, key: &Key, secret: &SharedSecret) -> Vec<Key> {
        let holders = self.change(|known| known.holders(&secret.digest()));
        holders.into_iter().filter(|other| other != key).collect()
    }

    /// Marks a Secret so that the inventories that name it are reconciled.
    pub fn note_changed(&self, key: Key) {
        self.change(|known| known.changed.insert(key));
    }

    /// The Secrets marked since the last call.
    pub fn take_changed(&self) -> Vec<Key> {
        self.change(|known| known.changed.drain().collect())
    }

    /// The Secrets with this digest. If some Secrets were never read, or the digest is unknown, a round of reading is
    /// made first, unless the last one is too recent.
    async fn holders(&self, index: &InventoryIndex, digest: &[u8; 32]) -> Result<Vec<Key>, Refusal> {
        let (holders, read) = self.change(|known| (known.holders(digest), known.by_secret.len()));
        if !holders.is_empty() && read >= index.secret_count() {
            return Ok(holders);
        }
        // A caller that comes during a round waits for it and uses its result.
        let mut last = self.round.lock().await;
        if last.is_none_or(|last| last.elapsed() >= ROUND_EVERY) {
            let result = self.make_round(index).await;
            *last = Some(Instant::now());
            result.map_err(unavailable)?;
        }
        Ok(self.change(|known| known.holders(digest)))
    }

    /// Reads the Secrets that were not read for the longest time, beginning with those never read.
    async fn make_round(&self, index: &InventoryIndex) -> Result<(), String> {
        let named = index.secrets();
        let due = self.change(|known| known.due(named));
        let contents = due.into_iter().map(|key| async move { self.read(&key).await });
        let mut contents = stream::iter(contents).buffer_unordered(AT_ONCE);
        while let Some(content) = contents.next().await {
            content?;
        }
        Ok(())
    }

    fn change<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        change(&mut self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Known {
    fn holders(&self, digest: &[u8; 32]) -> Vec<Key> {
        self.by_digest.get(digest).into_iter().flatten().cloned().collect()
    }

    fn enter(&mut self, key: &Key, content: &SecretContent) {
        let now = match content {
            SecretContent::Valid(secret) => Some(secret.digest()),
            _ => None,
        };
        let before = self.by_secret.insert(key.clone(), (now, Instant::now())).and_then(|(digest, _)| digest);
        if before == now {
            return;
        }
        self.forget_digest(key, before);
        if let Some(digest) = now {
            let holders = self.by_digest.entry(digest).or_default();
            self.changed.extend(holders.iter().cloned());
            holders.insert(key.clone());
        }
        self.changed.insert(key.clone());
    }

    fn forget_digest(&mut self, key: &Key, digest: Option<[u8; 32]>) {
        if let Some(digest) = digest
            && let Some(holders) = self.by_digest.get_mut(&digest)
        {
            holders.remove(key);
            self.changed.extend(holders.iter().cloned());
            if holders.is_empty() {
                self.by_digest.remove(&digest);
            }
        }
    }

    /// The named Secrets to read now. Secrets that are no longer named are removed from the cache.
    fn due(&mut self, named: Vec<Key>) -> Vec<Key> {
        let still: HashSet<&Key> = named.iter().collect();
        let gone: Vec<Key> = self.by_secret.keys().filter(|key| !still.contains(key)).cloned().collect();
        for key in gone {
            let digest = self.by_secret.remove(&key).and_then(|(digest, _)| digest);
            self.forget_digest(&key, digest);
        }
        let mut due = named;
        due.sort_by_cached_key(|key| self.by_secret.get(key).map(|(_, read)| *read));
        due.truncate(ROUND);
        due
    }
}

fn unknown() -> Refusal {
    let message = "no MachineInventory names a Secret with this shared secret (spec.machineTokenSecretName)";
    Refusal::new(RefusalCode::UnknownSecret, message).retry_after(RETRY_AFTER)
}

fn unavailable(error: String) -> Refusal {
    tracing::warn!(error, "reading a machine's Secret");
    Refusal::new(RefusalCode::Unavailable, "the operator cannot read the machines' Secrets at the moment")
        .retry_after(RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Context;
    use crate::fixtures::{self, FakeApi};
    use api::SHARED_SECRET_TYPE;
    use serde_json::json;

    fn enter(context: &Context, name: &str, secret: &str) {
        context.inventory.index.enter(fixtures::inventory(name, json!({"machineTokenSecretName": secret})));
    }

    async fn name(context: &Context, secret: &str) -> Result<String, RefusalCode> {
        let found = context.secrets.find(&context.inventory.index, &SharedSecret::new(secret)).await;
        found.map(|machine| machine.name.clone()).map_err(|refusal| refusal.code)
    }

    #[tokio::test(start_paused = true)]
    async fn a_secret_identifies_a_machine_only_while_it_exists_unchanged() {
        let api = FakeApi::default();
        let context = fixtures::context(&api);
        enter(&context, "a", "secret-a");
        assert_eq!(name(&context, "one").await, Err(RefusalCode::UnknownSecret));
        api.put_secret("secret-a", SHARED_SECRET_TYPE, "one");
        tokio::time::advance(ROUND_EVERY).await;
        assert_eq!(name(&context, "one").await.as_deref(), Ok("a"));
        api.put_secret("secret-a", SHARED_SECRET_TYPE, "two");
        assert_eq!(name(&context, "one").await, Err(RefusalCode::UnknownSecret));
        assert_eq!(name(&context, "two").await.as_deref(), Ok("a"));
        api.delete_all();
        assert_eq!(name(&context, "two").await, Err(RefusalCode::UnknownSecret));
    }

    #[tokio::test(start_paused = true)]
    async fn unknown_shared_secrets_cause_a_bounded_number_of_reads() {
        let api = FakeApi::default();
        let context = fixtures::context(&api);
        (0..ROUND + 9).for_each(|n| enter(&context, &format!("m{n}"), &format!("s{n}")));
        for _ in 0..50 {
            assert_eq!(name(&context, "guess").await, Err(RefusalCode::UnknownSecret));
        }
        let requests = api.take_requests();
        assert_eq!(requests.len(), ROUND);
        let was_read = |n: &usize| {
            let key = ("n".to_owned(), format!("s{n}"));
            context.secrets.change(|known| known.by_secret.contains_key(&key))
        };
        let unread = (0..ROUND + 9).find(|n| !was_read(n)).unwrap();
        tokio::time::advance(ROUND_EVERY).await;
        api.put_secret(&format!("s{unread}"), SHARED_SECRET_TYPE, "known");
        assert_eq!(name(&context, "known").await, Ok(format!("m{unread}")), "those never read come first");
    }

    #[tokio::test(start_paused = true)]
    async fn two_machines_with_the_same_secret_are_both_refused() {
        let api = FakeApi::default();
        let context = fixtures::context(&api);
        enter(&context, "a", "secret-a");
        enter(&context, "b", "secret-b");
        api.put_secret("secret-a", SHARED_SECRET_TYPE, "same");
        api.put_secret("secret-b", SHARED_SECRET_TYPE, "same");
        assert_eq!(name(&context, "same").await, Err(RefusalCode::SecretNotUnique));
        let mut changed = context.secrets.take_changed();
        changed.sort();
        assert_eq!(changed, [("n".into(), "secret-a".into()), ("n".into(), "secret-b".into())]);
        api.put_secret("secret-b", SHARED_SECRET_TYPE, "other");
        assert_eq!(name(&context, "same").await.as_deref(), Ok("a"));
    }

    #[tokio::test]
    async fn a_secret_of_another_type_identifies_no_machine() {
        let api = FakeApi::default();
        let context = fixtures::context(&api);
        enter(&context, "a", "secret-a");
        api.put_secret("secret-a", "Opaque", "one");
        assert_eq!(name(&context, "one").await, Err(RefusalCode::UnknownSecret));
        let key = ("n".to_owned(), "secret-a".to_owned());
        assert!(matches!(context.secrets.read(&key).await, Ok(SecretContent::Malformed(_))));
        assert_eq!(name(&context, "").await, Err(RefusalCode::UnknownSecret));
    }

    #[tokio::test]
    async fn without_the_api_server_a_machine_must_come_back_later() {
        let api = FakeApi::default();
        let context = fixtures::context(&api);
        enter(&context, "a", "secret-a");
        api.set_away(true);
        assert_eq!(name(&context, "one").await, Err(RefusalCode::Unavailable));
    }
}
