//! `ros-installer` in the upgrade image: it upgrades the host that it runs on, for the upgrade Jobs of a cluster.
//!
//! ```text
//! pod 1: release written ─► host asked to restart ─► killed with it
//! pod 2: on trial: waits ─► good: exit 0
//!        fell back: writes nothing, ends at once with the reason in its termination message
//! ```
//!
//! Each pod decides anew from what it finds on the host's disk, because nothing else survives the restart: the status of
//! the first pod is lost, and the kubelet may start the same container again in place of a second pod.

pub mod cli;
mod cloud_config;
mod host;
mod restart;
mod step;
mod termination;

use crate::console::{self, announce, progress_output};
use crate::exit_code::ExitCode;
use crate::path_error::PathError;
use crate::settings::document::{self, DocumentError};
use crate::upgrade::attempt::Record;
use crate::upgrade::{self, Candidate, Decision, UpgradeError, UpgradeLock};
use boot_contract::Milestone;
use cli::UpgradeOptions;
pub use host::HostError;
use protocol::RequestText;
pub use restart::RestartError;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};
pub use step::{Refusal, Step, WaitFor};
pub use termination::TerminationMessage;

const INTERVAL: Duration = Duration::from_secs(5);

/// Why the release does not run. Unless an error says otherwise, the host starts what it started before.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    CloudConfig(#[from] DocumentError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
    #[error(transparent)]
    Refusal(#[from] Refusal),
    #[error(transparent)]
    Restart(#[from] RestartError),
    #[error("waited {minutes} minutes in vain for {0}", minutes = .0.limit().as_secs() / 60)]
    TookTooLong(WaitFor),
}

impl From<&ContainerError> for ExitCode {
    fn from(error: &ContainerError) -> Self {
        match error {
            ContainerError::Upgrade(error) => error.into(),
            ContainerError::Refusal(_) => Self::Release,
            ContainerError::Host(_)
            | ContainerError::CloudConfig(_)
            | ContainerError::Path(_)
            | ContainerError::Restart(_)
            | ContainerError::TookTooLong(_) => Self::Failed,
        }
    }
}

/// Returns when the release runs and its slot is good or, if no restart is wanted, when it is started next. Changes the
/// root folder of this process to that of the host.
pub fn upgrade(options: &UpgradeOptions) -> Result<(), ContainerError> {
    let over = document::read(&options.cloud_config)?.unwrap_or_default();
    let release = host::enter(&options.host, &options.release)?;
    if options.reboot {
        restart::check()?;
    }
    let candidate = Candidate::open(&release)?;
    candidate.note_trust();
    let version = &candidate.name().version;
    let mut patience = Patience::default();
    loop {
        let lock = UpgradeLock::take()?;
        let config = cloud_config::merged(Path::new("/"), &over)?;
        let step = match &lock {
            Some(_) => take_step(&candidate, options.retry.as_ref(), config.is_some())?,
            None => Step::Wait(WaitFor::OtherUpgrade),
        };
        if let (Step::Restart, Some(config)) = (step, &config) {
            cloud_config::store(Path::new("/"), config)?;
            console::note("the cloud-config was changed; the next start applies it");
        }
        match step {
            Step::Done => {
                announce(Milestone::Healthy, format!("release {version} runs"));
                return Ok(());
            }
            Step::CarryOut(_) => {}
            Step::Restart if options.reboot => {
                announce(Milestone::Rebooting, format!("into release {version}"));
                restart::request()?;
                // Ends with the host. The lock is kept, so that nobody writes a slot while the host stops.
                sleep(WaitFor::Restart.limit());
                return Err(ContainerError::TookTooLong(WaitFor::Restart));
            }
            Step::Restart => {
                console::note(format!("release {version} is started next: restart the host"));
                return Ok(());
            }
            Step::Wait(what) => {
                // The lock is free meanwhile, for somebody at the machine.
                drop(lock);
                patience.wait(what)?;
            }
        }
    }
}

/// Decides on the next step, and takes it if it is one that changes the disk.
fn take_step(candidate: &Candidate, retry: Option<&RequestText>, has_new_config: bool) -> Result<Step, ContainerError> {
    let slots = upgrade::slots()?;
    let record = Record::read(Path::new("/")).map_err(UpgradeError::from)?;
    let step = step::next(&slots, &record, candidate.name(), retry, has_new_config)?;
    if let Step::CarryOut(decision) = step {
        if let Decision::Write(_) = decision {
            candidate.check()?;
        }
        candidate.carry_out(&slots, decision, retry.cloned(), progress_output(), announce)?;
    }
    Ok(step)
}

/// What is waited for, and since when.
#[derive(Default)]
struct Patience {
    waits: Option<(WaitFor, Instant)>,
}

impl Patience {
    /// Waits a moment, unless that has been done for too long.
    fn wait(&mut self, what: WaitFor) -> Result<(), ContainerError> {
        let now = Instant::now();
        let since = self.waits.filter(|(before, _)| *before == what).map_or(now, |(_, since)| since);
        if since == now {
            console::note(format!("waiting for {what}"));
        }
        if now.duration_since(since) >= what.limit() {
            return Err(ContainerError::TookTooLong(what));
        }
        self.waits = Some((what, since));
        sleep(INTERVAL);
        Ok(())
    }
}
