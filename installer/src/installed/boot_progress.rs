//! How far a start of a slot came, for the system to which the machine may fall back.

use super::files::{remove_if_present, write_in_place};
use boot_contract::boot_stage::{BOOT_ID, BootProgress, BootStage};
use boot_contract::paths::PERSISTENT;
use boot_contract::{BootMode, KernelArguments, Slot, kernel_arguments};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Records a stage of this start. Does nothing on a medium and in the recovery system. A failure is only logged, because
/// the start is more important than its record.
pub fn reached(stage: BootStage, message: &str) {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let Some(slot) = recorded_slot(&line) else { return };
    let boot_id = fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned();
    let progress = BootProgress { stage, boot_id, message: message.to_owned() };
    if let Err(error) = write(Path::new(PERSISTENT), slot, &progress) {
        tracing::warn!("recording the progress of this start: {error}");
    }
}

/// The progress of the last start of `slot`. `None` if there is no complete record. `persistent` is where the persistent
/// partition is mounted.
pub fn read(persistent: &Path, slot: Slot) -> Option<BootProgress> {
    BootProgress::parse(&fs::read_to_string(persistent.join(BootProgress::file(slot))).ok()?)
}

/// Forgets the starts of `slot` before it gets another system.
pub fn remove(persistent: &Path, slot: Slot) -> io::Result<()> {
    remove_if_present(&persistent.join(BootProgress::file(slot)))
}

/// Returns when the record is on the disk.
fn write(persistent: &Path, slot: Slot, progress: &BootProgress) -> io::Result<()> {
    let path = persistent.join(BootProgress::file(slot));
    DirBuilder::new().recursive(true).mode(0o755).create(path.parent().unwrap_or(persistent))?;
    write_in_place(&path, progress.to_text().as_bytes())
}

fn recorded_slot(line: &str) -> Option<Slot> {
    let arguments = KernelArguments::parse(line);
    let mode: BootMode = arguments.value(kernel_arguments::MODE)?.parse().ok()?;
    let slot = Slot::from_letter(arguments.value(kernel_arguments::SLOT)?)?;
    (mode == BootMode::System).then_some(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_start_of_a_slot_is_recorded() {
        assert_eq!(recorded_slot("ros.mode=system ros.slot=B"), Some(Slot::B));
        for line in ["ros.mode=recovery ros.slot=R", "ros.mode=live ros.medium=ROS_0", "quiet"] {
            assert_eq!(recorded_slot(line), None, "{line}");
        }
    }

    #[test]
    fn each_slot_has_its_own_record() {
        let persistent = tempfile::tempdir().unwrap();
        let progress = BootProgress { stage: BootStage::Root, boot_id: "id-1".into(), message: String::new() };
        write(persistent.path(), Slot::B, &progress).unwrap();
        assert_eq!(read(persistent.path(), Slot::B), Some(progress));
        assert_eq!(read(persistent.path(), Slot::A), None);
        remove(persistent.path(), Slot::B).unwrap();
        remove(persistent.path(), Slot::B).unwrap();
        assert_eq!(read(persistent.path(), Slot::B), None);
    }
}
