//! The recovery system: why it runs, and how it goes back to a slot.

use crate::boot::{partition, state_file};
use crate::console::{self, announce};
use crate::installed::due_report;
use crate::installed::erase_request::{self, EraseError};
use crate::installed::issue;
use crate::path_error::PathError;
use crate::upgrade::attempt;
use boot_contract::boot_state::{MOST_RETURNS, SlotState};
use boot_contract::paths::{DEVICES, PERSISTENT};
use boot_contract::slot_files::{ARGUMENTS, INITRD, KERNEL};
use boot_contract::{BootState, Milestone, Slot};
use command::{Command, CommandError};
use protocol::error_chain;
use protocol::message;
use release::{ReleaseError, ReleaseFile, digest, read_manifest};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// File with the cause once it is found. `/run` is empty at each boot.
const FOUND: &str = "/run/ros/recovery.json";
/// The first caller holds this lock while it determines the cause: reading a root image takes a while.
const LOCK: &str = "/run/ros/recovery.lock";
/// The reason for the failure of a slot may be temporary, such as power, a slow disk or a service elsewhere. Each wait
/// is longer than the one before.
const WAITS: [Duration; MOST_RETURNS as usize] =
    [Duration::from_secs(5 * 60), Duration::from_secs(15 * 60), Duration::from_secs(60 * 60)];
/// Enough time for a report.
const SHORT_WAIT: Duration = Duration::from_secs(60);

/// Why the recovery system runs. `Display` is the text for the console and the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// Asked to erase data: `spec.reinstall` or `spec.reset` of the machine's inventory, or `ros-installer reset`.
    EraseRequest {
        /// What the recovery system does.
        deeds: Vec<String>,
    },
    /// Requested in the boot state, as by `ros-installer boot recovery`.
    Asked,
    /// Chosen at the boot menu.
    ByHand,
    /// The boot state cannot be read, so GRUB cannot count starts.
    StateUnreadable,
    NoSystem,
    Damaged {
        slot: message::Slot,
        what: String,
    },
    /// The slot used up its starts, although everything that is needed to start it is as it was written.
    NotUp {
        slot: message::Slot,
    },
}

/// Why the cause is not known.
#[derive(Debug, thiserror::Error)]
pub enum CauseError {
    #[error(transparent)]
    Release(#[from] ReleaseError),
    #[error(transparent)]
    Path(#[from] PathError),
}

/// Why the recovery system could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error(transparent)]
    Cause(#[from] CauseError),
    #[error("doing what was asked for")]
    EraseRequest(#[source] EraseError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// Why a slot cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum DamageError {
    #[error("reading the slot's release.json")]
    Release(#[source] ReleaseError),
    #[error("reading the slot's args.cfg")]
    Arguments(#[source] io::Error),
    #[error("the slot's args.cfg has no ros.root=")]
    NoRoot,
    #[error("the slot's {part}")]
    Part { part: &'static str, source: CompareError },
    #[error(transparent)]
    Path(#[from] PathError),
}

/// Why a file or a partition is not what the release says.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error("has SHA-256 {actual}; release.json says {expected}")]
    Digest { actual: String, expected: String },
    #[error(transparent)]
    Path(#[from] PathError),
}

impl Cause {
    /// The cause on this machine. The first call after a boot reads the whole root image of a slot that failed.
    pub fn find() -> Result<Self, CauseError> {
        let lock = File::create(LOCK).map_err(PathError::of("creating", LOCK))?;
        lock.lock().map_err(PathError::of("locking", LOCK))?;
        let found = fs::read(FOUND).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if let Some(found) = found {
            return Ok(found);
        }
        let cause = Self::determine()?;
        let json = serde_json::to_vec(&cause).map_err(PathError::of("writing", FOUND))?;
        fs::write(FOUND, json).map_err(PathError::of("writing", FOUND))?;
        Ok(cause)
    }

    fn determine() -> Result<Self, CauseError> {
        // An unreadable request counts as none here: the caller needs a cause, and `erase_request::go_on` reports the
        // error.
        let deeds = |version: &str| erase_request::asked(Path::new("/"), version).unwrap_or_default();
        partition::with_mounted(true, |boot| {
            if !deeds("").is_empty() {
                let version = read_manifest(&boot.join(Slot::Recovery.letter()))?.0.version;
                return Ok(Self::EraseRequest { deeds: deeds(&version) });
            }
            let state = state_file::read(boot)?;
            Ok(judge(state.as_ref(), |slot| damage(boot, Path::new(DEVICES), slot)))
        })
    }

    fn is_failure(&self) -> bool {
        !matches!(self, Self::EraseRequest { .. } | Self::Asked | Self::ByHand)
    }

    /// How long recovery waits before it goes back to a slot. `None` if it stays.
    fn wait(&self, returns: u8) -> Option<Duration> {
        match self {
            Self::StateUnreadable => Some(SHORT_WAIT),
            Self::NotUp { .. } => WAITS.get(usize::from(returns)).copied(),
            Self::EraseRequest { .. } | Self::Asked | Self::ByHand | Self::NoSystem | Self::Damaged { .. } => None,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EraseRequest { deeds } => write!(f, "{}", deeds.join(", and ")),
            Self::Asked => write!(f, "the recovery system was requested"),
            Self::ByHand => write!(f, "the recovery system was chosen in the boot menu"),
            Self::StateUnreadable => write!(f, "the boot state (grub/grubenv on COS_BOOT) could not be read"),
            Self::NoSystem => write!(f, "no slot holds a system: install again"),
            Self::Damaged { slot, what } => write!(f, "slot {slot} did not come up and used up its starts: {what}"),
            Self::NotUp { slot } => write!(
                f,
                "slot {slot} did not come up and used up its starts; its files and its root image are undamaged"
            ),
        }
    }
}

/// Prints why the recovery system runs. If the cause may be temporary, it goes back to the slot after a while, at most
/// [`MOST_RETURNS`] times until a slot is good again.
pub fn run() -> Result<(), RecoveryError> {
    attempt::note_failure();
    let cause = Cause::find()?;
    let text = format!("this is the recovery system: {cause}");
    if cause.is_failure() {
        announce(Milestone::Failed, text);
    } else {
        console::note(text);
    }
    match erase_request::go_on(Path::new("/")) {
        Ok(false) => {}
        Ok(true) => return Ok(()),
        // The unit tries again. Until then the login and the operator show the error.
        Err(error) => {
            issue::refresh(Path::new("/"));
            due_report::ask(Path::new("/"))?;
            return Err(RecoveryError::EraseRequest(error));
        }
    }
    let Some(wait) = cause.wait(state_file::current()?.returns) else {
        console::note(
            "the recovery system does not restart by itself; to leave it, run `ros-installer boot A` and restart",
        );
        return Ok(());
    };
    console::note(format!(
        "the machine restarts into its slot in {} s; to stay in recovery, run `ros-installer boot recovery`",
        wait.as_secs()
    ));
    sleep(wait);
    let mut target = None;
    state_file::change(|state| target = go_back(state))?;
    if let Some(slot) = target {
        announce(Milestone::Rebooting, format!("back to slot {slot}"));
        Command::new("systemctl").arg("reboot").run()?;
    }
    Ok(())
}

/// Makes the slot that failed the next one and returns it. `None` if recovery was requested in the meantime.
fn go_back(state: &mut BootState) -> Option<Slot> {
    if state.preferred == Slot::Recovery {
        return None;
    }
    let slot = failed_slot(state)?;
    let returns = state.returns.saturating_add(1).min(MOST_RETURNS);
    state.choose(slot);
    state.returns = returns;
    Some(slot)
}

fn judge(state: Option<&BootState>, damage: impl FnOnce(Slot) -> Option<String>) -> Cause {
    let Some(state) = state else { return Cause::StateUnreadable };
    if state.preferred == Slot::Recovery {
        return Cause::Asked;
    }
    if state.active != Slot::Recovery {
        return Cause::ByHand;
    }
    let Some(slot) = failed_slot(state) else { return Cause::NoSystem };
    match damage(slot) {
        Some(what) => Cause::Damaged { slot: slot.into(), what },
        None => Cause::NotUp { slot: slot.into() },
    }
}

/// The slot that was preferred, or else the one that holds a system.
fn failed_slot(state: &BootState) -> Option<Slot> {
    let holds = |slot: &Slot| state.slot(*slot).is_some_and(|boot| boot.state != SlotState::Empty);
    [state.preferred, Slot::A, Slot::B].into_iter().find(holds)
}

/// The damage that keeps a slot from starting. `None` if there is none.
fn damage(boot: &Path, devices: &Path, slot: Slot) -> Option<String> {
    let found = files_damage(&boot.join(slot.letter()), &devices.join(slot.partition_label())).err();
    found.map(|error| error_chain(&error)).or_else(|| {
        (!is_mounted(PERSISTENT)).then(|| "COS_PERSISTENT cannot be mounted, and e2fsck -p could not repair it".into())
    })
}

/// Checks that kernel, initrd, arguments and root image of a slot are as they were written.
pub fn check(slot: Slot) -> Result<(), DamageError> {
    partition::with_mounted(true, |boot| {
        files_damage(&boot.join(slot.letter()), &Path::new(DEVICES).join(slot.partition_label()))
    })
}

fn files_damage(folder: &Path, partition: &Path) -> Result<(), DamageError> {
    let (manifest, _) = read_manifest(folder).map_err(DamageError::Release)?;
    let arguments = fs::read_to_string(folder.join(ARGUMENTS)).map_err(DamageError::Arguments)?;
    if !arguments.contains("ros.root=") {
        return Err(DamageError::NoRoot);
    }
    let damaged = |part| move |source| DamageError::Part { part, source };
    for (name, file) in [(KERNEL, &manifest.kernel), (INITRD, &manifest.initrd)] {
        compare(&folder.join(name), file).map_err(damaged(name))?;
    }
    compare(partition, &manifest.root).map_err(damaged("root image"))
}

/// Compares the digest of a file of the release with as many bytes at `path`, a file or a partition.
pub fn compare(path: &Path, file: &ReleaseFile) -> Result<(), CompareError> {
    let read = File::open(path).and_then(|opened| digest::of_reader(opened.take(file.size)));
    let (actual, _) = read.map_err(PathError::of("reading", path))?;
    if actual == file.sha256 { Ok(()) } else { Err(CompareError::Digest { actual, expected: file.sha256.clone() }) }
}

fn is_mounted(folder: &str) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use boot_contract::boot_state::SlotBoot;
    use disk::fixtures::tiny_release;
    use proptest::prelude::*;

    fn fallen_back() -> BootState {
        BootState { active: Slot::Recovery, a: SlotBoot { state: SlotState::Failed, left: 0 }, ..BootState::INSTALLED }
    }

    #[test]
    fn the_cause_is_shown_and_decides_whether_recovery_goes_back() {
        let sound = |_| None;
        let damaged = |_| Some("the slot's root image: has another digest".to_owned());
        let asked = BootState { preferred: Slot::Recovery, ..fallen_back() };
        let nothing = BootState { a: SlotBoot::new(SlotState::Empty), ..fallen_back() };
        let cases = [
            (judge(None, sound), "could not be read", Some(SHORT_WAIT)),
            (judge(Some(&BootState::INSTALLED), sound), "boot menu", None),
            (judge(Some(&asked), sound), "requested", None),
            (judge(Some(&nothing), sound), "no slot holds a system", None),
            (
                judge(Some(&fallen_back()), damaged),
                "slot A did not come up and used up its starts: the slot's root",
                None,
            ),
            (judge(Some(&fallen_back()), sound), "are undamaged", Some(WAITS[0])),
        ];
        for (cause, words, wait) in cases {
            assert!(cause.to_string().contains(words), "{cause}");
            assert_eq!(cause.wait(0), wait, "{cause}");
        }
    }

    #[test]
    fn recovery_goes_back_three_times_and_not_if_it_was_requested() {
        let mut state = fallen_back();
        let mut waits = Vec::new();
        while let Some(wait) = judge(Some(&state), |_| None).wait(state.returns) {
            waits.push(wait);
            assert_eq!(go_back(&mut state), Some(Slot::A));
            while state.start() != Slot::Recovery {}
        }
        assert_eq!(waits, WAITS);
        state.mark_good(Slot::A);
        assert_eq!(state.returns, 0);
        state.choose(Slot::Recovery);
        assert_eq!(go_back(&mut state), None);
    }

    proptest! {
        #[test]
        fn going_back_is_bounded_whatever_the_state(active in 0..3usize, preferred in 0..3usize, returns in 0..=MOST_RETURNS) {
            let slots = Slot::ALL;
            let (active, preferred) = (slots[active], slots[preferred]);
            let mut state = BootState { active, preferred, returns, ..BootState::INSTALLED };
            let mut times = 0;
            loop {
                while state.start() != Slot::Recovery {}
                if judge(Some(&state), |_| None).wait(state.returns).is_none() { break }
                prop_assert!(go_back(&mut state).is_some());
                times += 1;
                prop_assert!(times <= usize::from(MOST_RETURNS));
            }
        }
    }

    #[test]
    fn damage_is_found_by_the_digests_in_the_slots_folder() {
        let root = [5; 8192];
        let release = tiny_release(&root);
        let slot = tempfile::tempdir().unwrap();
        for name in ["release.json", "vmlinuz", "initrd"] {
            fs::copy(release.path().join(name), slot.path().join(name)).unwrap();
        }
        let arguments = slot.path().join("args.cfg");
        fs::write(&arguments, "set slot_args=\"ros.root=1\"\n").unwrap();
        let partition = slot.path().join("partition");
        // A partition is larger than its image.
        fs::write(&partition, [&root[..], &[0; 512]].concat()).unwrap();
        files_damage(slot.path(), &partition).unwrap();
        let message = || error_chain(&files_damage(slot.path(), &partition).unwrap_err());

        let mut flipped = root;
        flipped[1040] ^= 1;
        fs::write(&partition, flipped).unwrap();
        assert!(message().contains("root image"), "{}", message());
        fs::write(slot.path().join("initrd"), "").unwrap();
        assert!(message().contains("initrd"), "{}", message());
        fs::write(&arguments, "").unwrap();
        assert!(message().contains("args.cfg"), "{}", message());
    }
}
