//! Models of the devices in a machine, by QEMU's names.

/// What a machine's disks, network and TPM are connected by. By default what a cloud offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hardware {
    pub chipset: Chipset,
    pub controller: Controller,
    /// Bytes of a logical sector of the disks.
    pub sector_bytes: u32,
    /// QEMU's name of the network card.
    pub card: &'static str,
    /// QEMU's name of the TPM's interface: `tpm-crb` or `tpm-tis`.
    pub tpm: &'static str,
}

impl Default for Hardware {
    fn default() -> Self {
        Self {
            chipset: Chipset::Q35,
            controller: Controller::VirtioBlk,
            sector_bytes: 512,
            card: "virtio-net-pci",
            tpm: "tpm-crb",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chipset {
    /// Intel's of 2007, with PCI Express.
    Q35,
    /// Intel's 440FX of 1996, with PCI.
    Pc,
}

/// How the disks are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    VirtioBlk,
    Nvme,
    /// The SATA ports of the chipset.
    Ahci,
    /// A SCSI controller, by QEMU's name.
    Scsi(&'static str),
    /// An SD card. It has no serial number, and no place in the order of the firmware.
    SdCard,
}

/// QEMU's name for the SCSI controller.
const SCSI: &str = "disks";
/// The world wide name of a disk. Linux finds no disk without one at some SAS controllers.
const WORLD_WIDE_NAME: &str = "0x5000c50012345678";

impl Hardware {
    /// Arguments of `-device` for the controller, which must come before those of the disks.
    pub(super) fn controller(&self) -> Option<String> {
        match self.controller {
            Controller::VirtioBlk | Controller::Nvme | Controller::Ahci => None,
            Controller::Scsi(name) => Some(format!("{name},id={SCSI}")),
            Controller::SdCard => Some("sdhci-pci".to_owned()),
        }
    }

    /// The argument of `-device` for a disk that is the block device `node`.
    pub(super) fn disk(&self, node: &str, serial: &str) -> String {
        let device = match self.controller {
            Controller::VirtioBlk => "virtio-blk-pci",
            Controller::Nvme => "nvme",
            Controller::Ahci => "ide-hd",
            Controller::Scsi(_) => "scsi-hd",
            Controller::SdCard => return format!("sd-card,drive={node}"),
        };
        let bus = match self.controller {
            Controller::Scsi(_) => format!(",bus={SCSI}.0,wwn={WORLD_WIDE_NAME}"),
            _ => String::new(),
        };
        let sectors = match self.sector_bytes {
            512 => String::new(),
            bytes => format!(",logical_block_size={bytes},physical_block_size={bytes}"),
        };
        format!("{device},drive={node},serial={serial}{bus}{sectors}")
    }
}
