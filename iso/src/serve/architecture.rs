//! What a machine loads first: the architecture that its firmware names, and the file for it.
//!
//! The numbers are those of the IANA registry "Processor Architecture Types" (RFC 5970, section 3.3), which option 93 of
//! DHCP carries (RFC 4578, section 2.1).

use media::network_set::{IPXE_SCRIPT, SHIM};

use super::files::UNDIONLY;

/// The script for an iPXE whose architecture is not that of the release.
pub const IPXE_REFUSAL: &str = "wrong-architecture.ipxe";

/// What asks for a boot file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asking {
    pub class: Class,
    pub architecture: u16,
    /// Its user class is `iPXE`.
    pub ipxe: bool,
}

/// The vendor class of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It loads by TFTP. iPXE loads URLs as well.
    Pxe,
    /// It loads a URL.
    Http,
}

/// What a machine is told to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootFile {
    /// A file of this name, by TFTP.
    Tftp(&'static str),
    /// A file of this name, by HTTP.
    Http(&'static str),
    /// The release is not for this architecture. No file has this name: firmware shows the name of a file that it cannot
    /// load, which is the only text that all firmware shows.
    Refused(&'static str),
}

impl Asking {
    /// What it loads from a release for x86-64.
    pub fn boot_file(self) -> BootFile {
        match (self.class, self.architecture, self.ipxe) {
            (Class::Pxe, 0 | 7 | 9, true) => BootFile::Http(IPXE_SCRIPT),
            (Class::Pxe, _, true) => BootFile::Http(IPXE_REFUSAL),
            (Class::Pxe, 0, false) => BootFile::Tftp(UNDIONLY),
            (Class::Pxe, 7 | 9, false) => BootFile::Tftp(SHIM),
            (Class::Http, 16, _) => BootFile::Http(SHIM),
            (_, architecture, _) => BootFile::Refused(refusal(architecture)),
        }
    }

    /// Whether the release is not for it.
    pub fn is_refused(self) -> bool {
        matches!(self.boot_file(), BootFile::Refused(_) | BootFile::Http(IPXE_REFUSAL))
    }

    /// Its name, for people.
    pub fn name(self) -> String {
        let ipxe = if self.ipxe { "iPXE on " } else { "" };
        format!("{ipxe}{}", name(self.architecture))
    }
}

fn name(architecture: u16) -> String {
    let known = match architecture {
        0 => "BIOS",
        6 => "32-bit UEFI",
        7 | 9 => "UEFI",
        10 => "32-bit ARM UEFI",
        11 => "ARM UEFI",
        15 => "32-bit UEFI HTTP boot",
        16 => "UEFI HTTP boot",
        18 => "32-bit ARM UEFI HTTP boot",
        19 => "ARM UEFI HTTP boot",
        _ => return format!("architecture {architecture}"),
    };
    known.to_owned()
}

fn refusal(architecture: u16) -> &'static str {
    match architecture {
        6 | 15 => "this-release-is-for-x86-64-and-not-for-32-bit-UEFI",
        10 | 11 | 18 | 19 => "this-release-is-for-x86-64-and-not-for-ARM",
        _ => "this-release-is-for-x86-64-and-not-for-this-machine",
    }
}

/// [`IPXE_REFUSAL`]. It gives the firmware its turn again after a minute.
pub fn ipxe_refusal() -> String {
    "#!ipxe\n\
     echo ros-boot: this release is for x86-64, and this iPXE is for ${buildarch}\n\
     sleep 60\n\
     exit 1\n"
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_firmware_loads_what_it_can_start() {
        use BootFile::{Refused, Tftp};
        use Class::{Http as Uefi, Pxe};
        for (class, architecture, ipxe, file) in [
            (Pxe, 0, false, Tftp("undionly.kpxe")),
            (Pxe, 0, true, BootFile::Http("boot.ipxe")),
            (Pxe, 7, false, Tftp("shimx64.efi")),
            (Pxe, 9, false, Tftp("shimx64.efi")),
            (Pxe, 7, true, BootFile::Http("boot.ipxe")),
            (Pxe, 9, true, BootFile::Http("boot.ipxe")),
            (Uefi, 16, false, BootFile::Http("shimx64.efi")),
            (Pxe, 6, true, BootFile::Http("wrong-architecture.ipxe")),
            (Pxe, 11, true, BootFile::Http("wrong-architecture.ipxe")),
            (Pxe, 6, false, Refused("this-release-is-for-x86-64-and-not-for-32-bit-UEFI")),
            (Uefi, 15, false, Refused("this-release-is-for-x86-64-and-not-for-32-bit-UEFI")),
            (Pxe, 11, false, Refused("this-release-is-for-x86-64-and-not-for-ARM")),
            (Uefi, 19, false, Refused("this-release-is-for-x86-64-and-not-for-ARM")),
            (Pxe, 16, false, Refused("this-release-is-for-x86-64-and-not-for-this-machine")),
            (Uefi, 7, false, Refused("this-release-is-for-x86-64-and-not-for-this-machine")),
            (Pxe, 700, false, Refused("this-release-is-for-x86-64-and-not-for-this-machine")),
        ] {
            assert_eq!(Asking { class, architecture, ipxe }.boot_file(), file, "{class:?} {architecture} {ipxe}");
        }
    }
}
