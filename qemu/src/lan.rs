//! A network of its own for machines and programs, with any servers in it: Linux network namespaces, joined by a bridge.
//! Nothing gets in or out. Needs root.

use crate::process::succeeded;
use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// A network. The namespace of its servers has the bridge [`SERVERS`]. All of it is gone when this value is dropped.
pub struct Lan {
    servers: Namespace,
    ports: AtomicUsize,
}

/// The interface of the servers.
pub const SERVERS: &str = "servers";
/// The interface of another host.
pub const HOST: &str = "eth0";

impl Lan {
    /// `addresses` of the servers, such as `10.0.2.2/24` and `fd00::2/64`.
    pub fn new(addresses: &[&str]) -> Result<Self> {
        let servers = Namespace::new()?;
        servers.ip(&["link", "add", SERVERS, "type", "bridge", "forward_delay", "0"])?;
        for address in addresses {
            // No duplicate of an IPv6 address is looked for: until that ended nobody could listen at it.
            servers.ip(&["address", "add", address, "dev", SERVERS, "nodad"])?;
        }
        servers.ip(&["link", "set", SERVERS, "up"])?;
        Ok(Self { servers, ports: AtomicUsize::new(0) })
    }

    /// Where the servers run.
    pub fn servers(&self) -> &Namespace {
        &self.servers
    }

    /// Another host, whose interface is [`HOST`]. It has no address.
    pub fn host(&self) -> Result<Namespace> {
        let host = Namespace::new()?;
        let port = self.port();
        let name = host.name.as_str();
        self.servers.ip(&["link", "add", &port, "type", "veth", "peer", "name", HOST, "netns", name])?;
        self.connect(&port)?;
        host.ip(&["link", "set", HOST, "up"])?;
        Ok(host)
    }

    /// The name of a tap interface in the servers' namespace, for a virtual machine.
    pub fn tap(&self) -> Result<String> {
        let port = self.port();
        self.servers.ip(&["tuntap", "add", "dev", &port, "mode", "tap"])?;
        self.connect(&port)?;
        Ok(port)
    }

    fn port(&self) -> String {
        format!("port{}", self.ports.fetch_add(1, Ordering::Relaxed))
    }

    fn connect(&self, port: &str) -> Result<()> {
        self.servers.ip(&["link", "set", port, "master", SERVERS, "up"])
    }
}

/// A network namespace. Its interfaces are gone when this value is dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    fn new() -> Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("ros-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        succeeded(Command::new("ip").args(["netns", "add", &name])).context("making a network namespace, as root")?;
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` in the namespace.
    pub fn ip(&self, arguments: &[&str]) -> Result<()> {
        succeeded(Command::new("ip").args(["-n", &self.name]).args(arguments)).map(drop)
    }

    /// A command that runs in the namespace.
    pub fn command(&self, program: &str) -> Command {
        command_in(&self.name, program)
    }

    /// Runs `work` on a thread in the namespace: sockets that it opens stay there.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = format!("/run/netns/{}", self.name);
        let namespace = File::open(&path).with_context(|| format!("opening {path}"))?;
        let outcome = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&namespace, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {path}"))?;
                work()
            });
            thread.join()
        });
        outcome.unwrap_or_else(|_| bail!("the thread in {path} panicked"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = succeeded(Command::new("ip").args(["netns", "delete", &self.name])) {
            eprintln!("{error:#}");
        }
    }
}

/// `ip` becomes the program, so that ending one ends the other.
pub(crate) fn command_in(namespace: &str, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, program]);
    command
}
