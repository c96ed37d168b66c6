//! All MachineRegistrations, found by token, and the authorities that they trust.

use crate::inventory::index::{InventoryIndex, Key};
use crate::registration::Registration;
use crate::registration::endpoint::Endpoint;
use api::MachineRegistration;
use kube::ResourceExt;
use kube::runtime::watcher;
use protocol::RegistrationToken;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, RwLock};

/// DER certificates of trusted authorities.
pub type Authorities = Arc<Vec<Vec<u8>>>;

#[derive(Default)]
pub struct RegistrationIndex {
    maps: RwLock<Maps>,
    /// How many machines a registration without `spec.maxMachines` admits.
    pub default_most: Option<u32>,
}

/// Which machines a token admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenScope {
    /// New and known machines: the token of media.
    NewMachines,
    /// Known machines only: the token of installed machines.
    KnownMachines,
}

#[derive(Default)]
struct Maps {
    by_key: HashMap<Key, Arc<Registration>>,
    by_token: HashMap<RegistrationToken, (Key, TokenScope)>,
    /// Boot tokens register no machine.
    by_boot_token: HashMap<RegistrationToken, Key>,
    /// Read from Secrets by the controller. A registration with `trustedCAs` admits nobody before they are read.
    authorities: HashMap<Key, Authorities>,
    listing: Option<HashSet<Key>>,
    complete: bool,
}

impl RegistrationIndex {
    /// `default_most`: for registrations without `spec.maxMachines`; 0: any number.
    pub fn new(default_most: u32) -> Self {
        Self { default_most: Some(default_most).filter(|most| *most > 0), ..Self::default() }
    }

    /// Applies an event of the watch.
    pub fn apply(&self, event: &watcher::Event<MachineRegistration>) {
        self.write(|maps| match event {
            watcher::Event::Init => maps.listing = Some(HashSet::new()),
            watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
                let mut registration = Registration::of(object);
                registration.most = registration.most.or(self.default_most);
                maps.insert(registration);
            }
            watcher::Event::Delete(object) => maps.remove(&key_of(object)),
            watcher::Event::InitDone => maps.finish_listing(),
        });
    }

    pub fn is_complete(&self) -> bool {
        self.read(|maps| maps.complete)
    }

    /// The registration of a token. Tokens have some 280 random bits and are found by keyed hash, so timing does not
    /// help to guess one.
    pub fn find(&self, token: &RegistrationToken) -> Option<(Arc<Registration>, TokenScope)> {
        self.read(|maps| {
            let (key, scope) = maps.by_token.get(token)?;
            Some((maps.by_key.get(key)?.clone(), *scope))
        })
    }

    /// The registration of a boot token.
    pub fn find_for_boot(&self, token: &RegistrationToken) -> Option<Arc<Registration>> {
        self.read(|maps| maps.by_key.get(maps.by_boot_token.get(token)?).cloned())
    }

    /// All registrations, in no order.
    pub fn all(&self) -> Vec<Arc<Registration>> {
        self.read(|maps| maps.by_key.values().cloned().collect())
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Registration>> {
        self.read(|maps| maps.by_key.get(&(namespace.to_owned(), name.to_owned())).cloned())
    }

    /// The authorities that a registration trusts; `None` until they were read.
    pub fn authorities(&self, namespace: &str, name: &str) -> Option<Authorities> {
        self.read(|maps| maps.authorities.get(&(namespace.to_owned(), name.to_owned())).cloned())
    }

    /// Sets the authorities that a registration trusts. `None` removes them.
    pub fn set_authorities(&self, namespace: &str, name: &str, authorities: Option<Authorities>) {
        let key = (namespace.to_owned(), name.to_owned());
        self.write(|maps| match authorities {
            Some(authorities) => maps.authorities.insert(key, authorities),
            None => maps.authorities.remove(&key),
        });
    }

    /// How many installed machines do not have the settings that follow from this endpoint. `None`: not all of them are
    /// known yet.
    pub fn machines_behind(&self, inventories: &InventoryIndex, endpoint: &Endpoint) -> Option<usize> {
        if !self.is_complete() || !inventories.is_complete() {
            return None;
        }
        let behind = |registration: Arc<Registration>| {
            let newest = registration.operator_settings(endpoint).map(|settings| String::from(settings.revision));
            inventories.behind(&registration.namespace, &registration.name, newest.as_deref().unwrap_or_default())
        };
        Some(self.all().into_iter().map(behind).sum())
    }

    fn read<T>(&self, question: impl FnOnce(&Maps) -> T) -> T {
        question(&self.maps.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
    fn write<T>(&self, change: impl FnOnce(&mut Maps) -> T) -> T {
        change(&mut self.maps.write().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Maps {
    fn insert(&mut self, registration: Registration) {
        let key = (registration.namespace.clone(), registration.name.clone());
        if let Some(listing) = &mut self.listing {
            listing.insert(key.clone());
        }
        self.forget_tokens(&key);
        let tokens = [
            (&registration.installed_token, TokenScope::KnownMachines),
            (&registration.token, TokenScope::NewMachines),
        ];
        for (token, scope) in tokens {
            if let Some(token) = token {
                self.by_token.insert(token.clone(), (key.clone(), scope));
            }
        }
        if let Some(token) = &registration.boot_token {
            self.by_boot_token.insert(token.clone(), key.clone());
        }
        self.by_key.insert(key, Arc::new(registration));
    }

    fn remove(&mut self, key: &Key) {
        self.forget_tokens(key);
        self.by_key.remove(key);
        self.authorities.remove(key);
    }

    fn forget_tokens(&mut self, key: &Key) {
        let Some(registration) = self.by_key.get(key) else { return };
        for token in [&registration.token, &registration.installed_token].into_iter().flatten() {
            self.by_token.remove(token);
        }
        if let Some(token) = &registration.boot_token {
            self.by_boot_token.remove(token);
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

fn key_of(object: &MachineRegistration) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::MachineRegistrationStatus;
    use watcher::Event;

    fn token(c: char) -> RegistrationToken {
        c.to_string().repeat(54).parse().unwrap()
    }
    fn object(name: &str, token: &RegistrationToken) -> MachineRegistration {
        let mut object = MachineRegistration::new(name, Default::default());
        object.metadata.namespace = Some("n".into());
        object.status = Some(MachineRegistrationStatus {
            registration_token: Some(token.expose().to_owned()),
            ..Default::default()
        });
        object
    }

    #[test]
    fn a_token_is_valid_until_it_is_replaced_or_its_registration_is_deleted() {
        let index = RegistrationIndex::default();
        index.apply(&Event::Apply(object("door", &token('a'))));
        assert_eq!(index.find(&token('a')).unwrap().0.name, "door");
        index.apply(&Event::Apply(object("door", &token('b'))));
        assert!(index.find(&token('a')).is_none() && index.find(&token('b')).is_some());
        index.apply(&Event::Delete(object("door", &token('b'))));
        assert!(index.find(&token('b')).is_none());
    }

    #[test]
    fn the_token_of_media_is_revoked_alone() {
        let index = RegistrationIndex::default();
        let with_installed = |medium| {
            let mut object = object("door", &token(medium));
            object.status.as_mut().unwrap().installed_token = Some(token('i').expose().to_owned());
            Event::Apply(object)
        };
        let scope = |letter| index.find(&token(letter)).map(|(_, scope)| scope);
        index.apply(&with_installed('a'));
        assert_eq!((scope('a'), scope('i')), (Some(TokenScope::NewMachines), Some(TokenScope::KnownMachines)));
        index.apply(&with_installed('b'));
        let after = (scope('a'), scope('b'), scope('i'));
        assert_eq!(after, (None, Some(TokenScope::NewMachines), Some(TokenScope::KnownMachines)));
        index.apply(&Event::Delete(object("door", &token('b'))));
        assert_eq!(scope('i'), None);
    }

    #[test]
    fn the_token_of_network_boots_registers_no_machine_and_is_revoked_alone() {
        let index = RegistrationIndex::default();
        let with_boot = |boot| {
            let mut object = object("door", &token('a'));
            object.status.as_mut().unwrap().boot_token = Some(token(boot).expose().to_owned());
            Event::Apply(object)
        };
        let boots = |letter| index.find_for_boot(&token(letter)).is_some();
        index.apply(&with_boot('b'));
        assert!(boots('b') && index.find(&token('b')).is_none() && !boots('a'));
        index.apply(&with_boot('c'));
        assert!(boots('c') && !boots('b') && index.find(&token('a')).is_some());
        index.apply(&Event::Delete(object("door", &token('a'))));
        assert!(!boots('c'));
    }

    #[test]
    fn a_registration_without_a_limit_has_the_default() {
        for (default, given, most) in
            [(7, None, Some(7)), (7, Some(9), Some(9)), (0, None, None), (0, Some(9), Some(9))]
        {
            let index = RegistrationIndex::new(default);
            let mut door = object("door", &token('a'));
            door.spec.max_machines = given;
            index.apply(&Event::Apply(door));
            assert_eq!(index.find(&token('a')).unwrap().0.most, most);
        }
    }

    #[test]
    fn a_registration_deleted_while_the_watch_was_broken_is_removed_by_the_next_listing() {
        let index = RegistrationIndex::default();
        index.apply(&Event::Apply(object("door", &token('a'))));
        index.set_authorities("n", "door", Some(Arc::new(Vec::new())));
        index.apply(&Event::Init);
        assert!(index.find(&token('a')).is_some(), "not before the listing is through");
        index.apply(&Event::InitDone);
        assert!(index.find(&token('a')).is_none() && index.authorities("n", "door").is_none());
    }
}
