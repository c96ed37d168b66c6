//! Hears DHCP requests on ports 67 and 4011 and answers them.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::sleep;

use super::architecture::BootFile;
use super::event::{Event, Reporter};
use super::files::{Files, UNDIONLY};
use super::interface::{Interface, InterfaceError};
use super::proxy_dhcp::{Port, Server, encode};
use super::request::Request;

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
const BOOT_SERVER_PORT: u16 = 4011;
/// Bytes of the largest packet that is read; Ethernet carries no larger one.
const PACKET: usize = 1500;
/// The pause after an error of a socket, such as that of an interface that is down.
const PAUSE: Duration = Duration::from_millis(100);

/// The three sockets of a proxyDHCP server.
pub struct Sockets {
    broadcasts: UdpSocket,
    broadcaster: UdpSocket,
    boot_server: UdpSocket,
}

impl Sockets {
    /// Must be called in a runtime.
    pub fn open(interface: &Interface) -> Result<Self, InterfaceError> {
        let tokio = |port, socket: std::net::UdpSocket| {
            let listening = |source| InterfaceError::Listen { name: interface.name.clone(), port, source };
            UdpSocket::from_std(socket).map_err(listening)
        };
        Ok(Self {
            broadcasts: tokio(SERVER_PORT, interface.broadcasts(SERVER_PORT)?)?,
            broadcaster: tokio(SERVER_PORT, interface.broadcaster(SERVER_PORT, CLIENT_PORT)?)?,
            boot_server: tokio(BOOT_SERVER_PORT, interface.listener(BOOT_SERVER_PORT)?)?,
        })
    }

    /// Answers for ever.
    pub async fn serve(self, server: Server, files: &Files, reporter: Reporter) {
        tokio::join!(
            listen(&self.broadcasts, reporter, async |packet, _| {
                let answer = decide(packet, Port::Dhcp, &server, files, reporter)?;
                Some(self.broadcaster.send(&answer).await)
            }),
            listen(&self.boot_server, reporter, async |packet, client| {
                let answer = decide(packet, Port::BootServer, &server, files, reporter)?;
                Some(self.boot_server.send_to(&answer, client).await)
            }),
        );
    }
}

/// Passes packets on for ever. `answer` gives the result of sending, where there is an answer.
async fn listen(
    socket: &UdpSocket,
    reporter: Reporter,
    answer: impl AsyncFn(&[u8], SocketAddr) -> Option<std::io::Result<usize>>,
) {
    let mut packet = [0; PACKET];
    loop {
        let (length, client) = match socket.recv_from(&mut packet).await {
            Ok(received) => received,
            Err(error) => {
                reporter.warn(format_args!("DHCP: {error}"));
                sleep(PAUSE).await;
                continue;
            }
        };
        if let Some(Err(error)) = answer(&packet[..length], client).await {
            reporter.warn(format_args!("DHCP: answering {client}: {error}"));
        }
    }
}

/// The bytes of the answer.
fn decide(packet: &[u8], port: Port, server: &Server, files: &Files, reporter: Reporter) -> Option<Vec<u8>> {
    let request = Request::parse(packet)?;
    let answer = encode(&server.answer(&request, port)?).ok()?;
    // UEFI asks the second port as well: it is told once.
    if port == Port::BootServer {
        return Some(answer);
    }
    let (machine, firmware) = (request.machine.to_string(), request.asking.name());
    let file = server.boot_file(&request);
    if request.asking.boot_file() == BootFile::Tftp(UNDIONLY) && files.find(UNDIONLY).is_none() {
        reporter.warn(format_args!(
            "{machine} needs {UNDIONLY}, which is not there: install Debian's package ipxe, or give --undionly"
        ));
    }
    reporter.tell(&match request.asking.is_refused() {
        true => Event::Refused { machine, firmware, file },
        false => Event::Offered { machine, firmware, file },
    });
    Some(answer)
}
