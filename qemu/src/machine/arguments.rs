//! The command line of QEMU for one machine.

use super::{
    BootFile, BootFirst, CONTROL, Controller, Drive, HOTPLUG_PORT, Machine, MachineSpec, Network, RAW_LOG, SECOND_PORT,
    SERIAL,
};
use crate::accelerator::Accelerator;
use crate::firmware::Firmware;
use anyhow::Result;
use std::path::Path;

impl Machine {
    pub(super) fn arguments(&self) -> Result<Vec<String>> {
        let spec = &self.spec;
        let mut arguments: Vec<String> = Vec::new();
        let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
        add("-machine", spec.firmware.machine_type(spec.hardware.chipset).to_owned());
        add("-m", spec.memory_mib.to_string());
        add("-smp", spec.processors.to_string());
        add("-display", "none".to_owned());
        let has_order = spec.hardware.controller != Controller::SdCard;
        add("-boot", format!("strict={}", if has_order { "on" } else { "off" }));
        add("-smbios", smbios(spec));
        if spec.screen {
            add("-vga", "std".to_owned());
            // Before the first port: its socket is there when the first one's is.
            add("-chardev", format!("socket,id=second,path={SECOND_PORT},server=on,wait=off"));
        }
        // The guest starts when somebody listens, so that no line is lost; the raw log goes on without us.
        add("-chardev", format!("socket,id=serial,path={SERIAL},server=on,wait=on,logfile={RAW_LOG},logappend=on"));
        add("-serial", "chardev:serial".to_owned());
        if spec.screen {
            add("-serial", "chardev:second".to_owned());
        }
        if spec.watchdog {
            add("-device", "i6300esb".to_owned());
            add("-action", "watchdog=reset".to_owned());
        }
        add("-qmp", format!("unix:{CONTROL},server=on,wait=off"));
        add("-device", "virtio-rng-pci".to_owned());
        let (disk_index, medium_index) = match spec.first {
            BootFirst::Disk if has_order => (Some(1), 50),
            BootFirst::Disk => (None, 50),
            BootFirst::Medium => (Some(50), 1),
            BootFirst::MediumAlone => (None, 1),
        };
        // Without QEMU's own boot ROM, which is iPXE and is not signed, where nothing is started from the network.
        let network_first = format!("bootindex={medium_index}");
        let (served, boot) = match &spec.boot_file {
            None if spec.network == Network::User => (String::new(), "romfile=".to_owned()),
            // UEFI has a PXE of its own; SeaBIOS has none, and its cards have iPXE.
            None if spec.firmware == Firmware::Bios => (String::new(), network_first),
            None => (String::new(), format!("romfile=,{network_first}")),
            Some(BootFile::UefiUrl(_)) => (String::new(), format!("romfile=,{network_first}")),
            Some(BootFile::IpxeUrl(url)) => (format!(",bootfile={url}"), network_first),
            Some(BootFile::Tftp(file)) => {
                let name = file.file_name().unwrap_or_default().display();
                let folder = file.parent().unwrap_or(Path::new("/")).display();
                let own_rom = if spec.firmware == Firmware::SecureBoot { "romfile=," } else { "" };
                (format!(",tftp={folder},bootfile={name}"), format!("{own_rom}{network_first}"))
            }
        };
        let network = match &spec.network {
            Network::User => format!("user,hostfwd=tcp:127.0.0.1:{}-:22{served}", self.ssh_port.number()),
            Network::Lan { tap, .. } => format!("tap,ifname={tap},script=no,downscript=no"),
        };
        add("-netdev", format!("{network},id=network"));
        if let Network::Lan { pxe: false, .. } = spec.network {
            // The names of OVMF.
            for kind in ["IPv4PXESupport", "IPv6PXESupport"] {
                add("-fw_cfg", format!("name=opt/org.tianocore/{kind},string=n"));
            }
        }
        add("-device", format!("{},netdev=network,{boot}", spec.hardware.card));
        spec.hardware.controller().into_iter().for_each(|controller| add("-device", controller));
        for (number, disk) in spec.disks.iter().enumerate() {
            let node = format!("disk{number}");
            add("-blockdev", disk.block_device(&node).to_string());
            let index = disk_index.map(|first| format!(",bootindex={}", first + number)).unwrap_or_default();
            // Merged requests fail below `blklogwrites`: a request has more pieces then than it can pass on.
            let merging = if disk.log.is_some() { ",request-merging=off" } else { "" };
            add("-device", format!("{}{index}{merging}", spec.hardware.disk(&node, &disk.serial)));
        }
        if spec.disks.is_empty() {
            add("-device", format!("pcie-root-port,id={HOTPLUG_PORT},chassis=1"));
        }
        if let Some(medium) = &spec.medium {
            let file = medium.file.display();
            match medium.drive {
                Drive::Cd => {
                    add("-drive", format!("if=none,id=medium,format=raw,readonly=on,file={file}"));
                    add("-device", format!("ide-cd,drive=medium,bootindex={medium_index}"));
                }
                Drive::Disk => {
                    add("-drive", format!("if=none,id=medium,format=raw,snapshot=on,file={file}"));
                    add("-device", format!("ide-hd,drive=medium,bootindex={medium_index}"));
                }
                Drive::UsbStick => {
                    add("-drive", format!("if=none,id=medium,format=raw,snapshot=on,file={file}"));
                    add("-device", "qemu-xhci".to_owned());
                    add("-device", format!("usb-storage,drive=medium,bootindex={medium_index}"));
                }
            }
        }
        if let Some(tpm) = &self.tpm {
            add("-chardev", format!("socket,id=tpm,path={}", tpm.socket().display()));
            add("-tpmdev", "emulator,id=tpm,chardev=tpm".to_owned());
            add("-device", format!("{},tpmdev=tpm", spec.hardware.tpm));
        }
        arguments.push("-nodefaults".to_owned());
        arguments.extend(Accelerator::best().arguments().map(str::to_owned));
        let boot_url = match &spec.boot_file {
            Some(BootFile::UefiUrl(url)) => Some(url.as_str()),
            _ => None,
        };
        arguments.extend(spec.firmware.arguments(&self.folder.join("firmware-variables.img"), boot_url)?);
        Ok(arguments)
    }
}

/// QEMU's options are separated by commas; a comma in a value is doubled.
fn smbios(spec: &MachineSpec) -> String {
    let escaped = |text: &str| text.replace(',', ",,");
    format!(
        "type=1,manufacturer={},product={},serial={}",
        escaped(&spec.manufacturer),
        escaped(&spec.product),
        escaped(&spec.serial)
    )
}
