//! An API server with faults: a proxy before a cluster's API server, over plain HTTP on loopback. A script of the test
//! decides what happens to each request. All requests are made as the admin.

use crate::clusters::cluster::Cluster;
use anyhow::{Context, Result};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Method, Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use futures::{StreamExt, stream};
use qemu::port::Port;
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// A request as the script sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxiedRequest {
    pub method: Method,
    /// `machineinventories/status`, for example: kind and subresource, without names. `other` if the path names no
    /// kind.
    pub kind: String,
    pub is_watch: bool,
    /// The phase that the request sets in a status.
    pub phase: Option<String>,
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It gets the API server's answer.
    None,
    /// It takes effect, and the answer is delayed by this.
    Late(Duration),
    /// It has no effect and is answered with this status code.
    Refused(u16),
    /// It is answered with a watch whose only event is an error with this status code.
    RefusedInEvent(u16),
    /// It has no effect and gets no answer. [`FaultProxy::stopped`] returns it.
    StoppedBefore,
    /// It takes effect and gets no answer. [`FaultProxy::stopped`] returns it.
    StoppedAfter,
}

type Script = Box<dyn FnMut(&ProxiedRequest) -> Fault + Send>;

pub struct FaultProxy {
    kubeconfig: PathBuf,
    shared: Arc<Shared>,
    stopped: mpsc::UnboundedReceiver<ProxiedRequest>,
    serving: JoinHandle<()>,
    _port: Port,
}

struct Shared {
    client: kube::Client,
    script: Mutex<Script>,
    stopped: mpsc::UnboundedSender<ProxiedRequest>,
    /// Counts how often all watches were cut.
    cuts: watch::Sender<usize>,
}

impl FaultProxy {
    /// Starts it without faults; see [`FaultProxy::script`].
    pub async fn start(cluster: &Cluster, folder: &Path) -> Result<Self> {
        let port = Port::reserve()?;
        let address = format!("127.0.0.1:{}", port.number());
        let listener = TcpListener::bind(&address).await.with_context(|| format!("listening on {address}"))?;
        let (sender, stopped) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            client: cluster.client().await?,
            script: Mutex::new(Box::new(|_| Fault::None)),
            stopped: sender,
            cuts: watch::Sender::new(0),
        });
        let router = axum::Router::new().fallback(serve).with_state(shared.clone());
        let serving = tokio::spawn(async move {
            // Serving ends only when the task is aborted. Errors of one connection do not end it.
            let _ = axum::serve(listener, router).await;
        });
        let kubeconfig = folder.join("faulty-kubeconfig");
        let content = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "admin", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "current-context": "test",
        });
        std::fs::write(&kubeconfig, content.to_string())
            .with_context(|| format!("writing {}", kubeconfig.display()))?;
        Ok(Self { kubeconfig, shared, stopped, serving, _port: port })
    }

    /// The kubeconfig for the program that shall meet the faults.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// From now on this decides what happens to each request.
    pub fn script(&self, script: impl FnMut(&ProxiedRequest) -> Fault + Send + 'static) {
        *self.shared.script.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(script);
    }

    /// Breaks every open watch, as a lost connection does.
    pub fn cut_watches(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Waits for the next request that is stopped.
    pub async fn stopped(&mut self) -> Result<ProxiedRequest> {
        self.stopped.recv().await.context("waiting for a request to be stopped: the proxy has ended")
    }

    /// Forgets the stopped requests that were not returned yet.
    pub fn forget_stopped(&mut self) {
        while self.stopped.try_recv().is_ok() {}
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl ProxiedRequest {
    fn of(method: &Method, path: &str, query: &str, body: &[u8]) -> Self {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let rest = match parts.first() {
            Some(&"api") => parts.get(2..),
            Some(&"apis") => parts.get(3..),
            _ => None,
        };
        let rest = match rest.unwrap_or_default() {
            ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
            rest => rest,
        };
        let kind = match rest {
            [plural, _, sub] => format!("{plural}/{sub}"),
            [plural, ..] => (*plural).to_owned(),
            [] => "other".to_owned(),
        };
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let phase = body.pointer("/status/phase").and_then(Value::as_str).map(str::to_owned);
        Self { method: method.clone(), kind, is_watch: query.contains("watch=true"), phase }
    }

    pub fn is_write(&self) -> bool {
        self.method != Method::GET
    }
}

/// `PATCH machineinventories/status Registered`, for example.
impl std::fmt::Display for ProxiedRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.kind)?;
        self.phase.iter().try_for_each(|phase| write!(f, " {phase}"))
    }
}

async fn serve(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, 16 << 20).await else { return StatusCode::BAD_REQUEST.into_response() };
    let summary = ProxiedRequest::of(&parts.method, parts.uri.path(), parts.uri.query().unwrap_or_default(), &body);
    let fault = (shared.script.lock().unwrap_or_else(PoisonError::into_inner))(&summary);
    if fault != Fault::None {
        eprintln!("{summary}: {fault:?}");
    }
    match fault {
        Fault::Refused(code) => return refused(code),
        Fault::RefusedInEvent(code) => {
            let event = json!({"type": "ERROR", "object": status(code)});
            return json_answer(StatusCode::OK, format!("{event}\n"));
        }
        Fault::StoppedBefore => return stop(&shared, summary).await,
        Fault::None | Fault::Late(_) | Fault::StoppedAfter => {}
    }
    let forwarding = tokio::spawn(forward(shared.clone(), parts, body, summary.is_watch));
    let answer = match forwarding.await {
        Ok(Ok(answer)) => answer,
        _ => return StatusCode::BAD_GATEWAY.into_response(),
    };
    match fault {
        Fault::Late(delay) => tokio::time::sleep(delay).await,
        Fault::StoppedAfter => return stop(&shared, summary).await,
        _ => {}
    }
    answer
}

/// Reports the request to the test and never returns: the test is about to kill the client.
async fn stop(shared: &Shared, summary: ProxiedRequest) -> Response<Body> {
    let _ = shared.stopped.send(summary);
    std::future::pending().await
}

async fn forward(
    shared: Arc<Shared>,
    parts: axum::http::request::Parts,
    body: Bytes,
    is_watch: bool,
) -> Result<Response<Body>> {
    let mut cuts = shared.cuts.subscribe();
    cuts.mark_unchanged();
    let mut request = Request::builder().method(parts.method).uri(parts.uri);
    for name in [header::ACCEPT, header::CONTENT_TYPE] {
        if let Some(value) = parts.headers.get(&name) {
            request = request.header(name, value);
        }
    }
    let request = request.body(kube::client::Body::from(body.to_vec())).context("creating a request")?;
    let (parts, body) = shared.client.send(request).await.context("forwarding a request")?.into_parts();
    let mut body = Body::new(body);
    if is_watch {
        let cut = async move {
            let _ = cuts.changed().await;
        };
        let broken = stream::once(async { Err(axum::Error::new(io::Error::other("the watch was cut"))) });
        // By itself the stream ends after minutes only, and a client cannot tell that end from a cut.
        body = Body::from_stream(body.into_data_stream().take_until(cut).chain(broken));
    }
    let mut answer = Response::builder().status(parts.status);
    for name in [header::CONTENT_TYPE, header::RETRY_AFTER] {
        if let Some(value) = parts.headers.get(&name) {
            answer = answer.header(name, value);
        }
    }
    answer.body(body).context("creating an answer")
}

fn refused(code: u16) -> Response<Body> {
    let mut answer =
        json_answer(StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_GATEWAY), status(code).to_string());
    if code == 429 {
        answer.headers_mut().insert(header::RETRY_AFTER, 1.into());
    }
    answer
}

fn status(code: u16) -> Value {
    let reason = match code {
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        _ => "",
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": reason, "message": "a fault of the test", "code": code,
    })
}

fn json_answer(status: StatusCode, body: String) -> Response<Body> {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_by_what_it_does_and_not_by_names() {
        let of =
            |method: Method, path: &str, body: &str| ProxiedRequest::of(&method, path, "", body.as_bytes()).to_string();
        let inventories = "/apis/rancheros.cattle.io/v1/namespaces/n/machineinventories";
        assert_eq!(of(Method::POST, inventories, "{}"), "POST machineinventories");
        let body = r#"{"status": {"phase": "Ready"}}"#;
        let status = of(Method::PATCH, &format!("{inventories}/m/status"), body);
        assert_eq!(status, "PATCH machineinventories/status Ready");
        let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/r";
        assert_eq!(of(Method::PATCH, role, ""), "PATCH clusterroles");
        assert_eq!(of(Method::GET, "/version", ""), "GET other");
        let list = ProxiedRequest::of(&Method::GET, "/api/v1/nodes", "watch=true&x=1", b"");
        assert!(list.is_watch && !list.is_write());
    }
}
