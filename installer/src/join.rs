//! How this machine becomes a node of its cluster. The operator's answer and the cloud-config say as what, and the programs
//! of `join.d` do it.

pub mod answer;
mod configuration;
mod job;
mod record;
mod run;
mod status;

pub use run::{run, start_if_due};
pub use status::JoinStatus;

use crate::path_error::PathError;
use answer::AnswerError;
use command::CommandError;

/// Why the machine did not join its cluster, or why it is not known whether it must.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("joining the cluster as {role}: {why}")]
    Program { role: String, why: String },
    #[error("starting ros-join.service")]
    Start(#[source] CommandError),
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error(transparent)]
    Path(#[from] PathError),
}
