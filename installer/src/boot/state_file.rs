//! The file with the boot state on COS_BOOT.

use crate::boot::partition::with_mounted;
use crate::path_error::PathError;
use boot_contract::boot_state::{LENGTH, PATH, SlotBoot, SlotState};
use boot_contract::{BootState, Slot};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The boot state of the disk that this system runs from. A state that cannot be read is made from the installed slots.
pub fn current() -> Result<BootState, PathError> {
    with_mounted(true, current_in)
}

/// Changes the boot state on the disk. A state that cannot be read is first replaced by one made from the installed
/// slots.
pub fn change(change: impl FnOnce(&mut BootState)) -> Result<(), PathError> {
    with_mounted(false, |boot| change_in(boot, change))
}

/// The boot state below the mounted partition `boot`. `None` if the file is missing or damaged.
pub fn read(boot: &Path) -> Result<Option<BootState>, PathError> {
    let path = boot.join(PATH);
    match read_block(&path) {
        Err(error) if is_damage(&error) => {
            tracing::warn!("{}: {error}", path.display());
            Ok(None)
        }
        state => state.map(Some).map_err(PathError::of("reading", &path)),
    }
}

/// Overwrites the existing file below the mounted partition `boot` and waits until it is on the disk.
pub fn overwrite(boot: &Path, state: &BootState) -> Result<(), PathError> {
    let path = boot.join(PATH);
    overwrite_block(&path, state).map_err(PathError::of("writing", &path))
}

fn current_in(boot: &Path) -> Result<BootState, PathError> {
    Ok(read(boot)?.unwrap_or_else(|| state_from_folders(boot)))
}

fn change_in(boot: &Path, change: impl FnOnce(&mut BootState)) -> Result<(), PathError> {
    let before = read(boot)?;
    let mut after = before.clone().unwrap_or_else(|| state_from_folders(boot));
    change(&mut after);
    if before.as_ref() == Some(&after) {
        return Ok(());
    }
    let path = boot.join(PATH);
    if fs::metadata(&path).is_ok_and(|file| file.len() == LENGTH as u64) {
        return overwrite(boot, &after);
    }
    create(&path, &after).map_err(PathError::of("writing", &path))
}

fn read_block(path: &Path) -> io::Result<BootState> {
    BootState::parse(&fs::read(path)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Whether the bytes are wrong or missing, as opposed to a disk that cannot be read.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::NotFound)
}

fn overwrite_block(path: &Path, state: &BootState) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    if file.metadata()?.len() != LENGTH as u64 {
        // A file of another length would need changes to the directory and the allocation table.
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the file must have {LENGTH} bytes")));
    }
    file.write_all_at(&state.to_bytes(), 0)?;
    file.sync_all()
}

/// Creates the file. Used only if there is no file of the right length to overwrite.
fn create(path: &Path, state: &BootState) -> io::Result<()> {
    fs::write(path, state.to_bytes())?;
    File::open(path)?.sync_all()?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Makes a state in which each slot with a manifest is on trial. Slot A is preferred to B.
fn state_from_folders(boot: &Path) -> BootState {
    let slot = |slot: Slot| {
        let holds_a_system = boot.join(slot.letter()).join("release.json").exists();
        SlotBoot::new(if holds_a_system { SlotState::Trial } else { SlotState::Empty })
    };
    let (a, b) = (slot(Slot::A), slot(Slot::B));
    let active = if a.may_start() || !b.may_start() { Slot::A } else { Slot::B };
    BootState { a, b, active, preferred: active, ..BootState::INSTALLED }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn boot(slots: &[&str]) -> tempfile::TempDir {
        let boot = tempfile::tempdir().unwrap();
        fs::create_dir(boot.path().join("grub")).unwrap();
        for slot in slots {
            fs::create_dir(boot.path().join(slot)).unwrap();
            fs::write(boot.path().join(slot).join("release.json"), "{}").unwrap();
        }
        boot
    }

    #[test]
    fn a_slot_is_marked_where_the_state_is() {
        let boot = boot(&["A", "R"]);
        let mut started = BootState::INSTALLED;
        started.start();
        fs::write(boot.path().join(PATH), started.to_bytes()).unwrap();
        change_in(boot.path(), |state| state.mark_good(Slot::A)).unwrap();
        let marked = BootState { a: SlotBoot::new(SlotState::Good), ..BootState::INSTALLED };
        assert_eq!(current_in(boot.path()).unwrap(), marked);
    }

    #[test]
    fn a_state_that_cannot_be_read_is_made_anew_from_what_is_there() {
        for damage in [Some(vec![0; LENGTH]), Some(b"short".to_vec()), None] {
            let boot = boot(&["B", "R"]);
            if let Some(damage) = &damage {
                fs::write(boot.path().join(PATH), damage).unwrap();
            }
            let trial = SlotBoot::new(SlotState::Trial);
            let expected = BootState {
                a: SlotBoot::new(SlotState::Empty),
                b: trial,
                active: Slot::B,
                preferred: Slot::B,
                ..BootState::INSTALLED
            };
            assert_eq!(current_in(boot.path()).unwrap(), expected);
            change_in(boot.path(), |_| ()).unwrap();
            assert_eq!(read(boot.path()).unwrap(), Some(expected), "{damage:?}");
        }
    }

    #[test]
    fn the_file_is_overwritten_in_place_or_not_at_all() {
        let boot = boot(&[]);
        let path = boot.path().join(PATH);
        fs::write(&path, "").unwrap();
        assert!(overwrite(boot.path(), &BootState::INSTALLED).is_err(), "an empty file is not extended");
        fs::write(&path, BootState::INSTALLED.to_bytes()).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        let mut good = BootState::INSTALLED;
        good.mark_good(Slot::A);
        overwrite(boot.path(), &good).unwrap();
        assert_eq!(read(boot.path()).unwrap(), Some(good));
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    }
}
