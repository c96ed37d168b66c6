//! Peers that mean no good: they connect, keep the operator waiting, and come back when they are sent away.

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

/// What a stranger does with a connection.
#[derive(Clone, Copy, Debug)]
pub enum Manner {
    /// Nothing.
    Silent,
    /// Begins a request with this many bytes of a header, and goes on with one byte after the other.
    SlowHeaders(usize),
    /// Opens a websocket, begins a frame of usual size, and goes on with one byte after the other.
    SlowFrames,
}

/// Strangers who stay until this value goes.
pub struct Crowd {
    came: Arc<AtomicUsize>,
    count: usize,
    _strangers: JoinSet<()>,
}

/// Between two bytes.
const DRIP: Duration = Duration::from_millis(300);
/// Before they come again. At once, ten thousand would measure how many connections this host's kernel makes in a second.
const PAUSE: Duration = Duration::from_secs(2);
/// Addresses that they come from: one has too few ports for all that come again and again.
const ADDRESSES: usize = 16;

impl Crowd {
    /// They begin at once.
    pub fn gather(count: usize, endpoint: &Endpoint, manner: Manner) -> Result<Self> {
        allow_open_files(count as u64 + 1000)?;
        let came = Arc::<AtomicUsize>::default();
        let mut strangers = JoinSet::new();
        for number in 0..count {
            let (came, endpoint) = (came.clone(), endpoint.clone());
            strangers.spawn(async move {
                let mut first = true;
                loop {
                    let met = || {
                        if std::mem::take(&mut first) {
                            came.fetch_add(1, Ordering::Relaxed);
                        }
                    };
                    let _ = visit(number, &endpoint, manner, met).await;
                    sleep(PAUSE).await;
                }
            });
        }
        Ok(Self { came, count, _strangers: strangers })
    }

    /// Waits until each of them was there once.
    pub async fn all_came(&self) -> Result<()> {
        until("all strangers to come", Duration::from_secs(60), async || {
            let came = self.came.load(Ordering::Relaxed);
            Ok(if came < self.count { Poll::Pending(came.to_string()) } else { Poll::Ready(()) })
        })
        .await
    }
}

/// One connection, to its end. `met`: when it is where it wants to be.
async fn visit(number: usize, endpoint: &Endpoint, manner: Manner, mut met: impl FnMut()) -> Result<()> {
    let mut stream = connect(endpoint.address()?, number % ADDRESSES).await?;
    let beginning = match manner {
        Manner::Silent => {
            met();
            // Its end comes from the other side.
            let _ = stream.read(&mut [0]).await;
            return Ok(());
        }
        Manner::SlowHeaders(bytes) => format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}", "x".repeat(bytes)).into_bytes(),
        Manner::SlowFrames => {
            let mut beginning = endpoint.upgrade_request()?.into_bytes();
            // RFC 6455, section 5.2: the last frame of a text, masked, of 0x1000 bytes; the mask.
            beginning.extend([0x81, 0x80 | 126, 0x10, 0x00, 0, 0, 0, 0]);
            beginning
        }
    };
    let mut stream = endpoint.shake_hands(stream).await?;
    stream.write_all(&beginning).await?;
    stream.flush().await?;
    met();
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
    let (now, most) = getrlimit(Resource::RLIMIT_NOFILE).context("asking how many files may be open")?;
    ensure!(most >= count, "{count} files must be open at once, and {most} may be (ulimit -Hn)");
    setrlimit(Resource::RLIMIT_NOFILE, now.max(count), most).context("allowing more open files")
}
