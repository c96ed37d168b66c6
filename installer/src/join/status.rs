//! What `ros-installer status` tells about joining.

use super::job::State;
use crate::installed::status::Utc;
use protocol::error_chain;
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// Whether the machine has joined its cluster. `Display` is one line for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all_fields = "camelCase")]
pub enum JoinStatus {
    /// The operator has not said yet what the machine is to be.
    Waiting,
    /// The programs have not run yet with this configuration.
    Pending {
        role: String,
    },
    /// There is no program that joins a cluster.
    NoProgram {
        role: String,
    },
    /// `at`: seconds since 1 January 1970.
    Joined {
        role: String,
        at: u64,
        programs: Vec<String>,
    },
    Failed {
        role: String,
        at: u64,
        message: String,
    },
    Unknown {
        message: String,
    },
}

impl JoinStatus {
    /// `None` if the machine is to join no cluster.
    pub fn read(root: &Path) -> Option<Self> {
        match State::read(root) {
            Ok(State::NotAsked) => None,
            Ok(State::Waiting) => Some(Self::Waiting),
            Ok(State::Asked(job)) => {
                let role = job.configuration.role().to_owned();
                Some(match job.last() {
                    Some(record) => match record.failure.clone() {
                        Some(message) => Self::Failed { role, at: record.at, message },
                        None if job.is_due() => Self::Pending { role },
                        None if record.programs.is_empty() => Self::NoProgram { role },
                        None => Self::Joined { role, at: record.at, programs: record.programs.clone() },
                    },
                    None => Self::Pending { role },
                })
            }
            Err(error) => Some(Self::Unknown { message: error_chain(&error) }),
        }
    }
}

impl fmt::Display for JoinStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => write!(f, "waits for the operator to say how"),
            Self::Pending { role } => write!(f, "as {role}, not done yet"),
            Self::NoProgram { role } => write!(f, "as {role}, not possible: no program in join.d"),
            Self::Joined { role, at, programs } => {
                write!(f, "as {role}, done at {} by {}", Utc(*at), programs.join(", "))
            }
            Self::Failed { role, at, message } => write!(f, "as {role}, failed at {}: {message}", Utc(*at)),
            Self::Unknown { message } => write!(f, "unknown: {message}"),
        }
    }
}
