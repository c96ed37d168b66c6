//! What the server tells: a line for each step of each machine, for people or, with `--json`, for scripts.

use std::fmt;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddrV4};

use serde::Serialize;

/// Most characters of a stranger's text that are shown.
const SHOWN: usize = 80;

#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Event<'a> {
    /// The server is ready.
    Serving { interface: &'a str, address: Ipv4Addr, http: SocketAddrV4 },
    /// A machine was told what to load.
    Offered { machine: String, firmware: String, file: String },
    /// The release is not for the machine. `file`: the name that its firmware shows.
    Refused { machine: String, firmware: String, file: String },
    /// A machine has loaded a file.
    Loaded { client: Ipv4Addr, protocol: Protocol, file: &'static str, bytes: u64 },
    /// A machine has not loaded a file to its end.
    Interrupted { client: Ipv4Addr, protocol: Protocol, file: &'static str, bytes: u64 },
    /// Somebody asked for something that is not served.
    Unknown { client: Ipv4Addr, protocol: Protocol, path: String },
    /// Something does not work as it should.
    Warning { message: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Protocol {
    #[serde(rename = "TFTP")]
    Tftp,
    #[serde(rename = "HTTP")]
    Http,
}

/// Prints events on the standard output.
#[derive(Clone, Copy, Debug)]
pub struct Reporter {
    pub json: bool,
}

impl Reporter {
    /// Goes on when nobody reads: machines start without it.
    pub fn tell(self, event: &Event) {
        let line = if self.json { serde_json::to_string(event).unwrap_or_default() } else { event.to_string() };
        let _ = writeln!(io::stdout().lock(), "{line}");
    }

    pub fn warn(self, message: impl fmt::Display) {
        self.tell(&Event::Warning { message: message.to_string() });
    }
}

/// A stranger's text, without what a terminal would obey, and cut off.
pub fn shown(text: &str) -> String {
    text.chars().take(SHOWN).flat_map(char::escape_debug).collect()
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serving { interface, address, http } => {
                write!(
                    formatter,
                    "serving network boots on {interface} as {address}: proxyDHCP, TFTP and http://{http}/"
                )
            }
            Self::Offered { machine, firmware, file } => {
                write!(formatter, "{machine} ({firmware}) is told to load {file}")
            }
            Self::Refused { machine, firmware, file } => {
                write!(formatter, "{machine} ({firmware}) cannot start this release, and is told so: {file}")
            }
            Self::Loaded { client, protocol, file, bytes } => {
                write!(formatter, "{client} has loaded {file} by {protocol} ({bytes} bytes)")
            }
            Self::Interrupted { client, protocol, file, bytes } => {
                write!(formatter, "{client} has not loaded {file} to its end by {protocol} ({bytes} bytes)")
            }
            Self::Unknown { client, protocol, path } => {
                write!(formatter, "{client} asked by {protocol} for \"{path}\", which is not served")
            }
            Self::Warning { message } => write!(formatter, "warning: {message}"),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tftp => "TFTP",
            Self::Http => "HTTP",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_a_line_and_an_object() {
        let client = Ipv4Addr::new(192, 0, 2, 34);
        let event = Event::Loaded { client, protocol: Protocol::Tftp, file: "shimx64.efi", bytes: 9 };
        assert_eq!(event.to_string(), "192.0.2.34 has loaded shimx64.efi by TFTP (9 bytes)");
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"event":"loaded","client":"192.0.2.34","protocol":"TFTP","file":"shimx64.efi","bytes":9}"#
        );
    }

    #[test]
    fn a_strangers_text_cannot_write_on_the_terminal() {
        assert_eq!(shown("a\u{1b}[2J\nb\""), "a\\u{1b}[2J\\nb\\\"");
        assert_eq!(shown(&"x".repeat(500)).len(), SHOWN);
    }
}
