//! Leads from a network of a test's own to a server on this host's loopback interface.

use anyhow::{Context, Result};
use qemu::lan::Namespace;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Passes connections on until this value is dropped.
pub struct TcpForwarder(JoinHandle<()>);

impl TcpForwarder {
    /// Connections to `from` in the namespace reach the same port of the loopback interface.
    pub fn start(namespace: &Namespace, from: SocketAddr) -> Result<Self> {
        let listener = namespace.within(|| {
            let listener = std::net::TcpListener::bind(from).with_context(|| format!("listening on {from}"))?;
            listener.set_nonblocking(true).context("setting up the listener")?;
            Ok(listener)
        })?;
        let listener = TcpListener::from_std(listener).context("setting up the listener")?;
        let port = from.port();
        Ok(Self(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                connections.spawn(async move {
                    if let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                        // Either side may end the connection as it likes.
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        })))
    }
}

impl Drop for TcpForwarder {
    fn drop(&mut self) {
        self.0.abort();
    }
}
