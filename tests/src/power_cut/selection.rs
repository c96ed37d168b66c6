//! What starts from a state of a disk: nothing, or one complete system.

use super::boot_files::{BootFiles, Digests};
use super::contents::BYTES;
use super::random::mix;
use super::state::{Area, DiskState};
use super::table::Table;
use anyhow::{Context, Result};
use boot_contract::Slot;
use disk::args_cfg;
use disk::bios::BOOT_CODE_BYTES;
use disk::layout::Role;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

/// What boot selection finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Neither UEFI nor BIOS starts the disk, and an installer begins again on it without being asked.
    Nothing,
    System(Rc<System>),
}

/// The systems on a disk that can be started. All of them are complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    pub files: BootFiles,
    /// What a BIOS starts. `None` where the table that GRUB needs is not written yet, and an installer begins again.
    bios: Option<BiosLoader>,
}

/// Keys for the boot code in the first sector, and for GRUB's core image that it loads.
#[derive(Clone, Debug, PartialEq, Eq)]
struct BiosLoader {
    code: u64,
    core: u64,
}

impl BiosLoader {
    /// Follows the boot code as a BIOS does. `disk::bios` has the offsets.
    fn read(disk: &DiskState) -> Result<Self, String> {
        let code = &disk.sector(0)[..BOOT_CODE_BYTES];
        let long = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let first = u32::try_from(long(code, 0x5c)).ok().filter(|first| *first < disk.sectors());
        let first = first.ok_or("the boot code points out of the disk")?;
        let head = disk.sector(first);
        let rest = u32::from(u16::from_le_bytes([head[0x1fc], head[0x1fd]]));
        if long(head, 0x1f4) != u64::from(first) + 1 || rest >= disk.sectors() - first {
            return Err("the boot code does not lead to GRUB's core image".into());
        }
        let key = |key: u64, number: u64| mix(key ^ number);
        let core = (first..=first + rest).map(|sector| u64::from(disk.number(sector))).fold(0, key);
        Ok(Self { code: code.iter().map(|byte| u64::from(*byte)).fold(0, key), core })
    }
}

impl Selection {
    /// Whether it is one of these. A BIOS may find nothing while the partition table is written.
    pub fn is_one_of(&self, others: &[Self]) -> bool {
        others.iter().any(|other| match (self, other) {
            (Self::System(one), Self::System(other)) => {
                one.files == other.files && (one.bios.is_none() || one.bios == other.bios)
            }
            _ => self == other,
        })
    }

    /// Whether the recovery system is started, which may be making COS_PERSISTENT anew.
    pub fn is_recovery(&self) -> bool {
        matches!(self, Self::System(system) if system.files.state.clone().start() == Slot::Recovery)
    }

    /// The slot that comes up in the end, if systems of these versions do not come up. `None` if nothing starts.
    pub fn comes_up(&self, broken: &[&str]) -> Option<Slot> {
        let Self::System(system) = self else { return None };
        let mut state = system.files.state.clone();
        loop {
            let slot = state.start();
            let version = system.files.systems.iter().find(|found| found.slot == slot).map(|found| &found.version);
            if slot == Slot::Recovery || !version.is_some_and(|version| broken.contains(&version.as_str())) {
                return Some(slot);
            }
        }
    }
}

/// Examines states, and remembers what it found for the parts of a disk.
pub struct Examiner {
    starts: HashMap<(u64, u64), Rc<Result<Starts, String>>>,
    boot: HashMap<u64, Rc<Result<BootFiles, String>>>,
    digests: Digests,
    /// A disk with nothing but its ends.
    ends: tempfile::NamedTempFile,
}

/// Who starts the disk.
struct Starts {
    /// The table that Linux finds.
    table: Option<Table>,
    uefi: bool,
    bios: bool,
}

impl Examiner {
    pub fn new(disk: &DiskState) -> Result<Self> {
        let ends = tempfile::NamedTempFile::new().context("creating a temporary disk")?;
        ends.as_file().set_len(u64::from(disk.sectors()) * BYTES as u64).context("growing a temporary disk")?;
        Ok(Self { starts: HashMap::new(), boot: HashMap::new(), digests: Digests::default(), ends })
    }

    /// What starts. An error says in what way the state is neither the old nor the new system.
    pub fn examine(&mut self, disk: &DiskState) -> Result<Selection, String> {
        let starts = self.starts(disk);
        let starts = match starts.as_ref() {
            Ok(starts) => starts,
            Err(fault) => return Err(fault.clone()),
        };
        if !starts.uefi && !starts.bios {
            return Ok(Selection::Nothing);
        }
        let table = starts.table.as_ref().ok_or("GRUB starts, but Linux finds no partition table")?;
        for (role, expected) in Role::ALL.into_iter().zip(&disk.places().partitions) {
            let entry = table.find(role).ok_or_else(|| format!("there is no partition {role}"))?;
            // The last partition may still be as small as in an image.
            let is_end = |end: u64| {
                end == u64::from(expected.end) || (role == Role::Persistent && end < u64::from(expected.end))
            };
            if entry.first != u64::from(expected.start) || !is_end(entry.last + 1) {
                return Err(format!("the partition {role} is somewhere else"));
            }
        }
        let files = self.boot_files(disk);
        let files = files.as_ref().as_ref().map_err(Clone::clone)?;
        for system in &files.systems {
            let role = match system.slot {
                Slot::A => Role::StateA,
                Slot::B => Role::StateB,
                Slot::Recovery => Role::Recovery,
            };
            let guid = table.find(role).map(|entry| entry.guid.to_string());
            let wanted = if args_cfg::is_of_image(&system.root_partition) {
                // GRUB looks it up.
                Table::unchecked(disk).and_then(|table| Some(table.find(role)?.guid.to_string()))
            } else {
                Some(system.root_partition.clone())
            };
            if guid != wanted {
                return Err(format!("slot {} takes its root from the partition {wanted:?}", system.slot));
            }
            match disk.holds_root(role, &system.root) {
                Some(true) => {}
                Some(false) => return Err(format!("the root image of slot {} is not complete", system.slot)),
                None => return Err(format!("slot {} wants a root image that was not recorded", system.slot)),
            }
        }
        let bios = if starts.bios { Some(BiosLoader::read(disk)?) } else { None };
        Ok(Selection::System(Rc::new(System { files: files.clone(), bios })))
    }

    fn boot_files(&mut self, disk: &DiskState) -> Rc<Result<BootFiles, String>> {
        let key = disk.key(Area::Partition(Role::Boot));
        if let Some(known) = self.boot.get(&key) {
            return known.clone();
        }
        let files = Rc::new(BootFiles::read(disk, &mut self.digests));
        self.boot.insert(key, files.clone());
        files
    }

    fn starts(&mut self, disk: &DiskState) -> Rc<Result<Starts, String>> {
        let key = (disk.key(Area::Head), disk.key(Area::Tail));
        if let Some(known) = self.starts.get(&key) {
            return known.clone();
        }
        let starts = Rc::new(self.look_at_ends(disk));
        self.starts.insert(key, starts.clone());
        starts
    }

    fn look_at_ends(&self, disk: &DiskState) -> Result<Starts, String> {
        let first = disk.sector(0);
        let has_code = first[510..] == [0x55, 0xaa] && first[..BOOT_CODE_BYTES].iter().any(|&byte| byte != 0);
        let bios = has_code && Table::unchecked(disk).is_some_and(|table| table.has_boot_in_second_place());
        let table = Table::checked(disk);
        let uefi = table.as_ref().is_some_and(|table| table.find(Role::Boot).is_some());
        // One of the two firmwares finds nothing to start. A medium must then install again without being asked.
        if !bios || !uefi {
            self.begins_again(disk)?;
        }
        Ok(Starts { table, uefi, bios })
    }

    /// Asks the installer's own probe, which reads the ends of a disk.
    fn begins_again(&self, disk: &DiskState) -> Result<(), String> {
        const END: u32 = (1 << 20) / BYTES as u32;
        let write = |file: &File| -> std::io::Result<()> {
            for start in [0, disk.sectors() - END] {
                let bytes: Vec<u8> = (start..start + END).flat_map(|sector| disk.sector(sector)).copied().collect();
                file.write_all_at(&bytes, u64::from(start) * BYTES as u64)?;
            }
            Ok(())
        };
        write(self.ends.as_file()).map_err(|error| format!("writing a temporary disk: {error}"))?;
        let found = machine::content::examine(self.ends.path(), BYTES as u32, &[]);
        // A blank disk was not touched yet.
        if found.unfinished || found.descriptions.is_empty() {
            return Ok(());
        }
        Err(format!("it does not start, and an installer would ask before it begins again: {:?}", found.descriptions))
    }
}
