//! The release that the operator orders this machine to run, in `/oem/upgrade-order.json`. It survives the restart into the
//! release, and a fallback from it.

use super::attempt;
use crate::clock::unix_seconds;
use crate::installed::due_report;
use crate::installed::files::write_secret;
use crate::path_error::PathError;
use boot_contract::paths::below;
use command::{Command, CommandError};
use protocol::bounded::cut;
use protocol::message::{Failure, OsReport, Slot};
use protocol::upgrade_order::passes;
use protocol::{UpgradeOrder, UpgradeReport, error_chain};
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::fs;
use std::io;
use std::path::Path;

/// The file.
pub const FILE: &str = "/oem/upgrade-order.json";
/// Carries out the order. It runs beside the reports, because fetching a release takes longer than a report may.
const UNIT: &str = "ros-upgrade.service";
/// Longest message of a failure on the wire, in bytes.
const LONGEST_MESSAGE: usize = 1024;

/// Why an order cannot be taken or kept.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    #[error("reading {FILE}")]
    Read(#[source] io::Error),
    #[error("reading {FILE}: it holds no order; remove it")]
    Malformed(#[source] serde_json::Error),
    #[error("writing {FILE}")]
    Write(#[source] io::Error),
    #[error("there is no order of the operator ({FILE})")]
    Absent,
    #[error("starting {UNIT}")]
    Start(#[source] CommandError),
    #[error("asking for a report")]
    Report(#[from] PathError),
}

/// An order, and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TakenOrder {
    pub order: UpgradeOrder,
    /// When it was taken, in seconds since 1 January 1970 by this machine's clock.
    at: u64,
    /// Why it was not carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<Failure>,
}

impl TakenOrder {
    /// `None` if there was no order yet.
    pub fn read(root: &Path) -> Result<Option<Self>, OrderError> {
        match fs::read(below(root, FILE)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(OrderError::Malformed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(OrderError::Read(error)),
        }
    }

    fn write(&self, root: &Path) -> Result<(), OrderError> {
        let bytes = serde_json::to_vec(self).map_err(|error| OrderError::Write(error.into()))?;
        write_secret(&below(root, FILE), &bytes).map_err(OrderError::Write)
    }

    /// Why it was not carried out, a fallback since it was taken included.
    fn failure(&self, root: &Path) -> Option<Failure> {
        let fallback = || {
            let failed = attempt::last_failure(root)?;
            let is_this = failed.at >= self.at && self.order.expects(&failed.version, &failed.release);
            is_this.then(|| Failure {
                reason: "ReleaseDidNotComeUp".into(),
                message: format!("the last start reached the stage {:?}: {}", failed.stage, failed.message),
            })
        };
        self.failure.clone().or_else(fallback)
    }
}

/// The report for the operator. An order that cannot be read is reported as none, so that the operator orders again.
pub fn report(root: &Path) -> UpgradeReport {
    let taken = TakenOrder::read(root).unwrap_or_else(|error| {
        tracing::warn!("{}", error_chain(&error));
        None
    });
    let failure = taken.as_ref().and_then(|taken| taken.failure(root));
    UpgradeReport { order: taken.map(|taken| taken.order), failure }
}

/// Takes the order in the answer to a report, and starts to carry it out. An order that failed is not tried again, unless
/// the failure passes and the report said it: the operator then orders again. One that was interrupted is begun anew. The
/// recovery system takes no orders.
pub fn take(order: &UpgradeOrder, report: &OsReport, root: &Path) -> Result<(), OrderError> {
    let said = report.upgrade.as_ref().and_then(|said| said.failure.as_ref());
    if matches!(report.slot, Slot::A | Slot::B) && must_begin(order, said, root, unix_seconds())? {
        Command::new("systemctl").args(["start", "--no-block", UNIT]).run().map_err(OrderError::Start)?;
    }
    Ok(())
}

fn must_begin(order: &UpgradeOrder, said: Option<&Failure>, root: &Path, now: u64) -> Result<bool, OrderError> {
    // What cannot be read is replaced: the operator says again what holds.
    if let Some(taken) = TakenOrder::read(root).unwrap_or_default().filter(|taken| taken.order == *order) {
        match taken.failure(root) {
            None => return Ok(true),
            Some(failure) if !passes(&failure) || said != Some(&failure) => return Ok(false),
            Some(_) => {}
        }
    }
    TakenOrder { order: order.clone(), at: now, failure: None }.write(root)?;
    Ok(true)
}

/// Keeps the reason why the order was not carried out, and reports it at once.
pub fn fail(root: &Path, reason: &str, error: &dyn Error) -> Result<(), OrderError> {
    let mut taken = TakenOrder::read(root)?.ok_or(OrderError::Absent)?;
    let message = cut(&error_chain(error), LONGEST_MESSAGE);
    taken.failure = Some(Failure { reason: reason.into(), message });
    taken.write(root)?;
    Ok(due_report::ask(root)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upgrade::attempt::Record;
    use protocol::UpgradeFailure;
    use protocol::upgrade::FailedStage;

    fn order(retry: Option<&str>) -> UpgradeOrder {
        UpgradeOrder { image: "h/ros:v0.2.0".into(), release: "v0.2.0".into(), retry: retry.map(Into::into) }
    }

    fn fell_back(root: &Path, at: u64) {
        let failure = UpgradeFailure {
            release: "sha256:02".into(),
            version: "0.2.0".into(),
            at,
            stage: FailedStage::Checks,
            message: "the network is not up".into(),
            journal: Vec::new(),
        };
        Record { failure: Some(failure), ..Record::default() }.write(root).unwrap();
    }

    #[test]
    fn an_order_is_begun_until_it_fails_and_once_more_with_another_text() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(report(root), UpgradeReport::default());
        assert!(must_begin(&order(None), None, root, 10).unwrap());
        assert!(must_begin(&order(None), None, root, 11).unwrap(), "it was interrupted");
        assert_eq!(report(root), UpgradeReport { order: Some(order(None)), failure: None });
        fell_back(root, 20);
        assert!(!must_begin(&order(None), None, root, 21).unwrap());
        let failure = report(root).failure.unwrap();
        assert_eq!((failure.reason.as_str(), failure.message.contains("Checks")), ("ReleaseDidNotComeUp", true));
        assert!(must_begin(&order(Some("again")), None, root, 30).unwrap());
        assert_eq!(report(root).failure, None, "the fallback was before this order");
    }

    #[test]
    fn an_order_whose_image_could_not_be_fetched_is_begun_again_when_it_is_sent_again() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for (reason, begins) in [("RegistryUnreachable", true), ("RegistryTooSlow", true), ("ImageNotFound", false)] {
            let failure = Failure { reason: reason.into(), message: String::new() };
            TakenOrder { order: order(None), at: 10, failure: Some(failure.clone()) }.write(root).unwrap();
            assert_eq!(report(root).failure.as_ref(), Some(&failure));
            let before = must_begin(&order(None), None, root, 20).unwrap();
            assert!(!before, "the order is from before the failure was reported");
            assert_eq!(must_begin(&order(None), Some(&failure), root, 20).unwrap(), begins, "{reason}");
            assert_eq!(report(root).failure.is_none(), begins, "{reason}");
        }
    }

    #[test]
    fn an_order_that_cannot_be_read_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("oem")).unwrap();
        fs::write(root.path().join("oem/upgrade-order.json"), "{").unwrap();
        assert_eq!(report(root.path()), UpgradeReport::default());
        assert!(must_begin(&order(None), None, root.path(), 1).unwrap());
        assert_eq!(report(root.path()).order, Some(order(None)));
    }
}
