//! The maps of the index. They always contain the same objects.

use super::count::Counts;
use super::{Key, KnownMachine, known_machine};
use api::MachineInventory;
use kube::{Resource, ResourceExt};
use protocol::TpmHash;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

#[derive(Default)]
pub(super) struct Maps {
    pub(super) by_key: HashMap<Key, Arc<KnownMachine>>,
    /// By the SHA-256 of the TPM hash, which clients of the first release send when they ask for authorities. Oldest
    /// first, never empty.
    pub(super) by_hash_digest: HashMap<[u8; 32], Vec<Arc<KnownMachine>>>,
    /// The machines that name a Secret.
    pub(super) by_secret: HashMap<Key, Vec<Arc<KnownMachine>>>,
    pub(super) counts: Counts,
    /// Counts changes that a roll-out depends on: a machine's release, cluster or Node.
    pub(super) system_changes: u64,
    /// Keys seen since a listing began. Objects that are missing at its end were deleted.
    pub(super) listing: Option<HashSet<Key>>,
    pub(super) complete: bool,
}

impl Maps {
    /// The entry of an object, if it has the same version.
    pub(super) fn recall(&mut self, object: &MachineInventory) -> Option<Arc<KnownMachine>> {
        let key = (object.namespace().unwrap_or_default(), object.name_any());
        let known = self.by_key.get(&key)?;
        let version = known_machine::resource_version(object.meta());
        if known.assumed
            || version == 0
            || version != known.resource_version
            || object.meta().uid.as_ref() != Some(&known.uid)
        {
            return None;
        }
        let known = known.clone();
        if let Some(listing) = &mut self.listing {
            listing.insert(key);
        }
        Some(known)
    }

    /// Enters the expected result of a write, unless the watch has already brought this version or a newer one.
    pub(super) fn assume(&mut self, machine: KnownMachine) -> Arc<KnownMachine> {
        if let Some(known) = self.by_key.get(&machine.key())
            && known.uid == machine.uid
            && machine.resource_version != 0
            && known.resource_version >= machine.resource_version
        {
            return known.clone();
        }
        let machine = Arc::new(KnownMachine { assumed: true, ..machine });
        self.insert(machine.clone());
        machine
    }

    /// Whether the index has seen no version between `before` and `after`.
    pub(super) fn knows_no_more(&self, before: &KnownMachine, after: &KnownMachine) -> bool {
        self.by_key.get(&before.key()).is_some_and(|known| {
            let version = known.resource_version;
            known.uid == before.uid && (version == before.resource_version || version >= after.resource_version)
        })
    }

    /// Enters an object, unless a newer version is known.
    pub(super) fn insert(&mut self, machine: Arc<KnownMachine>) {
        let key = machine.key();
        let version = machine.resource_version;
        let newer =
            |known: &Arc<KnownMachine>| known.uid == machine.uid && version != 0 && version < known.resource_version;
        // An ignored object does not count as listed: the listing may still bring another version.
        if !self.by_key.get(&key).is_some_and(newer) {
            self.replace(key, machine);
        }
    }

    /// Enters a listed object, unless a newer version was entered since the listing began.
    pub(super) fn insert_listed(&mut self, machine: Arc<KnownMachine>) {
        let key = machine.key();
        if self.listing.as_ref().is_some_and(|listing| !listing.contains(&key)) {
            self.replace(key, machine);
        } else {
            self.insert(machine);
        }
    }

    fn replace(&mut self, key: Key, machine: Arc<KnownMachine>) {
        if let Some(listing) = &mut self.listing {
            listing.insert(key.clone());
        }
        if self.by_key.get(&key).is_none_or(|old| old.of_its_system() != machine.of_its_system()) {
            self.system_changes += 1;
        }
        self.remove_entry(&key);
        if let Some(hash) = &machine.hash {
            match self.by_hash_digest.entry(digest_of(hash)) {
                Entry::Vacant(place) => {
                    place.insert(vec![machine.clone()]);
                }
                Entry::Occupied(mut there) => {
                    let machines = there.get_mut();
                    machines.push(machine.clone());
                    machines
                        .sort_by(|a, b| (a.created, &a.namespace, &a.name).cmp(&(b.created, &b.namespace, &b.name)));
                }
            }
        }
        if let Some(secret) = machine.secret() {
            self.by_secret.entry(secret).or_default().push(machine.clone());
        }
        self.counts.add(&machine);
        self.by_key.insert(key, machine);
    }

    pub(super) fn remove(&mut self, key: &Key) {
        self.system_changes += 1;
        if let Some(listing) = &mut self.listing {
            listing.remove(key);
        }
        self.remove_entry(key);
    }

    fn remove_entry(&mut self, key: &Key) {
        let Some(machine) = self.by_key.remove(key) else { return };
        if let Some(hash) = &machine.hash
            && let Entry::Occupied(mut machines) = self.by_hash_digest.entry(digest_of(hash))
        {
            machines.get_mut().retain(|other| !Arc::ptr_eq(other, &machine));
            if machines.get().is_empty() {
                machines.remove();
            }
        }
        if let Some(secret) = machine.secret()
            && let Some(machines) = self.by_secret.get_mut(&secret)
        {
            machines.retain(|other| !Arc::ptr_eq(other, &machine));
            if machines.is_empty() {
                self.by_secret.remove(&secret);
            }
        }
        self.counts.subtract(&machine);
    }

    pub(super) fn finish_listing(&mut self) {
        if let Some(listed) = self.listing.take() {
            let gone: Vec<Key> = self.by_key.keys().filter(|key| !listed.contains(*key)).cloned().collect();
            gone.iter().for_each(|key| self.remove(key));
        }
        self.complete = true;
    }
}

pub(super) fn digest_of(hash: &TpmHash) -> [u8; 32] {
    crate::digest::sha256(hash.as_str().as_bytes())
}
