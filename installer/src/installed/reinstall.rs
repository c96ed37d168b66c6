//! Installs again when the operator asks for it. Slot A and COS_PERSISTENT are made anew from the recovery system's own
//! release. The partition table, the boot code, COS_RECOVERY, COS_OEM and the identity stay.
//!
//! ```text
//! report ─► asked (COS_OEM) ─► recovery starts ─► slot A empty ─► written ─► honoured (COS_OEM) ─► slot A on trial
//! ```
//!
//! Each step is on the disk before the next one begins. After a power failure recovery continues with the next step.

mod record;
mod slot_files;

use crate::boot::{partition, state_file};
use crate::console::{ProgressDisplay, announce, progress_output};
use crate::installed::host_identity::{self, HostIdentityError};
use crate::installed::recovery::{self, DamageError};
use crate::path_error::PathError;
use boot_contract::paths::{DEVICES, PERSISTENT};
use boot_contract::{Milestone, Slot, partition_label};
use command::{Command, CommandError};
use disk::rewrite::{self, RewriteError};
use machine::installed::{self, PartitionGuidError};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use protocol::message;
use protocol::{ReinstallReport, ReinstallRequest, error_chain};
use record::{Record, RecordError};
use release::{ReleaseError, read_manifest};
use slot_files::SlotFilesError;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

/// File with the reason why the last request could not be honoured. It is gone after a restart.
const FAILURE: &str = "/run/ros/reinstall-failure";

/// Why the system was not installed again.
#[derive(Debug, thiserror::Error)]
pub enum ReinstallError {
    #[error("the recovery system is damaged: install again from a medium")]
    RecoveryDamaged(#[source] DamageError),
    #[error("unmounting {PERSISTENT}: stop the programs that use it")]
    Unmount(#[source] Errno),
    #[error("creating a temporary folder")]
    TemporaryFolder(#[source] io::Error),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    HostIdentity(#[from] HostIdentityError),
    #[error(transparent)]
    Release(#[from] ReleaseError),
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    #[error(transparent)]
    PartitionGuid(#[from] PartitionGuidError),
    #[error(transparent)]
    SlotFiles(#[from] SlotFilesError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// The report for the operator. If the record of honoured requests cannot be read, the report says so and no request is
/// honoured.
pub fn report(root: &Path) -> ReinstallReport {
    match Record::read(root) {
        Ok(record) => ReinstallReport { honoured: record.honoured, failure: failure() },
        Err(error) => ReinstallReport { honoured: Vec::new(), failure: Some(error_chain(&error)) },
    }
}

/// Why the last request since the machine was started could not be honoured.
pub fn failure() -> Option<String> {
    fs::read_to_string(FAILURE).ok()
}

/// Takes the request in the operator's answer to a report. `None` withdraws a request that was not begun. A new request
/// restarts the machine into its recovery system; then the result is true. `slot` is the running one.
pub fn take(request: Option<&ReinstallRequest>, slot: message::Slot, root: &Path) -> Result<bool, ReinstallError> {
    let mut record = Record::read(root)?;
    if slot == message::Slot::Recovery && record.asked.is_some() {
        // The request is being honoured.
        return Ok(false);
    }
    let Some(request) = request.filter(|request| !record.honoured.contains(request)) else {
        if record.asked.take().is_some() {
            record.write(root)?;
        }
        return Ok(false);
    };
    let restarted = begin(request, slot, record, root);
    store_failure(restarted.as_ref().err());
    restarted.map(|()| true)
}

fn begin(
    request: &ReinstallRequest,
    slot: message::Slot,
    mut record: Record,
    root: &Path,
) -> Result<(), ReinstallError> {
    if slot != message::Slot::Recovery {
        // Nothing is given up before the recovery system is known to be able to start.
        recovery::check(Slot::Recovery).map_err(ReinstallError::RecoveryDamaged)?;
    }
    host_identity::keep(root, Path::new(PERSISTENT))?;
    record.asked = Some(request.clone());
    record.write(root)?;
    state_file::change(|state| {
        state.choose(Slot::Recovery);
    })?;
    announce(
        Milestone::Rebooting,
        format!(
            "into the recovery system, which erases COS_PERSISTENT and installs again, as spec.reinstall {:?} asks",
            request.as_str()
        ),
    );
    Command::new("systemctl").arg("reboot").run()?;
    Ok(())
}

/// The request that the recovery system is to honour.
pub fn asked(root: &Path) -> Result<Option<ReinstallRequest>, RecordError> {
    let Record { honoured, asked } = Record::read(root)?;
    Ok(asked.filter(|request| !honoured.contains(request)))
}

/// Honours the pending request in the recovery system, and restarts into slot A. Returns false if there is no request,
/// or if slot A was started since it was installed again.
pub fn go_on(root: &Path) -> Result<bool, ReinstallError> {
    let mut record = Record::read(root)?;
    let Some(request) = record.asked.clone() else { return Ok(false) };
    if !record.honoured.contains(&request) {
        let written = write(root);
        store_failure(written.as_ref().err());
        written?;
        record.honour(request);
        record.write(root)?;
    }
    // Nothing changes if slot A was started since then and somebody asked for recovery.
    let mut is_new = false;
    state_file::change(|state| is_new = state.take_new(Slot::A))?;
    record.asked = None;
    record.write(root)?;
    if is_new {
        announce(Milestone::Rebooting, "into slot A, which was installed again");
        Command::new("systemctl").arg("reboot").run()?;
    }
    Ok(is_new)
}

fn write(root: &Path) -> Result<(), ReinstallError> {
    let devices = Path::new(DEVICES);
    let state_a = devices.join(partition_label::STATE_A);
    let manifest = partition::with_mounted(true, |boot| {
        let (manifest, _) = read_manifest(&boot.join(Slot::Recovery.letter()))?;
        Ok::<_, ReinstallError>(manifest)
    })?;
    let version = &manifest.version;
    announce(Milestone::Planned, format!("release {version} in slot A and a new COS_PERSISTENT, from COS_RECOVERY"));
    state_file::change(|state| state.give_up(Slot::A, Slot::Recovery))?;
    let (output, redraws) = progress_output();
    let mut display = ProgressDisplay::new(output, redraws, Instant::now());
    let mut show = |progress: &_| display.show(progress, Instant::now());
    rewrite::copy_root(&manifest.root, &devices.join(partition_label::RECOVERY), &state_a, &mut show)?;
    display.end_line();
    unmount_persistent()?;
    let content = tempfile::tempdir().map_err(ReinstallError::TemporaryFolder)?;
    host_identity::lay_out(root, content.path())?;
    rewrite::make_persistent(&devices.join(partition_label::PERSISTENT), content.path())?;
    let guid = installed::partition_guid_of(&state_a)?;
    partition::with_mounted(false, |boot| slot_files::copy_recovery_to_a(boot, guid))?;
    announce(Milestone::Verified, format!("release {version} reads back as it was written"));
    Ok(())
}

fn unmount_persistent() -> Result<(), ReinstallError> {
    match umount2(PERSISTENT, MntFlags::empty()) {
        // There is no mount, or no folder.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(error) => Err(ReinstallError::Unmount(error)),
    }
}

/// Stores a failure for the next report. A success removes it.
fn store_failure(failure: Option<&ReinstallError>) {
    let result = match failure {
        Some(error) => fs::write(FAILURE, error_chain(error)),
        None => fs::remove_file(FAILURE),
    };
    if let Err(error) = result
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!("{FAILURE}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(record: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("oem")).unwrap();
        fs::write(root.path().join("oem/reinstall.json"), record).unwrap();
        root
    }

    fn text(text: &str) -> ReinstallRequest {
        text.parse().unwrap()
    }

    #[test]
    fn what_was_honoured_is_not_honoured_again_and_what_was_asked_can_be_withdrawn() {
        let root = machine(r#"{"honoured": ["a", "b"], "asked": "c"}"#);
        assert_eq!(report(root.path()).honoured, [text("a"), text("b")]);
        assert_eq!(asked(root.path()).unwrap(), Some(text("c")));
        assert!(!take(Some(&text("d")), message::Slot::Recovery, root.path()).unwrap(), "one after the other");
        assert_eq!(asked(root.path()).unwrap(), Some(text("c")));
        assert!(!take(Some(&text("a")), message::Slot::A, root.path()).unwrap());
        assert_eq!(asked(root.path()).unwrap(), None);
        assert!(!take(None, message::Slot::A, root.path()).unwrap());
    }

    #[test]
    fn a_request_that_was_honoured_is_only_to_be_ended() {
        let root = machine(r#"{"honoured": ["a"], "asked": "a"}"#);
        assert_eq!(asked(root.path()).unwrap(), None);
    }

    #[test]
    fn an_unreadable_record_is_reported_and_honours_nothing() {
        let root = machine("{");
        assert!(report(root.path()).failure.is_some_and(|failure| failure.contains("/oem/reinstall.json")));
        assert!(take(Some(&text("a")), message::Slot::A, root.path()).is_err());
    }
}
