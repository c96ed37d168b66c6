//! The kinds of Rancher that the operator uses: clusters, and the tokens with which machines join them.
//! `kube::rancher_setting` reads settings.
//!
//! | kind                                               | read                 | written                       |
//! |----------------------------------------------------|----------------------|-------------------------------|
//! | `provisioning.cattle.io/v1` Cluster                | `status.clusterName` | never                         |
//! | `management.cattle.io/v3` ClusterRegistrationToken | `status.token`       | made with `spec.clusterName`, |
//! |                                                    |                      | deleted                       |
//!
//! Without Rancher these kinds are not served. One request per minute checks that for all machines.

use crate::inventory::index::{Key, KnownMachine};
use crate::kube::absence::is_not_served;
use crate::kube::client::writing;
use crate::kube::rancher_setting::rancher_setting;
use api::INVENTORY_ANNOTATION;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Preconditions};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// How long it is remembered that a kind is not served.
const ABSENT: Duration = Duration::from_secs(60);
/// How long Rancher's URL is cached.
const URL_AGE: Duration = Duration::from_secs(60);

/// The result of reading an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadOutcome<T> {
    Found(T),
    Missing,
    /// The API server does not serve the kind.
    NotServed,
    /// The operator's service account may not read it.
    Forbidden,
}

impl<T> ReadOutcome<T> {
    /// Converts a found value.
    fn read<U>(self, read: impl FnOnce(T) -> kube::Result<U>) -> kube::Result<ReadOutcome<U>> {
        Ok(match self {
            Self::Found(found) => ReadOutcome::Found(read(found)?),
            Self::Missing => ReadOutcome::Missing,
            Self::NotServed => ReadOutcome::NotServed,
            Self::Forbidden => ReadOutcome::Forbidden,
        })
    }
}

/// A cluster registration token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// `None` until Rancher has issued it. This is a secret.
    pub token: Option<String>,
    /// The inventory that it was created for, `namespace/name`. The first release did not record it.
    pub inventory: Option<String>,
    uid: Option<String>,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("inventory", &self.inventory).finish_non_exhaustive()
    }
}

pub struct Rancher {
    client: Client,
    absent_until: Mutex<Option<Instant>>,
    /// Rancher's URL, and when it was read.
    server_url: Mutex<Option<(String, Instant)>>,
    /// When the token of a machine was last verified, and for which generation of its inventory.
    verified: Mutex<HashMap<Key, (Option<i64>, Instant)>>,
}

impl Rancher {
    pub fn new(client: Client) -> Self {
        Self { client, absent_until: Mutex::default(), server_url: Mutex::default(), verified: Mutex::default() }
    }

    /// The name of the management cluster of a cluster. The inner `None`: Rancher has not created it yet.
    pub async fn management_cluster(&self, namespace: &str, name: &str) -> kube::Result<ReadOutcome<Option<String>>> {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct ClusterStatus {
            cluster_name: Option<String>,
        }
        let api = Api::namespaced_with(self.client.clone(), namespace, &clusters());
        let found: ReadOutcome<DynamicObject> = self.look(api.get(name)).await?;
        found.read(|object| Ok(status::<ClusterStatus>(&object)?.cluster_name.filter(|name| !name.is_empty())))
    }

    /// Rancher's URL from its Setting `server-url`. Empty if there is none.
    pub async fn server_url(&self) -> kube::Result<String> {
        let known = || self.server_url.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let young = known().clone().filter(|(_, read)| read.elapsed() < URL_AGE);
        if let Some((url, _)) = young {
            return Ok(url);
        }
        let url = rancher_setting(&self.client, "server-url").await?.trim_end_matches('/').to_owned();
        *known() = Some((url.clone(), Instant::now()));
        Ok(url)
    }

    pub async fn token(&self, (namespace, name): &Key) -> kube::Result<ReadOutcome<Token>> {
        let api = Api::namespaced_with(self.client.clone(), namespace, &tokens());
        self.look(api.get(name)).await?.read(|object| token_of(&object))
    }

    /// Creates the token of a machine, or returns the existing one of that name.
    pub async fn make_token(&self, key: &Key, machine: &KnownMachine) -> kube::Result<ReadOutcome<Token>> {
        let (namespace, name) = key;
        let object = serde_json::from_value(json!({
            "apiVersion": "management.cattle.io/v3",
            "kind": "ClusterRegistrationToken",
            "metadata": {
                "name": name, "namespace": namespace,
                "annotations": {INVENTORY_ANNOTATION: inventory(machine)},
            },
            // The namespace of a management cluster has the name of the cluster.
            "spec": {"clusterName": namespace},
        }));
        let object: DynamicObject = object.map_err(kube::Error::SerdeError)?;
        let api = Api::namespaced_with(self.client.clone(), namespace, &tokens());
        match self.look(api.create(&writing(), &object)).await {
            Ok(made) => made.read(|object| token_of(&object)),
            Err(kube::Error::Api(status)) if status.is_already_exists() => self.token(key).await,
            Err(error) => Err(error),
        }
    }

    /// Deletes the token of a machine, unless it was created for another machine.
    pub async fn delete_token(&self, key: &Key, machine: &KnownMachine) -> kube::Result<()> {
        let ReadOutcome::Found(token) = self.token(key).await? else { return Ok(()) };
        if !token.is_of(machine) {
            return Ok(());
        }
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), &key.0, &tokens());
        let parameters = DeleteParams {
            preconditions: Some(Preconditions { uid: token.uid, resource_version: None }),
            ..DeleteParams::default()
        };
        match api.delete(&key.1, &parameters).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// How long ago the token of a machine was verified. `None` if the inventory has changed since.
    pub fn verified(&self, machine: &KnownMachine) -> Option<Duration> {
        let verified = self.verified.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (generation, at) = verified.get(&machine.key())?;
        (*generation == machine.generation).then(|| at.elapsed())
    }

    pub fn note_verified(&self, machine: &KnownMachine) {
        let mut verified = self.verified.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        verified.insert(machine.key(), (machine.generation, Instant::now()));
    }

    pub fn forget(&self, key: &Key) {
        self.verified.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(key);
    }

    async fn look<T>(&self, request: impl Future<Output = kube::Result<T>>) -> kube::Result<ReadOutcome<T>> {
        let absent_until = || self.absent_until.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if absent_until().is_some_and(|until| Instant::now() < until) {
            return Ok(ReadOutcome::NotServed);
        }
        match request.await {
            Ok(object) => {
                *absent_until() = None;
                Ok(ReadOutcome::Found(object))
            }
            Err(kube::Error::Api(status)) if is_not_served(&status) => {
                *absent_until() = Some(Instant::now() + ABSENT);
                Ok(ReadOutcome::NotServed)
            }
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(ReadOutcome::Missing),
            Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(ReadOutcome::Forbidden),
            Err(error) => Err(error),
        }
    }
}

impl Token {
    /// Whether it was created for this machine, or by the first release, whose tokens name no inventory.
    pub fn is_of(&self, machine: &KnownMachine) -> bool {
        self.inventory.as_ref().is_none_or(|made_for| *made_for == inventory(machine))
    }
}

fn inventory(machine: &KnownMachine) -> String {
    format!("{}/{}", machine.namespace, machine.name)
}

fn clusters() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("provisioning.cattle.io", "v1", "Cluster"), "clusters")
}

fn tokens() -> ApiResource {
    let kind = GroupVersionKind::gvk("management.cattle.io", "v3", "ClusterRegistrationToken");
    ApiResource::from_gvk_with_plural(&kind, "clusterregistrationtokens")
}

fn token_of(object: &DynamicObject) -> kube::Result<Token> {
    #[derive(Default, Deserialize)]
    struct TokenStatus {
        token: Option<String>,
    }
    Ok(Token {
        token: status::<TokenStatus>(object)?.token.filter(|token| !token.is_empty()),
        inventory: object.annotations().get(INVENTORY_ANNOTATION).cloned(),
        uid: object.uid(),
    })
}

/// The known part of a status. The default if there is no status.
fn status<T: DeserializeOwned + Default>(object: &DynamicObject) -> kube::Result<T> {
    match object.data.get("status") {
        None | Some(serde_json::Value::Null) => Ok(T::default()),
        Some(status) => T::deserialize(status).map_err(kube::Error::SerdeError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::FakeApi;

    fn machine(name: &str) -> KnownMachine {
        KnownMachine { namespace: "n".into(), name: name.into(), ..KnownMachine::default() }
    }
    fn key() -> Key {
        ("c-1".into(), "c-1-a-token".into())
    }

    #[tokio::test(start_paused = true)]
    async fn without_rancher_one_request_per_minute_serves_all_machines() {
        let api = FakeApi::default();
        let rancher = Rancher::new(api.client());
        for _ in 0..100 {
            assert_eq!(rancher.management_cluster("n", "c").await.unwrap(), ReadOutcome::NotServed);
        }
        assert_eq!(api.take_requests().len(), 1);
        api.install_rancher();
        tokio::time::advance(ABSENT).await;
        assert_eq!(rancher.management_cluster("n", "c").await.unwrap(), ReadOutcome::Missing);
        api.put_cluster("c", None);
        assert_eq!(rancher.management_cluster("n", "c").await.unwrap(), ReadOutcome::Found(None));
        api.put_cluster("c", Some("c-1"));
        let found = rancher.management_cluster("n", "c").await.unwrap();
        assert_eq!(found, ReadOutcome::Found(Some("c-1".into())));
    }

    #[tokio::test]
    async fn a_token_is_created_once_and_deleted_only_for_its_machine() {
        let api = FakeApi::default();
        api.install_rancher();
        let rancher = Rancher::new(api.client());
        for _ in 0..2 {
            let made = rancher.make_token(&key(), &machine("a")).await.unwrap();
            let ReadOutcome::Found(token) = made else { panic!("{made:?}") };
            assert!(token.token.is_none() && token.is_of(&machine("a")) && !token.is_of(&machine("b")));
        }
        rancher.delete_token(&key(), &machine("b")).await.unwrap();
        assert_eq!(api.objects("clusterregistrationtokens").len(), 1);
        for _ in 0..2 {
            rancher.delete_token(&key(), &machine("a")).await.unwrap();
            assert_eq!(api.objects("clusterregistrationtokens").len(), 0);
        }
    }

    #[tokio::test]
    async fn an_issued_token_is_read_and_never_shown() {
        let api = FakeApi::default();
        api.install_rancher();
        let rancher = Rancher::new(api.client());
        rancher.make_token(&key(), &machine("a")).await.unwrap();
        api.issue_tokens("s3cret");
        let found = rancher.token(&key()).await.unwrap();
        assert!(!format!("{found:?}").contains("s3cret"));
        let ReadOutcome::Found(token) = found else { panic!("it is there") };
        assert_eq!(token.token.as_deref(), Some("s3cret"));
    }
}
