//! Requests that erase data of this machine: to install again, and to reset. The recovery system carries them out, because
//! there nothing on COS_PERSISTENT is in use.
//!
//! ```text
//! report, or `reset` ─► asked (COS_OEM) ─► recovery starts ─► erased and written ─► honoured (COS_OEM) ─► slot started next
//! ```
//!
//! Each step is on the disk before the next one begins, and may be done twice. After a power failure recovery continues
//! with the step that was interrupted.

mod persistent;
mod record;
mod reinstall;
mod reset;
mod settings;

pub use record::RecordError;
pub use reinstall::Reinstall;
pub use reset::Reset;

use crate::boot::{partition, state_file};
use crate::console::announce;
use crate::installed::host_identity::{self, HostIdentityError};
use crate::installed::recovery::{self, DamageError};
use crate::installed::slot_copy::SlotCopyError;
use crate::path_error::PathError;
use crate::settings::document::DocumentError;
use boot_contract::paths::PERSISTENT;
use boot_contract::{BootState, Milestone, Slot};
use command::{Command, CommandError};
use disk::rewrite::RewriteError;
use machine::installed::PartitionGuidError;
use nix::errno::Errno;
use protocol::{RequestReport, RequestText, error_chain};
use record::Record;
use release::{ReleaseError, ReleaseManifest, read_manifest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs;
use std::io;
use std::path::Path;

/// A kind of request.
pub trait Request: Clone + PartialEq + Serialize + DeserializeOwned {
    /// File with the requests of this kind.
    const RECORD: &'static str;
    /// File with the reason why the last request could not be honoured. It is gone after a restart.
    const FAILURE: &'static str;
    /// The field of a MachineInventory that holds the operator's request.
    const FIELD: &'static str;

    fn text(&self) -> &RequestText;
    /// Whether the operator asked, so that it can withdraw the request.
    fn is_of_operator(&self) -> bool;
    /// What the recovery system, which is of release `version`, does for this request.
    fn deed(&self, version: &str) -> String;
    /// Whether a recovery system of this release carries out such requests.
    fn is_known_to(recovery: &ReleaseManifest) -> bool;
    /// Runs in the recovery system. May be interrupted and run again.
    fn carry_out(&self, root: &Path) -> Result<(), EraseError>;
    /// Chooses the slot that is started when everything is written. `None` if the recovery system stays.
    fn start_next(&self, state: &mut BootState) -> Option<Slot>;
}

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    #[error("the recovery system is damaged: install again from a medium")]
    RecoveryDamaged(#[source] DamageError),
    #[error(
        "the recovery system, release {0}, does not carry out {field}: bring it to this release with `ros-installer upgrade \
         --recovery`", field = Reset::FIELD
    )]
    RecoveryTooOld(String),
    #[error("unmounting {PERSISTENT}: stop the programs that use it")]
    Unmount(#[source] Errno),
    #[error("creating a temporary folder")]
    TemporaryFolder(#[source] io::Error),
    #[error("reading the settings; correct or remove the file")]
    Settings(#[from] DocumentError),
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
    SlotCopy(#[from] SlotCopyError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// The report for the operator. If the record of honoured requests cannot be read, the report says so and no request is
/// honoured.
pub fn report<R: Request>(root: &Path) -> RequestReport {
    match Record::<R>::read(root) {
        Ok(record) => RequestReport { honoured: record.honoured, failure: failure_of::<R>() },
        Err(error) => RequestReport { honoured: Vec::new(), failure: Some(error_chain(&error)) },
    }
}

/// Why a request could not be honoured since the machine was started.
pub fn failure() -> Option<String> {
    failure_of::<Reinstall>().or_else(failure_of::<Reset>)
}

fn failure_of<R: Request>() -> Option<String> {
    fs::read_to_string(R::FAILURE).ok()
}

/// Takes the request in the operator's answer to a report. `None` withdraws a request of the operator that was not begun. A
/// new request restarts the machine into its recovery system; then the result is true. `slot` is the running one.
pub fn take<R: Request>(request: Option<R>, slot: Slot, root: &Path) -> Result<bool, EraseError> {
    let mut record = Record::<R>::read(root)?;
    if slot == Slot::Recovery && record.asked.is_some() {
        // The request is being honoured.
        return Ok(false);
    }
    let Some(request) = request.filter(|request| !record.is_honoured(request.text())) else {
        let is_over = |asked: &R| asked.is_of_operator() || record.is_honoured(asked.text());
        if record.asked.as_ref().is_some_and(is_over) {
            record.asked = None;
            record.write(root)?;
        }
        return Ok(false);
    };
    let asked = ask(request, slot, root).and_then(|deed| restart_into_recovery(&deed));
    store_failure::<R>(asked.as_ref().err());
    asked.map(|()| true)
}

/// Withdraws everything that the recovery system was to do and has not done. The operator may ask again.
pub fn withdraw(root: &Path) -> Result<(), RecordError> {
    withdraw_kind::<Reset>(root)?;
    withdraw_kind::<Reinstall>(root)
}

fn withdraw_kind<R: Request>(root: &Path) -> Result<(), RecordError> {
    let mut record = Record::<R>::read(root)?;
    if record.asked.take().is_some() { record.write(root) } else { Ok(()) }
}

/// Stores a request, and has the recovery system started next, which carries it out. Returns what it does. `slot` is the
/// running one.
pub fn ask<R: Request>(request: R, slot: Slot, root: &Path) -> Result<String, EraseError> {
    if slot != Slot::Recovery {
        // Nothing is given up before the recovery system is known to be able to start.
        recovery::check(Slot::Recovery).map_err(EraseError::RecoveryDamaged)?;
    }
    let recovery = partition::with_mounted(true, |boot| {
        Ok::<_, EraseError>(read_manifest(&boot.join(Slot::Recovery.letter()))?.0)
    })?;
    if slot != Slot::Recovery && !R::is_known_to(&recovery) {
        return Err(EraseError::RecoveryTooOld(recovery.version));
    }
    host_identity::keep(root, Path::new(PERSISTENT))?;
    let deed = request.deed(&recovery.version);
    Record { asked: Some(request), ..Record::read(root)? }.write(root)?;
    state_file::change(|state| {
        state.choose(Slot::Recovery);
    })?;
    Ok(deed)
}

/// Restarts. `deed` is what the recovery system does.
pub fn restart_into_recovery(deed: &str) -> Result<(), EraseError> {
    announce(Milestone::Rebooting, format!("into the recovery system, which {deed}"));
    Command::new("systemctl").arg("reboot").run()?;
    Ok(())
}

/// What the recovery system, which is of release `version`, is asked to do.
pub fn asked(root: &Path, version: &str) -> Result<Vec<String>, RecordError> {
    let deeds = [deed_of::<Reset>(root, version)?, deed_of::<Reinstall>(root, version)?];
    Ok(deeds.into_iter().flatten().collect())
}

fn deed_of<R: Request>(root: &Path, version: &str) -> Result<Option<String>, RecordError> {
    let record = Record::<R>::read(root)?;
    let asked = record.asked.as_ref().filter(|asked| !record.is_honoured(asked.text()));
    Ok(asked.map(|asked| asked.deed(version)))
}

/// Honours the pending requests in the recovery system, and restarts. Returns false if there is none, or if the machine was
/// restarted since it was honoured. An installation comes last: it chooses the slot that is started.
pub fn go_on(root: &Path) -> Result<bool, EraseError> {
    let reset = honour::<Reset>(root)?;
    let Some(next) = honour::<Reinstall>(root)?.or(reset) else { return Ok(false) };
    announce(Milestone::Rebooting, format!("into slot {next}, as everything that was asked for is done"));
    Command::new("systemctl").arg("reboot").run()?;
    Ok(true)
}

/// Returns the slot that is started next.
fn honour<R: Request>(root: &Path) -> Result<Option<Slot>, EraseError> {
    let mut record = Record::<R>::read(root)?;
    let Some(request) = record.asked.take() else { return Ok(None) };
    if !record.is_honoured(request.text()) {
        let done = request.carry_out(root);
        store_failure::<R>(done.as_ref().err());
        done?;
        record.honour(request.text());
        Record { asked: Some(request.clone()), ..record.clone() }.write(root)?;
    }
    let mut next = None;
    state_file::change(|state| next = request.start_next(state))?;
    record.write(root)?;
    Ok(next)
}

/// Stores a failure for the next report. A success removes it.
fn store_failure<R: Request>(failure: Option<&EraseError>) {
    let result = match failure {
        Some(error) => fs::write(R::FAILURE, error_chain(error)),
        None => fs::remove_file(R::FAILURE),
    };
    if let Err(error) = result
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!("{}: {error}", R::FAILURE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{ResetRequest, ResetScope};

    fn machine(file: &str, record: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("oem")).unwrap();
        fs::write(root.path().join("oem").join(file), record).unwrap();
        root
    }

    fn text(text: &str) -> RequestText {
        text.parse().unwrap()
    }

    fn reinstall(words: &str) -> Option<Reinstall> {
        Some(Reinstall(text(words)))
    }

    #[test]
    fn what_was_honoured_is_not_honoured_again_and_what_was_asked_can_be_withdrawn() {
        let root = machine("reinstall.json", r#"{"honoured": ["a", "b"], "asked": "c"}"#);
        let root = root.path();
        assert_eq!(report::<Reinstall>(root).honoured, [text("a"), text("b")]);
        let asks = "installs release 1 again and erases COS_PERSISTENT, as spec.reinstall \"c\" asks";
        assert_eq!(asked(root, "1").unwrap(), [asks]);
        assert!(!take(reinstall("d"), Slot::Recovery, root).unwrap(), "one after the other");
        assert_eq!(asked(root, "1").unwrap(), [asks]);
        assert!(!take(reinstall("a"), Slot::A, root).unwrap());
        assert_eq!(asked(root, "1").unwrap(), [] as [String; 0]);
        assert!(!take(None::<Reinstall>, Slot::A, root).unwrap());
    }

    #[test]
    fn a_request_that_was_honoured_is_only_to_be_ended() {
        let root = machine("reinstall.json", r#"{"honoured": ["a"], "asked": "a"}"#);
        assert_eq!(asked(root.path(), "1").unwrap(), [] as [String; 0]);
    }

    #[test]
    fn an_unreadable_record_is_reported_and_honours_nothing() {
        let root = machine("reinstall.json", "{");
        let failure = report::<Reinstall>(root.path()).failure.unwrap();
        assert!(failure.contains("/oem/reinstall.json") && failure.contains("spec.reinstall"), "{failure}");
        assert!(take(reinstall("a"), Slot::A, root.path()).is_err());
    }

    #[test]
    fn the_operator_withdraws_its_own_requests_only() {
        let store = |reset: Reset| {
            let root = machine("other", "");
            Record { honoured: Vec::new(), asked: Some(reset) }.write(root.path()).unwrap();
            take(None::<Reset>, Slot::A, root.path()).unwrap();
            asked(root.path(), "1").unwrap().len()
        };
        let of_operator = ResetRequest { scope: ResetScope::All, request: text("a") };
        assert_eq!(store(Reset::of_operator(&of_operator, Slot::A)), 0);
        assert_eq!(store(Reset::by_hand(text("b"), true, false, Slot::A)), 1);
    }

    #[test]
    fn somebody_at_the_machine_withdraws_everything() {
        let root = machine("reinstall.json", r#"{"honoured": ["a"], "asked": "c"}"#);
        let reset = Reset::by_hand(text("b"), true, false, Slot::A);
        Record { honoured: Vec::new(), asked: Some(reset) }.write(root.path()).unwrap();
        assert_eq!(asked(root.path(), "1").unwrap().len(), 2);
        withdraw(root.path()).unwrap();
        assert_eq!(asked(root.path(), "1").unwrap(), [] as [String; 0]);
        assert_eq!(report::<Reinstall>(root.path()).honoured, [text("a")]);
    }

    #[test]
    fn a_reset_that_was_carried_out_by_hand_is_ended_by_the_next_report() {
        let root = machine("other", "");
        let reset = Reset::by_hand(text("b"), true, false, Slot::A);
        Record { honoured: vec![text("b")], asked: Some(reset) }.write(root.path()).unwrap();
        take(None::<Reset>, Slot::A, root.path()).unwrap();
        assert_eq!(Record::<Reset>::read(root.path()).unwrap().asked, None);
    }
}
