//! Packets of TFTP (RFC 1350, with the options of RFC 2347, 2348, 2349 and 7440): those that a server of files reads and
//! writes.

const READ: u16 = 1;
const WRITE: u16 = 2;
const DATA: u16 = 3;
const ACKNOWLEDGE: u16 = 4;
const ERROR: u16 = 5;
const ACCEPT_OPTIONS: u16 = 6;

/// Options that a request may have. Others are passed over.
const OPTIONS: usize = 16;

/// What a client asks on port 69.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    Read {
        path: String,
        options: Options,
    },
    /// Anything else that wants an answer.
    Refused(Failure),
}

/// The options of a request that this server knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub block_size: Option<u64>,
    /// In seconds.
    pub timeout: Option<u64>,
    pub wants_size: bool,
    pub window: Option<u64>,
}

/// What a client sends during a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    Acknowledged(u16),
    /// The client ends the transfer.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    NotFound,
    /// Nothing is written here.
    WritesRefused,
    /// Only the mode `octet` is served.
    ModeRefused,
    Busy,
    Unreadable,
}

impl Asked {
    /// `None`: nothing that wants an answer.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let (operation, rest) = number(packet)?;
        match operation {
            READ => {}
            WRITE => return Some(Self::Refused(Failure::WritesRefused)),
            _ => return None,
        }
        let (path, rest) = text(rest)?;
        let (mode, mut rest) = text(rest)?;
        if !mode.eq_ignore_ascii_case("octet") {
            return Some(Self::Refused(Failure::ModeRefused));
        }
        let mut options = Options::default();
        for _ in 0..OPTIONS {
            let Some((name, value)) = text(rest) else { break };
            let Some((value, end)) = text(value) else { break };
            options.set(name, value);
            rest = end;
        }
        Some(Self::Read { path: path.to_owned(), options })
    }
}

impl Options {
    /// A value that is no number counts as absent.
    fn set(&mut self, name: &str, value: &str) {
        let value = value.parse().ok();
        match name.to_ascii_lowercase().as_str() {
            "blksize" => self.block_size = value,
            "timeout" => self.timeout = value,
            "tsize" => self.wants_size = value.is_some(),
            "windowsize" => self.window = value,
            _ => {}
        }
    }
}

impl Reply {
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let (operation, rest) = number(packet)?;
        match operation {
            ACKNOWLEDGE => Some(Self::Acknowledged(number(rest)?.0)),
            ERROR => Some(Self::Failed),
            _ => None,
        }
    }
}

impl Failure {
    /// Its packet.
    pub fn encode(self) -> Vec<u8> {
        let (code, text) = match self {
            Self::NotFound => (1_u16, "this server has no such file"),
            Self::WritesRefused => (2, "this server takes no files"),
            Self::ModeRefused => (4, "this server knows the mode octet only"),
            Self::Busy => (0, "too many transfers at a time; try again"),
            Self::Unreadable => (0, "the file cannot be read"),
        };
        [&ERROR.to_be_bytes()[..], &code.to_be_bytes(), text.as_bytes(), &[0]].concat()
    }
}

/// A block of a file. The first one has the number 1.
pub fn data(number: u16, content: &[u8]) -> Vec<u8> {
    [&DATA.to_be_bytes()[..], &number.to_be_bytes(), content].concat()
}

/// Options as the server has taken them.
pub fn accepted(options: &[(&str, u64)]) -> Vec<u8> {
    let text = options.iter().flat_map(|(name, value)| format!("{name}\0{value}\0").into_bytes());
    ACCEPT_OPTIONS.to_be_bytes().into_iter().chain(text).collect()
}

fn number(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (first, rest) = bytes.split_first_chunk()?;
    Some((u16::from_be_bytes(*first), rest))
}

/// A text that ends with a zero.
fn text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_with_options() {
        let words = [
            "/shimx64.efi",
            "Octet",
            "tsize",
            "0",
            "BLKSIZE",
            "1468",
            "windowsize",
            "4",
            "utimeout",
            "1",
            "timeout",
            "x",
        ];
        let packet = format!("\0\x01{}\0", words.join("\0"));
        let options = Options { block_size: Some(1468), timeout: None, wants_size: true, window: Some(4) };
        assert_eq!(Asked::parse(packet.as_bytes()), Some(Asked::Read { path: "/shimx64.efi".to_owned(), options }));
        let plain = Some(Asked::Read { path: "a".to_owned(), options: Options::default() });
        assert_eq!(Asked::parse(b"\0\x01a\0octet\0"), plain);
        // The last option has no value: the card has cut it off.
        assert_eq!(Asked::parse(b"\0\x01a\0octet\0blksize\0"), plain);
    }

    #[test]
    fn what_is_not_served_is_refused() {
        assert_eq!(Asked::parse(b"\0\x02a\0octet\0"), Some(Asked::Refused(Failure::WritesRefused)));
        assert_eq!(Asked::parse(b"\0\x01a\0netascii\0"), Some(Asked::Refused(Failure::ModeRefused)));
        for packet in
            [&b""[..], b"\0", b"\0\x01", b"\0\x01a", b"\0\x01a\0", b"\0\x01a\0octet", b"\0\x04\0\x01", b"\0\x05"]
        {
            assert_eq!(Asked::parse(packet), None, "{packet:?}");
        }
        assert_eq!(Failure::NotFound.encode(), b"\0\x05\0\x01this server has no such file\0");
    }

    #[test]
    fn answers_of_the_client() {
        assert_eq!(Reply::parse(b"\0\x04\x01\x02"), Some(Reply::Acknowledged(258)));
        assert_eq!(Reply::parse(b"\0\x05\0\0User aborted\0"), Some(Reply::Failed));
        for packet in [&b"\0\x04\x01"[..], b"\0\x03\0\x01", b"", b"\0\x01a\0octet\0"] {
            assert_eq!(Reply::parse(packet), None, "{packet:?}");
        }
        assert_eq!(
            accepted(&[("tsize", 9), ("blksize", 512)]),
            ["\0\x06tsize", "9", "blksize", "512", ""].join("\0").as_bytes()
        );
        assert_eq!(data(258, b"ab"), b"\0\x03\x01\x02ab");
    }

    proptest! {
        #[test]
        fn no_packet_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Reply::parse(&bytes);
            for operation in [READ, WRITE] {
                let _ = Asked::parse(&[&operation.to_be_bytes()[..], &bytes].concat());
                let _ = Asked::parse(&[&operation.to_be_bytes()[..], b"a\0octet\0", &bytes].concat());
            }
        }
    }
}
