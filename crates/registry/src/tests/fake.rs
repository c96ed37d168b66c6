//! A registry on a loopback address that holds images in memory, and misbehaves where a test says so.

use crate::digest::Digest;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

/// What the registry does wrong.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// Bytes after which each answer with a blob breaks off, one for each answer; the rest is whole.
    pub(crate) cuts: Vec<usize>,
    /// Requests that are answered with 503 before one is answered.
    pub(crate) unavailable: usize,
    /// A byte of each blob is another one.
    pub(crate) damaged: bool,
    /// Every `Range` is ignored.
    pub(crate) without_ranges: bool,
    /// Bytes are added to the end of each blob.
    pub(crate) longer: usize,
    /// Bytes are missing at the end of each blob, and `Content-Length` agrees.
    pub(crate) shorter: usize,
}

#[derive(Default)]
pub(crate) struct Content {
    pub(crate) faults: Faults,
    /// User name and password that the token server asks for. Every request then needs the token.
    pub(crate) login: Option<(String, String)>,
    /// Each token is good for so many requests, until the next one is issued; with 0 it is good for ever.
    pub(crate) requests_for_a_token: usize,
    /// Answered whatever is asked.
    pub(crate) status: Option<StatusCode>,
    pub(crate) manifests: BTreeMap<String, (String, Vec<u8>)>,
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    tokens: usize,
    left: usize,
    /// `METHOD path`, with `Range` where there is one.
    pub(crate) log: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct FakeRegistry {
    pub(crate) address: SocketAddr,
    pub(crate) content: Arc<Mutex<Content>>,
}

impl FakeRegistry {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = Self { address: listener.local_addr().unwrap(), content: Arc::default() };
        let router = registry.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        registry
    }

    pub(crate) fn router(&self) -> Router {
        Router::new().fallback(answer).with_state(self.clone())
    }

    /// For a router that is served elsewhere.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self { address, content: Arc::default() }
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Content) -> T) -> T {
        change(&mut self.content.lock().unwrap())
    }

    pub(crate) fn reference(&self, rest: &str) -> crate::Reference {
        format!("{}/{rest}", self.address).parse().unwrap()
    }

    /// Puts an image of uncompressed layers under `os/ros:<tag>`; returns its digest.
    pub(crate) fn put(&self, tag: &str, layers: &[Vec<u8>]) -> String {
        let layers: Vec<Value> = layers.iter().map(|layer| self.put_blob(layer)).collect();
        self.put_manifest(tag, &json!({"schemaVersion": 2, "layers": layers}))
    }

    pub(crate) fn put_blob(&self, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes).to_string();
        self.change(|content| content.blobs.insert(digest.clone(), bytes.to_vec()));
        json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": bytes.len()})
    }

    pub(crate) fn put_manifest(&self, tag: &str, manifest: &Value) -> String {
        let bytes = serde_json::to_vec(manifest).unwrap();
        let digest = Digest::of(&bytes).to_string();
        self.change(|content| {
            for name in [tag, &digest] {
                content.manifests.insert(name.to_owned(), ("application/json".into(), bytes.clone()));
            }
        });
        digest
    }
}

async fn answer(State(registry): State<FakeRegistry>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 64 << 20).await.unwrap();
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let address = registry.address;
    let mut content = registry.content.lock().unwrap();
    let range = parts.headers.get(header::RANGE).map(|range| range.to_str().unwrap().to_owned());
    let asked = format!("{} {path} {}", parts.method, range.as_deref().unwrap_or_default());
    content.log.push(asked.trim_end().to_owned());
    if path == "/token" {
        return content.token(&parts.headers);
    }
    if let Some(status) = content.status {
        return status.into_response();
    }
    if !content.admits(&parts.headers) {
        let challenge = format!("Bearer realm=\"http://{address}/token\",service=\"fake\"");
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response();
    }
    if path == "/v2/" {
        return StatusCode::OK.into_response();
    }
    if content.faults.unavailable > 0 {
        content.faults.unavailable -= 1;
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let name = path.rsplit('/').next().unwrap_or_default();
    let created = |place: String| (StatusCode::CREATED, [(header::LOCATION, place)]).into_response();
    match parts.method {
        Method::GET if path.contains("/manifests/") => match content.manifests.get(name) {
            Some((kind, bytes)) => ([(header::CONTENT_TYPE, kind.clone())], bytes.clone()).into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        },
        Method::HEAD if content.blobs.contains_key(name) => StatusCode::OK.into_response(),
        Method::GET if content.blobs.contains_key(name) => content.blob(name, range.as_deref()),
        Method::POST => {
            let place = format!("http://{address}/v2/os/ros/blobs/uploads/1");
            (StatusCode::ACCEPTED, [(header::LOCATION, place)]).into_response()
        }
        Method::PUT if path.contains("/manifests/") => {
            let kind = parts.headers[header::CONTENT_TYPE].to_str().unwrap().to_owned();
            content.manifests.insert(name.to_owned(), (kind, body.to_vec()));
            created(format!("http://{address}{path}"))
        }
        Method::PUT => {
            let digest = query.strip_prefix("digest=").unwrap().replace("%3A", ":");
            assert_eq!(digest, Digest::of(&body).to_string());
            content.blobs.insert(digest, body.to_vec());
            created(format!("http://{address}{path}"))
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

impl Content {
    fn token(&mut self, headers: &HeaderMap) -> Response {
        use base64::Engine;
        let (user, password) = self.login.clone().unwrap();
        let expected = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        let given = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap());
        if given != Some(&format!("Basic {expected}")) {
            return (StatusCode::UNAUTHORIZED, "who are you?").into_response();
        }
        self.tokens += 1;
        self.left = self.requests_for_a_token;
        axum::Json(json!({"token": format!("token-{}", self.tokens)})).into_response()
    }

    fn admits(&mut self, headers: &HeaderMap) -> bool {
        if self.login.is_none() {
            return true;
        }
        let given = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap());
        let number = given.and_then(|given| given.strip_prefix("Bearer token-")?.parse::<usize>().ok());
        if self.requests_for_a_token == 0 {
            return number.is_some_and(|number| (1..=self.tokens).contains(&number));
        }
        let is_good = number == Some(self.tokens) && self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_good
    }

    fn blob(&mut self, digest: &str, range: Option<&str>) -> Response {
        let faults = &mut self.faults;
        let mut bytes = self.blobs[digest].clone();
        bytes.truncate(bytes.len() - faults.shorter);
        bytes.extend(vec![0; faults.longer]);
        if faults.damaged {
            bytes[0] ^= 1;
        }
        let whole = bytes.len();
        let from = range
            .filter(|_| !faults.without_ranges)
            .map(|range| range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse::<usize>().unwrap());
        let mut response = Response::builder();
        if let Some(from) = from {
            if from >= whole {
                return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
            }
            let range = format!("bytes {from}-{}/{whole}", whole - 1);
            response = response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, range);
        }
        let bytes = bytes.split_off(from.unwrap_or_default());
        response = response.header(header::CONTENT_LENGTH, bytes.len());
        if faults.cuts.is_empty() {
            return response.body(Body::from(bytes)).unwrap();
        }
        let cut = faults.cuts.remove(0);
        let first = bytes[..cut].to_vec();
        // The server sends what it has when the body keeps it waiting, and drops it when the body fails at once.
        let cut_off = async {
            tokio::task::yield_now().await;
            Err(io::Error::other("cut off"))
        };
        let parts = stream::iter([Ok(first)]).chain(stream::once(cut_off));
        response.body(Body::from_stream(parts)).unwrap()
    }
}
