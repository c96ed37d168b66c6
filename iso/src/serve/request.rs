//! A DHCP packet of a machine that starts from the network, or of any stranger.

use std::fmt;
use std::net::Ipv4Addr;

use dhcproto::v4::borrowed::Message;
use dhcproto::v4::{MessageType, Opcode, OptionCode};

use super::architecture::{Asking, Class};

/// Length of option 97 (RFC 4578, section 2.3): a zero and a GUID.
const MACHINE_ID: usize = 17;
/// Length of `chaddr` in the header.
const ADDRESS_LIMIT: usize = 16;

/// What a machine that starts from the network asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub kind: Kind,
    pub asking: Asking,
    pub machine: HardwareAddress,
    pub transaction: u32,
    /// The address that the machine has already.
    pub client: Ipv4Addr,
    /// Option 97, which an answer repeats.
    pub machine_id: Option<[u8; MACHINE_ID]>,
    /// Option 54: the server that the machine has chosen.
    pub server: Option<Ipv4Addr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Discover,
    Request,
}

/// A MAC address, of a card or of whoever writes one into a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HardwareAddress(Vec<u8>);

impl Request {
    /// `None`: the packet is malformed, came through a relay, or does not come from a machine that starts from the network.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let message = Message::new(packet).ok()?;
        // The library takes an address of up to 255 bytes out of the 16 of the field, and panics.
        let length = usize::from(message.hlen());
        if message.opcode() != Opcode::BootRequest || length > ADDRESS_LIMIT || !message.giaddr().is_unspecified() {
            return None;
        }
        let (mut kind, mut class, mut architecture) = (None, None, None);
        let (mut ipxe, mut machine_id, mut server) = (false, None, None);
        for option in message.opts() {
            let value = option.data();
            match option.code() {
                OptionCode::MessageType => kind = value.first().copied().and_then(Kind::parse),
                OptionCode::ClassIdentifier => class = Class::parse(value),
                // Firmware may name several; the first one is its own.
                OptionCode::ClientSystemArchitecture => {
                    architecture = value.first_chunk().copied().map(u16::from_be_bytes)
                }
                // iPXE sends the bare word, where RFC 3004 has its length before it.
                OptionCode::UserClass => ipxe = value == b"iPXE" || value == b"\x04iPXE",
                OptionCode::ClientMachineIdentifier => machine_id = value.try_into().ok(),
                OptionCode::ServerIdentifier => server = value.try_into().ok().map(|bytes: [u8; 4]| bytes.into()),
                _ => {}
            }
        }
        Some(Self {
            kind: kind?,
            asking: Asking { class: class?, architecture: architecture?, ipxe },
            machine: HardwareAddress(message.chaddr().to_vec()),
            transaction: message.xid(),
            client: message.ciaddr(),
            machine_id,
            server,
        })
    }
}

impl Kind {
    fn parse(value: u8) -> Option<Self> {
        match MessageType::from(value) {
            MessageType::Discover => Some(Self::Discover),
            MessageType::Request => Some(Self::Request),
            _ => None,
        }
    }
}

impl Class {
    /// `PXEClient:Arch:00007:UNDI:003001` and the like.
    fn parse(value: &[u8]) -> Option<Self> {
        match value {
            _ if value.starts_with(b"PXEClient") => Some(Self::Pxe),
            _ if value.starts_with(b"HTTPClient") => Some(Self::Http),
            _ => None,
        }
    }
}

impl HardwareAddress {
    /// At most 16 bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for HardwareAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, byte) in self.0.iter().enumerate() {
            write!(formatter, "{}{byte:02x}", if number == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A packet with these options, as firmware sends it.
    pub(crate) fn packet(options: &[(u8, &[u8])]) -> Vec<u8> {
        let mut packet = vec![0; 240];
        packet[..3].copy_from_slice(&[1, 1, 6]);
        packet[4..8].copy_from_slice(&0x1234_5678_u32.to_be_bytes());
        packet[28..34].copy_from_slice(&[0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        packet[236..].copy_from_slice(&[99, 130, 83, 99]);
        for (code, value) in options {
            packet.extend([*code, value.len() as u8]);
            packet.extend(*value);
        }
        packet.push(255);
        packet
    }

    const DISCOVER: [(u8, &[u8]); 3] = [(53, &[1]), (60, b"PXEClient:Arch:00007:UNDI:003001"), (93, &[0, 7])];

    #[test]
    fn a_machine_says_who_it_is() {
        let request = Request::parse(&packet(&DISCOVER)).unwrap();
        assert_eq!(request.kind, Kind::Discover);
        assert_eq!(request.asking, Asking { class: Class::Pxe, architecture: 7, ipxe: false });
        assert_eq!((request.machine.to_string().as_str(), request.transaction), ("52:54:00:12:34:56", 0x1234_5678));
        assert_eq!((request.machine_id, request.server), (None, None));
        let more: [(u8, &[u8]); 3] = [(77, b"iPXE"), (97, &[7; 17]), (54, &[192, 0, 2, 1])];
        let request = Request::parse(&packet(&[&DISCOVER[..], &more].concat())).unwrap();
        assert!(request.asking.ipxe);
        assert_eq!((request.machine_id, request.server), (Some([7; 17]), Some(Ipv4Addr::new(192, 0, 2, 1))));
    }

    #[test]
    fn options_that_make_no_sense_do_not_hide_the_others() {
        let odd: [(u8, &[u8]); 4] = [(1, &[1]), (97, &[1, 2]), (54, &[1]), (81, &[])];
        let request = Request::parse(&packet(&[&odd[..], &DISCOVER].concat())).unwrap();
        assert_eq!((request.asking.architecture, request.machine_id, request.server), (7, None, None));
    }

    #[test]
    fn who_does_not_start_from_the_network_is_not_answered() {
        let ordinary: [(u8, &[u8]); 2] = [(53, &[1]), (60, b"MSFT 5.0")];
        for options in [&ordinary[..], &DISCOVER[1..], &DISCOVER[..2], &[(53, &[4]), DISCOVER[1], DISCOVER[2]]] {
            assert_eq!(Request::parse(&packet(options)), None, "{options:?}");
        }
        for (place, value) in [(0, 2), (2, 17), (2, 255), (24, 10), (236, 0)] {
            let mut packet = packet(&DISCOVER);
            packet[place] = value;
            assert_eq!(Request::parse(&packet), None, "{place}");
        }
    }

    proptest! {
        #[test]
        fn no_packet_makes_it_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..600), changes in proptest::collection::vec(any::<(u16, u8)>(), 0..9),
            end in 0usize..400,
        ) {
            let _ = Request::parse(&bytes);
            if bytes.len() > 240 {
                bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
                bytes[0] = 1;
                let _ = Request::parse(&bytes);
            }
            let mut packet = packet(&DISCOVER);
            for (place, value) in changes {
                let place = usize::from(place) % packet.len();
                packet[place] = value;
            }
            packet.truncate(end);
            let _ = Request::parse(&packet);
        }
    }
}
