//! A read-only dm-verity device through the device mapper's ioctls.
//! Format: the kernel's `include/uapi/linux/dm-ioctl.h`, interface version 4.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use boot_contract::VerityArgument;
use rustix::ioctl::{Opcode, Updater, opcode};

use crate::Result;
use crate::verity;

/// `struct dm_ioctl`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_number: u32,
    padding: u32,
    device: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

/// `struct dm_target_spec` behind its header, with room for the longest parameters that a `VerityArgument` makes.
#[repr(C)]
struct TableLoad {
    header: Header,
    sector_start: u64,
    length: u64,
    status: i32,
    next: u32,
    target_type: [u8; 16],
    parameters: [u8; PARAMETER_BYTES],
}

const PARAMETER_BYTES: usize = 1024;
const HEADER_BYTES: usize = size_of::<Header>();
const _: () = assert!(HEADER_BYTES == 312, "the kernel's struct dm_ioctl has 312 bytes");

/// `DM_READONLY_FLAG`.
const READ_ONLY: u32 = 1;

/// The requests: `_IOWR(DM_IOCTL, command, struct dm_ioctl)`.
const DEVICE_CREATE: Opcode = opcode::read_write::<Header>(0xfd, 3);
/// Without the suspend flag it resumes the device, which activates the loaded table.
const DEVICE_SUSPEND: Opcode = opcode::read_write::<Header>(0xfd, 6);
const TABLE_LOAD: Opcode = opcode::read_write::<Header>(0xfd, 9);

/// Makes the device `name`, which shows the data of `partition` and checks each block when it is read.
pub fn open_verity(name: &str, partition: &Path, tree: &VerityArgument) -> Result<PathBuf> {
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/mapper/control")
        .map_err(|e| format!("opening /dev/mapper/control: {e}"))?;
    let mut created = header(name, HEADER_BYTES);
    call::<DEVICE_CREATE, _>(&control, "creating the device", &mut created)?;
    let mut load = table_load(name, verity::sectors(tree), &verity::table(tree, &partition.to_string_lossy()))?;
    let step = "loading the dm-verity table (ros.verity may not match the slot)";
    call::<TABLE_LOAD, _>(&control, step, &mut load)?;
    let mut resumed = header(name, HEADER_BYTES);
    call::<DEVICE_SUSPEND, _>(&control, "activating the device", &mut resumed)?;
    Ok(PathBuf::from(format!("/dev/dm-{}", minor(resumed.device))))
}

fn header(name: &str, size: usize) -> Header {
    let mut header = Header {
        version: [4, 0, 0],
        data_size: size as u32,
        data_start: HEADER_BYTES as u32,
        target_count: 0,
        open_count: 0,
        flags: READ_ONLY,
        event_number: 0,
        padding: 0,
        device: 0,
        name: [0; 128],
        uuid: [0; 129],
        data: [0; 7],
    };
    header.name[..name.len()].copy_from_slice(name.as_bytes());
    header
}

fn table_load(name: &str, sectors: u64, parameters: &str) -> Result<TableLoad> {
    if parameters.len() >= PARAMETER_BYTES {
        return Err(format!("the dm-verity table has {} bytes, more than {PARAMETER_BYTES}", parameters.len()));
    }
    let mut load = TableLoad {
        header: Header { target_count: 1, ..header(name, size_of::<TableLoad>()) },
        sector_start: 0,
        length: sectors,
        status: 0,
        next: 0,
        target_type: *b"verity\0\0\0\0\0\0\0\0\0\0",
        parameters: [0; PARAMETER_BYTES],
    };
    load.parameters[..parameters.len()].copy_from_slice(parameters.as_bytes());
    Ok(load)
}

/// `T` begins with a `Header` whose `data_size` is the size of `T`.
fn call<const REQUEST: Opcode, T>(control: &File, step: &str, request: &mut T) -> Result<()> {
    // SAFETY: the kernel reads and writes at most `data_size` bytes, which is the size of `T`.
    let result = unsafe { rustix::ioctl::ioctl(control, Updater::<REQUEST, T>::new(request)) };
    result.map_err(|error| format!("device mapper: {step}: {error}"))
}

/// Minor number of a `huge_encode_dev` device number.
fn minor(device: u64) -> u64 {
    (device & 0xff) | ((device >> 12) & 0xfff00)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_load_says_its_size_and_ends_its_strings() {
        let load = table_load("root", 800, "1 a b").unwrap();
        assert_eq!(load.header.data_size as usize, size_of::<TableLoad>());
        assert_eq!(std::mem::offset_of!(TableLoad, parameters), 312 + 40);
        assert_eq!(&load.parameters[..6], b"1 a b\0");
        assert!(table_load("root", 1, &"x".repeat(PARAMETER_BYTES)).is_err());
    }

    #[test]
    fn minors_above_255_are_split() {
        assert_eq!(minor(0xfd03), 3);
        assert_eq!(minor((1 << 20) | 0xfd00 | 0x2c), 0x12c);
    }
}
