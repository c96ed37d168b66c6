//! Serves files by TFTP. [`packet`] and [`transfer`] decide; here are the sockets.
//!
//! Why this is not a library: async-tftp 0.4 passes over the error packet by which firmware ends a transfer of which it only
//! wanted the size, sends to nobody for minutes, and does not answer another request from that port meanwhile. It bounds
//! neither the transfers nor their time, and runs on a reactor of its own. tftpd 1.0 serves folders only, with a thread for
//! each transfer.

mod packet;
mod transfer;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::event::{Event, Protocol, Reporter, shown};
use super::files::{Files, ServedFile};
use super::interface::{Interface, InterfaceError};
use packet::{Asked, Failure, Options, Reply};
use transfer::{Step, Transfer};

const PORT: u16 = 69;
/// Bytes of the largest packet that is read. RFC 2347 limits a request to 512.
const PACKET: usize = 1500;
/// Transfers at a time: of all clients, and of one address.
const TRANSFERS: usize = 256;
const TRANSFERS_OF_ONE: usize = 8;
/// The whole time of a transfer. 200 MB at a megabit per second take as long.
const LONGEST: Duration = Duration::from_secs(30 * 60);
/// The pause after an error of the socket, such as that of an interface that is down.
const PAUSE: Duration = Duration::from_millis(100);

pub struct Tftp {
    socket: UdpSocket,
    interface: Interface,
}

impl Tftp {
    /// Must be called in a runtime.
    pub fn open(interface: &Interface) -> Result<Self, InterfaceError> {
        Ok(Self { socket: socket(interface, PORT)?, interface: interface.clone() })
    }

    /// Serves for ever.
    pub async fn serve(self, files: &Files, reporter: Reporter) {
        let places = Places::default();
        let mut packet = [0; PACKET];
        loop {
            let (length, client) = match self.socket.recv_from(&mut packet).await {
                Ok(received) => received,
                Err(error) => {
                    reporter.warn(format_args!("TFTP: {error}"));
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let started = match Asked::parse(&packet[..length]) {
                None => Ok(()),
                Some(Asked::Refused(failure)) => Err(failure),
                Some(Asked::Read { path, options }) => match (files.find(&path), places.take(client.ip())) {
                    (None, _) => {
                        let event = Event::Unknown { client: v4(client), protocol: Protocol::Tftp, path: shown(&path) };
                        reporter.tell(&event);
                        Err(Failure::NotFound)
                    }
                    (Some(_), None) => Err(Failure::Busy),
                    (Some(file), Some(place)) => {
                        let (interface, file) = (self.interface.clone(), file.clone());
                        tokio::spawn(async move {
                            let outcome =
                                timeout(LONGEST, transfer(&interface, client, &file, &options, reporter)).await;
                            if let Ok(Err(error)) = outcome {
                                reporter.warn(format_args!("TFTP: sending {} to {client}: {error}", file.name));
                            }
                            drop(place);
                        });
                        Ok(())
                    }
                },
            };
            if let Err(failure) = started {
                // From this port, so that a stranger's request costs no socket.
                let _ = self.socket.send_to(&failure.encode(), client).await;
            }
        }
    }
}

async fn transfer(
    interface: &Interface,
    client: SocketAddr,
    file: &ServedFile,
    options: &Options,
    reporter: Reporter,
) -> std::io::Result<()> {
    let socket = socket(interface, 0).map_err(std::io::Error::other)?;
    socket.connect(client).await?;
    let mut transfer = Transfer::new(file.size(), options);
    let (mut step, mut sent) = (transfer.begin(), 0);
    let mut packet = [0; PACKET];
    let mut deadline = Instant::now();
    loop {
        // Packets that change nothing, such as an answer that came twice, must not put off sending again.
        if step != Step::Wait {
            deadline = Instant::now() + transfer.patience();
        }
        match &step {
            Step::Offer(options) => drop(socket.send(&packet::accepted(options)).await?),
            Step::Send(blocks) => {
                for block in blocks.clone() {
                    let (number, range) = transfer.block(block);
                    sent = sent.max(range.end);
                    let Ok(content) = block_in_place(|| file.read(range)) else {
                        socket.send(&Failure::Unreadable.encode()).await?;
                        reporter.warn(format_args!("{} cannot be read any more", file.name));
                        return Ok(());
                    };
                    socket.send(&packet::data(number, &content)).await?;
                }
            }
            Step::Wait => {}
            Step::Done | Step::Ended | Step::Lost => break,
        }
        let answer = async {
            loop {
                let length = socket.recv(&mut packet).await?;
                if let Some(reply) = Reply::parse(&packet[..length]) {
                    return Ok::<_, std::io::Error>(reply);
                }
            }
        };
        step = match timeout_at(deadline, answer).await {
            Ok(reply) => transfer.receive(reply?),
            Err(_) => transfer.time_out(),
        };
    }
    let (client, protocol, file, bytes) = (v4(client), Protocol::Tftp, file.name, sent);
    match step {
        Step::Done => reporter.tell(&Event::Loaded { client, protocol, file, bytes }),
        // Whoever wants the size first ends the transfer before its first block.
        Step::Ended if sent == 0 => {}
        _ => reporter.tell(&Event::Interrupted { client, protocol, file, bytes }),
    }
    Ok(())
}

fn socket(interface: &Interface, port: u16) -> Result<UdpSocket, InterfaceError> {
    let listening = |source| InterfaceError::Listen { name: interface.name.clone(), port, source };
    UdpSocket::from_std(interface.listener(port)?).map_err(listening)
}

/// All sockets are of IPv4.
fn v4(client: SocketAddr) -> Ipv4Addr {
    match client.ip() {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

/// The transfers of each address.
#[derive(Clone, Debug, Default)]
struct Places(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A transfer that counts until this value is dropped.
#[derive(Debug)]
struct Place {
    places: Places,
    client: IpAddr,
}

impl Places {
    /// `None`: there are too many.
    fn take(&self, client: IpAddr) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.values().sum::<usize>() >= TRANSFERS || taken.get(&client).is_some_and(|own| *own >= TRANSFERS_OF_ONE)
        {
            return None;
        }
        *taken.entry(client).or_default() += 1;
        Some(Place { places: self.clone(), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_cannot_take_all_places() {
        let places = Places::default();
        let take = |last: usize| places.take(IpAddr::from([192, 0, 2, last as u8]));
        let mut own: Vec<Place> = (0..TRANSFERS_OF_ONE).map(|_| take(1).unwrap()).collect();
        assert!(take(1).is_none());
        let others: Vec<Place> =
            (0..TRANSFERS - TRANSFERS_OF_ONE).map(|number| take(2 + number / 2).unwrap()).collect();
        assert!(take(255).is_none());
        own.pop();
        assert!(take(1).is_some());
        drop((own, others));
        assert!(places.0.lock().unwrap().is_empty());
    }
}
