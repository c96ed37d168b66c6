//! Whole disks, from sysfs and their own first sectors.

use super::mounts::{self, Mount};
use super::{DiskDetail, content, sysfs};
use crate::marker::{Marker, State};
use protocol::hardware;
use std::fs::File;
use std::path::{Path, PathBuf};

/// sysfs gives sizes and offsets in units of 512 bytes, whatever the disk's own sector is.
const SYSFS_SECTOR: u64 = 512;
/// Where `ros-init` mounts the medium of a live system.
const MEDIUM: &str = "/run/ros/medium";
/// Links that `ros-init` makes to the partitions of the disk that an installed system runs from.
const OWN_PARTITIONS: &str = "run/ros/dev";

/// One disk: what is told to the operator, and what the planner needs.
pub struct FoundDisk {
    pub summary: hardware::Disk,
    pub detail: DiskDetail,
}

/// Every whole disk that the kernel knows, sorted by path.
pub fn probe(root: &Path) -> Vec<FoundDisk> {
    let class = root.join("sys/class/block");
    let mounts = mounts::probe(root);
    let links = device_links(root);
    let own = own_partitions(root);
    let names = sysfs::names(&class).into_iter().filter(|name| is_whole_disk(&class, name));
    names.map(|name| found(root, &class, &name, &mounts, &links, &own)).collect()
}

/// No partition, nothing stacked (device-mapper, MD, loop and RAM disks have no `device`), no CD or tape drive, no
/// hidden path of a multipath disk, and none of the boot and replay-protected areas of an eMMC.
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
) -> FoundDisk {
    let folder = class.join(name);
    let text = |attribute: &str| sysfs::tidy(&sysfs::text(&folder.join(attribute), sysfs::LINE));
    let partitions = partitions(&folder, name);
    let names: Vec<&str> = std::iter::once(name).chain(partitions.iter().map(|p| p.name.as_str())).collect();
    let used_by = |mount: &&Mount| names.iter().any(|name| is_used(class, name, mount));
    let mounted: Vec<String> = mounts.iter().filter(used_by).map(|mount| mount.point.clone()).collect();
    let device = root.join("dev").join(name);
    let detail = DiskDetail {
        path: format!("/dev/{name}"),
        size_bytes: sysfs::number(&folder.join("size")).saturating_mul(SYSFS_SECTOR),
        logical_sector_bytes: logical_sector(&folder),
        model: model(&text("device/vendor"), &text("device/model")),
        serial: serial(&folder),
        wwn: [text("wwid"), text("device/wwid")].into_iter().find(|wwn| !wwn.is_empty()).unwrap_or_default(),
        links: links.iter().filter(|(_, target)| target == name).map(|(link, _)| link.clone()).collect(),
        removable: sysfs::flag(&folder.join("removable")),
        read_only: sysfs::flag(&folder.join("ro")),
        is_boot_medium: mounted.iter().any(|point| point == MEDIUM)
            || names.iter().any(|name| own.iter().any(|own| own == name)),
        unfinished: Marker::read(&device).ok().flatten().is_some_and(|marker| marker.state == State::Writing),
        content: describe(&device, logical_sector(&folder), &partitions),
        mounted,
    };
    let summary = hardware::Disk {
        path: detail.path.clone(),
        model: detail.model.clone(),
        serial: detail.serial.clone(),
        size_bytes: detail.size_bytes,
        rotational: sysfs::flag(&folder.join("queue/rotational")),
        removable: detail.removable,
    };
    FoundDisk { summary, detail }
}

/// A mount keeps a device in use directly, or through something stacked on it (LVM, LUKS, MD).
fn is_used(class: &Path, name: &str, mount: &Mount) -> bool {
    let folder = class.join(name);
    mount.uses(&sysfs::text(&folder.join("dev"), sysfs::LINE), &format!("/dev/{name}"))
        || sysfs::names(&folder.join("holders")).iter().any(|holder| {
            // One level down each time; the kernel allows no cycles, and no stack in use is deeper than this.
            let number = sysfs::text(&class.join(holder).join("dev"), sysfs::LINE);
            mount.uses(&number, &format!("/dev/{holder}"))
                || sysfs::names(&class.join(holder).join("holders")).iter().any(|upper| {
                    mount.uses(&sysfs::text(&class.join(upper).join("dev"), sysfs::LINE), &format!("/dev/{upper}"))
                })
        })
}

fn logical_sector(folder: &Path) -> u32 {
    match sysfs::number(&folder.join("queue/logical_block_size")) {
        4096 => 4096,
        _ => 512,
    }
}

/// SCSI names vendor and model; virtio's vendor is the number of its PCI vendor, which says nothing.
fn model(vendor: &str, model: &str) -> String {
    let vendor = if vendor.starts_with("0x") { "" } else { vendor };
    [vendor, model].join(" ").trim().to_owned()
}

/// virtio and NVMe have an attribute; SCSI and SATA answer in vital product data page 0x80 (SPC-4, 7.8.13): four bytes
/// of header, then the number.
fn serial(folder: &Path) -> String {
    let attribute = ["serial", "device/serial"].map(|name| sysfs::tidy(&sysfs::text(&folder.join(name), sysfs::LINE)));
    if let Some(found) = attribute.into_iter().find(|serial| !serial.is_empty()) {
        return found;
    }
    let page = sysfs::bytes(&folder.join("device/vpd_pg80"), 256);
    sysfs::tidy(&String::from_utf8_lossy(page.get(4..).unwrap_or_default()))
}

/// A partition as the kernel sees it.
struct Partition {
    name: String,
    start_bytes: u64,
    /// Of the GPT entry; empty for MBR partitions.
    label: String,
}

fn partitions(folder: &Path, disk: &str) -> Vec<Partition> {
    let names = sysfs::names(folder).into_iter().filter(|name| name.starts_with(disk));
    let partitions = names.filter(|name| folder.join(name).join("partition").exists());
    partitions
        .map(|name| {
            let uevent = sysfs::text(&folder.join(&name).join("uevent"), sysfs::LINE);
            Partition {
                start_bytes: sysfs::number(&folder.join(&name).join("start")).saturating_mul(SYSFS_SECTOR),
                label: sysfs::tidy(uevent.lines().find_map(|line| line.strip_prefix("PARTNAME=")).unwrap_or_default()),
                name,
            }
        })
        .collect()
}

/// The whole disk's signatures, then each partition's. A disk that cannot be read says so, and so counts as foreign.
fn describe(device: &Path, sector: u32, partitions: &[Partition]) -> Vec<String> {
    let mut disk = match File::open(device) {
        Ok(disk) => disk,
        // A card reader without a card.
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOMEDIUM) => return Vec::new(),
        Err(error) => return vec![format!("unreadable ({error})")],
    };
    let mut found = match content::of_disk(&mut disk, sector) {
        Ok(found) => found,
        Err(error) => return vec![format!("unreadable ({error})")],
    };
    for partition in partitions {
        let inside = content::of_partition(&mut disk, partition.start_bytes).unwrap_or_default();
        let label = if partition.label.is_empty() { String::new() } else { format!(" {:?}", partition.label) };
        found.push(format!("partition {}{label}: {}", partition.name, inside.as_deref().unwrap_or("no known content")));
    }
    found
}

/// Every link in the folders of `/dev/disk` and the kernel name it leads to, sorted.
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
    let folder = root.join(OWN_PARTITIONS);
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

    /// A root with one virtio disk of 1 MiB that has one partition, and a CD drive.
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
        write(root.path().join("dev/vda"), vec![0; 1 << 20]).unwrap();
        root
    }

    #[test]
    fn a_disk_is_described_and_what_is_no_disk_is_left_out() {
        let root = fixture();
        let disks = probe(root.path());
        assert_eq!(disks.len(), 1);
        let (summary, detail) = (&disks[0].summary, &disks[0].detail);
        assert_eq!((detail.path.as_str(), detail.size_bytes, detail.serial.as_str()), ("/dev/vda", 1 << 20, "S-1"));
        assert_eq!(detail.links, ["/dev/disk/by-id/virtio-S-1"]);
        assert_eq!(detail.content, ["partition vda1 \"photos\": no known content"]);
        assert_eq!(detail.model, "");
        assert!(summary.rotational && !detail.is_boot_medium && detail.mounted.is_empty());
    }

    #[test]
    fn the_boot_medium_is_known_by_its_mount_and_by_the_links_of_the_initrd() {
        let root = fixture();
        let mountinfo = "36 35 254:1 / /run/ros/medium ro - iso9660 /dev/vda1 ro\n";
        write(root.path().join("proc/self/mountinfo"), mountinfo).unwrap();
        let detail = &probe(root.path())[0].detail;
        assert!(detail.is_boot_medium && detail.mounted == ["/run/ros/medium"]);

        let root = fixture();
        create_dir_all(root.path().join("run/ros/dev")).unwrap();
        symlink("/dev/vda1", root.path().join("run/ros/dev/COS_OEM")).unwrap();
        assert!(probe(root.path())[0].detail.is_boot_medium);
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
        assert_eq!(probe(root.path())[0].detail.mounted, ["/home"]);
    }

    #[test]
    fn a_disk_that_cannot_be_read_is_not_blank() {
        let root = fixture();
        std::fs::remove_file(root.path().join("dev/vda")).unwrap();
        assert!(probe(root.path())[0].detail.content[0].starts_with("unreadable"));
    }
}
