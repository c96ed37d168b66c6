//! Installations with the kernel for real hardware, on controllers, network cards and TPMs that no cloud has.

use crate::install::becomes_ready;
use harness::world::World;
use qemu::disk::{Disk, GIB};
use qemu::firmware::Firmware;
use qemu::machine::{Chipset, Controller, Drive, Hardware, MachineSpec, Medium};
use qemu::paths;

macro_rules! machines {
    ($($name:ident: $firmware:ident, $drive:ident, $hardware:expr;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                installs(stringify!($name), Firmware::$firmware, Drive::$drive, $hardware).await;
            }
        )*
    };
}

const TIS: &str = "tpm-tis";
const CRB: &str = "tpm-crb";

machines! {
    matrix_hardware_nvme: Uefi, Cd, of(Controller::Nvme, "e1000e", TIS);
    matrix_hardware_ahci: SecureBoot, UsbStick, of(Controller::Ahci, "igb", CRB);
    matrix_hardware_virtio_scsi: Uefi, UsbStick, of(Controller::Scsi("virtio-scsi-pci"), "vmxnet3", CRB);
    matrix_hardware_sd_card: Bios, UsbStick, of(Controller::SdCard, "e1000e", TIS);
    matrix_hardware_4k_sectors: Uefi, Cd, Hardware { sector_bytes: 4096, ..of(Controller::Nvme, "rtl8139", TIS) };
    // UEFI of QEMU has no driver for these two.
    matrix_hardware_megasas: Bios, Cd, of(Controller::Scsi("megasas-gen2"), "igb", TIS);
    matrix_hardware_mptsas: Bios, Cd, Hardware { chipset: Chipset::Pc, ..of(Controller::Scsi("mptsas1068"), "rtl8139", TIS) };
}

fn of(controller: Controller, card: &'static str, tpm: &'static str) -> Hardware {
    Hardware { controller, card, tpm, ..Hardware::default() }
}

async fn installs(name: &str, firmware: Firmware, drive: Drive, hardware: Hardware) {
    let world = World::builder(name).unwrap().start().await.unwrap();
    let registration = world.example_registration().unwrap();
    let file = world.medium_from(&paths::hardware_iso().unwrap(), registration).await.unwrap();
    let mut spec = MachineSpec::new(firmware, "HARDWARE-1");
    spec.hardware = hardware;
    spec.disks.push(Disk::empty(world.path(), "root", 4 * GIB).unwrap());
    spec.medium = Some(Medium { file, drive });
    let mut machine = world.machine(spec).await.unwrap();
    machine.power_on().await.unwrap();
    let inventory = becomes_ready(&world, &mut machine).await;
    assert_eq!(inventory["status"]["os"]["slot"], "A", "{inventory}");
}
