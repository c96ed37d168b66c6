//! Accepts connections and speaks TLS and HTTP/1.1 on them, with a bound on everything a stranger may make us wait for
//! or keep.

use axum::Router;
use axum::extract::Request;
use futures::FutureExt;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::metrics::gauge::Gauge;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

/// The first release's later clients split their SMBIOS over up to 200 headers.
const MAX_HEADERS: usize = 256;

/// What one connection, and all of them, may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; further ones wait in the kernel's queue.
    pub connections: usize,
    /// From the connection to the end of the TLS handshake.
    pub handshake: Duration,
    /// From the first byte of a request to the end of its headers.
    pub headers: Duration,
    /// Bytes of all headers of a request. The first release puts keys and SMBIOS there, up to some 40 KiB.
    pub header_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            handshake: Duration::from_secs(10),
            headers: Duration::from_secs(10),
            header_bytes: 96 * 1024,
        }
    }
}

/// Serves until `stop`. Connections that are open then go on; whoever holds their exchanges ends them.
pub async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    router: Router,
    limits: Limits,
    open: Gauge,
    stop: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let stop = stop.fuse();
    tokio::pin!(stop);
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            next = next => next,
            () = &mut stop => return,
        };
        match (accepted, place) {
            (Ok((stream, _)), Ok(place)) => {
                let connection = connection(stream, tls.clone(), router.clone(), limits);
                tokio::spawn(counted(connection, open.clone(), place));
            }
            (Err(error), _) => {
                // Out of file descriptors, mostly: they come back when connections end.
                tracing::warn!(%error, "accepting a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            (_, Err(_)) => return,
        }
    }
}

async fn counted(connection: impl Future<Output = ()>, open: Gauge, place: OwnedSemaphorePermit) {
    open.inc();
    connection.await;
    open.dec();
    drop(place);
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, router: Router, limits: Limits) {
    // Answers are small and waited for.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(limits.handshake, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake"),
        Err(_) => return tracing::debug!("a TLS handshake took too long"),
    };
    let service = TowerToHyperService::new(
        router.map_request(|request: hyper::Request<_>| -> Request { request.map(axum::body::Body::new) }),
    );
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.headers)
        .max_buf_size(limits.header_bytes)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended");
    }
}
