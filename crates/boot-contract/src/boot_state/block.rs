//! GRUB's environment block (`grub-core/lib/envblk.c`), which holds the boot state.
//!
//! The file has 1024 bytes and is only ever overwritten in place. GRUB writes it the same way, and a rename on a FAT
//! file system can lose both names at a power cut: Linux writes the new entry with start cluster 0 until the renamed
//! file itself is synced. Our variables are within the first 512 bytes, one sector, which a disk writes whole or not at
//! all.
//!
//! | variable | values | |
//! |---|---|---|
//! | `active` | `A`, `B`, `R` | what GRUB starts; GRUB changes it when it falls back |
//! | `preferred` | `A`, `B`, `R` | what an installation, an upgrade or a person asked for, or came up in its place |
//! | `slot_a`, `slot_b` | `empty`, `trial`, `good`, `failed` | what the slot holds |
//! | `left_a`, `left_b` | 0 to 5 | starts left; each start takes one before it is made |
//! | `menu` | 0 to 65535 | `grub/menu-N.cfg` is loaded after the start was counted; 0 is the one in `grub/grub.cfg` |
//! | `returns` | 0 to 3 | how often recovery has gone back by itself since a slot was good |
//!
//! Variables of others are kept. The release in a slot is identified by `release.json` in the slot's folder.

use super::{BootState, MOST_RETURNS, SlotBoot, SlotState};
use crate::Slot;
use std::error::Error;
use std::fmt;

/// Path of the file on the boot partition.
pub const PATH: &str = "grub/grubenv";
/// Length of the file in bytes.
pub const LENGTH: usize = 1024;
/// Our variables are within this many bytes.
pub(super) const ATOMIC: usize = 512;
pub(super) const MAGIC: &[u8] = b"# GRUB Environment Block\n";
const OURS: [&str; 8] = ["active", "preferred", "slot_a", "left_a", "slot_b", "left_b", "menu", "returns"];

/// Why a block cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockError {
    Length(usize),
    Magic,
    Value { name: &'static str, value: String, expected: &'static str },
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(length) => write!(f, "the GRUB environment has {length} bytes; it must have {LENGTH}"),
            Self::Magic => write!(f, "the GRUB environment does not begin with `# GRUB Environment Block`"),
            Self::Value { name, value, expected } => {
                write!(f, "the GRUB environment says {name}={value:?}; expected {expected}")
            }
        }
    }
}

impl Error for BlockError {}

impl BootState {
    /// Reads a block as `grub.cfg` does. An invalid number counts as 0, and a missing `preferred` as `active`.
    pub fn parse(block: &[u8]) -> Result<Self, BlockError> {
        if block.len() != LENGTH {
            return Err(BlockError::Length(block.len()));
        }
        let body = block.strip_prefix(MAGIC).ok_or(BlockError::Magic)?;
        let (ours, others): (Vec<_>, Vec<_>) =
            variables(body).into_iter().partition(|line| OURS.iter().any(|name| value_of(line, name).is_some()));
        // The last line of a name counts, as for `load_env`.
        let value = |name: &str| ours.iter().rev().find_map(|line| value_of(line, name)).unwrap_or_default();
        let number = |name: &str, most: u16| {
            let text = std::str::from_utf8(value(name)).unwrap_or_default();
            let number = text.parse::<u16>().ok().filter(|number| *number <= most && number.to_string() == text);
            number.unwrap_or(0)
        };
        let slot = |name: &'static str| slot(value(name)).ok_or_else(|| unexpected(name, value(name), "A, B or R"));
        let state = |state: &'static str, left: &str| {
            let found = SlotState::ALL.into_iter().find(|known| known.word().as_bytes() == value(state));
            let found = found.ok_or_else(|| unexpected(state, value(state), "empty, trial, good or failed"))?;
            Ok(SlotBoot { state: found, left: number(left, 5) as u8 })
        };
        let active = slot("active")?;
        Ok(Self {
            active,
            preferred: slot("preferred").unwrap_or(active),
            a: state("slot_a", "left_a")?,
            b: state("slot_b", "left_b")?,
            menu: number("menu", u16::MAX),
            returns: number("returns", u16::from(MOST_RETURNS)) as u8,
            others: others.into_iter().map(<[u8]>::to_vec).collect(),
        })
    }

    /// The block, [`LENGTH`] bytes. Variables of others follow ours, as many as fit.
    pub fn to_bytes(&self) -> Vec<u8> {
        let text = format!(
            "active={}\npreferred={}\nslot_a={}\nleft_a={}\nslot_b={}\nleft_b={}\nmenu={}\nreturns={}\n",
            self.active.letter(),
            self.preferred.letter(),
            self.a.state.word(),
            self.a.left,
            self.b.state.word(),
            self.b.left,
            self.menu,
            self.returns,
        );
        let mut block = [MAGIC, text.as_bytes()].concat();
        debug_assert!(block.len() <= ATOMIC);
        for line in &self.others {
            if block.len() + line.len() < LENGTH {
                block.extend_from_slice(line);
                block.push(b'\n');
            }
        }
        block.resize(LENGTH, b'#');
        block
    }
}

fn slot(letter: &[u8]) -> Option<Slot> {
    std::str::from_utf8(letter).ok().and_then(Slot::from_letter)
}

fn unexpected(name: &'static str, value: &[u8], expected: &'static str) -> BlockError {
    BlockError::Value { name, value: String::from_utf8_lossy(value).chars().take(40).collect(), expected }
}

/// The lines with variables, without line ends. A backslash escapes the byte behind it, a line end too. Comments and
/// the padding behind the last line begin with `#`.
fn variables(body: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < body.len() {
        match body[at] {
            b'\\' => at += 1,
            b'\n' => {
                let line = &body[start..at];
                if !line.starts_with(b"#") && line.contains(&b'=') {
                    lines.push(line);
                }
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    lines
}

fn value_of<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    line.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}
