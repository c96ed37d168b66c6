//! Reads and writes the firmware's variables as files (Linux, Documentation/filesystems/efivarfs.rst). A file has four
//! bytes of attributes, then the value.

use nix::errno::Errno;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// `EFI_GLOBAL_VARIABLE` (3.3).
pub const GLOBAL: Uuid = Uuid::from_u128(0x8be4df61_93ca_11d2_aa0d_00e098032b8c);
/// The variable is non-volatile, and accessible before and after the start of an operating system (8.2).
const ATTRIBUTES: u32 = 7;
/// Largest variable that is read, in bytes. No variable of interest is larger.
const LARGEST: u64 = 64 * 1024;
/// `FS_IMMUTABLE_FL`, which efivarfs sets for all but the best known variables.
const IMMUTABLE: nix::libc::c_long = 0x10;

nix::ioctl_read!(get_flags, b'f', 1, nix::libc::c_long);
nix::ioctl_write_ptr!(set_flags, b'f', 2, nix::libc::c_long);

pub struct Variables(PathBuf);

impl Variables {
    /// The variables of the machine with this root folder.
    pub fn below(root: &Path) -> Self {
        Self(root.join("sys/firmware/efi/efivars"))
    }

    /// Names of the variables of a vendor.
    pub fn names(&self, vendor: Uuid) -> io::Result<Vec<String>> {
        let ending = format!("-{vendor}");
        let names = fs::read_dir(&self.0)?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.filter_map(|name| name.strip_suffix(&ending).map(str::to_owned)).collect())
    }

    /// The value. `None` if there is no such variable.
    pub fn read(&self, name: &str, vendor: Uuid) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        match File::open(self.path(name, vendor)) {
            Ok(file) => file.take(LARGEST).read_to_end(&mut bytes)?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(bytes.get(4..).map(<[u8]>::to_vec))
    }

    pub fn write(&self, name: &str, vendor: Uuid, value: &[u8]) -> io::Result<()> {
        let path = self.path(name, vendor);
        make_mutable(&path)?;
        // The value is written in one call, because the kernel passes each write to the firmware as a whole variable.
        File::create(path)?.write_all(&[&ATTRIBUTES.to_le_bytes()[..], value].concat())
    }

    /// Removes the variable if it exists.
    pub fn remove(&self, name: &str, vendor: Uuid) -> io::Result<()> {
        let path = self.path(name, vendor);
        make_mutable(&path)?;
        match fs::remove_file(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn path(&self, name: &str, vendor: Uuid) -> PathBuf {
        self.0.join(format!("{name}-{vendor}"))
    }
}

fn make_mutable(path: &Path) -> io::Result<()> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut flags = 0;
    // SAFETY: the file is open, and the kernel reads and writes one integer.
    match unsafe { get_flags(file.as_raw_fd(), &raw mut flags) } {
        Ok(_) if flags & IMMUTABLE == 0 => return Ok(()),
        Ok(_) => {}
        // The file system has no such flags, as in tests.
        Err(Errno::ENOTTY | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    flags &= !IMMUTABLE;
    // SAFETY: as above.
    unsafe { set_flags(file.as_raw_fd(), &raw const flags) }?;
    Ok(())
}
