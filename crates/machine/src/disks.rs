//! Finds whole disks in sysfs and reads their first sectors.

use crate::content::{self, Partition};
use crate::mounts::{self, Mount};
use crate::{installed, sysfs};
use boot_contract::paths::{DEVICES, MEDIUM, below};
use disk::DiskDescription;
use disk::marker::Marker;
use std::path::{Path, PathBuf};

/// sysfs gives sizes and offsets in units of 512 bytes, whatever the sector size of the disk is.
const SYSFS_SECTOR: u64 = 512;

/// Every whole disk that the kernel knows, sorted by path.
pub fn probe(root: &Path) -> Vec<DiskDescription> {
    let class = root.join("sys/class/block");
    let mounts = mounts::probe(root);
    let links = device_links(root);
    let own = own_partitions(root);
    names(root).iter().map(|name| found(root, &class, name, &mounts, &links, &own)).collect()
}

/// Kernel names of the whole disks, sorted. Opens no disk.
pub fn names(root: &Path) -> Vec<String> {
    let class = root.join("sys/class/block");
    sysfs::names(&class).into_iter().filter(|name| is_whole_disk(&class, name)).collect()
}

/// Whether the device is a whole disk: no partition, nothing stacked (device-mapper, MD, loop and RAM disks have no
/// `device`), no CD or tape drive, no hidden path of a multipath disk, and no boot or replay-protected area of an eMMC.
fn is_whole_disk(class: &Path, name: &str) -> bool {
    let folder = class.join(name);
    let is_special = name.starts_with("sr") || name.starts_with("fd") || name.contains("boot") || name.contains("rpmb");
    folder.join("device").exists()
        && !folder.join("partition").exists()
        && !sysfs::flag(&folder.join("hidden"))
        && !is_special
}

fn found(
    root: &Path,
    class: &Path,
    name: &str,
    mounts: &[Mount],
    links: &[(String, String)],
    own: &[String],
) -> DiskDescription {
    let folder = class.join(name);
    let text = |attribute: &str| sysfs::tidy(&sysfs::text(&folder.join(attribute), sysfs::LINE));
    let partitions = partitions(root, &folder, name);
    let names: Vec<&str> = std::iter::once(name).chain(partitions.iter().map(|p| p.name.as_str())).collect();
    let used_by = |mount: &&Mount| names.iter().any(|name| is_used(class, name, mount));
    let mounted: Vec<String> = mounts.iter().filter(used_by).map(|mount| mount.point.clone()).collect();
    let device = root.join("dev").join(name);
    let logical_sector_bytes = logical_sector(&folder);
    let content = content::examine(&device, logical_sector_bytes, &partitions);
    let marker = Marker::read(&device).ok().flatten();
    DiskDescription {
        path: format!("/dev/{name}"),
        size_bytes: sysfs::number(&folder.join("size")).saturating_mul(SYSFS_SECTOR),
        logical_sector_bytes,
        model: model(&text("device/vendor"), &text("device/model"), &text("device/name")),
        serial: serial(&folder),
        wwn: [text("wwid"), text("device/wwid")].into_iter().find(|wwn| !wwn.is_empty()).unwrap_or_default(),
        links: links.iter().filter(|(_, target)| target == name).map(|(link, _)| link.clone()).collect(),
        usb: is_usb(&folder),
        modules: modules(&folder),
        read_only: sysfs::flag(&folder.join("ro")),
        rotational: sysfs::flag(&folder.join("queue/rotational")),
        removable: sysfs::flag(&folder.join("removable")),
        is_boot_medium: mounted.iter().any(|point| point == MEDIUM)
            || names.iter().any(|name| own.iter().any(|own| own == name)),
        unfinished: content.unfinished,
        content: content.descriptions,
        installed: marker
            .and_then(|marker| installed::probe(&device, &format!("/dev/{name}"), logical_sector_bytes, marker)),
        mounted,
        holders: holders(class, &names),
    }
}

/// Whether a mount keeps a device in use, directly or through something stacked on it (LVM, LUKS, MD).
fn is_used(class: &Path, name: &str, mount: &Mount) -> bool {
    let folder = class.join(name);
    mount.uses(&sysfs::text(&folder.join("dev"), sysfs::LINE), &format!("/dev/{name}"))
        || sysfs::names(&folder.join("holders")).iter().any(|holder| {
            // Two levels are followed: no stack in use is deeper than this.
            let number = sysfs::text(&class.join(holder).join("dev"), sysfs::LINE);
            mount.uses(&number, &format!("/dev/{holder}"))
                || sysfs::names(&class.join(holder).join("holders")).iter().any(|upper| {
                    mount.uses(&sysfs::text(&class.join(upper).join("dev"), sysfs::LINE), &format!("/dev/{upper}"))
                })
        })
}

/// Logical sector size in bytes of the disk with this folder in sysfs.
pub(crate) fn logical_sector(folder: &Path) -> u32 {
    match sysfs::number(&folder.join("queue/logical_block_size")) {
        4096 => 4096,
        _ => 512,
    }
}

/// Names of the devices built on the disk or its partitions: device-mapper (LVM, LUKS, multipath), MD, bcache.
fn holders(class: &Path, names: &[&str]) -> Vec<String> {
    let mut holders: Vec<String> =
        names.iter().flat_map(|name| sysfs::names(&class.join(name).join("holders"))).collect();
    holders.sort();
    holders.dedup();
    holders
}

/// Whether a USB bus (`usb2`, as the kernel names its root hubs) is on the way to the disk. The attribute `removable`
/// is not reliable: many USB disks report 0, and some built-in ones report 1.
fn is_usb(folder: &Path) -> bool {
    let bus = |part: &str| {
        part.strip_prefix("usb").is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    };
    let Ok(path) = folder.canonicalize() else { return false };
    path.iter().any(|part| part.to_str().is_some_and(bus))
}

/// Names of the loadable modules that drive the disk and every device on the way to it, sorted. Built-in drivers are
/// left out.
fn modules(folder: &Path) -> Vec<String> {
    let device = folder.join("device");
    // A disk of a multipath NVMe subsystem is a virtual device with links to its controllers.
    let controllers = sysfs::names(&device).into_iter().filter(|name| name.starts_with("nvme"));
    let controllers = controllers.map(|name| device.join(name)).filter(|path| path.is_symlink());
    let ends = std::iter::once(folder.to_owned()).chain(controllers).filter_map(|end| end.canonicalize().ok());
    let mut modules: Vec<String> =
        ends.flat_map(|end| end.ancestors().filter_map(loadable_driver).collect::<Vec<_>>()).collect();
    modules.sort();
    modules.dedup();
    modules
}

/// The module of a device's driver. Only loadable modules have an `initstate` (Documentation/ABI/stable/sysfs-module).
fn loadable_driver(device: &Path) -> Option<String> {
    let module = device.join("driver/module").canonicalize().ok()?;
    let name = module.file_name()?.to_str()?.to_owned();
    module.join("initstate").exists().then_some(name)
}

/// The model name. SCSI reports vendor and model, an eMMC only its name. The vendor of virtio is the number of its PCI
/// vendor, which is of no use here.
fn model(vendor: &str, model: &str, name: &str) -> String {
    let vendor = if vendor.starts_with("0x") { "" } else { vendor };
    let model = if model.is_empty() { name } else { model };
    [vendor, model].join(" ").trim().to_owned()
}

/// The serial number. virtio and NVMe have an attribute for it. SCSI and SATA report it in vital product data page 0x80
/// (SPC-4, 7.8.13): four bytes of header, then the number.
fn serial(folder: &Path) -> String {
    let attribute = ["serial", "device/serial"].map(|name| sysfs::tidy(&sysfs::text(&folder.join(name), sysfs::LINE)));
    if let Some(found) = attribute.into_iter().find(|serial| !serial.is_empty()) {
        return found;
    }
    let page = sysfs::bytes(&folder.join("device/vpd_pg80"), 256);
    sysfs::tidy(&String::from_utf8_lossy(page.get(4..).unwrap_or_default()))
}

fn partitions(root: &Path, folder: &Path, disk: &str) -> Vec<Partition> {
    let names = sysfs::names(folder).into_iter().filter(|name| name.starts_with(disk));
    let partitions = names.filter(|name| folder.join(name).join("partition").exists());
    partitions
        .map(|name| {
            let uevent = sysfs::text(&folder.join(&name).join("uevent"), sysfs::LINE);
            let label = uevent.lines().find_map(|line| line.strip_prefix("PARTNAME=")).unwrap_or_default();
            Partition { label: sysfs::tidy(label), device: root.join("dev").join(&name), name }
        })
        .collect()
}

/// Every link in the folders of `/dev/disk` and the kernel name that it points to, sorted.
fn device_links(root: &Path) -> Vec<(String, String)> {
    let folders = ["by-id", "by-path", "by-diskseq"];
    let mut links: Vec<(String, String)> = folders
        .iter()
        .flat_map(|folder| {
            let path = root.join("dev/disk").join(folder);
            sysfs::names(&path).into_iter().filter_map(move |name| {
                let target = link_target(&path.join(&name))?;
                Some((format!("/dev/disk/{folder}/{name}"), target))
            })
        })
        .collect();
    links.sort();
    links
}

/// Kernel names of the partitions that the running system was started from.
fn own_partitions(root: &Path) -> Vec<String> {
    let folder = below(root, DEVICES);
    sysfs::names(&folder).iter().filter_map(|name| link_target(&folder.join(name))).collect()
}

fn link_target(link: &Path) -> Option<String> {
    let target: PathBuf = std::fs::read_link(link).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, write};
    use std::os::unix::fs::symlink;

    /// A root folder with a CD drive and one virtio disk of 1 MiB, which has one partition.
    fn fixture() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let class = root.path().join("sys/class/block");
        let attributes = [
            ("vda/size", "2048"),
            ("vda/dev", "254:0"),
            ("vda/ro", "0"),
            ("vda/removable", "0"),
            ("vda/serial", "S-1"),
            ("vda/queue/logical_block_size", "512"),
            ("vda/queue/rotational", "1"),
            ("vda/device/vendor", "0x1af4"),
            ("vda/vda1/partition", "1"),
            ("vda/vda1/start", "64"),
            ("vda/vda1/uevent", "DEVNAME=vda1\nPARTNAME=photos"),
            ("vda1/dev", "254:1"),
            ("vda1/partition", "1"),
            ("sr0/size", "2048"),
            ("sr0/device/type", "5"),
            ("loop0/size", "2048"),
        ];
        for (path, text) in attributes {
            let path = class.join(path);
            create_dir_all(path.parent().unwrap()).unwrap();
            write(path, format!("{text}\n")).unwrap();
        }
        create_dir_all(root.path().join("dev/disk/by-id")).unwrap();
        create_dir_all(root.path().join("proc/self")).unwrap();
        symlink("../../vda", root.path().join("dev/disk/by-id/virtio-S-1")).unwrap();
        symlink("../../vda1", root.path().join("dev/disk/by-id/virtio-S-1-part1")).unwrap();
        for device in ["dev/vda", "dev/vda1"] {
            write(root.path().join(device), vec![0; 1 << 20]).unwrap();
        }
        root
    }

    #[test]
    fn a_disk_is_described_and_what_is_no_disk_is_left_out() {
        let root = fixture();
        let disks = probe(root.path());
        assert_eq!(disks.len(), 1);
        let disk = &disks[0];
        assert_eq!((disk.path.as_str(), disk.size_bytes, disk.serial.as_str()), ("/dev/vda", 1 << 20, "S-1"));
        assert_eq!(disk.links, ["/dev/disk/by-id/virtio-S-1"]);
        assert_eq!(disk.content, ["partition vda1 \"photos\": no known content"]);
        assert_eq!(disk.model, "");
        assert!(disk.rotational && !disk.is_boot_medium && disk.mounted.is_empty());
    }

    #[test]
    fn the_boot_medium_is_known_by_its_mount_and_by_the_links_of_the_initrd() {
        let root = fixture();
        let mountinfo = "36 35 254:1 / /run/ros/medium ro - iso9660 /dev/vda1 ro\n";
        write(root.path().join("proc/self/mountinfo"), mountinfo).unwrap();
        let disk = &probe(root.path())[0];
        assert!(disk.is_boot_medium && disk.mounted == ["/run/ros/medium"]);

        let root = fixture();
        create_dir_all(root.path().join("run/ros/dev")).unwrap();
        symlink("/dev/vda1", root.path().join("run/ros/dev/COS_OEM")).unwrap();
        assert!(probe(root.path())[0].is_boot_medium);
    }

    #[test]
    fn a_disk_below_an_encrypted_mount_is_in_use() {
        let root = fixture();
        let class = root.path().join("sys/class/block");
        create_dir_all(class.join("vda1/holders/dm-0")).unwrap();
        create_dir_all(class.join("dm-0")).unwrap();
        write(class.join("dm-0/dev"), "253:0\n").unwrap();
        let mountinfo = "36 35 253:0 / /home rw - ext4 /dev/mapper/home rw\n";
        write(root.path().join("proc/self/mountinfo"), mountinfo).unwrap();
        let disk = &probe(root.path())[0];
        assert_eq!((&disk.mounted[..], &disk.holders[..]), (&["/home".to_owned()][..], &["dm-0".to_owned()][..]));
    }

    /// A root folder with the disk `sda`, whose device has this path below /sys/devices.
    fn disk_at(path: &str, attributes: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let device = root.path().join("sys/devices").join(path);
        let disk = device.join("block/sda");
        create_dir_all(&disk).unwrap();
        create_dir_all(root.path().join("sys/class/block")).unwrap();
        symlink(&disk, root.path().join("sys/class/block/sda")).unwrap();
        symlink("../..", disk.join("device")).unwrap();
        for (path, text) in attributes {
            write(disk.join(path), format!("{text}\n")).unwrap();
        }
        root
    }

    #[test]
    fn usb_is_judged_by_the_bus_and_not_by_what_the_disk_says() {
        let stick = "pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0";
        assert!(probe(disk_at(stick, &[("removable", "0")]).path())[0].usb);
        let built_in = "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0";
        let disks = probe(disk_at(built_in, &[("removable", "1"), ("device/vendor", "ATA")]).path());
        assert!(!disks[0].usb && disks[0].removable);
    }

    #[test]
    fn an_emmc_has_a_model_and_a_serial_number() {
        let root = disk_at("pci0000:00/mmc0/mmc0:0001", &[("device/name", "8GME4R"), ("device/serial", "0x1234abcd")]);
        let disk = &probe(root.path())[0];
        assert_eq!((disk.model.as_str(), disk.serial.as_str()), ("8GME4R", "0x1234abcd"));
    }

    /// Gives a device a driver. A built-in driver has a module without `initstate`.
    fn drive(root: &Path, device: &str, driver: &str, module: &str, loadable: bool) {
        let module = root.join("sys/module").join(module);
        let driver = root.join("sys/bus/any/drivers").join(driver);
        for folder in [&module, &driver] {
            create_dir_all(folder).unwrap();
        }
        if loadable {
            write(module.join("initstate"), "live\n").unwrap();
        }
        symlink(module, driver.join("module")).unwrap();
        symlink(driver, root.join("sys/devices").join(device).join("driver")).unwrap();
    }

    #[test]
    fn the_chain_of_drivers_is_every_loadable_module_on_the_way_to_the_disk() {
        let vmd = "pci0000:00/0000:00:0e.0";
        let nvme = "pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:01.0/10000:e1:00.0";
        let root = disk_at(&format!("{nvme}/nvme/nvme0"), &[]);
        drive(root.path(), vmd, "vmd", "vmd", true);
        drive(root.path(), "pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:01.0", "pcieport", "pcieport", false);
        drive(root.path(), nvme, "nvme", "nvme", true);
        assert_eq!(probe(root.path())[0].modules, ["nvme", "vmd"]);
    }

    #[test]
    fn a_multipath_namespace_needs_the_drivers_of_its_controllers() {
        let root = disk_at("virtual/nvme-subsystem/nvme-subsys0", &[]);
        let controller = "pci0000:00/0000:00:04.0";
        create_dir_all(root.path().join("sys/devices").join(controller).join("nvme/nvme0")).unwrap();
        drive(root.path(), controller, "nvme", "nvme", true);
        let link = root.path().join("sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0");
        symlink(root.path().join("sys/devices").join(controller).join("nvme/nvme0"), link).unwrap();
        assert_eq!(probe(root.path())[0].modules, ["nvme"]);
    }

    #[test]
    fn a_disk_that_cannot_be_read_is_not_blank() {
        let root = fixture();
        std::fs::remove_file(root.path().join("dev/vda")).unwrap();
        assert!(probe(root.path())[0].content[0].starts_with("unreadable"));
    }
}
