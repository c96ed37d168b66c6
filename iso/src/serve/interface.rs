//! The network interface that is served, and sockets that hear nothing of the others.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use nix::ifaddrs::getifaddrs;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

/// Connections that wait to be accepted: all machines of a rack may be switched on together.
const BACKLOG: i32 = 512;

/// A network interface of this host, with the address under which it is served.
#[derive(Clone, Debug)]
pub struct Interface {
    pub name: String,
    pub address: Ipv4Addr,
}

#[derive(Debug, Error)]
pub enum InterfaceError {
    #[error("listing the network interfaces of this host")]
    List(#[source] nix::Error),
    #[error("this host has no network interface {name}; it has {known}")]
    Unknown { name: String, known: String },
    #[error("{0} has no IPv4 address: give it one before you serve on it")]
    NoAddress(String),
    #[error("{name} has no address {wanted}; it has {known}")]
    OtherAddress { name: String, wanted: Ipv4Addr, known: String },
    #[error(
        "this user may not listen on port {port} of {name}: run ros-image as root, or with the capabilities \
         CAP_NET_BIND_SERVICE and CAP_NET_RAW"
    )]
    Forbidden { name: String, port: u16 },
    #[error("port {port} of {name} is taken by another program on this host; dnsmasq shares it with `bind-interfaces`")]
    Taken { name: String, port: u16 },
    #[error("listening on port {port} of {name}")]
    Listen { name: String, port: u16, source: io::Error },
}

impl Interface {
    /// The interface of this name. `address`: one of its addresses; by default the first one.
    pub fn find(name: &str, address: Option<Ipv4Addr>) -> Result<Self, InterfaceError> {
        let entries = getifaddrs().map_err(InterfaceError::List)?;
        let entries: Vec<(String, Option<Ipv4Addr>)> = entries
            .map(|entry| (entry.interface_name, entry.address.and_then(|address| Some(address.as_sockaddr_in()?.ip()))))
            .collect();
        choose(&entries, name, address)
    }

    /// Hears what is broadcast to `port`. What is sent to an address of this host goes to other programs, so that a DHCP
    /// server on this host keeps its renewals.
    pub fn broadcasts(&self, port: u16) -> Result<UdpSocket, InterfaceError> {
        self.opened(port, || self.udp(Ipv4Addr::BROADCAST, port))
    }

    /// Sends broadcasts from `from` to `to`, and hears nothing.
    pub fn broadcaster(&self, from: u16, to: u16) -> Result<UdpSocket, InterfaceError> {
        self.opened(from, || {
            let socket = self.udp(self.address, from)?;
            socket.set_broadcast(true)?;
            // A connected socket hears its peer only, and no packet comes from this one.
            socket.connect(SocketAddrV4::new(Ipv4Addr::BROADCAST, to))?;
            Ok(socket)
        })
    }

    /// Hears what is sent to `port` of the address. 0: any free port.
    pub fn listener(&self, port: u16) -> Result<UdpSocket, InterfaceError> {
        self.opened(port, || self.udp(self.address, port))
    }

    /// Accepts connections to `port` of the address.
    pub fn tcp_listener(&self, port: u16) -> Result<std::net::TcpListener, InterfaceError> {
        self.opened(port, || {
            let socket = self.socket(Type::STREAM, Protocol::TCP, self.address, port)?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        })
    }

    fn udp(&self, address: Ipv4Addr, port: u16) -> io::Result<UdpSocket> {
        self.socket(Type::DGRAM, Protocol::UDP, address, port).map(Into::into)
    }

    fn socket(&self, kind: Type, protocol: Protocol, address: Ipv4Addr, port: u16) -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, kind, Some(protocol))?;
        socket.set_nonblocking(true)?;
        socket.bind_device(Some(self.name.as_bytes()))?;
        // DHCP servers on one host share the port in this way.
        socket.set_reuse_address(port != 0)?;
        socket.bind(&SocketAddrV4::new(address, port).into())?;
        Ok(socket)
    }

    fn opened<T>(&self, port: u16, open: impl FnOnce() -> io::Result<T>) -> Result<T, InterfaceError> {
        let name = self.name.clone();
        open().map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => InterfaceError::Forbidden { name, port },
            io::ErrorKind::AddrInUse => InterfaceError::Taken { name, port },
            _ => InterfaceError::Listen { name, port, source },
        })
    }
}

fn choose(
    entries: &[(String, Option<Ipv4Addr>)],
    name: &str,
    wanted: Option<Ipv4Addr>,
) -> Result<Interface, InterfaceError> {
    if !entries.iter().any(|(entry, _)| entry == name) {
        let mut known: Vec<&str> = entries.iter().map(|(entry, _)| entry.as_str()).collect();
        known.sort_unstable();
        known.dedup();
        return Err(InterfaceError::Unknown { name: name.to_owned(), known: known.join(", ") });
    }
    let own = entries.iter().filter(|(entry, _)| entry == name).filter_map(|(_, address)| *address);
    let own: Vec<Ipv4Addr> = own.collect();
    let first = own.first().copied().ok_or_else(|| InterfaceError::NoAddress(name.to_owned()))?;
    let address = wanted.unwrap_or(first);
    if !own.contains(&address) {
        let known = own.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>().join(", ");
        return Err(InterfaceError::OtherAddress { name: name.to_owned(), wanted: address, known });
    }
    Ok(Interface { name: name.to_owned(), address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_and_its_address_are_chosen_or_named() {
        let (one, two) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 1));
        let entries = [("lo", None), ("eth0", None), ("eth0", Some(one)), ("eth0", Some(two)), ("eth1", None)];
        let entries = entries.map(|(name, address)| (name.to_owned(), address));
        assert_eq!(choose(&entries, "eth0", None).unwrap().address, one);
        assert_eq!(choose(&entries, "eth0", Some(two)).unwrap().address, two);
        for (name, address, message) in [
            ("eth2", None, "this host has no network interface eth2; it has eth0, eth1, lo"),
            ("eth1", None, "eth1 has no IPv4 address: give it one before you serve on it"),
            ("eth0", Some(Ipv4Addr::LOCALHOST), "eth0 has no address 127.0.0.1; it has 192.0.2.1, 198.51.100.1"),
        ] {
            assert_eq!(choose(&entries, name, address).unwrap_err().to_string(), message);
        }
    }
}
