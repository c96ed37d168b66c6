//! The number of machines of each registration: exact for its limit, published from time to time for its status.

use super::{InventoryIndex, Key, KnownMachine};
use std::collections::{HashMap, HashSet};
use std::hash::Hash;

#[derive(Default)]
pub(super) struct Counts {
    /// Machines that registered through a registration.
    arrived: HashMap<Key, usize>,
    /// Installed machines of a registration, by the revision of the settings that they have.
    settings: HashMap<Key, HashMap<Option<String>, usize>>,
    /// Machines that are registering now.
    reservations: HashMap<Key, usize>,
    /// As of the last [`InventoryIndex::take_changed`].
    published: Option<HashMap<Key, usize>>,
    changed: HashSet<Key>,
}

impl Counts {
    pub(super) fn add(&mut self, machine: &KnownMachine) {
        let Some(registration) = came_through(machine) else { return };
        *self.arrived.entry(registration.clone()).or_default() += 1;
        if let Some(revision) = settings(machine) {
            *self.settings.entry(registration.clone()).or_default().entry(revision.cloned()).or_default() += 1;
        }
        self.changed.insert(registration);
    }

    pub(super) fn subtract(&mut self, machine: &KnownMachine) {
        let Some(registration) = came_through(machine) else { return };
        decrement(&mut self.arrived, &registration);
        if let Some(revision) = settings(machine)
            && let Some(revisions) = self.settings.get_mut(&registration)
        {
            decrement(revisions, &revision.cloned());
            if revisions.is_empty() {
                self.settings.remove(&registration);
            }
        }
        self.changed.insert(registration);
    }

    fn behind(&self, registration: &Key, newest: &str) -> usize {
        let other = |revision: &Option<String>| revision.as_deref() != Some(newest);
        let revisions = self.settings.get(registration).into_iter().flatten();
        revisions.filter(|(revision, _)| other(revision)).map(|(_, count)| count).sum()
    }

    /// Returns the number of machines that were registered or registering before.
    fn reserve(&mut self, registration: &Key) -> usize {
        let reservations = self.reservations.entry(registration.clone()).or_default();
        *reservations += 1;
        *reservations - 1 + self.arrived.get(registration).copied().unwrap_or(0)
    }

    fn publish(&mut self) -> Vec<Key> {
        let changed: Vec<Key> = self.changed.drain().collect();
        let published = self.published.get_or_insert_default();
        for registration in &changed {
            match self.arrived.get(registration) {
                Some(count) => published.insert(registration.clone(), *count),
                None => published.remove(registration),
            };
        }
        changed
    }
}

fn came_through(machine: &KnownMachine) -> Option<Key> {
    Some((machine.namespace.clone(), machine.registration.clone()?))
}

/// The settings revision of an installed machine. `None`: it has not reported an installed system.
fn settings(machine: &KnownMachine) -> Option<Option<&String>> {
    machine.status.os.as_ref().map(|_| machine.status.settings_revision.as_ref())
}

fn decrement<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// A place for a machine that is registering. It counts like a registered machine until it is dropped.
pub struct Reservation<'a> {
    index: &'a InventoryIndex,
    registration: Key,
    /// Machines that were registered or registering before this one.
    pub admitted_before: usize,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.index.write(|maps| decrement(&mut maps.counts.reservations, &self.registration));
    }
}

impl InventoryIndex {
    /// Counts a machine before its inventory exists, so that many machines at once cannot exceed the limit.
    pub fn reserve(&self, namespace: &str, registration: &str) -> Reservation<'_> {
        let registration = (namespace.to_owned(), registration.to_owned());
        let admitted_before = self.write(|maps| maps.counts.reserve(&registration));
        Reservation { index: self, registration, admitted_before }
    }

    /// The registrations whose count changed since the last call. From now on [`InventoryIndex::published`] returns the
    /// new counts. Empty before the first listing is complete.
    pub fn take_changed(&self) -> Vec<Key> {
        self.write(|maps| if maps.complete { maps.counts.publish() } else { Vec::new() })
    }

    /// The number of installed machines of a registration that do not have this revision of its settings.
    pub fn behind(&self, namespace: &str, registration: &str, newest: &str) -> usize {
        self.read(|maps| maps.counts.behind(&(namespace.to_owned(), registration.to_owned()), newest))
    }

    /// The published count, for a status. It changes only with [`InventoryIndex::take_changed`]: otherwise the status
    /// would be written for each machine. `None`: not counted yet.
    pub fn published(&self, namespace: &str, registration: &str) -> Option<usize> {
        let registration = (namespace.to_owned(), registration.to_owned());
        self.read(|maps| Some(maps.counts.published.as_ref()?.get(&registration).copied().unwrap_or(0)))
    }
}
