//! What a proxyDHCP server answers (PXE specification 2.1, section 2.2; UEFI specification 2.10, section 24.7). It names the
//! boot file, and another DHCP server gives the address. Pure functions.
//!
//! ```text
//! machine ── DISCOVER ──► port 67, broadcast          the other server offers an address, this one a boot file
//! machine ── REQUEST ───► port 4011 of this server    UEFI only: it asks again when it has an address
//! ```

use std::net::{Ipv4Addr, SocketAddrV4};

use dhcproto::v4::{DhcpOption, Encoder, Message, MessageType, Opcode};
use dhcproto::{Encodable, error::EncodeError};

use super::architecture::{BootFile, Class};
use super::request::{Kind, Request};

/// Least size of a packet. Some network cards drop smaller ones (RFC 1542, section 2.1).
const SMALLEST: usize = 300;
/// Sub-option of option 43: PXE_DISCOVERY_CONTROL (PXE specification, table 2-1).
const DISCOVERY_CONTROL: u8 = 6;
/// The boot file is to be loaded without a menu and without a search for boot servers.
const LOAD_BOOT_FILE: u8 = 8;
const END: u8 = 255;

/// The port on which a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// 67, by broadcast.
    Dhcp,
    /// 4011.
    BootServer,
}

/// What all machines are told.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    pub address: Ipv4Addr,
    pub http_port: u16,
}

impl Server {
    /// The answer, where one is due. It has no address for the machine.
    pub fn answer(&self, request: &Request, port: Port) -> Option<Message> {
        let kind = match (port, request.kind) {
            (Port::Dhcp, Kind::Discover) => MessageType::Offer,
            // It is the other server's turn unless the machine has chosen this one.
            (Port::Dhcp, Kind::Request) if request.server != Some(self.address) => return None,
            (_, Kind::Request) => MessageType::Ack,
            (Port::BootServer, Kind::Discover) => return None,
        };
        let none = Ipv4Addr::UNSPECIFIED;
        let hardware = request.machine.bytes();
        let mut answer = Message::new_with_id(request.transaction, request.client, none, self.address, none, hardware);
        answer.set_opcode(Opcode::BootReply);
        answer.set_flags(dhcproto::v4::Flags::default().set_broadcast());
        // In the header, where shim looks for it, and not in option 67.
        answer.set_fname_str(self.boot_file(request));
        let class = match request.asking.class {
            Class::Pxe => "PXEClient",
            Class::Http => "HTTPClient",
        };
        let options = answer.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::ServerIdentifier(self.address));
        options.insert(DhcpOption::ClassIdentifier(class.as_bytes().to_vec()));
        if let Some(id) = request.machine_id {
            options.insert(DhcpOption::ClientMachineIdentifier(id.to_vec()));
        }
        // UEFI's own PXE drops an offer with this option (edk2, PxeBcCacheDhcp4Offer), and asks port 4011 without it.
        if request.asking.class == Class::Pxe && (request.asking.architecture == 0 || request.asking.ipxe) {
            options.insert(DhcpOption::VendorExtensions(vec![DISCOVERY_CONTROL, 1, LOAD_BOOT_FILE, END]));
        }
        Some(answer)
    }

    /// What the machine is told to load: a name for TFTP, or a URL. At most 127 bytes.
    pub fn boot_file(&self, request: &Request) -> String {
        let url = |name: &str| format!("http://{}/{name}", self.http());
        match (request.asking.boot_file(), request.asking.class) {
            (BootFile::Tftp(name), _) | (BootFile::Refused(name), Class::Pxe) => name.to_owned(),
            (BootFile::Http(name), _) | (BootFile::Refused(name), Class::Http) => url(name),
        }
    }

    /// The address of the HTTP server.
    pub fn http(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, self.http_port)
    }
}

/// The bytes of an answer.
pub fn encode(answer: &Message) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = Vec::with_capacity(SMALLEST);
    answer.encode(&mut Encoder::new(&mut bytes))?;
    bytes.resize(bytes.len().max(SMALLEST), 0);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::request::tests::packet;
    use super::*;
    use dhcproto::v4::OptionCode;
    use dhcproto::{Decodable, Decoder};
    use proptest::prelude::*;

    const SERVER: Server = Server { address: Ipv4Addr::new(192, 0, 2, 9), http_port: 8080 };

    fn request(kind: u8, class: &[u8], architecture: u16, more: &[(u8, &[u8])]) -> Request {
        let architecture = architecture.to_be_bytes();
        let all: [(u8, &[u8]); 3] = [(53, &[kind]), (60, class), (93, &architecture)];
        Request::parse(&packet(&[&all[..], more].concat())).unwrap()
    }

    /// The answer as a client reads it.
    fn answer(request: &Request, port: Port) -> Option<Message> {
        let bytes = encode(&SERVER.answer(request, port)?).unwrap();
        assert!(bytes.len() >= SMALLEST);
        Some(Message::decode(&mut Decoder::new(&bytes)).unwrap())
    }

    fn file(answer: &Message) -> &str {
        answer.fname_str().unwrap().unwrap().trim_end_matches('\0')
    }

    #[test]
    fn bios_loads_the_boot_file_at_once() {
        let id: [(u8, &[u8]); 1] = [(97, &[7; 17])];
        let offer = answer(&request(1, b"PXEClient:Arch:00000", 0, &id), Port::Dhcp).unwrap();
        assert_eq!(offer.opts().msg_type(), Some(MessageType::Offer));
        assert_eq!((offer.xid(), offer.opcode(), offer.siaddr()), (0x1234_5678, Opcode::BootReply, SERVER.address));
        assert_eq!((file(&offer), offer.flags().broadcast()), ("undionly.kpxe", true));
        let option = |code| offer.opts().get(code).unwrap().clone();
        assert_eq!(option(OptionCode::ServerIdentifier), DhcpOption::ServerIdentifier(SERVER.address));
        assert_eq!(option(OptionCode::ClassIdentifier), DhcpOption::ClassIdentifier(b"PXEClient".to_vec()));
        assert_eq!(option(OptionCode::VendorExtensions), DhcpOption::VendorExtensions(vec![6, 1, 8, 255]));
        assert_eq!(option(OptionCode::ClientMachineIdentifier), DhcpOption::ClientMachineIdentifier(vec![7; 17]));
    }

    #[test]
    fn uefi_asks_again_on_the_other_port() {
        let offer = answer(&request(1, b"PXEClient:Arch:00007", 7, &[]), Port::Dhcp).unwrap();
        assert_eq!((file(&offer), offer.opts().get(OptionCode::VendorExtensions)), ("shimx64.efi", None));
        let ack = answer(&request(3, b"PXEClient:Arch:00007", 7, &[]), Port::BootServer).unwrap();
        assert_eq!((ack.opts().msg_type(), file(&ack)), (Some(MessageType::Ack), "shimx64.efi"));
    }

    #[test]
    fn http_boot_and_ipxe_get_urls() {
        let offer = answer(&request(1, b"HTTPClient:Arch:00016", 16, &[]), Port::Dhcp).unwrap();
        assert_eq!(file(&offer), "http://192.0.2.9:8080/shimx64.efi");
        let class = DhcpOption::ClassIdentifier(b"HTTPClient".to_vec());
        assert_eq!(offer.opts().get(OptionCode::ClassIdentifier), Some(&class));
        for architecture in [0, 7] {
            let offer = answer(&request(1, b"PXEClient", architecture, &[(77, b"iPXE")]), Port::Dhcp).unwrap();
            assert_eq!(file(&offer), "http://192.0.2.9:8080/boot.ipxe");
            assert!(offer.opts().get(OptionCode::VendorExtensions).is_some(), "{architecture}");
        }
        let refused = answer(&request(1, b"HTTPClient", 19, &[]), Port::Dhcp).unwrap();
        assert_eq!(file(&refused), "http://192.0.2.9:8080/this-release-is-for-x86-64-and-not-for-ARM");
    }

    #[test]
    fn a_request_is_answered_by_the_server_that_was_chosen() {
        for (server, is_answered) in [(&[192, 0, 2, 9], true), (&[192, 0, 2, 1], false)] {
            let chosen: [(u8, &[u8]); 1] = [(54, server)];
            assert_eq!(answer(&request(3, b"PXEClient", 0, &chosen), Port::Dhcp).is_some(), is_answered);
        }
        assert!(answer(&request(3, b"PXEClient", 0, &[]), Port::Dhcp).is_none());
        assert!(answer(&request(1, b"PXEClient", 0, &[]), Port::BootServer).is_none());
    }

    proptest! {
        #[test]
        fn no_address_is_ever_given(
            kind: bool, http: bool, architecture: u16, user in proptest::collection::vec(any::<u8>(), 0..40),
            id in proptest::collection::vec(any::<u8>(), 0..40), port: bool,
        ) {
            let class: &[u8] = if http { b"HTTPClient" } else { b"PXEClient" };
            let more: [(u8, &[u8]); 3] = [(77, &user), (97, &id), (54, &[192, 0, 2, 9])];
            let request = request(if kind { 1 } else { 3 }, class, architecture, &more);
            if let Some(answer) = answer(&request, if port { Port::Dhcp } else { Port::BootServer }) {
                prop_assert!(answer.yiaddr().is_unspecified());
                for code in [OptionCode::SubnetMask, OptionCode::Router, OptionCode::AddressLeaseTime] {
                    prop_assert!(answer.opts().get(code).is_none());
                }
                prop_assert!(!file(&answer).is_empty());
            }
        }
    }
}
