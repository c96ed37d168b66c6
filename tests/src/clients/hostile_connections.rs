//! Hostile connections: they keep the operator waiting, and connect again when they are closed.

use crate::fakes::software_machine::Endpoint;
use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use qemu::wait::{Poll, until};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// What a hostile client does with a connection.
#[derive(Clone, Copy, Debug)]
pub enum Behaviour {
    /// Nothing.
    Silent,
    /// Begins a request with this many bytes of a header, and goes on with one byte after the other.
    SlowHeaders(usize),
    /// Opens a websocket, begins a frame of usual size, and goes on with one byte after the other.
    SlowFrames,
}

/// Clients that go on until this value is dropped.
pub struct Connections {
    connected: Arc<AtomicUsize>,
    count: usize,
    _clients: JoinSet<()>,
}

/// Pause between two bytes.
const DRIP: Duration = Duration::from_millis(300);
/// Pause before a client connects again. Without it, ten thousand clients would measure how many connections this
/// host's kernel makes in a second.
const PAUSE: Duration = Duration::from_secs(2);
/// Source addresses: one address has too few ports for ten thousand clients that connect again and again.
const ADDRESSES: usize = 16;

impl Connections {
    /// Starts clients, which connect at once.
    pub fn open(count: usize, endpoint: &Endpoint, behaviour: Behaviour) -> Result<Self> {
        allow_open_files(count as u64 + 1000)?;
        let connected = Arc::<AtomicUsize>::default();
        let mut clients = JoinSet::new();
        for number in 0..count {
            let (connected, endpoint) = (connected.clone(), endpoint.clone());
            clients.spawn(async move {
                let mut first = true;
                loop {
                    let reached = || {
                        if std::mem::take(&mut first) {
                            connected.fetch_add(1, Ordering::Relaxed);
                        }
                    };
                    let _ = connect_once(number, &endpoint, behaviour, reached).await;
                    sleep(PAUSE).await;
                }
            });
        }
        Ok(Self { connected, count, _clients: clients })
    }

    /// Waits until each of them was connected once.
    pub async fn all_connected(&self) -> Result<()> {
        until("all hostile connections", Duration::from_secs(60), async || {
            let connected = self.connected.load(Ordering::Relaxed);
            Ok(if connected < self.count { Poll::Pending(connected.to_string()) } else { Poll::Ready(()) })
        })
        .await
    }
}

/// Runs one connection to its end. Calls `reached` when its behaviour begins.
async fn connect_once(
    number: usize,
    endpoint: &Endpoint,
    behaviour: Behaviour,
    mut reached: impl FnMut(),
) -> Result<()> {
    let mut stream = connect(endpoint.address()?, number % ADDRESSES).await?;
    let beginning = match behaviour {
        Behaviour::Silent => {
            reached();
            // The operator ends the connection.
            let _ = stream.read(&mut [0]).await;
            return Ok(());
        }
        Behaviour::SlowHeaders(bytes) => format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}", "x".repeat(bytes)).into_bytes(),
        Behaviour::SlowFrames => {
            let mut beginning = endpoint.upgrade_request()?.into_bytes();
            // RFC 6455, section 5.2: the last frame of a text, masked, of 0x1000 bytes; the mask.
            beginning.extend([0x81, 0x80 | 126, 0x10, 0x00, 0, 0, 0, 0]);
            beginning
        }
    };
    let mut stream = endpoint.shake_hands(stream).await?;
    stream.write_all(&beginning).await?;
    stream.flush().await?;
    reached();
    let mut heard = [0; 1024];
    loop {
        match timeout(DRIP, stream.read(&mut heard)).await {
            Ok(Ok(0) | Err(_)) => return Ok(()),
            Ok(Ok(_)) => {}
            Err(_) => stream.write_all(b"x").await?,
        }
    }
}

async fn connect(address: SocketAddr, from: usize) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // All of 127.0.0.0/8 is this host.
    socket.bind((Ipv4Addr::new(127, 0, 1, 1 + from as u8), 0).into())?;
    Ok(socket.connect(address).await?)
}

fn allow_open_files(count: u64) -> Result<()> {
    let (now, most) = getrlimit(Resource::RLIMIT_NOFILE).context("reading the limit of open files")?;
    ensure!(most >= count, "{count} files must be open at once, and {most} may be (ulimit -Hn)");
    setrlimit(Resource::RLIMIT_NOFILE, now.max(count), most).context("allowing more open files")
}
