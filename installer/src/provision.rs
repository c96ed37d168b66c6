//! Applies the cloud-config to the running system at each boot, because `/etc` is new at each boot. The meaning of each
//! key is cloud-init's; see [`cloud_config::keys`] for the list.

mod accounts;
mod change;
pub(crate) mod network;
pub mod oem;
mod password;
mod script;
mod system;

use crate::console::announce;
use crate::installed::boot_progress;
use crate::join::answer::StoredJoin;
use crate::path_error::PathError;
use boot_contract::boot_stage::BootStage;
use boot_contract::{
    Milestone,
    paths::{IMAGE_CLOUD_CONFIG, OEM_CLOUD_CONFIG, below},
};
use change::Change;
use cloud_config::document::Document;
use cloud_config::keys::unapplied;
use cloud_config::{CloudConfig, CloudConfigError, Lists};
use protocol::error_chain;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use system::System;

/// A stage of the boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before the network and the services start. Changes everything that they read.
    Early,
    /// When the network is up. Applies deferred files and `runcmd`.
    Final,
}

/// The result of one stage.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Names of the changes that were made.
    pub changes: Vec<String>,
    /// One line for each part that was not applied: ignored keys, and changes that failed.
    pub problems: Vec<String>,
}

/// Why nothing of the cloud-config was applied.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    #[error("{0} cannot be read; correct the file, or install again with a corrected registration")]
    Malformed(&'static str, #[source] CloudConfigError),
    #[error(transparent)]
    Path(#[from] PathError),
}

/// Applies a stage to this system and prints the result on the console. Fails only if the whole document could not be
/// read. A part that could not be applied is a problem in the result, and the other parts are applied.
pub fn run(stage: Stage) -> Result<Applied, ProvisionError> {
    if stage == Stage::Early {
        boot_progress::reached(BootStage::Systemd, "");
    }
    let applied = run_in(Path::new("/"), stage)?;
    let done = if applied.changes.is_empty() { "nothing to do".into() } else { applied.changes.join(", ") };
    let problems = applied.problems.iter().map(|problem| format!("\nnot applied: {problem}"));
    announce(Milestone::Applied, done + &problems.collect::<String>());
    Ok(applied)
}

/// Applies a stage to the system below `root`. A system without a cloud-config is not changed.
pub fn run_in(root: &Path, stage: Stage) -> Result<Applied, ProvisionError> {
    let Some(config) = cloud_config(root)? else { return Ok(Applied::default()) };
    let mut problems: Vec<String> = unapplied(&config).iter().map(ToString::to_string).collect();
    let (mut document, _) = Document::read(&config);
    if let Some(rancherd) = &mut document.rancherd {
        match StoredJoin::read(root) {
            Ok(stored) => *rancherd = stored.unwrap_or_default().merge_over(rancherd),
            Err(error) => {
                let problem = error_chain(&error);
                problems
                    .push(format!("the operator's answer was not written into rancherd's configuration: {problem}"));
            }
        }
    }
    if stage == Stage::Final {
        // The early stage has already reported them.
        problems.clear();
    }
    let (changes, unusable) = change::plan(&document, stage);
    problems.extend(unusable);
    let mut applied = Applied { changes: Vec::new(), problems };
    carry_out(&System::new(root), &changes, &mut applied);
    Ok(applied)
}

/// The machine's own cloud-config over that of the image. `None` if there is neither.
fn cloud_config(root: &Path) -> Result<Option<CloudConfig>, ProvisionError> {
    let (mut image, own) = (of_image(root)?, read(root, OEM_CLOUD_CONFIG)?);
    if let Some(own) = own {
        image.get_or_insert_default().merge(own, Lists::Replace);
    }
    Ok(image)
}

/// The cloud-config that the running image brings.
pub fn of_image(root: &Path) -> Result<Option<CloudConfig>, ProvisionError> {
    read(root, IMAGE_CLOUD_CONFIG)
}

fn read(root: &Path, path: &'static str) -> Result<Option<CloudConfig>, ProvisionError> {
    let file = below(root, path);
    match fs::read_to_string(&file) {
        Ok(text) => CloudConfig::parse(&text).map(Some).map_err(|error| ProvisionError::Malformed(path, error)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(PathError::of("reading", &file)(error).into()),
    }
}

fn carry_out(system: &System, changes: &[Change], applied: &mut Applied) {
    for change in changes {
        match system.carry_out(change) {
            Ok(problems) => {
                applied.changes.push(change.to_string());
                applied.problems.extend(problems);
            }
            Err(error) => applied.problems.push(format!("{change}: {}", error_chain(&error))),
        }
    }
}

#[cfg(test)]
mod tests;
