//! Accepts connections and speaks TLS and HTTP/1.1 on them, with a bound on everything a stranger may make us wait for
//! or keep.
//!
//! A connection goes through two gates. Before it says anything it costs a socket, and there are many places; from its
//! first byte on it costs buffers, and there are fewer. At both, a peer that keeps others waiting makes room
//! ([`Permits`]). A websocket leaves the second: from then on its exchange holds a place of its own.

use super::permits::{Permit, Permits};
use crate::context::Context;
use axum::Router;
use axum::http::Request;
use futures::FutureExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

/// The first release's later clients split their SMBIOS over up to 200 headers.
const MAX_HEADERS: usize = 256;
/// Connections that the kernel holds for us; it takes no more than `net.core.somaxconn`.
const BACKLOG: u32 = 4096;
/// How long a peer may take with its first byte when others wait for its place: it comes along with the connection.
const FIRST_BYTE_PATIENCE: Duration = Duration::from_millis(100);
/// The same for every step after it: several round trips around the world.
const PATIENCE: Duration = Duration::from_secs(1);

/// What one connection, and all of them, may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections that have said nothing yet, at once; further ones wait in the kernel's queue.
    pub silent: usize,
    /// Connections from their first byte on. All that they make us keep must fit into the memory that the chart gives
    /// us: `header_bytes` for each, and some 40 KiB for TLS.
    pub speaking: usize,
    /// From the connection to the end of the TLS handshake.
    pub handshake: Duration,
    /// From the first byte of a request to the end of its headers.
    pub headers: Duration,
    /// Bytes of all headers of a request. The first release puts keys and SMBIOS there, up to some 40 KiB.
    pub header_bytes: usize,
}

impl Limits {
    /// For a process that may have this many files open; each connection is one.
    pub fn for_open_files(most: usize) -> Self {
        Self {
            silent: (most / 2).min(4096),
            speaking: (most / 8).min(512),
            handshake: Duration::from_secs(10),
            headers: Duration::from_secs(10),
            header_bytes: 64 * 1024,
        }
    }
}

/// Listens, with a longer queue than usual: a site's machines are switched on together.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What connections are served with.
pub struct Service {
    pub tls: TlsAcceptor,
    pub router: Router,
    pub limits: Limits,
    pub context: Arc<Context>,
}

/// Serves until `stop`. Connections that are open then go on; whoever holds their exchanges ends them.
pub async fn serve(listener: TcpListener, service: Service, stop: impl Future<Output = ()>) {
    let (silent, speaking) = (Permits::new(service.limits.silent), Permits::new(service.limits.speaking));
    let service = Arc::new(service);
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let permit = silent.acquire().await;
                    tokio::spawn(counted(stream, permit, speaking.clone(), service.clone()));
                }
                Err(error) => {
                    // Out of file descriptors, mostly: they come back when connections end.
                    tracing::warn!(%error, "accepting a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    };
    let stop = stop.fuse();
    tokio::pin!(stop);
    tokio::select! {
        () = accepting => {}
        () = stop => {}
    }
}

async fn counted(stream: TcpStream, permit: Permit, speaking: Permits, service: Arc<Service>) {
    service.context.metrics.connections.inc();
    connection(stream, permit, speaking, &service).await;
    service.context.metrics.connections.dec();
}

async fn connection(stream: TcpStream, permit: Permit, speaking: Permits, service: &Service) {
    // Answers are small and waited for.
    let _ = stream.set_nodelay(true);
    let deadline = Instant::now() + service.limits.handshake;
    let mut first_byte = [0];
    permit.start_deadline(FIRST_BYTE_PATIENCE);
    let spoke = tokio::select! {
        // Not `readable`, which is told too early of a socket that is new.
        spoke = timeout_at(deadline, stream.peek(&mut first_byte)) => matches!(spoke, Ok(Ok(1..))),
        () = permit.revoked() => {
            service.context.metrics.count_revoked("silent");
            false
        }
    };
    if !spoke {
        return tracing::debug!("a connection said nothing");
    }
    permit.clear_deadline();
    let speaks = Arc::new(speaking.acquire().await);
    drop(permit);
    tokio::select! {
        () = converse(stream, deadline, &speaks, service) => {}
        () = speaks.revoked() => {
            service.context.metrics.count_revoked("speaking");
            tracing::debug!("a connection kept others waiting");
        }
    }
}

async fn converse(stream: TcpStream, deadline: Instant, permit: &Arc<Permit>, service: &Service) {
    let limits = &service.limits;
    permit.start_deadline(PATIENCE);
    let stream = match timeout_at(deadline, service.tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake"),
        Err(_) => return tracing::debug!("a TLS handshake took too long"),
    };
    permit.start_deadline(PATIENCE);
    let (permit, patience, router) = (permit.clone(), limits.headers, service.router.clone());
    let answering = tower::service_fn(move |mut request: Request<Incoming>| {
        // For who takes long to answer, and hears from the peer meanwhile.
        request.extensions_mut().insert(permit.clone());
        let (permit, answer) = (permit.clone(), router.clone().oneshot(request));
        async move {
            permit.clear_deadline();
            let answer = answer.await;
            // What is left is the peer's: to read the answer, and to ask again.
            permit.start_deadline(patience);
            answer
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.headers)
        .max_buf_size(limits.header_bytes)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(answering))
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended");
    }
}
