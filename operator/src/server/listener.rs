//! Accepts connections and serves HTTP/1.1 on them, with TLS or, for network boots, without. Everything that a stranger
//! can make the operator wait for or keep is bounded.
//!
//! A connection needs two permits, one after the other. Before its first byte it costs only a socket, and there are
//! many permits. From its first byte on it costs buffers, and there are fewer. Both can be revoked if the peer keeps
//! others waiting ([`Permits`]). A websocket releases the second permit: its exchange has a permit of its own.

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
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

/// The first release's later clients split their SMBIOS over up to 200 headers.
const MAX_HEADERS: usize = 256;
/// Bytes that wait encrypted for a slow peer. The library's default is 64 KiB.
const TLS_BUFFER: usize = 8 * 1024;
/// Length of the kernel's accept queue. The kernel limits it to `net.core.somaxconn`.
const BACKLOG: u32 = 4096;
/// After this long without a first byte the permit may be revoked. The first byte comes with the connection.
const FIRST_BYTE_PATIENCE: Duration = Duration::from_millis(100);
/// The same for each later step: several round trips around the world.
const PATIENCE: Duration = Duration::from_secs(1);

/// Limits of one connection and of all connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Concurrent connections before their first byte. Others wait in the kernel's queue.
    pub silent: usize,
    /// Concurrent connections from their first byte on. Their buffers must fit into the memory limit of the chart:
    /// `header_bytes` for each, and some 40 KiB for TLS.
    pub speaking: usize,
    /// From the connection to the end of the TLS handshake.
    pub handshake: Duration,
    /// From the first byte of a request to the end of its headers.
    pub headers: Duration,
    /// Bytes of all headers of a request. The first release puts keys and SMBIOS there, up to some 40 KiB.
    pub header_bytes: usize,
}

impl Limits {
    /// For a process with this limit of open files. Each connection is an open file.
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

/// Listens with a long accept queue: all machines of a site may be switched on together.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Everything that is needed to serve a connection.
pub struct Service {
    /// `None`: plain HTTP.
    pub tls: Option<TlsAcceptor>,
    pub router: Router,
    pub limits: Limits,
    pub context: Arc<Context>,
}

/// Accepts connections until `stop`. Open connections continue; [`Drain`](super::Drain) ends their exchanges.
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
                    // Mostly there are no free file descriptors; connections that end free them.
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
        // Not `readable`, which returns too early for a new socket.
        spoke = timeout_at(deadline, stream.peek(&mut first_byte)) => matches!(spoke, Ok(Ok(1..))),
        () = permit.revoked() => {
            service.context.metrics.count_revoked("silent");
            false
        }
    };
    if !spoke {
        return tracing::debug!("a connection sent nothing");
    }
    permit.clear_deadline();
    let speaks = Arc::new(speaking.acquire().await);
    drop(permit);
    tokio::select! {
        () = converse(stream, deadline, &speaks, service) => {}
        () = speaks.revoked() => {
            service.context.metrics.count_revoked("speaking");
            tracing::debug!("a connection was closed to admit a waiting one");
        }
    }
}

async fn converse(stream: TcpStream, deadline: Instant, permit: &Arc<Permit>, service: &Service) {
    permit.start_deadline(PATIENCE);
    let Some(tls) = &service.tls else { return answer(stream, permit, service).await };
    match timeout_at(deadline, tls.accept(stream)).await {
        Ok(Ok(mut stream)) => {
            permit.start_deadline(PATIENCE);
            stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
            answer(stream, permit, service).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

/// Answers the requests of a connection.
async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, permit: &Arc<Permit>, service: &Service) {
    let limits = &service.limits;
    let (permit, patience, router) = (permit.clone(), limits.headers, service.router.clone());
    let answering = tower::service_fn(move |mut request: Request<Incoming>| {
        // For handlers that take long and see the peer's progress.
        request.extensions_mut().insert(permit.clone());
        let (permit, answer) = (permit.clone(), router.clone().oneshot(request));
        async move {
            permit.clear_deadline();
            let answer = answer.await;
            // Now the peer must read the answer and send the next request.
            permit.start_deadline(patience);
            answer
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.headers)
        .max_buf_size(limits.header_bytes)
        .max_headers(MAX_HEADERS)
        // GRUB 2.12 takes only `Content-Length` for what it is.
        .title_case_headers(service.tls.is_none())
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(answering))
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended");
    }
}
