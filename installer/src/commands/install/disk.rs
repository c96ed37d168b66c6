//! The part of an installation that needs nobody else: plan, write, verify.

use crate::console::{Milestone, ProgressDisplay, announce};
use crate::execute::{ExecuteError, execute};
use crate::exit_code::ExitCode;
use crate::machine::Machine;
use crate::plan::layout::Size;
use crate::plan::{InstallPlan, PlanError, plan};
use crate::release_source::{ReleaseError, ReleaseSource};
use crate::settings::{Gathered, SettingError};
use protocol::message::{InstallPhase, Progress};
use protocol::release::ReleaseManifest;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tokio::sync::watch;
use uuid::Uuid;

/// Everything that an installation needs to know.
pub struct Job {
    pub gathered: Gathered,
    pub root: PathBuf,
    /// Folder of the release.
    pub release: PathBuf,
}

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
    /// CamelCase and stable: a `Failure`'s reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Settings(_) | Self::IsoUrl(_) => "SettingsInvalid",
            Self::Release(_) => "ReleaseUnusable",
            Self::Plan(error) => error.reason(),
            Self::Execute(_, error) => error.reason(),
        }
    }

    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Settings(_) | Self::IsoUrl(_) => ExitCode::Settings,
            Self::Release(_) => ExitCode::Failed,
            Self::Plan(_) => ExitCode::NoTarget,
            Self::Execute(..) => ExitCode::Write,
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

    fn run_blocking(self, progress: &watch::Sender<Option<Progress>>) -> Result<InstallPlan, InstallError> {
        let settings = self.gathered.settings();
        if settings.iso_url.is_some() {
            return Err(InstallError::IsoUrl(settings.iso_url.source));
        }
        let release = ReleaseSource::open(&self.release)?;
        // Probed again: controllers may have shown their disks since the machine was registered.
        let machine = Machine::probe(&self.root);
        let plan = plan(settings, &machine, self.gathered.cloud_config(), release.manifest(), Uuid::new_v4)?;
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

/// The release's manifest, without a look at the files that it names.
pub fn manifest(release: &Path) -> anyhow::Result<ReleaseManifest> {
    use anyhow::Context;
    let path = release.join("release.json");
    let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("parsing {}", path.display()))
}

/// The progress bar, and the milestone between writing and verifying.
struct InstallConsole {
    display: ProgressDisplay<io::Stdout>,
    root_bytes: u64,
    has_told_written: bool,
}

impl InstallConsole {
    fn new() -> Self {
        let display = ProgressDisplay::new(io::stdout(), io::stdout().is_terminal(), Instant::now());
        Self { display, root_bytes: 0, has_told_written: false }
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
