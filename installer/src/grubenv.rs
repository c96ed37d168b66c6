//! GRUB's environment block (`grub-core/lib/envblk.c`): which slot is started, and whether it has proved itself.
//!
//! The file has 1024 bytes and is only ever overwritten in place. GRUB writes it the same way, and a rename on a FAT
//! file system can lose both names at a power cut. What matters stands within the first 512 bytes, one sector, which a
//! disk writes whole or not at all.

use protocol::message::Slot;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Length of the file.
pub const LENGTH: usize = 1024;
/// Our variables stand within these.
const ATOMIC: usize = 512;
/// How often a slot is tried before it has proved itself.
pub const TRIES: u8 = 3;
const MAGIC: &str = "# GRUB Environment Block\n";

/// The variables that `grub.cfg` reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrubEnv {
    /// The slot that is started; never `Live`.
    pub active: Slot,
    /// Whether it has proved itself since it was written.
    pub good: bool,
    /// Starts left until another slot is taken, 0 to [`TRIES`]; without meaning once `good`.
    pub tries: u8,
    /// Whether slot B holds a system.
    pub installed_b: bool,
}

/// Why a block cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrubEnvError {
    #[error("the GRUB environment has {0} bytes; it must have {LENGTH}")]
    Length(usize),
    #[error("the GRUB environment does not begin with `# GRUB Environment Block`")]
    Magic,
    #[error("the GRUB environment says {name}={value:?}; expected {expected}")]
    Value { name: &'static str, value: String, expected: &'static str },
}

impl GrubEnv {
    /// After an installation: A has to prove itself, B is empty.
    pub const INSTALLED: Self = Self { active: Slot::A, good: false, tries: TRIES, installed_b: false };

    pub fn parse(block: &[u8]) -> Result<Self, GrubEnvError> {
        if block.len() != LENGTH {
            return Err(GrubEnvError::Length(block.len()));
        }
        let body = block.strip_prefix(MAGIC.as_bytes()).ok_or(GrubEnvError::Magic)?;
        let text = String::from_utf8_lossy(body);
        let value = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once('='));
            lines.find(|(key, _)| *key == name).map_or("", |(_, value)| value)
        };
        let flag = |name| match value(name) {
            "1" => Ok(true),
            "0" | "" => Ok(false),
            other => Err(GrubEnvError::Value { name, value: other.into(), expected: "0 or 1" }),
        };
        let active = match value("active") {
            "A" => Slot::A,
            "B" => Slot::B,
            "R" => Slot::Recovery,
            other => {
                return Err(GrubEnvError::Value { name: "active", value: other.into(), expected: "A, B or R" });
            }
        };
        let tries = match value("tries") {
            "" => 0,
            text => text.parse().ok().filter(|tries| *tries <= TRIES).ok_or_else(|| GrubEnvError::Value {
                name: "tries",
                value: text.into(),
                expected: "0 to 3",
            })?,
        };
        Ok(Self { active, good: flag("good")?, tries, installed_b: flag("installed_b")? })
    }

    /// The block, [`LENGTH`] bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let active = match self.active {
            Slot::B => 'B',
            Slot::Recovery => 'R',
            Slot::A | Slot::Live => 'A',
        };
        let flag = u8::from;
        let text = format!(
            "{MAGIC}active={active}\ngood={}\ntries={}\ninstalled_b={}\n",
            flag(self.good),
            self.tries,
            flag(self.installed_b)
        );
        debug_assert!(text.len() <= ATOMIC);
        let mut block = text.into_bytes();
        block.resize(LENGTH, b'#');
        block
    }

    pub fn read(path: &Path) -> io::Result<Self> {
        Self::parse(&std::fs::read(path)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Overwrites an existing block and waits until it is on the disk.
    pub fn overwrite(&self, path: &Path) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(path)?;
        if file.metadata()?.len() != LENGTH as u64 {
            // Another length would change the directory and the allocation table as well.
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the file must have {LENGTH} bytes")));
        }
        file.write_all_at(&self.to_bytes(), 0)?;
        file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_env() -> impl Strategy<Value = GrubEnv> {
        let slot = prop_oneof![Just(Slot::A), Just(Slot::B), Just(Slot::Recovery)];
        (slot, any::<bool>(), 0..=TRIES, any::<bool>()).prop_map(|(active, good, tries, installed_b)| GrubEnv {
            active,
            good,
            tries,
            installed_b,
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_from_one_sector(env in any_env()) {
            let block = env.to_bytes();
            prop_assert_eq!(block.len(), LENGTH);
            prop_assert_eq!(GrubEnv::parse(&block), Ok(env));
            prop_assert!(block[ATOMIC..].iter().all(|b| *b == b'#'));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = GrubEnv::parse(&bytes);
            let mut block = MAGIC.as_bytes().to_vec();
            block.extend(bytes);
            block.resize(LENGTH, b'#');
            let _ = GrubEnv::parse(&block);
        }
    }

    #[test]
    fn what_grub_writes_is_read() {
        let mut block = format!("{MAGIC}# a comment\ntries=2\nactive=B\ngood=0\n").into_bytes();
        block.resize(LENGTH, b'#');
        let expected = GrubEnv { active: Slot::B, good: false, tries: 2, installed_b: false };
        assert_eq!(GrubEnv::parse(&block), Ok(expected));
    }

    #[test]
    fn the_file_is_overwritten_in_place_or_not_at_all() {
        use std::os::unix::fs::MetadataExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(GrubEnv::INSTALLED.overwrite(file.path()).is_err(), "an empty file is not extended");
        std::fs::write(file.path(), GrubEnv::INSTALLED.to_bytes()).unwrap();
        let inode = std::fs::metadata(file.path()).unwrap().ino();
        let good = GrubEnv { good: true, ..GrubEnv::INSTALLED };
        good.overwrite(file.path()).unwrap();
        assert_eq!(GrubEnv::read(file.path()).unwrap(), good);
        assert_eq!(std::fs::metadata(file.path()).unwrap().ino(), inode);
    }
}
