//! `probe`: prints everything known about the machine, as the operator gets it.

use crate::cli::{Output, ProbeOptions};
use crate::console;
use attest::{DeviceTpm, Tpm, tpm_hash};
use disk::DiskDescription;
use disk::layout::Size;
use machine::Machine;
use machine::addresses::addresses;
use protocol::error_chain;
use protocol::hardware::FirmwareKind;
use serde_json::json;
use std::path::Path;

pub fn run(options: &ProbeOptions, root: &Path) -> anyhow::Result<()> {
    let mut machine = Machine::probe(root);
    let tpm = DeviceTpm::open(&options.tpm.tcti).and_then(|mut tpm| Ok((tpm.info()?, tpm_hash(&mut tpm)?)));
    match options.output.output {
        Output::Text => {
            let tpm = match &tpm {
                Ok((info, hash)) => format!("TPM {} firmware {}, hash {hash}", info.manufacturer, info.firmware),
                Err(error) => format!("no TPM: {}", error_chain(error)),
            };
            console::print(describe(&machine) + "\n" + &tpm)?;
        }
        Output::Json => {
            let hash = tpm.as_ref().ok().map(|(_, hash)| hash.to_string());
            machine.hardware.tpm = tpm.ok().map(|(info, _)| info);
            let document = json!({ "machine": machine, "addresses": addresses(), "tpmHash": hash });
            console::print(format!("{document:#}"))?;
        }
    }
    Ok(())
}

/// One line for the machine, then one for each disk and network interface.
pub fn describe(machine: &Machine) -> String {
    let hardware = &machine.hardware;
    let firmware = match (hardware.firmware.kind, hardware.firmware.secure_boot) {
        (FirmwareKind::Bios, _) => "BIOS".to_owned(),
        (FirmwareKind::Uefi, Some(true)) => "UEFI with Secure Boot".to_owned(),
        (FirmwareKind::Uefi, _) => "UEFI".to_owned(),
    };
    let mut lines = vec![format!(
        "{}; {} x {}, {}, {firmware}",
        name(machine),
        hardware.cpu.threads,
        if hardware.cpu.model.is_empty() { &hardware.cpu.architecture } else { &hardware.cpu.model },
        Size(hardware.memory_bytes),
    )];
    lines.extend(machine.disks.iter().map(describe_disk));
    lines.extend(hardware.nics.iter().map(|nic| {
        let link = if nic.link { "link up" } else { "no link" };
        format!("{}  {}  {}  {link}", nic.name, nic.mac, nic.driver)
    }));
    lines.join("\n")
}

/// Name of the machine, such as `Acme Anvil, serial S-1`.
pub fn name(machine: &Machine) -> String {
    let system = |field: &str| machine.smbios.0.get("System Information").and_then(|section| section.get(field));
    let names = [system("Manufacturer"), system("Product Name")].into_iter().flatten().cloned().collect::<Vec<_>>();
    let name = if names.is_empty() { "unnamed machine".to_owned() } else { names.join(" ") };
    let serial = system("Serial Number").map(|serial| format!(", serial {serial}")).unwrap_or_default();
    name + &serial
}

fn describe_disk(disk: &DiskDescription) -> String {
    let content = match (disk.is_boot_medium, disk.content.is_empty()) {
        (true, _) => "the medium this system was started from".to_owned(),
        (false, true) => "blank".to_owned(),
        (false, false) => disk.content.join("; "),
    };
    let parts =
        [disk.path.clone(), Size(disk.size_bytes).to_string(), disk.model.clone(), disk.serial.clone(), content];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::SmbiosDocument;
    use protocol::hardware::{Cpu, Hardware};

    #[test]
    fn a_machine_is_described_in_lines_that_fit_a_console() {
        let smbios: SmbiosDocument = serde_json::from_value(json!({
            "System Information": {"Manufacturer": "Acme", "Product Name": "Anvil", "Serial Number": "S-1"}
        }))
        .unwrap();
        let cpu = Cpu { model: "QEMU TCG CPU".to_owned(), threads: 2, ..Cpu::default() };
        let hardware = Hardware { cpu, memory_bytes: 512 << 20, ..Hardware::default() };
        let disks =
            vec![DiskDescription { path: "/dev/vda".into(), size_bytes: 8 << 30, ..DiskDescription::default() }];
        let machine = Machine { smbios, hardware, disks, ..Machine::default() };
        let expected = "Acme Anvil, serial S-1; 2 x QEMU TCG CPU, 512.0 MiB, BIOS\n/dev/vda  8.0 GiB  blank";
        assert_eq!(describe(&machine), expected);
    }
}
