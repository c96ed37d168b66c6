//! Whether the programs of `join.d` must run, and running them.

use super::JoinError;
use super::answer::{self, StoredJoin};
use super::configuration::Configuration;
use super::record::Record;
use crate::installed::drop_ins::{DropIn, Output, is_executable};
use crate::path_error::PathError;
use boot_contract::paths::{JOIN_PROGRAMS, OEM_REGISTRATION, USER_JOIN_PROGRAMS, below};
use std::path::Path;
use std::time::Duration;

/// Time that one program has. A slow machine that starts its first containers takes minutes.
const LIMIT: Duration = Duration::from_secs(15 * 60);
/// Where rancherd is looked for. It runs last, unless a file of this name in `join.d` takes its place.
const RANCHERD: &str = "rancherd";
const RANCHERD_FOLDERS: [&str; 2] = ["/usr/bin", "/usr/local/bin"];

/// What is known of joining.
pub enum State {
    /// Neither the cloud-config nor the operator gives the machine a role.
    NotAsked,
    /// The operator has not said yet what the machine is to be.
    Waiting,
    Asked(Job),
}

/// The machine is to join a cluster.
pub struct Job {
    pub configuration: Configuration,
    pub programs: Vec<DropIn>,
    /// The last run, with this configuration or another one.
    pub record: Option<Record>,
}

impl State {
    pub fn read(root: &Path) -> Result<Self, JoinError> {
        let Some(rancherd) = answer::rancherd(root)? else { return Ok(Self::NotAsked) };
        let stored = StoredJoin::read(root)?;
        // The operator may give another role, and usually gives the token.
        if stored.is_none() && below(root, OEM_REGISTRATION).exists() {
            return Ok(Self::Waiting);
        }
        let Some(configuration) = Configuration::new(&rancherd, &stored.unwrap_or_default()) else {
            return Ok(Self::NotAsked);
        };
        Ok(Self::Asked(Job { configuration, programs: programs(root), record: Record::read(root) }))
    }
}

impl Job {
    /// Whether the programs must run: they failed the last time, or the configuration or the programs are others now.
    pub fn is_due(&self) -> bool {
        self.last().is_none_or(|record| record.failure.is_some() || record.programs != self.names())
    }

    /// The last run with this configuration.
    pub fn last(&self) -> Option<&Record> {
        self.record.as_ref().filter(|record| record.configuration == self.configuration.digest())
    }

    pub fn names(&self) -> Vec<String> {
        self.programs.iter().map(|program| program.name.clone()).collect()
    }

    /// Runs the programs one after another to the first that fails. Returns which one failed and why. Their output goes to
    /// `show`, without the token.
    pub fn first_failure(&self, root: &Path, show: fn(&str)) -> Result<Option<String>, PathError> {
        let handed_over = self.configuration.hand_over(root)?;
        let secret = self.configuration.token();
        let output = Output { show: Some(show), secret: &secret };
        Ok(self.programs.iter().find_map(|program| {
            let why = handed_over.to(program).failure(LIMIT, output)?.why;
            Some(format!("the program {} failed: {why}", program.name))
        }))
    }
}

fn programs(root: &Path) -> Vec<DropIn> {
    let mut programs = DropIn::find(root, [JOIN_PROGRAMS, USER_JOIN_PROGRAMS], "program that joins a cluster");
    if programs.iter().all(|program| program.name != RANCHERD) {
        let rancherd = RANCHERD_FOLDERS.iter().map(|folder| below(root, folder).join(RANCHERD));
        let rancherd = rancherd.into_iter().find(|file| is_executable(file));
        programs.extend(rancherd.map(|file| DropIn::new(RANCHERD, &file).arg("bootstrap")));
    }
    programs
}
