//! An HTTP proxy that wants a user and a password. It leads to servers on this host's loopback interface, whatever host they
//! are asked for by.

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use qemu::lan::Namespace;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

pub const USER: &str = "edge";
pub const PASSWORD: &str = "pr0xy-passw0rd";
/// The head of a request is not longer, in bytes.
const LARGEST_HEAD: usize = 8192;

/// Connects until this value is dropped.
pub struct HttpProxy {
    address: SocketAddr,
    connected: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

impl HttpProxy {
    /// On a free port of the loopback interface.
    pub fn start() -> Result<Self> {
        Self::serve(std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening as a proxy")?)
    }

    /// At an address in a namespace.
    pub fn start_within(namespace: &Namespace, address: SocketAddrV4) -> Result<Self> {
        let listen = || std::net::TcpListener::bind(address).with_context(|| format!("listening on {address}"));
        Self::serve(namespace.within(listen)?)
    }

    fn serve(listener: std::net::TcpListener) -> Result<Self> {
        listener.set_nonblocking(true).context("setting up the listener")?;
        let address = listener.local_addr().context("finding the proxy's address")?;
        let listener = TcpListener::from_std(listener).context("setting up the listener")?;
        let connected = Arc::<Mutex<Vec<String>>>::default();
        let list = connected.clone();
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let list = list.clone();
                connections.spawn(async move {
                    // Either side may end the connection as it likes.
                    let _ = serve(client, &list).await;
                });
            }
        });
        Ok(Self { address, connected, serving })
    }

    /// Its URL with this password of the user [`USER`].
    pub fn url(&self, password: &str) -> String {
        format!("http://{USER}:{password}@{}", self.address)
    }

    /// What clients with the right password were connected to: `HOST:PORT`.
    pub fn connected(&self) -> Vec<String> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// One connection, which begins with `CONNECT HOST:PORT` (RFC 9110, section 9.3.6).
async fn serve(mut client: TcpStream, connected: &Mutex<Vec<String>>) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < LARGEST_HEAD, "the request is too long");
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8(head)?;
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).context("no CONNECT")?;
    let expected = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    let is_allowed = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .any(|(name, value)| name.eq_ignore_ascii_case("proxy-authorization") && value == expected);
    if !is_allowed {
        let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
        return Ok(client.write_all(refusal.as_bytes()).await?);
    }
    let (_, port) = target.rsplit_once(':').context("no port")?;
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port.parse()?)).await?;
    connected.lock().unwrap_or_else(PoisonError::into_inner).push(target.to_owned());
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
