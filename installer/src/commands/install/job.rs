//! The part of an installation that needs no operator: plan, write, verify.

use super::disk_watch::DiskWatch;
use super::request::request;
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

/// Everything that an installation needs to know.
pub struct Job {
    pub gathered: Gathered,
    pub root: PathBuf,
    /// Folder of the release.
    pub release: PathBuf,
    /// The disks since the machine was first looked at.
    pub disks: DiskWatch,
    /// As in [`Machine::identities`].
    pub identities: Vec<String>,
}

/// How long a disk that was not found is waited for before the operator is told.
const LATE_DISK: Duration = Duration::from_secs(30);

/// Why the machine is not installed.
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
    /// The disk, and what happened to it.
    #[error("installing to {0}")]
    Execute(String, #[source] ExecuteError),
}

impl InstallError {
    /// No failure: the machine has a system, which is to be started.
    pub fn is_installed(&self) -> bool {
        matches!(self, Self::Plan(PlanError::DiskHoldsThisMachine { .. }))
    }

    /// CamelCase and stable: a `Failure`'s reason.
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
            // The operator's settings: those of this machine were resolved before.
            InstallError::Settings(_) => Self::Configuration,
            InstallError::IsoUrl(source) => Self::of_setting(*source),
            InstallError::Release(_) => Self::Failed,
            InstallError::Plan(PlanError::WrongArchitecture { .. }) => Self::Settings,
            InstallError::Plan(_) => Self::NoTarget,
            // The disk is untouched: it was in use, or exchanged since the plan.
            InstallError::Execute(_, ExecuteError::Open { .. } | ExecuteError::OtherDisk { .. }) => Self::NoTarget,
            InstallError::Execute(..) => Self::Write,
        }
    }
}

impl Job {
    /// Plans and installs on a thread of its own; `progress` is dropped when it is over.
    pub async fn run(self, progress: watch::Sender<Option<Progress>>) -> Result<InstallPlan, InstallError> {
        match tokio::task::spawn_blocking(move || self.run_blocking(&progress)).await {
            Ok(result) => result,
            Err(stopped) => std::panic::resume_unwind(stopped.into_panic()),
        }
    }

    /// Plans when no disk came or went for a while. A disk that is missing is looked for again.
    fn plan(&mut self, release: &ReleaseManifest) -> Result<InstallPlan, PlanError> {
        let give_up = Instant::now() + LATE_DISK;
        let mut has_told = false;
        let request = request(self.gathered.settings(), self.gathered.cloud_config());
        loop {
            self.disks.wait_until_quiet();
            // Probed again: controllers may have shown their disks since the machine was registered.
            let machine = Machine { identities: self.identities.clone(), ..Machine::probe(&self.root) };
            match plan(&request, machine.host(), release, Uuid::new_v4) {
                Err(error) if error.may_be_a_late_disk() && Instant::now() < give_up => {
                    if !std::mem::replace(&mut has_told, true) {
                        let error = error.to_string();
                        let line = error.lines().next().unwrap_or_default();
                        console::note(format!("{line}; looking again for {} s", LATE_DISK.as_secs()));
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
        let installed = execute(&plan, &release, &mut |report| {
            console.show(&report);
            progress.send_replace(Some(report));
        })
        .map_err(|error| InstallError::Execute(format!("{} ({})", plan.target.display(), plan.description), error))?;
        console.written();
        let rate = Size((installed.bytes as f64 / installed.writing.as_secs_f64().max(0.001)) as u64);
        announce(
            Milestone::Verified,
            format!(
                "{} written in {:.1} s ({rate}/s), read back in {:.1} s",
                Size(installed.bytes),
                installed.writing.as_secs_f64(),
                installed.verifying.as_secs_f64(),
            ),
        );
        Ok(plan)
    }
}

/// The progress bar, and the milestone between writing and verifying.
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

    /// Everything is on the disk; what follows only reads.
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
