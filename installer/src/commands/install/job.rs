//! The part of an installation that needs no operator: it plans, writes and verifies.

use super::disk_watch::DiskWatch;
use super::request::on_machine;
use crate::console::{self, ProgressDisplay, announce};
use crate::exit_code::ExitCode;
use crate::settings::{Gathered, SettingError};
use boot_contract::Milestone;
use disk::execute::{ExecuteError, execute};
use disk::layout::Size;
use disk::plan::{InstallPlan, PlanError, plan};
use machine::Machine;
use protocol::message::{InstallPhase, Progress};
use release::{ReleaseError, ReleaseManifest, ReleaseSource};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use uuid::Uuid;

/// The input of an installation.
pub struct Job {
    pub gathered: Gathered,
    pub root: PathBuf,
    /// Path of the release's folder.
    pub release: PathBuf,
    /// Watches the disks since the machine was first probed.
    pub disks: DiskWatch,
    /// The names of [`Machine::identities`].
    pub identities: Vec<String>,
}

/// Time for a missing disk to appear before the operator gets a failure.
const LATE_DISK: Duration = Duration::from_secs(30);

/// Why the machine was not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("using the settings")]
    Settings(#[from] SettingError),
    #[error("isoURL, from {0}, is not supported: start this machine from the medium of the release to install")]
    IsoUrl(crate::settings::Source),
    #[error("opening the release")]
    Release(#[from] ReleaseError),
    #[error("planning the installation")]
    Plan(#[from] PlanError),
    /// The disk, and why the plan could not be executed.
    #[error("installing to {0}")]
    Execute(String, #[source] ExecuteError),
}

impl InstallError {
    /// Whether this is no failure: the machine has its own system, which is started instead.
    pub fn is_installed(&self) -> bool {
        matches!(self, Self::Plan(PlanError::DiskHoldsThisMachine { .. }))
    }

    /// The reason of a `Failure`. CamelCase and stable.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Settings(_) | Self::IsoUrl(_) => "SettingsInvalid",
            Self::Release(_) => "ReleaseUnusable",
            Self::Plan(error) => error.reason(),
            Self::Execute(_, error) => error.reason(),
        }
    }
}

impl From<&InstallError> for ExitCode {
    fn from(error: &InstallError) -> Self {
        match error {
            // These settings come from the operator. Those of this machine were resolved before.
            InstallError::Settings(_) => Self::Configuration,
            InstallError::IsoUrl(source) => Self::of_setting(*source),
            InstallError::Release(_) => Self::Failed,
            InstallError::Plan(PlanError::WrongArchitecture { .. }) => Self::Settings,
            InstallError::Plan(_) => Self::NoTarget,
            // The disk is untouched: it was in use, or replaced after the plan was made.
            InstallError::Execute(_, ExecuteError::Open { .. } | ExecuteError::OtherDisk { .. }) => Self::NoTarget,
            InstallError::Execute(..) => Self::Write,
        }
    }
}

impl Job {
    /// Plans and installs on a separate thread. `progress` is dropped at the end.
    pub async fn run(self, progress: watch::Sender<Option<Progress>>) -> Result<InstallPlan, InstallError> {
        match tokio::task::spawn_blocking(move || self.run_blocking(&progress)).await {
            Ok(result) => result,
            Err(stopped) => std::panic::resume_unwind(stopped.into_panic()),
        }
    }

    /// Plans when the set of disks has not changed for a while. Waits for a missing disk and plans again.
    fn plan(&mut self, release: &ReleaseManifest) -> Result<InstallPlan, PlanError> {
        let give_up = Instant::now() + LATE_DISK;
        let mut has_told = false;
        let request = on_machine(&self.root, self.gathered.settings(), self.gathered.cloud_config());
        loop {
            self.disks.wait_until_quiet();
            // The disks are probed again, because controllers may have reported more since the machine was registered.
            let machine = Machine { identities: self.identities.clone(), ..Machine::probe(&self.root) };
            match plan(&request, machine.host(), release, Uuid::new_v4) {
                Err(error) if error.may_be_a_late_disk() && Instant::now() < give_up => {
                    if !std::mem::replace(&mut has_told, true) {
                        let error = error.to_string();
                        let line = error.lines().next().unwrap_or_default();
                        console::note(format!("{line}; waiting up to {} s for it", LATE_DISK.as_secs()));
                    }
                    self.disks.wait_for_change(give_up);
                }
                result => return result,
            }
        }
    }

    fn run_blocking(mut self, progress: &watch::Sender<Option<Progress>>) -> Result<InstallPlan, InstallError> {
        let settings = self.gathered.settings();
        if settings.iso_url.is_some() {
            return Err(InstallError::IsoUrl(settings.iso_url.source));
        }
        let release = ReleaseSource::open(&self.release)?;
        let plan = self.plan(release.manifest())?;
        announce(Milestone::Planned, &plan);
        let mut console = InstallConsole::new();
        let written = execute(&plan, &release, &mut |report| {
            console.show(&report);
            progress.send_replace(Some(report));
        })
        .map_err(|error| InstallError::Execute(format!("{} ({})", plan.target.display(), plan.description), error))?;
        console.written();
        announce(Milestone::Verified, &written);
        Ok(plan)
    }
}

/// Shows the progress bar, and the milestone between writing and verifying.
struct InstallConsole {
    display: ProgressDisplay<Box<dyn Write>>,
    root_bytes: u64,
    has_told_written: bool,
}

impl InstallConsole {
    fn new() -> Self {
        let (output, redraws) = console::progress_output();
        Self { display: ProgressDisplay::new(output, redraws, Instant::now()), root_bytes: 0, has_told_written: false }
    }

    fn show(&mut self, progress: &Progress) {
        match progress.phase {
            InstallPhase::Writing => self.root_bytes = progress.bytes,
            InstallPhase::Verifying => self.written(),
            InstallPhase::Planned | InstallPhase::Configuring | InstallPhase::Rebooting => {}
        }
        self.display.show(progress, Instant::now());
    }

    /// Called when everything is on the disk. The rest only reads.
    fn written(&mut self) {
        self.display.end_line();
        if !std::mem::replace(&mut self.has_told_written, true) {
            announce(Milestone::Written, format!("root images of {}, boot and configuration", Size(self.root_bytes)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Source;
    use std::io;

    fn may_change(error: impl Into<InstallError>) -> bool {
        ExitCode::from(&error.into()).may_change()
    }

    #[test]
    fn only_what_nobody_outside_can_change_ends_the_installer() {
        assert!(may_change(PlanError::NoDisk));
        assert!(may_change(PlanError::SeveralDisks { listing: String::new() }));
        assert!(may_change(PlanError::DiskHasContent { disk: String::new(), content: String::new() }));
        assert!(
            may_change(InstallError::IsoUrl(Source::Operator)) && !may_change(InstallError::IsoUrl(Source::Medium))
        );
        let other_machine = PlanError::WrongArchitecture { release: "x86_64".into(), machine: "aarch64".into() };
        assert!(!may_change(other_machine));
        let execute = |error| InstallError::Execute("/dev/vda".into(), error);
        let busy = ExecuteError::Open { device: "/dev/vda".into(), source: io::ErrorKind::ResourceBusy.into() };
        assert!(may_change(execute(busy)));
        assert!(!may_change(execute(ExecuteError::Differs("COS_STATE_A".into()))));
    }
}
