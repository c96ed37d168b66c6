//! GRUB's environment block (`grub-core/lib/envblk.c`). It holds the content of each slot, the starts that it has left,
//! and the slot that is started.
//!
//! The file has 1024 bytes and is only ever overwritten in place. GRUB writes it the same way, and a rename on a FAT
//! file system can lose both names at a power cut: Linux writes the new entry with start cluster 0 until the renamed
//! file itself is synced. Our variables are within the first 512 bytes, one sector, which a disk writes whole or not at
//! all.
//!
//! | variable | values | |
//! |---|---|---|
//! | `active` | `A`, `B`, `R` | what GRUB starts; GRUB changes it when it falls back |
//! | `preferred` | `A`, `B`, `R` | what an installation, an upgrade or a person asked for |
//! | `slot_a`, `slot_b` | `empty`, `trial`, `good`, `failed` | what the slot holds |
//! | `left_a`, `left_b` | 0 to 5 | starts left; each start takes one before it is made |
//! | `menu` | 0 to 65535 | `grub/menu-N.cfg` is loaded after the start was counted; 0 is the one in `grub/grub.cfg` |
//! | `returns` | 0 to 3 | how often recovery has gone back by itself since a slot was good |
//!
//! Variables of others are kept. The release in a slot is identified by `release.json` in the slot's folder.

use protocol::message::Slot;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Path of the file on the boot partition.
pub const PATH: &str = "grub/grubenv";
/// Length of the file in bytes.
pub const LENGTH: usize = 1024;
/// Our variables are within this many bytes.
const ATOMIC: usize = 512;
const MAGIC: &[u8] = b"# GRUB Environment Block\n";
const OURS: [&str; 8] = ["active", "preferred", "slot_a", "left_a", "slot_b", "left_b", "menu", "returns"];
/// How often recovery goes back to a slot without being asked.
pub const MOST_RETURNS: u8 = 3;

/// The content of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum SlotState {
    /// No system.
    Empty,
    /// A trial boot: the system has not been marked as good since it was written or chosen.
    Trial,
    /// A system that was marked as good (blessed).
    Good,
    /// A system that used up its starts.
    Failed,
}

impl SlotState {
    /// Number of starts that a slot gets when it enters this state.
    pub const fn starts(self) -> u8 {
        match self {
            Self::Empty | Self::Failed => 0,
            Self::Trial => 3,
            Self::Good => 5,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Trial => "trial",
            Self::Good => "good",
            Self::Failed => "failed",
        }
    }
}

/// One of the two slots, as the boot loader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SlotBoot {
    pub state: SlotState,
    /// Starts left, 0 to 5.
    pub left: u8,
}

impl SlotBoot {
    pub const fn new(state: SlotState) -> Self {
        Self { state, left: state.starts() }
    }

    /// Whether GRUB starts the slot while it has starts left.
    pub fn may_start(self) -> bool {
        matches!(self.state, SlotState::Trial | SlotState::Good)
    }
}

/// The state that `grub.cfg` reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrubEnv {
    /// The slot that is started; never `Live`.
    pub active: Slot,
    /// The slot that was asked for; never `Live`. Another one is active after a fallback.
    pub preferred: Slot,
    pub a: SlotBoot,
    pub b: SlotBoot,
    /// Number of the GRUB menu.
    pub menu: u16,
    /// How often recovery has gone back to a slot without being asked, at most [`MOST_RETURNS`].
    pub returns: u8,
    /// Lines of others, `name=value`, as they are in the block.
    pub others: Vec<Vec<u8>>,
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
    /// The state after an installation: A is on trial, B is empty.
    pub const INSTALLED: Self = Self {
        active: Slot::A,
        preferred: Slot::A,
        a: SlotBoot::new(SlotState::Trial),
        b: SlotBoot::new(SlotState::Empty),
        menu: 0,
        returns: 0,
        others: Vec::new(),
    };

    /// Reads a block as `grub.cfg` does. An invalid number counts as 0, and a missing `preferred` as `active`.
    pub fn parse(block: &[u8]) -> Result<Self, GrubEnvError> {
        if block.len() != LENGTH {
            return Err(GrubEnvError::Length(block.len()));
        }
        let body = block.strip_prefix(MAGIC).ok_or(GrubEnvError::Magic)?;
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
            let known = [SlotState::Empty, SlotState::Trial, SlotState::Good, SlotState::Failed];
            let found = known.into_iter().find(|known| known.word().as_bytes() == value(state));
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
            folder(self.active),
            folder(self.preferred),
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

    pub fn read(path: &Path) -> io::Result<Self> {
        Self::parse(&std::fs::read(path)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Overwrites an existing block and waits until it is on the disk.
    pub fn overwrite(&self, path: &Path) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(path)?;
        if file.metadata()?.len() != LENGTH as u64 {
            // A file of another length would need changes to the directory and the allocation table.
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the file must have {LENGTH} bytes")));
        }
        file.write_all_at(&self.to_bytes(), 0)?;
        file.sync_all()
    }

    /// Does what `grub.cfg` does before it starts anything. Takes one start from the active slot, or from the other one
    /// if the active slot has none left, and returns that slot. Returns recovery if neither has a start left. A program
    /// that starts a slot without GRUB calls this and writes the block first. If the block cannot be read, GRUB starts
    /// recovery.
    pub fn start(&mut self) -> Slot {
        let order: &[Slot] = match self.active {
            Slot::A => &[Slot::A, Slot::B],
            Slot::B => &[Slot::B, Slot::A],
            Slot::Recovery | Slot::Live => &[],
        };
        for slot in order {
            let Some(boot) = self.slot_mut(*slot).filter(|boot| boot.may_start()) else { continue };
            if boot.left > 0 {
                boot.left -= 1;
                self.activate(*slot);
                return *slot;
            }
            boot.state = SlotState::Failed;
        }
        self.activate(Slot::Recovery);
        Slot::Recovery
    }

    /// Marks the running slot as good. It gets all its starts back, and the count of returns from recovery is 0 again.
    pub fn mark_good(&mut self, slot: Slot) {
        if let Some(boot) = self.slot_mut(slot) {
            *boot = SlotBoot::new(SlotState::Good);
        }
        self.returns = 0;
    }

    /// Puts the running slot on trial because it came up but is damaged. It gets no start back.
    pub fn doubt(&mut self, slot: Slot) {
        if let Some(boot) = self.slot_mut(slot) {
            *boot = SlotBoot { state: SlotState::Trial, left: boot.left.min(SlotState::Trial.starts()) };
        }
    }

    /// Makes `slot` the one that is started next, with all its starts. A failed slot is on trial again. Returns `false`
    /// if the slot holds no system.
    pub fn choose(&mut self, slot: Slot) -> bool {
        if let Some(boot) = self.slot_mut(slot) {
            *boot = match boot.state {
                SlotState::Empty => return false,
                SlotState::Good => SlotBoot::new(SlotState::Good),
                SlotState::Trial | SlotState::Failed => SlotBoot::new(SlotState::Trial),
            };
        }
        (self.active, self.preferred) = (slot, slot);
        true
    }

    /// Marks slot A as empty before it is written. Until [`Self::take_new_slot_a`], recovery is started instead.
    pub fn give_up_slot_a(&mut self) {
        self.a = SlotBoot::new(SlotState::Empty);
        self.choose(Slot::Recovery);
    }

    /// Puts slot A on trial after it was written, with the default menu. Returns `false` if this was done before; see
    /// [`Self::give_up_slot_a`].
    pub fn take_new_slot_a(&mut self) -> bool {
        if self.a.state != SlotState::Empty {
            return false;
        }
        self.a = SlotBoot::new(SlotState::Trial);
        (self.active, self.preferred, self.menu, self.returns) = (Slot::A, Slot::A, 0, 0);
        true
    }

    /// The state of the slot. Recovery and a medium have none.
    pub fn slot(&self, slot: Slot) -> Option<SlotBoot> {
        match slot {
            Slot::A => Some(self.a),
            Slot::B => Some(self.b),
            Slot::Recovery | Slot::Live => None,
        }
    }

    fn slot_mut(&mut self, slot: Slot) -> Option<&mut SlotBoot> {
        match slot {
            Slot::A => Some(&mut self.a),
            Slot::B => Some(&mut self.b),
            Slot::Recovery | Slot::Live => None,
        }
    }

    /// A fallback also leaves the menu of the slot that has no starts left.
    fn activate(&mut self, slot: Slot) {
        if self.active != slot {
            self.active = slot;
            self.menu = 0;
        }
    }
}

/// Name of the slot's folder on COS_BOOT, which is also its letter in the environment.
pub fn folder(slot: Slot) -> &'static str {
    match slot {
        Slot::A | Slot::Live => boot_contract::Slot::A.letter(),
        Slot::B => boot_contract::Slot::B.letter(),
        Slot::Recovery => boot_contract::Slot::Recovery.letter(),
    }
}

fn slot(letter: &[u8]) -> Option<Slot> {
    [Slot::A, Slot::B, Slot::Recovery].into_iter().find(|slot| folder(*slot).as_bytes() == letter)
}

fn unexpected(name: &'static str, value: &[u8], expected: &'static str) -> GrubEnvError {
    GrubEnvError::Value { name, value: String::from_utf8_lossy(value).chars().take(40).collect(), expected }
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

#[cfg(test)]
mod tests;
