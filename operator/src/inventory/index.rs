//! All MachineInventories, found in constant time by machine or by name.
//!
//! One watch fills it. Large parts that are rarely needed (SMBIOS, hardware) are kept as digests, so that the index of
//! a large fleet stays small. The operator's own writes are entered at once; the watch's event replaces them later.

mod count;
mod known_machine;
mod maps;
mod owner;

pub use count::Reservation;
pub use known_machine::{Assignment, KnownMachine};
pub use owner::Owner;

use api::{MachineInventory, MachineInventoryStatus, Phase};
use kube::api::ObjectMeta;
use maps::{Maps, digest_of};
use protocol::TpmHash;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, RwLock};

/// Namespace and name.
pub type Key = (String, String);

#[derive(Default)]
pub struct InventoryIndex {
    maps: RwLock<Maps>,
}

impl InventoryIndex {
    /// The watch begins to list all objects. Those that are not entered before [`InventoryIndex::finish_listing`] are
    /// removed.
    pub fn begin_listing(&self) {
        self.write(|maps| maps.listing = Some(HashSet::new()));
    }

    pub fn finish_listing(&self) {
        self.write(Maps::finish_listing);
    }

    /// Enters an object from the watch or from the answer to a write. A version older than the known one is ignored.
    pub fn enter(&self, object: MachineInventory) -> Arc<KnownMachine> {
        self.enter_by(object, Maps::insert)
    }

    /// Enters an object from a listing. It replaces what was known before the listing began, whatever its version: a
    /// restored etcd has older versions and counts on from them.
    pub fn enter_listed(&self, object: MachineInventory) -> Arc<KnownMachine> {
        self.enter_by(object, Maps::insert_listed)
    }

    /// The expensive part is done without holding the lock.
    fn enter_by(&self, object: MachineInventory, insert: fn(&mut Maps, Arc<KnownMachine>)) -> Arc<KnownMachine> {
        // The watch repeats what was just written.
        if let Some(known) = self.write(|maps| maps.recall(&object)) {
            return known;
        }
        let machine = Arc::new(KnownMachine::of(object));
        self.write(|maps| insert(maps, machine.clone()));
        machine
    }

    /// Enters an object that was just created: the object that was sent, with the metadata from the answer. The watch's
    /// event for the same version replaces it.
    pub fn assume_made(&self, object: MachineInventory) -> Arc<KnownMachine> {
        let machine = KnownMachine::of(object);
        self.write(|maps| maps.assume(machine))
    }

    /// Enters an object whose status was just written over the status of `before`. `None` and no entry if another
    /// client changed or deleted the object in the meantime. The object must then be read.
    pub fn assume_written(
        &self,
        before: &KnownMachine,
        status: MachineInventoryStatus,
        written: &ObjectMeta,
    ) -> Option<Arc<KnownMachine>> {
        let after = before.with_status(status, written)?;
        self.write(|maps| maps.knows_no_more(before, &after).then(|| maps.assume(after)))
    }

    /// Whether the first listing is complete. Before that, an absent entry means nothing.
    pub fn is_complete(&self) -> bool {
        self.read(|maps| maps.complete)
    }

    /// The inventory that counts for a machine, among all inventories or among those of one namespace.
    pub fn owner(&self, hash: &TpmHash, namespace: Option<&str>) -> Owner {
        let here = |machine: &&Arc<KnownMachine>| namespace.is_none_or(|namespace| machine.namespace == namespace);
        self.read(|maps| match maps.by_hash_digest.get(&digest_of(hash)) {
            Some(machines) => Owner::of(machines.iter().filter(here)),
            None => Owner::Nobody,
        })
    }

    /// All inventories of a machine, oldest first.
    pub fn of_one_machine(&self, hash: &TpmHash) -> Vec<Arc<KnownMachine>> {
        self.read(|maps| maps.by_hash_digest.get(&digest_of(hash)).cloned().unwrap_or_default())
    }

    /// All inventories of machines that have more than one.
    pub fn duplicates(&self) -> Vec<Arc<KnownMachine>> {
        let several = |machines: &&Vec<_>| machines.len() > 1;
        self.read(|maps| maps.by_hash_digest.values().filter(several).flatten().cloned().collect())
    }

    /// An inventory of a machine, by the SHA-256 of its TPM hash. If there are several, any of them.
    pub fn find_by_digest(&self, digest: &[u8; 32]) -> Option<Arc<KnownMachine>> {
        self.read(|maps| maps.by_hash_digest.get(digest)?.first().cloned())
    }

    /// The machines that may identify themselves with a Secret.
    pub fn with_secret(&self, secret: &Key) -> Vec<Arc<KnownMachine>> {
        self.read(|maps| maps.by_secret.get(secret).cloned().unwrap_or_default())
    }

    /// All Secrets that machines may identify themselves with.
    pub fn secrets(&self) -> Vec<Key> {
        self.read(|maps| maps.by_secret.keys().cloned().collect())
    }

    pub fn secret_count(&self) -> usize {
        self.read(|maps| maps.by_secret.len())
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<KnownMachine>> {
        self.read(|maps| maps.by_key.get(&(namespace.to_owned(), name.to_owned())).cloned())
    }

    /// The number of machines in each phase.
    pub fn phases(&self) -> HashMap<Option<Phase>, usize> {
        self.read(|maps| {
            let mut phases = HashMap::new();
            for machine in maps.by_key.values() {
                *phases.entry(machine.status.phase).or_default() += 1;
            }
            phases
        })
    }

    /// The machines without a phase, in no order.
    pub fn without_phase(&self) -> Vec<Arc<KnownMachine>> {
        let none = |machine: &&Arc<KnownMachine>| machine.status.phase.is_none();
        self.read(|maps| maps.by_key.values().filter(none).cloned().collect())
    }

    /// Removes an object that the watch or a write found deleted. A newer object of the same name stays.
    pub fn forget(&self, gone: &KnownMachine) {
        let key = gone.key();
        self.write(|maps| {
            if maps.by_key.get(&key).is_some_and(|known| known.uid == gone.uid) {
                maps.remove(&key);
            }
        });
    }

    /// A number that changes whenever the system, cluster or Node of a machine changes.
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

#[cfg(test)]
mod tests {
    use super::*;
    use api::{OsStatus, REGISTRATION_ANNOTATION};

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

    /// The inventory of a machine that has one.
    fn of(index: &InventoryIndex, machine: u8) -> Option<Arc<KnownMachine>> {
        index.of_one_machine(&hash(machine)).pop()
    }
    fn forget(index: &InventoryIndex, name: &str) {
        index.forget(&index.get("n", name).unwrap());
    }
    fn taken(index: &InventoryIndex, registration: &str) -> usize {
        index.reserve("n", registration).admitted_before
    }

    #[test]
    fn registering_machines_count_until_they_give_up() {
        let index = InventoryIndex::default();
        let (first, second) = (index.reserve("n", "door"), index.reserve("n", "door"));
        assert_eq!((first.admitted_before, second.admitted_before), (0, 1));
        drop((first, second));
        assert_eq!(taken(&index, "door"), 0);
    }

    #[test]
    fn a_machine_is_found_by_hash_until_it_is_deleted() {
        let index = InventoryIndex::default();
        index.enter(object("a", 1, 1));
        assert_eq!(of(&index, 1).unwrap().name, "a");
        assert_eq!((taken(&index, "door"), taken(&index, "other")), (1, 0));
        assert_eq!((index.take_changed(), index.published("n", "door")), (vec![], None));
        index.begin_listing();
        index.enter(object("a", 1, 1));
        index.finish_listing();
        assert_eq!(index.take_changed(), [("n".to_owned(), "door".to_owned())]);
        assert_eq!((index.published("n", "door"), index.take_changed()), (Some(1), vec![]));
        forget(&index, "a");
        assert_eq!((of(&index, 1), taken(&index, "door")), (None, 0));
    }

    #[test]
    fn an_older_event_does_not_undo_an_own_write() {
        let index = InventoryIndex::default();
        let mut own = object("a", 1, 9);
        own.spec.approved = Some(true);
        index.enter(own);
        index.enter(object("a", 1, 8));
        assert_eq!(index.get("n", "a").unwrap().approved, Some(true));
        index.enter(object("a", 1, 10));
        assert_eq!(index.get("n", "a").unwrap().approved, None);
        assert_eq!(taken(&index, "door"), 1);
    }

    #[test]
    fn an_assumed_object_stays_until_the_watch_confirms_it() {
        let index = InventoryIndex::default();
        let written = |version: &str, generation| ObjectMeta {
            uid: Some("a".to_owned()),
            generation,
            resource_version: Some(version.to_owned()),
            annotations: Some([(REGISTRATION_ANNOTATION.to_owned(), "door".to_owned())].into()),
            ..ObjectMeta::default()
        };
        let assume = |before: &KnownMachine, written: ObjectMeta| {
            let status = MachineInventoryStatus { phase: Some(Phase::Booted), ..MachineInventoryStatus::default() };
            index.assume_written(before, status, &written).map(|machine| machine.status.phase)
        };
        let see = |version, phase| {
            let mut object = object("a", 1, version);
            object.status = Some(MachineInventoryStatus { phase, ..MachineInventoryStatus::default() });
            index.enter(object);
            index.get("n", "a").unwrap()
        };
        let before = see(3, None);
        assert_eq!(assume(&before, written("9", Some(2))), None, "the spec is another");
        assert_eq!(assume(&before, written("9", None)), Some(Some(Phase::Booted)));
        assert_eq!(see(8, None).status.phase, Some(Phase::Booted));
        assert_eq!(see(9, Some(Phase::Ready)).status.phase, Some(Phase::Ready), "of one version what is seen counts");
        assert_eq!(assume(&before, written("9", None)), Some(Some(Phase::Ready)), "the watch was quicker");
        assert_eq!(assume(&before, written("10", None)), None, "somebody wrote between");
        let newest = index.get("n", "a").unwrap();
        assert_eq!((assume(&newest, written("10", None)), taken(&index, "door")), (Some(Some(Phase::Booted)), 1));
        forget(&index, "a");
        assert_eq!((assume(&newest, written("11", None)), taken(&index, "door")), (None, 0), "deleted meanwhile");
    }

    #[test]
    fn the_deletion_of_an_object_does_not_remove_its_successor() {
        let index = InventoryIndex::default();
        let gone = index.enter(object("a", 1, 3));
        let mut successor = object("a", 2, 4);
        successor.metadata.uid = Some("another".to_owned());
        assert!(index.enter(successor).is_successor_of(&gone));
        index.forget(&gone);
        assert!(index.get("n", "a").is_some());
    }

    #[test]
    fn objects_deleted_while_the_watch_was_broken_are_removed_by_the_next_listing() {
        let index = InventoryIndex::default();
        for name in ["a", "b"] {
            index.enter(object(name, name.as_bytes()[0], 1));
        }
        assert!(!index.is_complete());
        index.begin_listing();
        index.enter(object("a", b'a', 1));
        index.enter(object("c", b'c', 5));
        index.finish_listing();
        assert!(index.is_complete());
        assert!(index.get("n", "a").is_some() && index.get("n", "c").is_some());
        assert_eq!(index.get("n", "b"), None);
    }

    #[test]
    fn a_listing_of_a_restored_etcd_replaces_newer_versions() {
        let index = InventoryIndex::default();
        let approved = |name: &str, version| {
            let mut object = object(name, name.as_bytes()[0], version);
            object.spec.approved = Some(true);
            object
        };
        for name in ["a", "b", "c"] {
            index.enter(approved(name, 8));
        }
        index.begin_listing();
        // An own write during the listing is newer than the listed object.
        index.enter(approved("b", 12));
        // An object read during the listing is older than the known one and has the listed version.
        index.enter(object("c", b'c', 5));
        for name in ["a", "b", "c"] {
            index.enter_listed(object(name, name.as_bytes()[0], 5));
        }
        index.finish_listing();
        assert_eq!(index.get("n", "a").unwrap().approved, None);
        assert_eq!(index.get("n", "b").unwrap().approved, Some(true));
        assert_eq!(index.get("n", "c").unwrap().approved, None);
        assert_eq!((of(&index, b'a').unwrap().resource_version, taken(&index, "door")), (5, 3));
    }

    #[test]
    fn only_changes_of_the_system_are_counted_as_such() {
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
    fn installed_machines_without_the_newest_settings_are_counted() {
        let index = InventoryIndex::default();
        let say = |name: &str, version: u64, installed: bool, revision: Option<&str>| {
            let mut object = object(name, name.as_bytes()[0], version);
            object.status = Some(MachineInventoryStatus {
                os: installed.then(OsStatus::default),
                settings_revision: revision.map(str::to_owned),
                ..MachineInventoryStatus::default()
            });
            index.enter(object);
        };
        say("a", 1, false, None);
        assert_eq!(index.behind("n", "door", "r1"), 0, "what is not installed is told when it is");
        say("a", 2, true, None);
        say("b", 3, true, Some("r1"));
        let behind = |newest| index.behind("n", "door", newest);
        assert_eq!((behind("r1"), behind("r2"), index.behind("n", "other", "r1")), (1, 2, 0));
        say("a", 4, true, Some("r1"));
        assert_eq!((behind("r1"), behind("r2")), (0, 2));
        forget(&index, "a");
        forget(&index, "b");
        assert_eq!(behind("r2"), 0);
    }

    #[test]
    fn a_single_inventory_counts_in_all_namespaces() {
        let index = InventoryIndex::default();
        index.enter(object("b", 1, 1));
        let mut elsewhere = object("a", 1, 2);
        elsewhere.metadata.namespace = Some("m".to_owned());
        let elsewhere = index.enter(elsewhere);
        let name = |namespace: Option<&str>| match index.owner(&hash(1), namespace) {
            Owner::Inventory(machine) => machine.name.clone(),
            other => format!("{other:?}"),
        };
        assert_eq!((name(Some("n")), name(Some("m")), name(Some("o"))), ("b".into(), "a".into(), "Nobody".into()));
        assert_eq!((name(None), index.of_one_machine(&hash(1)).len()), ("Disputed".into(), 2));
        assert!(index.find_by_digest(&digest_of(&hash(1))).is_some());
        index.forget(&elsewhere);
        assert_eq!((name(None), index.of_one_machine(&hash(1)).len()), ("b".into(), 1));
        forget(&index, "b");
        assert_eq!((name(None), index.find_by_digest(&digest_of(&hash(1)))), ("Nobody".into(), None));
    }

    #[test]
    fn machines_are_found_by_the_secret_that_they_name() {
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
        forget(&index, "b");
        assert_eq!((index.with_secret(&secret).len(), index.secret_count()), (0, 0));
    }
}
