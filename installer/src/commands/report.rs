//! `report`: an installed system reports to its operator, the first time after each boot as `booted`. The answer says
//! how the machine joins its cluster.

use super::network;
use super::operator::{self, PendingIdentity};
use crate::cli::ReportOptions;
use crate::clock::unix_seconds;
use crate::console::{self, announce};
use crate::exit_code::{ExitCode, OrExit};
use crate::installed::due_report;
use crate::installed::erase_request::{self, Reinstall, Request, Reset};
use crate::installed::issue;
use crate::installed::kubelet;
use crate::installed::operator_settings::{self, Kept, by_either};
use crate::installed::status::{LAST_REPORT, LastReport, Status};
use crate::join::{self, answer};
use crate::session::identity::Identity;
use crate::session::websocket::WebSocketTransport;
use crate::session::{Exchange, ExchangeError};
use crate::settings::document::INSTALLED_FILE;
use crate::settings::{Gathered, Layer, Source};
use crate::upgrade::{attempt, order};
use anyhow::Context;
use boot_contract::Milestone;
use command::Command;
use machine::addresses::addresses;
use protocol::message::{Done, FromMachine, OsReport, Recorded, Slot};
use protocol::{Join, OperatorSettings, SettingsRevision, error_chain};
use std::path::Path;

/// This file exists when `booted` was recorded. `/run` is empty at each boot.
const BOOTED_RECORDED: &str = "run/ros/booted-recorded";

pub async fn run(options: &ReportOptions, root: &Path) -> anyhow::Result<()> {
    // Before anything that may fail: systemd would start the report again at once as long as it is due.
    due_report::begin(root)?;
    let installed = root.join(INSTALLED_FILE);
    let gathered = operator::installed(root, &installed)?;
    let transport = operator::transport(gathered.settings())?;
    let transport = transport
        .with_context(|| format!("{} has no registrationURL: this machine has no operator", installed.display()))
        .or_exit(ExitCode::Settings)?;
    let identity = PendingIdentity::begin(options.tpm.tcti.clone(), root.to_owned());
    let (mut newest, mut previous) = (transport, previous(root));
    // The first report after a fallback tells it, so that the operator does not order the same release again.
    attempt::note_failure();
    let mut report = os_report(&Status::read().context("describing this system")?, root)?;
    // An unreadable revision counts as none: the operator then sends the settings again.
    report.settings_revision = gathered.settings().registration_revision.as_deref().and_then(revision);
    network::wait().await;
    let identity = identity.ready(gathered.settings()).await?;
    let recorded = root.join(BOOTED_RECORDED);
    let is_first = !recorded.exists();
    let attempt = async || {
        let report = Box::new(OsReport { addresses: addresses(), ..report.clone() });
        let message = if is_first { FromMachine::Booted(report) } else { FromMachine::Report(report) };
        let say = async |way: &mut WebSocketTransport| say(way, &identity, &message).await;
        by_either(&mut newest, previous.as_mut(), say).await
    };
    let (way, answer) = operator::retry(attempt, Some(operator::note_retry_on_console)).await?;
    remember(Path::new(LAST_REPORT))?;
    issue::refresh(root);
    // What the next release has to reach. The report is made whatever becomes of this.
    if let Err(error) = kubelet::remember_if_ready(root).await {
        tracing::warn!("{}", error_chain(&error));
    }
    if is_first {
        std::fs::write(&recorded, &report.boot_id).with_context(|| format!("writing {}", recorded.display()))?;
        announce(Milestone::Booted, format!("{} from slot {}, recorded by the operator", report.version, report.slot));
    }
    if let Some(settings) = &answer.settings {
        keep(settings, way, root);
    }
    if let Some(slot) = report.slot.installed() {
        let reinstall = answer.reinstall.clone().map(Reinstall);
        let reset = answer.reset.as_ref().map(|reset| Reset::of_operator(reset, slot));
        if erases(reinstall, slot, root) || erases(reset, slot, root) {
            return Ok(());
        }
    }
    if let Some(order) = &answer.upgrade
        && let Err(error) = order::take(order, &report, root)
    {
        console::note(format!("upgrading to release {}: {}", order.release, error_chain(&error)));
    }
    if let Some(seconds) = answer.report_seconds {
        report_again_in(seconds);
    }
    match answer.join {
        // The recovery system joins no cluster.
        Some(join) if report.slot != Slot::Recovery => take(&join, root),
        _ => Ok(()),
    }
}

/// Takes a request to erase data. Returns whether the machine restarts for it. The next report tells the operator why it
/// does not. The rest of the answer is still applied.
fn erases<R: Request>(request: Option<R>, slot: boot_contract::Slot, root: &Path) -> bool {
    let words = request.as_ref().map(|request| format!("{} {:?}: ", R::FIELD, request.text().as_str()));
    erase_request::take(request, slot, root).unwrap_or_else(|error| {
        console::note(format!("{}{}", words.unwrap_or_default(), error_chain(&error)));
        false
    })
}

/// Reports again earlier than the timer would. A failure is only logged, because the timer reports as well.
fn report_again_in(seconds: u64) {
    let delay = format!("--on-active={}", seconds.max(10));
    let run = ["--quiet", "--collect", "--unit=ros-report-early", &delay, "--timer-property=AccuracySec=1s"];
    let report = ["systemctl", "start", "--no-block", "ros-report.service"];
    if let Err(error) = Command::new("systemd-run").args(run).args(report).run() {
        tracing::debug!("reporting again in {seconds} s: {}", error_chain(&error));
    }
}

/// The transport for the previous settings. `None` if there are no usable ones.
fn previous(root: &Path) -> Option<WebSocketTransport> {
    let file = root.join(Kept::Previous.file());
    if !file.exists() {
        return None;
    }
    let settings = Gathered::from_machine(root, Some(&file), Layer::new(Source::Flag)).map_err(anyhow::Error::from);
    let transport = settings.and_then(|gathered| operator::transport(gathered.settings()));
    transport.unwrap_or_else(|error| {
        tracing::warn!("{} cannot be used: {error:#}", file.display());
        None
    })
}

fn revision(text: &str) -> Option<SettingsRevision> {
    text.parse().ok()
}

async fn say(
    transport: &mut WebSocketTransport,
    identity: &Identity,
    message: &FromMachine,
) -> Result<Recorded, ExchangeError> {
    let mut exchange = Exchange::open(transport, identity).await?;
    exchange.say(message).await?;
    exchange.finish(Done::default()).await
}

/// Stores how the operator is reached from now on. A failure is printed, and the rest of the answer is still applied:
/// the next answer has the settings again.
fn keep(settings: &OperatorSettings, way: Kept, root: &Path) {
    match operator_settings::keep(root, settings, way) {
        Ok(true) => console::note(format!("the operator's new settings were stored: {}", settings.revision)),
        Ok(false) => {}
        Err(error) => {
            console::note(format!("the operator's new settings could not be stored: {}", error_chain(&error)))
        }
    }
}

/// Applies how this machine joins its cluster, prints the changes, and lets the machine join.
fn take(join: &Join, root: &Path) -> anyhow::Result<()> {
    if let Some(pending) = &join.pending {
        console::note(format!("the operator cannot say yet how to join the cluster: {pending}"));
    }
    if let Some(change) = answer::take(root, join).context("storing how this machine joins its cluster")? {
        announce(Milestone::Assigned, change);
    }
    // Also without a change: the programs may have failed, or have run while the change came.
    Ok(join::start_if_due(root)?)
}

/// Describes the running system. Fails on a live system, because it is not installed.
fn os_report(status: &Status, root: &Path) -> anyhow::Result<OsReport> {
    anyhow::ensure!(status.slot != Slot::Live, "this is a live system, and only an installed system can report");
    let kernel = |name: &str| -> anyhow::Result<String> {
        let path = root.join("proc/sys/kernel").join(name);
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(text.trim().to_owned())
    };
    Ok(OsReport {
        version: status.version.clone(),
        release: status.release.clone(),
        slot: status.slot,
        healthy: status.is_healthy(),
        boot_id: kernel("random/boot_id")?,
        addresses: Vec::new(),
        hostname: kernel("hostname").ok(),
        recovery: status.recovery.clone(),
        settings_revision: None,
        reinstall: Some(erase_request::report::<Reinstall>(root)),
        reset: Some(erase_request::report::<Reset>(root)),
        last_failure: status.last_failure.clone(),
        upgrade: Some(order::report(root)),
    })
}

/// Stores the time of the report, which `status` shows.
fn remember(path: &Path) -> anyhow::Result<()> {
    let at = unix_seconds();
    let body = serde_json::to_vec(&LastReport { at }).context("writing the last report's time")?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    std::fs::write(path, body).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, write};

    #[test]
    fn a_running_system_is_described_and_a_live_one_is_not() {
        let root = tempfile::tempdir().unwrap();
        create_dir_all(root.path().join("proc/sys/kernel/random")).unwrap();
        write(root.path().join("proc/sys/kernel/random/boot_id"), "id-1\n").unwrap();
        write(root.path().join("proc/sys/kernel/hostname"), "anvil\n").unwrap();
        let status = |slot: Slot| Status::of_slot(slot);
        let report = os_report(&status(Slot::B), root.path()).unwrap();
        assert_eq!((report.version.as_str(), report.boot_id.as_str(), report.healthy), ("0.1.0", "id-1", true));
        assert_eq!(report.hostname.as_deref(), Some("anvil"));
        assert!(!os_report(&status(Slot::A), root.path()).unwrap().healthy, "another slot is the good one");
        let recovery = os_report(&status(Slot::Recovery), root.path()).unwrap();
        assert_eq!((recovery.healthy, recovery.recovery.as_deref()), (false, Some("slot A is damaged")));
        assert!(os_report(&status(Slot::Live), root.path()).is_err());
    }

    #[test]
    fn the_last_report_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ros/last-report.json");
        remember(&path).unwrap();
        let last: LastReport = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert!(last.at > 1_700_000_000);
    }
}
