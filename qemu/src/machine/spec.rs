//! The parts of a machine.

use super::Hardware;
use crate::console::Line;
use crate::disk::Disk;
use crate::firmware::Firmware;
use crate::swtpm::EkCertificate;
use std::path::PathBuf;

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct MachineSpec {
    pub firmware: Firmware,
    pub memory_mib: u32,
    pub processors: u8,
    /// SMBIOS, System Information.
    pub manufacturer: String,
    pub product: String,
    pub serial: String,
    pub disks: Vec<Disk>,
    pub medium: Option<Medium>,
    /// What DHCP tells the firmware to start in [`Network::User`]. Where it is given, and in [`Network::Lan`], the network is
    /// a medium for [`BootFirst`].
    pub boot_file: Option<BootFile>,
    pub network: Network,
    pub tpm: Option<EkCertificate>,
    pub hardware: Hardware,
    pub first: BootFirst,
    /// A screen, and a second serial port that is no console of the kernel. Every machine has a keyboard.
    pub screen: bool,
    /// A hardware watchdog, QEMU's i6300ESB, which resets the machine.
    pub watchdog: bool,
    /// Called with each line of the console as it comes.
    pub on_line: Option<fn(&Line)>,
}

/// What the firmware tries first; the other one is tried when the first cannot boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootFirst {
    Disk,
    Medium,
    /// The firmware tries nothing else.
    MediumAlone,
}

/// An installation medium.
#[derive(Clone, Debug)]
pub struct Medium {
    pub file: PathBuf,
    pub drive: Drive,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drive {
    /// Read-only, SATA.
    Cd,
    /// A disk, SATA; what is written to it is forgotten at power-off.
    Disk,
    /// A stick at a USB 3 port; what is written to it is forgotten at power-off. Only the kernel for real hardware can
    /// read one.
    UsbStick,
}

/// What a machine that starts from the network loads first.
#[derive(Clone, Debug)]
pub enum BootFile {
    /// A file that comes by TFTP, like everything beside it.
    Tftp(PathBuf),
    /// A URL for iPXE in the ROM of the network card, by DHCP.
    IpxeUrl(String),
    /// A URL that UEFI loads by itself, at the first power-on only. It stands in its variables, because QEMU's DHCP server
    /// does not offer HTTP boot.
    UefiUrl(String),
}

/// The network that the machine's card is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// QEMU's own, in which this host is 10.0.2.2 and forwards a port to the machine's sshd. Needs no privileges.
    User,
    /// That of a [`Lan`](crate::lan::Lan), whose servers say what to start from the network.
    Lan {
        /// The namespace of its servers.
        namespace: String,
        tap: String,
        /// UEFI tries its own PXE, and HTTP boot after it. Otherwise it tries HTTP boot alone.
        pxe: bool,
    },
}

impl MachineSpec {
    /// 1 GiB of memory, a TPM with certificate, no screen, no disk and no medium; boots from the disk where that is
    /// possible. One processor, because two machines run at a time on two processors: translated processors that wait for
    /// each other cost a fifth more.
    pub fn new(firmware: Firmware, serial: &str) -> Self {
        Self {
            firmware,
            memory_mib: 1024,
            processors: 1,
            manufacturer: "Example Systems".to_owned(),
            product: "Edge 100".to_owned(),
            serial: serial.to_owned(),
            disks: Vec::new(),
            medium: None,
            boot_file: None,
            network: Network::User,
            tpm: Some(EkCertificate::Present),
            hardware: Hardware::default(),
            first: BootFirst::Disk,
            screen: false,
            watchdog: false,
            on_line: None,
        }
    }
}
