//! Every MachineInventory as the server needs it, found in constant time by machine or by name.
//!
//! Fed by one watch. What is large and rarely needed (SMBIOS, hardware) is kept as a digest, so that a fleet's index
//! is small. What the server itself writes is entered at once; the watch's later word of it changes nothing.

use crate::crd::{
    MachineConfig, MachineInventory, MachineInventoryStatus, Phase, REGISTERED_DIGEST_ANNOTATION,
    REGISTRATION_ANNOTATION,
};
use crate::digest::Digest;
use kube::ResourceExt;
use kube::runtime::watcher;
use protocol::TpmHash;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, RwLock};

/// Namespace and name.
pub type Key = (String, String);

/// A MachineInventory without its large parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KnownMachine {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub generation: Option<i64>,
    pub hash: Option<TpmHash>,
    /// Whether an identity is given that is no TPM hash.
    pub malformed_identity: bool,
    /// Name of the MachineRegistration through which it came, if it came through one.
    pub registration: Option<String>,
    /// See [`REGISTERED_DIGEST_ANNOTATION`].
    pub registered_digest: Option<String>,
    pub approved: Option<bool>,
    /// Absent for a machine that is to join nothing.
    pub assignment: Option<Box<Assignment>>,
    /// Somebody deleted the object, and it waits for its finalizers.
    pub deleting: bool,
    pub finalizers: Vec<String>,
    /// The status without `hardware`.
    pub status: MachineInventoryStatus,
    pub hardware: Option<Digest>,
    /// When the object was made, in seconds since 1970: of several inventories of one machine the first counts.
    pub created: i64,
    /// 0 where it is not a number.
    pub resource_version: u64,
}

/// How a machine is to join its cluster, and by what it may be told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Assignment {
    pub cluster: Option<String>,
    /// Name of the Secret with the shared secret, in the machine's namespace.
    pub secret: Option<String>,
    pub config: Option<MachineConfig>,
}

impl KnownMachine {
    pub fn of(mut object: MachineInventory) -> Self {
        let mut status = object.status.take().unwrap_or_default();
        let hardware = status.hardware.take().map(|hardware| Digest::of(&hardware));
        let annotation = |key: &str| object.annotations().get(key).cloned();
        Self {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            uid: object.uid().unwrap_or_default(),
            generation: object.metadata.generation,
            hash: object.spec.tpm_hash(),
            malformed_identity: object.spec.identity().is_some() && object.spec.tpm_hash().is_none(),
            registration: annotation(REGISTRATION_ANNOTATION),
            registered_digest: annotation(REGISTERED_DIGEST_ANNOTATION),
            approved: object.spec.approved,
            deleting: object.metadata.deletion_timestamp.is_some(),
            finalizers: object.metadata.finalizers.take().unwrap_or_default(),
            assignment: assignment(&mut object),
            status,
            hardware,
            created: object.creation_timestamp().map_or(i64::MAX, |time| time.0.as_second()),
            // Opaque in name, but compared as a number by Kubernetes' own clients; 0 lets everything pass.
            resource_version: object.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0),
        }
    }

    pub fn key(&self) -> Key {
        (self.namespace.clone(), self.name.clone())
    }

    /// The cluster that the machine is assigned to.
    pub fn cluster(&self) -> Option<&str> {
        self.assignment.as_ref()?.cluster.as_deref()
    }

    /// What the inventory says of the machine as a node.
    pub fn config(&self) -> Option<&MachineConfig> {
        self.assignment.as_ref()?.config.as_ref()
    }

    /// Namespace and name of the Secret with which the machine may identify itself.
    pub fn secret(&self) -> Option<Key> {
        Some((self.namespace.clone(), self.assignment.as_ref()?.secret.clone()?))
    }

    /// For a write that must fail if the object was written since.
    pub fn resource_version(&self) -> String {
        self.resource_version.to_string()
    }

    /// What an upgrade goes by.
    fn of_its_system(&self) -> impl PartialEq {
        (&self.assignment, &self.status.os)
    }

    /// How long ago the object was made, in seconds.
    pub fn age(&self, now: i64) -> i64 {
        now.saturating_sub(self.created)
    }
}

fn assignment(object: &mut MachineInventory) -> Option<Box<Assignment>> {
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let assignment = Assignment {
        cluster: given(object.spec.cluster_name.take()),
        secret: given(object.spec.machine_token_secret_name.take()),
        config: object.spec.config.take().filter(|config| *config != MachineConfig::default()),
    };
    (assignment != Assignment::default()).then(|| Box::new(assignment))
}

/// A machine on its way into the inventory. Counts like one that is in, until dropped.
pub struct Seat<'a> {
    index: &'a InventoryIndex,
    key: Key,
    /// Machines that were in or on their way before this one.
    pub taken_before: usize,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.index.write(|maps| {
            if let Some(seats) = maps.seats.get_mut(&self.key) {
                *seats -= 1;
                if *seats == 0 {
                    maps.seats.remove(&self.key);
                }
            }
        });
    }
}

#[derive(Default)]
pub struct InventoryIndex {
    maps: RwLock<Maps>,
}

#[derive(Default)]
struct Maps {
    by_key: HashMap<Key, Arc<KnownMachine>>,
    by_hash: HashMap<TpmHash, Vec<Arc<KnownMachine>>>,
    /// By the SHA-256 of the TPM hash, the first of them: how clients of the first release ask for authorities.
    by_hash_digest: HashMap<[u8; 32], Arc<KnownMachine>>,
    /// The machines that name a Secret.
    by_secret: HashMap<Key, Vec<Arc<KnownMachine>>>,
    /// How many machines came through a registration.
    by_registration: HashMap<Key, usize>,
    /// How many are on their way through one.
    seats: HashMap<Key, usize>,
    /// Counts what may concern an upgrade: a machine's release, its cluster, its Node.
    system_changes: u64,
    /// As of the last [`InventoryIndex::take_changed`].
    published: Option<HashMap<Key, usize>>,
    changed: HashSet<Key>,
    /// Keys seen since a watch began anew; what is missing at its end was deleted meanwhile.
    listing: Option<HashSet<Key>>,
    complete: bool,
}

impl InventoryIndex {
    /// Takes in what the watch says.
    pub fn apply(&self, event: watcher::Event<MachineInventory>) {
        match event {
            watcher::Event::Init => self.write(|maps| maps.listing = Some(HashSet::new())),
            watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
                self.enter(object);
            }
            watcher::Event::Delete(object) => {
                self.forget(&object.namespace().unwrap_or_default(), &object.name_any());
            }
            watcher::Event::InitDone => self.write(Maps::finish_listing),
        }
    }

    /// Enters an object, whether the watch brought it or an own write returned it. An older version than the one
    /// known is ignored.
    pub fn enter(&self, object: MachineInventory) -> Arc<KnownMachine> {
        let machine = Arc::new(KnownMachine::of(object));
        self.write(|maps| maps.insert(machine.clone()));
        machine
    }

    /// Whether the first listing is through: before that, absence means nothing.
    pub fn is_complete(&self) -> bool {
        self.read(|maps| maps.complete)
    }

    /// The inventory of a machine; of several, the one made first.
    pub fn find(&self, hash: &TpmHash) -> Option<Arc<KnownMachine>> {
        self.read(|maps| maps.by_hash.get(hash)?.first().cloned())
    }

    /// The inventory of a machine by the SHA-256 of its TPM hash.
    pub fn find_by_digest(&self, digest: &[u8; 32]) -> Option<Arc<KnownMachine>> {
        self.read(|maps| maps.by_hash_digest.get(digest).cloned())
    }

    /// The machines that may identify themselves with what is in a Secret.
    pub fn with_secret(&self, secret: &Key) -> Vec<Arc<KnownMachine>> {
        self.read(|maps| maps.by_secret.get(secret).cloned().unwrap_or_default())
    }

    /// Every Secret that a machine may identify itself with.
    pub fn secrets(&self) -> Vec<Key> {
        self.read(|maps| maps.by_secret.keys().cloned().collect())
    }

    pub fn secret_count(&self) -> usize {
        self.read(|maps| maps.by_secret.len())
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<KnownMachine>> {
        self.read(|maps| maps.by_key.get(&(namespace.to_owned(), name.to_owned())).cloned())
    }

    /// How many machines are in each phase of their life.
    pub fn phases(&self) -> HashMap<Option<Phase>, usize> {
        self.read(|maps| {
            let mut phases = HashMap::new();
            for machine in maps.by_key.values() {
                *phases.entry(machine.status.phase).or_default() += 1;
            }
            phases
        })
    }

    /// Drops an object that a write found gone, before the watch says so.
    pub fn forget(&self, namespace: &str, name: &str) {
        self.write(|maps| maps.remove(&(namespace.to_owned(), name.to_owned())));
    }

    /// Counts a machine in before it is: of many that come at once, no more are admitted than one after the other.
    pub fn take_seat(&self, namespace: &str, registration: &str) -> Seat<'_> {
        let key = (namespace.to_owned(), registration.to_owned());
        let taken_before = self.write(|maps| {
            let seats = maps.seats.entry(key.clone()).or_default();
            *seats += 1;
            *seats - 1 + maps.by_registration.get(&key).copied().unwrap_or(0)
        });
        Seat { index: self, key, taken_before }
    }

    /// The registrations whose count changed since this was last asked; from now on [`InventoryIndex::published`]
    /// gives the new counts. None before the first listing is through.
    pub fn take_changed(&self) -> Vec<Key> {
        self.write(|maps| {
            if !maps.complete {
                return Vec::new();
            }
            let changed: Vec<Key> = maps.changed.drain().collect();
            let published = maps.published.get_or_insert_default();
            for key in &changed {
                match maps.by_registration.get(key) {
                    Some(count) => published.insert(key.clone(), *count),
                    None => published.remove(key),
                };
            }
            changed
        })
    }

    /// A count that moves only now and then, for a status: one that followed each machine would be written for each.
    /// `None`: not counted yet.
    pub fn published(&self, namespace: &str, registration: &str) -> Option<usize> {
        let key = (namespace.to_owned(), registration.to_owned());
        self.read(|maps| Some(maps.published.as_ref()?.get(&key).copied().unwrap_or(0)))
    }

    /// A number that is another one when a machine's system, cluster or Node is.
    pub fn system_changes(&self) -> u64 {
        self.read(|maps| maps.system_changes)
    }

    /// The installed machines of a namespace, in no order.
    pub fn installed(&self, namespace: &str) -> Vec<Arc<KnownMachine>> {
        self.read(|maps| {
            let here = |machine: &&Arc<KnownMachine>| machine.namespace == namespace && machine.status.os.is_some();
            maps.by_key.values().filter(here).cloned().collect()
        })
    }

    fn read<T>(&self, question: impl FnOnce(&Maps) -> T) -> T {
        question(&self.maps.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
    fn write<T>(&self, change: impl FnOnce(&mut Maps) -> T) -> T {
        change(&mut self.maps.write().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Maps {
    fn insert(&mut self, machine: Arc<KnownMachine>) {
        let key = machine.key();
        if let Some(listing) = &mut self.listing {
            listing.insert(key.clone());
        }
        if let Some(old) = self.by_key.get(&key) {
            let same_object = old.uid == machine.uid;
            if same_object && machine.resource_version != 0 && machine.resource_version < old.resource_version {
                return;
            }
            if old.of_its_system() != machine.of_its_system() {
                self.system_changes += 1;
            }
            self.remove_entry(&key);
        } else {
            self.system_changes += 1;
        }
        if let Some(hash) = &machine.hash {
            let machines = self.by_hash.entry(hash.clone()).or_default();
            machines.push(machine.clone());
            machines.sort_by(|a, b| (a.created, &a.namespace, &a.name).cmp(&(b.created, &b.namespace, &b.name)));
            self.by_hash_digest.insert(digest_of(hash), machines[0].clone());
        }
        if let Some(secret) = machine.secret() {
            self.by_secret.entry(secret).or_default().push(machine.clone());
        }
        if let Some(registration) = &machine.registration {
            let key = (machine.namespace.clone(), registration.clone());
            *self.by_registration.entry(key.clone()).or_default() += 1;
            self.changed.insert(key);
        }
        self.by_key.insert(key, machine);
    }

    fn remove(&mut self, key: &Key) {
        self.system_changes += 1;
        if let Some(listing) = &mut self.listing {
            listing.remove(key);
        }
        self.remove_entry(key);
    }

    fn remove_entry(&mut self, key: &Key) {
        let Some(machine) = self.by_key.remove(key) else { return };
        if let Some(hash) = &machine.hash
            && let Some(machines) = self.by_hash.get_mut(hash)
        {
            machines.retain(|other| !Arc::ptr_eq(other, &machine));
            match machines.first() {
                Some(first) => self.by_hash_digest.insert(digest_of(hash), first.clone()),
                None => {
                    self.by_hash.remove(hash);
                    self.by_hash_digest.remove(&digest_of(hash))
                }
            };
        }
        if let Some(secret) = machine.secret()
            && let Some(machines) = self.by_secret.get_mut(&secret)
        {
            machines.retain(|other| !Arc::ptr_eq(other, &machine));
            if machines.is_empty() {
                self.by_secret.remove(&secret);
            }
        }
        if let Some(registration) = &machine.registration {
            let key = (machine.namespace.clone(), registration.clone());
            if let Some(count) = self.by_registration.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.by_registration.remove(&key);
                }
                self.changed.insert(key);
            }
        }
    }

    fn finish_listing(&mut self) {
        if let Some(listed) = self.listing.take() {
            let gone: Vec<Key> = self.by_key.keys().filter(|key| !listed.contains(*key)).cloned().collect();
            gone.iter().for_each(|key| self.remove(key));
        }
        self.complete = true;
    }
}

fn digest_of(hash: &TpmHash) -> [u8; 32] {
    crate::digest::sha256(hash.as_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::OsStatus;
    use watcher::Event;

    fn hash(n: u8) -> TpmHash {
        TpmHash::of_public_key(&[n])
    }
    fn object(name: &str, machine: u8, version: u64) -> MachineInventory {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "rancheros.cattle.io/v1", "kind": "MachineInventory",
            "metadata": {
                "namespace": "n", "name": name, "uid": name, "resourceVersion": version.to_string(),
                "annotations": {REGISTRATION_ANNOTATION: "door"},
            },
            "spec": {"tpm": hash(machine).as_str()},
        }))
        .unwrap()
    }

    fn taken(index: &InventoryIndex, registration: &str) -> usize {
        index.take_seat("n", registration).taken_before
    }

    #[test]
    fn machines_on_their_way_count_until_they_turn_back() {
        let index = InventoryIndex::default();
        let (first, second) = (index.take_seat("n", "door"), index.take_seat("n", "door"));
        assert_eq!((first.taken_before, second.taken_before), (0, 1));
        drop((first, second));
        assert_eq!(taken(&index, "door"), 0);
    }

    #[test]
    fn a_machine_is_found_by_hash_until_it_is_deleted() {
        let index = InventoryIndex::default();
        index.apply(Event::Apply(object("a", 1, 1)));
        assert_eq!(index.find(&hash(1)).unwrap().name, "a");
        assert_eq!((taken(&index, "door"), taken(&index, "other")), (1, 0));
        assert_eq!((index.take_changed(), index.published("n", "door")), (vec![], None));
        index.apply(Event::Init);
        index.apply(Event::InitApply(object("a", 1, 1)));
        index.apply(Event::InitDone);
        assert_eq!(index.take_changed(), [("n".to_owned(), "door".to_owned())]);
        assert_eq!((index.published("n", "door"), index.take_changed()), (Some(1), vec![]));
        index.apply(Event::Delete(object("a", 1, 2)));
        assert_eq!((index.find(&hash(1)), taken(&index, "door")), (None, 0));
    }

    #[test]
    fn old_news_do_not_undo_an_own_write() {
        let index = InventoryIndex::default();
        let mut own = object("a", 1, 9);
        own.spec.approved = Some(true);
        index.enter(own);
        index.apply(Event::Apply(object("a", 1, 8)));
        assert_eq!(index.get("n", "a").unwrap().approved, Some(true));
        index.apply(Event::Apply(object("a", 1, 10)));
        assert_eq!(index.get("n", "a").unwrap().approved, None);
        assert_eq!(taken(&index, "door"), 1);
    }

    #[test]
    fn what_was_deleted_while_the_watch_was_broken_is_gone_after_the_next_listing() {
        let index = InventoryIndex::default();
        for name in ["a", "b"] {
            index.apply(Event::Apply(object(name, name.as_bytes()[0], 1)));
        }
        assert!(!index.is_complete());
        index.apply(Event::Init);
        index.apply(Event::InitApply(object("a", b'a', 1)));
        index.enter(object("c", b'c', 5));
        index.apply(Event::InitDone);
        assert!(index.is_complete());
        assert!(index.get("n", "a").is_some() && index.get("n", "c").is_some());
        assert_eq!(index.get("n", "b"), None);
    }

    #[test]
    fn a_change_of_the_system_is_told_from_a_sign_of_life() {
        let index = InventoryIndex::default();
        index.enter(object("a", 1, 1));
        let seen = |version: u64, os: Option<&str>| {
            let mut object = object("a", 1, version);
            object.status = Some(MachineInventoryStatus {
                os: os.map(|version| OsStatus { version: Some(version.into()), ..OsStatus::default() }),
                last_seen: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                    k8s_openapi::jiff::Timestamp::from_second(version.try_into().unwrap()).unwrap(),
                )),
                ..MachineInventoryStatus::default()
            });
            index.enter(object);
            index.system_changes()
        };
        let registered = seen(2, None);
        assert_eq!((seen(3, None), index.installed("n").len()), (registered, 0));
        let installed = seen(4, Some("1"));
        assert!(installed > registered && index.installed("n").len() == 1 && index.installed("m").is_empty());
        assert_eq!(seen(5, Some("1")), installed);
        assert!(seen(6, Some("2")) > installed);
    }

    #[test]
    fn of_two_inventories_for_one_machine_the_first_counts() {
        let index = InventoryIndex::default();
        index.enter(object("b", 1, 1));
        index.enter(object("a", 1, 2));
        assert_eq!(index.find(&hash(1)).unwrap().name, "a");
        assert_eq!(index.find_by_digest(&digest_of(&hash(1))).unwrap().name, "a");
        index.apply(Event::Delete(object("a", 1, 3)));
        assert_eq!(index.find(&hash(1)).unwrap().name, "b");
        assert_eq!(index.find_by_digest(&digest_of(&hash(1))).unwrap().name, "b");
        index.apply(Event::Delete(object("b", 1, 3)));
        assert_eq!(index.find_by_digest(&digest_of(&hash(1))), None);
    }

    #[test]
    fn a_secret_leads_to_the_machines_that_name_it() {
        let index = InventoryIndex::default();
        let secret = ("n".to_owned(), "s".to_owned());
        let with = |name: &str, version| {
            let mut object = object(name, name.as_bytes()[0], version);
            object.spec.machine_token_secret_name = Some("s".into());
            object
        };
        index.enter(with("a", 1));
        index.enter(with("b", 1));
        assert_eq!((index.with_secret(&secret).len(), index.secrets()), (2, vec![secret.clone()]));
        index.enter(object("a", b'a', 2));
        index.apply(Event::Delete(with("b", 2)));
        assert_eq!((index.with_secret(&secret).len(), index.secret_count()), (0, 0));
    }
}
