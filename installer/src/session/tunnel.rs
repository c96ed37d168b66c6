//! Connections to an operator through an HTTP proxy, by its method CONNECT (RFC 9110, section 9.3.6).

use super::ConnectError;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use registry::Proxy;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::http::Uri;
use tower_service::Service;

/// Limit for the proxy to connect to the operator.
const CONNECT: Duration = Duration::from_secs(30);

/// Which hosts are reached through a proxy, and through which.
#[derive(Clone)]
pub struct Tunnels(Arc<Matcher>);

impl Tunnels {
    /// Without a proxy the variables of the environment count, `HTTPS_PROXY` and `NO_PROXY`, as curl reads them.
    pub fn new(proxy: Option<&Proxy>) -> Self {
        let matcher = match proxy {
            Some(proxy) => Matcher::builder().all(proxy.url()).no(proxy.except()).build(),
            None => Matcher::from_env(),
        };
        Self(Arc::new(matcher))
    }

    /// A connection to the host of a `wss` URL through its proxy. `None`: the host is reached without one.
    pub async fn connect(&self, operator: &Uri) -> Result<Option<TcpStream>, ConnectError> {
        // Rules for a proxy know `https`, not `wss`.
        let host = operator.authority().map(|authority| format!("https://{authority}/"));
        let Some(target) = host.and_then(|host| host.parse::<Uri>().ok()) else { return Ok(None) };
        match self.0.intercept(&target) {
            Some(proxy) => through(&proxy, target).await.map(Some),
            None => Ok(None),
        }
    }
}

async fn through(proxy: &Intercept, target: Uri) -> Result<TcpStream, ConnectError> {
    // The URL in messages is without user and password: `uri` has none.
    let named = proxy.uri().authority().map(ToString::to_string).unwrap_or_default();
    let host = target.host().unwrap_or_default().to_owned();
    let failed = |why: String| ConnectError::Proxy { proxy: named.clone(), host: host.clone(), why };
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let mut tunnel = Tunnel::new(proxy.uri().clone(), connector);
    if let Some(authorization) = proxy.basic_auth() {
        tunnel = tunnel.with_auth(authorization.clone());
    }
    match timeout(CONNECT, tunnel.call(target)).await {
        Ok(Ok(stream)) => Ok(stream.into_inner()),
        Ok(Err(error)) => Err(failed(protocol::error_chain(&error))),
        Err(_) => Err(failed(format!("no answer within {} s", CONNECT.as_secs()))),
    }
}
