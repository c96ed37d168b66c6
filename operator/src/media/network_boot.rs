//! Where machines find the files of a network boot. They come over plain HTTP, because firmware and iPXE do not know the
//! operator's authority. The listener serves nothing else.
//!
//! ```text
//! /boot/<boot token>/<medium>/boot.ipxe           and shimx64.efi, grubx64.efi, grub.cfg, registration.cpio
//! /boot-files/<digest of the medium>/vmlinuz      and initrd, medium.cpio
//! /grub/grub.cfg                                  which leads back to the folder that shim came from
//! ```
//!
//! A boot loader may tell the kernel the path from which it was loaded, so that path has no token.

use super::BaseMedium;
use crate::registration::endpoint::Endpoint;
use ::media::network_set::{IPXE_SCRIPT, SHIM};
use api::BootUrls;
use axum::http::Uri;
use protocol::RegistrationToken;
use protocol::token::BOOT_PATH;

pub const FILES_PATH: &str = "/boot-files";
/// Hex digits of the medium's digest in a path. A DHCP server has room for a URL of 127 characters.
const DIGITS: usize = 16;

/// The listener of network boots.
#[derive(Clone, Debug)]
pub struct BootListener {
    /// How machines reach it, such as `http://ros.example.org:8080`. `None`: under the operator's host.
    pub url: Option<String>,
    pub port: u16,
}

impl BootListener {
    /// The URLs for the registration of this boot token and the medium of this name.
    pub fn urls(&self, endpoint: &Endpoint, token: &RegistrationToken, medium: &str) -> BootUrls {
        let folder = format!("{}{BOOT_PATH}{}/{medium}", self.url(endpoint), token.expose());
        BootUrls { ipxe: format!("{folder}/{IPXE_SCRIPT}"), uefi: format!("{folder}/{SHIM}") }
    }

    fn url(&self, endpoint: &Endpoint) -> String {
        match &self.url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => {
                let server: Option<Uri> = endpoint.server_url.parse().ok();
                let host = server.as_ref().and_then(Uri::host).unwrap_or_default();
                format!("http://{host}:{}", self.port)
            }
        }
    }
}

/// The path of the files of a medium, with a slash at its end.
pub fn files(medium: &BaseMedium) -> String {
    format!("{FILES_PATH}/{}/", &medium.sha256()[..DIGITS])
}

/// Whether a path can name a medium's files.
pub fn is_digest(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_reach_the_listener_under_the_operators_host() {
        let token: RegistrationToken = "b".repeat(RegistrationToken::GENERATED_LENGTH).parse().unwrap();
        let url = |url: Option<&str>, server: &str| {
            let endpoint = Endpoint { server_url: server.to_owned(), ca_bundle: String::new() };
            BootListener { url: url.map(str::to_owned), port: 8080 }
                .urls(&endpoint, &token, "ros-0.1.0-x86_64.iso")
                .ipxe
        };
        let path = format!("/boot/{}/ros-0.1.0-x86_64.iso/boot.ipxe", token.expose());
        for (given, server, expected) in [
            (None, "https://ros.example.org", "http://ros.example.org:8080"),
            (None, "https://192.0.2.1:8443", "http://192.0.2.1:8080"),
            (None, "https://[2001:db8::1]:8443", "http://[2001:db8::1]:8080"),
            (Some("http://boot.example.org/"), "https://ros.example.org", "http://boot.example.org"),
        ] {
            assert_eq!(url(given, server), format!("{expected}{path}"));
        }
        assert!(url(None, "https://ros.example.org").len() <= 127, "a DHCP server has room for it");
    }
}
