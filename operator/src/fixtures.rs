//! Fixtures for tests: a small API server in memory, and a context that uses it.

mod base_medium;

pub use base_medium::{base_medium, media_store, serve};

use crate::cluster::rancher::Rancher;
use crate::context::Context;
use crate::identity::shared_secret::SharedSecrets;
use crate::inventory::Inventory;
use crate::inventory::index::InventoryIndex;
use crate::inventory::limiter::WriteLimiter;
use crate::inventory::lookup::Lookup;
use crate::inventory::store::InventoryStore;
use crate::kube::clock::Clock;
use crate::kube::events::Events;
use crate::kube::leadership::Leadership;
use crate::media::MediaStore;
use crate::observe::metrics::Metrics;
use crate::registration::endpoint::Endpoint;
use crate::registration::index::{Authorities, RegistrationIndex};
use crate::rollout::DefaultRegistry;
use api::{MachineInventory, MachineRegistration};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode, header};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Everything of a body, read as a connection does it: each piece is dropped before the next one is asked for.
pub async fn received(body: axum::body::Body) -> Result<Vec<u8>, axum::Error> {
    let (mut pieces, mut received) = (body.into_data_stream(), Vec::new());
    while let Some(piece) = pieces.next().await {
        received.extend_from_slice(&piece?);
    }
    Ok(received)
}

/// An API server in memory. It stores objects by path, records requests, and can be unavailable.
#[derive(Clone, Default)]
pub struct FakeApi(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: HashMap<String, Value>,
    requests: Vec<String>,
    version: u64,
    away: bool,
    /// Whether Rancher's kinds are served.
    rancher: bool,
}

impl FakeApi {
    pub fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap_or_default();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let (status, answer) = match listed_hash(&parts) {
                    Some(hash) => (StatusCode::OK, api.with_hash(hash)),
                    None => api.answer(&parts.method, parts.uri.path(), body),
                };
                let answer =
                    if status.is_success() && asks_for_metadata(&parts) { metadata_of(answer) } else { answer };
                let answer = Response::builder().status(status).body(Body::from(answer.to_string().into_bytes()));
                Ok::<_, Infallible>(answer.expect("a response of fixed parts"))
            }
        });
        Client::new(service, "default")
    }

    /// Returns and forgets all requests so far: the method, and the last parts of the path.
    pub fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().requests)
    }

    pub fn set_away(&self, away: bool) {
        self.0.lock().unwrap().away = away;
    }

    /// All objects of a kind (plural).
    pub fn objects(&self, plural: &str) -> Vec<Value> {
        let state = self.0.lock().unwrap();
        let of_kind = state.objects.iter().filter(|(path, _)| path.contains(&format!("/{plural}/")));
        of_kind.map(|(_, object)| object.clone()).collect()
    }

    /// Creates or replaces an object as another client does. `path`: as in a URL.
    pub fn put(&self, path: &str, mut object: Value) {
        object["metadata"]["name"] = json!(path.rsplit('/').next());
        self.0.lock().unwrap().objects.insert(path.to_owned(), object);
    }

    /// Creates or replaces a Secret in namespace `n`.
    pub fn put_secret(&self, name: &str, type_: &str, token: &str) {
        let secret = json!({"type": type_, "data": {"token": STANDARD.encode(token)}});
        self.put(&format!("/api/v1/namespaces/n/secrets/{name}"), secret);
    }

    /// Serves Rancher's kinds from now on.
    pub fn install_rancher(&self) {
        self.0.lock().unwrap().rancher = true;
    }

    /// Creates or replaces a Cluster of Rancher's in namespace `n`. `managed_as`: its management cluster, if any.
    pub fn put_cluster(&self, name: &str, managed_as: Option<&str>) {
        let cluster = json!({
            "apiVersion": "provisioning.cattle.io/v1", "kind": "Cluster", "metadata": {"namespace": "n"},
            "status": {"clusterName": managed_as},
        });
        self.put(&format!("/apis/provisioning.cattle.io/v1/namespaces/n/clusters/{name}"), cluster);
    }

    /// Issues this token for every ClusterRegistrationToken without one, as Rancher does.
    pub fn issue_tokens(&self, token: &str) {
        let mut state = self.0.lock().unwrap();
        let of_kind = state.objects.iter_mut().filter(|(path, _)| path.contains("/clusterregistrationtokens/"));
        for (_, object) in of_kind.filter(|(_, object)| object["status"]["token"].is_null()) {
            object["status"]["token"] = json!(token);
        }
    }

    /// Merges a patch into the object at a path, as another client does.
    pub fn change(&self, path: &str, patch: Value) {
        let (status, answer) = self.answer(&Method::PATCH, path, patch);
        assert!(status.is_success(), "{path}: {answer}");
    }

    pub fn delete(&self, path: &str) {
        self.0.lock().unwrap().objects.remove(path);
    }

    pub fn delete_all(&self) {
        self.0.lock().unwrap().objects.clear();
    }

    /// The list of inventories that a field selector for this hash selects.
    fn with_hash(&self, hash: &str) -> Value {
        let wanted = |object: &Value| object["spec"]["tpmHash"] == hash;
        self.0.lock().unwrap().requests.push("LIST machineinventories".to_owned());
        let items: Vec<Value> = self.objects("machineinventories").into_iter().filter(wanted).collect();
        json!({"apiVersion": "rancheros.cattle.io/v1", "kind": "MachineInventoryList", "metadata": {}, "items": items})
    }

    fn answer(&self, method: &Method, path: &str, body: Value) -> (StatusCode, Value) {
        let mut state = self.0.lock().unwrap();
        let kind = path.split('/').skip(6).collect::<Vec<_>>();
        let status_only = kind.get(2) == Some(&"status");
        let what = if status_only { "status" } else { kind.first().copied().unwrap_or_default() };
        state.requests.push(format!("{method} {what}"));
        if state.away {
            return failure(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable");
        }
        let of_rancher =
            ["/provisioning.cattle.io/", "/management.cattle.io/"].iter().any(|group| path.contains(group));
        if of_rancher && !state.rancher {
            return failure(StatusCode::NOT_FOUND, "NotFound");
        }
        state.version += 1;
        // Above 1000, so that it is later than versions that tests set themselves.
        let version = json!((1000 + state.version).to_string());
        let object_path = path.trim_end_matches("/status").to_owned();
        match *method {
            Method::POST => {
                let path = format!("{object_path}/{}", body["metadata"]["name"].as_str().unwrap_or_default());
                if state.objects.contains_key(&path) {
                    return failure(StatusCode::CONFLICT, "AlreadyExists");
                }
                let mut object = body;
                object["metadata"]["resourceVersion"] = version;
                object["metadata"]["uid"] = json!(path);
                object["metadata"]["creationTimestamp"] = json!("2026-11-22T00:00:00Z");
                object["metadata"]["generation"] = json!(1);
                state.objects.insert(path, object.clone());
                (StatusCode::CREATED, object)
            }
            Method::PATCH => match state.objects.get_mut(&object_path) {
                Some(object) if written_since(object, &body) => failure(StatusCode::CONFLICT, "Conflict"),
                Some(object) => {
                    merge(object, &body);
                    object["metadata"]["resourceVersion"] = version;
                    (StatusCode::OK, object.clone())
                }
                None => not_found(&kind),
            },
            Method::DELETE => match state.objects.remove(&object_path) {
                Some(object) => (StatusCode::OK, object),
                None => not_found(&kind),
            },
            Method::PUT => match state.objects.get_mut(&object_path) {
                Some(object) if object["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] => {
                    failure(StatusCode::CONFLICT, "Conflict")
                }
                Some(object) => {
                    *object = body;
                    object["metadata"]["resourceVersion"] = version;
                    (StatusCode::OK, object.clone())
                }
                None => failure(StatusCode::NOT_FOUND, "NotFound"),
            },
            Method::GET => match state.objects.get(&object_path) {
                Some(object) => (StatusCode::OK, object.clone()),
                None => not_found(&kind),
            },
            _ => failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        }
    }
}

/// The hash in the field selector of a list of inventories. The other spelling of the field finds nothing here.
fn listed_hash(request: &http::request::Parts) -> Option<&str> {
    let query = request.uri.query().filter(|_| request.method == Method::GET)?;
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix("fieldSelector=spec.tpm"))
        .map(|field| field.strip_prefix("Hash%3D").unwrap_or("none"))
}

fn asks_for_metadata(request: &http::request::Parts) -> bool {
    let accept = request.headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("as=PartialObjectMetadata"))
}

fn metadata_of(object: Value) -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]})
}

/// Whether the object has another version than the patch is for.
fn written_since(object: &Value, patch: &Value) -> bool {
    patch["metadata"]["resourceVersion"].is_string()
        && object["metadata"]["resourceVersion"] != patch["metadata"]["resourceVersion"]
}

/// JSON merge patch, RFC 7396.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().map(|fields| fields.remove(key));
        } else {
            merge(&mut target[key], value);
        }
    }
}

fn failure(code: StatusCode, reason: &str) -> (StatusCode, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": reason, "message": reason, "code": code.as_u16(),
    });
    (code, status)
}

/// The answer if an object is missing and its kind is served.
fn not_found(kind: &[&str]) -> (StatusCode, Value) {
    let (code, mut status) = failure(StatusCode::NOT_FOUND, "NotFound");
    status["details"] = json!({"name": kind.get(1).or(kind.first())});
    (code, status)
}

/// A context whose indexes are complete and empty, at a fixed time.
pub fn context(api: &FakeApi) -> Context {
    let endpoint = Endpoint { server_url: "https://ros.example.org".into(), ca_bundle: "PEM\n".into() };
    let (events, _) = Events::new(api.client());
    let metrics = Metrics::default();
    let clock = Clock(|| Timestamp::from_second(1_800_000_000).unwrap());
    let context = Context {
        client: api.client(),
        evictions: api.client(),
        registrations: RegistrationIndex::default(),
        inventory: Inventory {
            index: InventoryIndex::default(),
            store: InventoryStore::new(api.client()),
            lookup: Lookup::default(),
            limiter: WriteLimiter::default(),
            events: events.clone(),
            writes: metrics.writes.clone(),
            clock,
        },
        secrets: SharedSecrets::new(api.client()),
        rancher: Rancher::new(api.client()),
        media: MediaStore::new(None, 1).0,
        boot_listener: None,
        events,
        metrics,
        leadership: Leadership::always(),
        endpoint: watch::channel(endpoint).1,
        tpm_vendors: Authorities::default(),
        default_registry: DefaultRegistry::default(),
        namespace: "ros".to_owned(),
        replica: "pod".to_owned(),
        os_images: kube::runtime::reflector::store().0,
        clock,
    };
    for event in [Event::Init, Event::InitDone] {
        context.registrations.apply(&event);
    }
    context.inventory.index.finish_listing();
    context
}

/// The registration `door` in namespace `n`, as the watch delivers it.
pub fn registration(spec: Value, token: &str) -> MachineRegistration {
    serde_json::from_value(json!({
        "apiVersion": "rancheros.cattle.io/v1", "kind": "MachineRegistration",
        "metadata": {"namespace": "n", "name": "door", "uid": "door"},
        "spec": spec,
        "status": {"registrationToken": token, "bootToken": BOOT_TOKEN},
    }))
    .unwrap()
}

/// An inventory as a person creates it.
pub fn inventory(name: &str, spec: Value) -> MachineInventory {
    serde_json::from_value(json!({
        "apiVersion": "rancheros.cattle.io/v1", "kind": "MachineInventory",
        "metadata": {"namespace": "n", "name": name, "uid": name, "resourceVersion": "1"},
        "spec": spec,
    }))
    .unwrap()
}

/// The boot token of [`registration`].
pub const BOOT_TOKEN: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
