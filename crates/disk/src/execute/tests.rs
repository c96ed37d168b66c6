//! Whole installations onto sparse files. The tests cover the result as other tools see it, failing writes, and power
//! cuts.

use super::*;
use crate::DiskDescription;
use crate::fixtures::{Fixture, blank_disk, plan_for, tiny_release};
use crate::gpt;
use crate::layout::{ALIGNMENT, Partition};
use crate::marker::{Marker, OFFSET, State};
use crate::plan::{ConfigFile, Request};
use boot_contract::BootState;
use command::Command;
use nix::libc;
use protocol::message::InstallPhase;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use tempfile::NamedTempFile;

/// The plan's configuration is one file.
fn fixture() -> Fixture {
    Fixture::new(&Request {
        configuration: vec![ConfigFile::new("cloud-config.yaml", "#cloud-config\nhostname: demo\n")],
        ..Request::default()
    })
}

impl Fixture {
    fn execute(&self) -> Result<Written, ExecuteError> {
        execute(&self.plan, &self.release, &mut |_| {})
    }

    fn partition(&self, role: Role) -> &Partition {
        self.plan.layout.partition(role)
    }

    fn marker(&self) -> Option<State> {
        Marker::read(self.disk.path()).unwrap().map(|marker| marker.state)
    }
}

/// Whether either GPT header exists on a disk with sectors of 512 bytes.
fn has_table(disk: &File) -> bool {
    let length = disk.metadata().unwrap().len();
    let mut signature = [0; 8];
    [512, length - 512].into_iter().any(|offset| {
        disk.read_exact_at(&mut signature, offset).unwrap();
        &signature == b"EFI PART"
    })
}

fn run(command: Command) -> String {
    String::from_utf8_lossy(&command.run().unwrap()).into_owned()
}

/// One partition of the disk as a separate file, for tools that take no offset.
fn extract(disk: &Path, partition: &Partition) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    run(Command::new("dd")
        .arg(format!("if={}", disk.display()))
        .arg(format!("of={}", file.path().display()))
        .arg(format!("skip={}", partition.offset >> 20))
        .arg(format!("count={}", partition.length >> 20))
        .args(["bs=1M", "conv=sparse", "status=none"]));
    file
}

#[test]
fn an_installed_disk_is_what_other_tools_expect() {
    let fixture = fixture();
    let mut phases = Vec::new();
    execute(&fixture.plan, &fixture.release, &mut |progress| {
        assert!(progress.bytes <= progress.total_bytes);
        phases.push(progress.phase);
    })
    .unwrap();
    phases.dedup();
    assert_eq!(phases, [InstallPhase::Writing, InstallPhase::Configuring, InstallPhase::Verifying]);

    let table = run(Command::new("sgdisk").args(["-v", "-p"]).arg(fixture.disk.path()));
    assert!(table.contains("No problems found") && table.contains("COS_PERSISTENT"), "{table}");
    assert_eq!(fixture.marker(), Some(State::Complete));

    for role in [Role::StateA, Role::Recovery] {
        let mut slot = vec![0; fixture.root.len()];
        fixture.disk.as_file().read_exact_at(&mut slot, fixture.partition(role).offset).unwrap();
        assert!(slot == fixture.root, "{role} differs from the root image");
    }

    let boot = extract(fixture.disk.path(), fixture.partition(Role::Boot));
    let file = |path: &str| Command::new("mtype").arg("-i").arg(boot.path()).arg(path).run().unwrap();
    assert_eq!(file("::/EFI/BOOT/BOOTX64.EFI"), b"shim");
    assert_eq!(file("::/R/vmlinuz"), file("::/A/vmlinuz"));
    assert_eq!(BootState::parse(&file("::/grub/grubenv")).unwrap(), BootState::INSTALLED);
    assert_eq!(file("::/A/release.json"), fixture.release.manifest_bytes());

    let oem = extract(fixture.disk.path(), fixture.partition(Role::Oem));
    run(Command::new("e2fsck").args(["-f", "-n"]).arg(oem.path()));
    let config = run(Command::new("debugfs").args(["-R", "cat cloud-config.yaml"]).arg(oem.path()));
    assert_eq!(config, "#cloud-config\nhostname: demo\n");
    let persistent = extract(fixture.disk.path(), fixture.partition(Role::Persistent));
    run(Command::new("e2fsck").args(["-f", "-n"]).arg(persistent.path()));
}

/// A disk that fails writes after a number of bytes, or silently drops one write.
struct Faulty {
    disk: Disk,
    written: u64,
    fault: Fault,
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// Every write that begins after this many bytes fails.
    WritesFailAfter(u64),
    /// The first write after this many bytes fails, and later ones work again: a disk that was out for a moment.
    OneWriteFailsAfter(u64),
    /// The write at this offset is acknowledged and dropped.
    Drops(u64),
    /// Reading fails.
    Reads,
}

impl Target for Faulty {
    fn length(&self) -> u64 {
        self.disk.length()
    }
    fn sector_bytes(&self) -> u32 {
        self.disk.sector_bytes()
    }
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let before = self.written;
        self.written += bytes.len() as u64;
        match self.fault {
            Fault::WritesFailAfter(limit) if before >= limit => Err(io::Error::from_raw_os_error(libc::EIO)),
            Fault::OneWriteFailsAfter(limit) if before >= limit => {
                self.fault = Fault::WritesFailAfter(u64::MAX);
                // Half of the write reaches the disk.
                self.disk.write_at(offset, &bytes[..bytes.len() / 1024 * 512])?;
                Err(io::Error::from_raw_os_error(libc::EIO))
            }
            Fault::Drops(lost) if (offset..offset + bytes.len() as u64).contains(&lost) => Ok(()),
            _ => self.disk.write_at(offset, bytes),
        }
    }
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if self.fault == Fault::Reads {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.disk.read_at(offset, buffer)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.disk.flush()
    }
    fn announce(&mut self) -> io::Result<()> {
        self.disk.announce()
    }
}

impl Fixture {
    fn execute_with(&self, fault: Fault) -> Result<Written, ExecuteError> {
        let disk = Disk::open(self.disk.path()).unwrap();
        execute_on(&mut Faulty { disk, written: 0, fault }, &self.plan, &self.release, &mut |_| {})
    }
}

#[test]
fn a_failing_disk_is_never_left_bootable_and_can_be_tried_again() {
    let fixture = fixture();
    fixture.execute().unwrap();
    assert!(has_table(fixture.disk.as_file()), "the earlier installation");
    let mib = 1 << 20;
    // The limits are behind the marker, within the root image, within the file systems, and at the tables.
    for limit in [2 * mib, 7 * mib, 21 * mib, 22 * mib] {
        for fault in [Fault::WritesFailAfter(limit), Fault::OneWriteFailsAfter(limit)] {
            let error = fixture.execute_with(fault).unwrap_err();
            assert_eq!(error.reason(), "WriteFailed", "{error}");
            assert!(!has_table(fixture.disk.as_file()), "after {limit} bytes");
            assert_eq!(fixture.marker(), Some(State::Writing));
        }
    }
    fixture.execute().unwrap();
    assert_eq!(fixture.marker(), Some(State::Complete));
}

#[test]
fn a_disk_that_fails_before_any_change_keeps_its_content() {
    let fixture = fixture();
    fixture.execute().unwrap();
    fixture.execute_with(Fault::WritesFailAfter(0)).unwrap_err();
    assert!(has_table(fixture.disk.as_file()));
    assert_eq!(fixture.marker(), Some(State::Complete));
}

#[test]
fn a_lost_write_or_a_failing_read_is_found_before_the_tables() {
    for (role, within) in [(Role::Recovery, 5 * ALIGNMENT), (Role::Boot, 0), (Role::Oem, 0), (Role::Bios, 0)] {
        let fixture = fixture();
        let error = fixture.execute_with(Fault::Drops(fixture.partition(role).offset + within)).unwrap_err();
        assert_eq!(error.reason(), "VerificationFailed", "{role}: {error}");
        assert!(!has_table(fixture.disk.as_file()));
    }
    let fixture = fixture();
    assert_eq!(fixture.execute_with(Fault::Reads).unwrap_err().reason(), "ReadBackFailed");
    assert!(!has_table(fixture.disk.as_file()));
}

#[test]
fn a_power_cut_before_the_end_leaves_no_table_and_the_marker() {
    let fixture = fixture();
    let prepared = prepare::prepare(&fixture.plan, &fixture.release).unwrap();
    for steps in 1..prepared.len() {
        // The installation goes over a complete one, which is the harder case.
        fixture.execute().unwrap();
        let mut disk = Disk::open(fixture.disk.path()).unwrap();
        run::run(&mut disk, &fixture.plan, &fixture.release, &prepared[..steps], &mut |_| {}).unwrap();
        assert!(!has_table(fixture.disk.as_file()), "after {steps} steps");
        assert_eq!(fixture.marker(), Some(State::Writing));
    }
}

#[test]
fn the_marker_does_not_overlap_the_tables() {
    let fixture = fixture();
    let tables = gpt::tables(&fixture.plan.layout);
    assert!(tables.primary.len() as u64 <= OFFSET);
}

#[test]
fn a_damaged_root_image_is_not_installed() {
    let fixture = fixture();
    let path = fixture.folder.path().join("root.erofs");
    let mut damaged = fixture.root.clone();
    damaged[fixture.root.len() / 2] ^= 1;
    std::fs::write(path, damaged).unwrap();
    let error = fixture.execute().unwrap_err();
    assert!(matches!(error, ExecuteError::SourceDigest { .. }), "{error}");
    assert!(!has_table(fixture.disk.as_file()));
}

#[test]
fn another_disk_than_the_planned_one_is_not_touched() {
    let fixture = fixture();
    fixture.disk.as_file().set_len(1 << 30).unwrap();
    assert_eq!(fixture.execute().unwrap_err().reason(), "DiskChanged");
    assert_eq!(fixture.marker(), None);
}

#[test]
fn large_sectors_get_a_table_without_bios_code() {
    let detail = DiskDescription { logical_sector_bytes: 4096, ..blank_disk("/dev/nvme0n1") };
    let planned = plan_for(detail, &Request::default()).unwrap();
    let folder = tiny_release(&[5; 12288]);
    let release = ReleaseSource::open(folder.path()).unwrap();
    assert!(prepare::prepare(&planned, &release).is_ok());
}
