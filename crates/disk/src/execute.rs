//! Executes an [`InstallPlan`]. A disk whose installation failed cannot be booted.
//!
//! 1. Before anything is written: the disk is open exclusively, it is the disk of the plan, and the file systems exist as
//!    temporary files.
//! 2. A marker is written to the first megabyte and the old tables are erased; see [`crate::marker`].
//! 3. Everything is written where its partition will be. No partition exists yet, so nothing can mount or boot it.
//! 4. Everything is read back from the disk and compared.
//! 5. The tables are written: the backup; the marker, which now says that a whole table is a complete installation; the
//!    first sector with boot code and protective record; the primary table, which was held back until here; and the
//!    marker again, which says that the installation is complete.

mod prepare;
pub(crate) mod root_image;
mod run;
pub(crate) mod sparse;

use crate::bios::BiosError;
use crate::ext4::Ext4Error;
use crate::layout::{Role, Size};
use crate::plan::InstallPlan;
use crate::target::{Disk, Target};
use protocol::message::Progress;
use release::{ReleaseError, ReleaseSource};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Root images that were written and read back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Written {
    /// Bytes of root images written.
    pub bytes: u64,
    /// Time to write them, until they are on the medium.
    pub writing: Duration,
    /// Time to read everything back.
    pub verifying: Duration,
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [writing, verifying] = [self.writing, self.verifying].map(|time| time.as_secs_f64());
        let rate = Size((self.bytes as f64 / writing.max(0.001)) as u64);
        write!(f, "{} written in {writing:.1} s ({rate}/s), read back in {verifying:.1} s", Size(self.bytes))
    }
}

/// Why an installation failed. The disk has no partition table afterwards, unless it was never touched.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    #[error("opening {}: the disk must exist and must not be in use", .device.display())]
    Open { device: PathBuf, source: io::Error },
    #[error("{} is not the disk of the plan: {cause}; plan again", .device.display())]
    OtherDisk { device: PathBuf, cause: String },
    #[error(transparent)]
    Release(#[from] ReleaseError),
    #[error("creating the file system {0}")]
    FileSystem(Role, #[source] FileSystemError),
    #[error("the BIOS boot loader of the release cannot be used")]
    Bios(#[from] BiosError),
    #[error("reading the root image {0} from the medium")]
    Source(String, #[source] io::Error),
    #[error(
        "the root image {name} has SHA-256 {actual}; release.json says {expected}: the medium is damaged, create a new \
         one"
    )]
    SourceDigest { name: String, expected: String, actual: String },
    #[error("writing {what}: the disk may be failing, replace it or choose another")]
    Write { what: String, source: io::Error },
    #[error("reading {what} back: the disk may be failing, replace it or choose another")]
    ReadBack { what: String, source: io::Error },
    #[error("{0} reads back differently from what was written: the disk is failing, replace it or choose another")]
    Differs(String),
}

/// Why a file system could not be made in a file.
#[derive(Debug, thiserror::Error)]
pub enum FileSystemError {
    #[error(transparent)]
    Fat(#[from] io::Error),
    #[error(transparent)]
    Ext4(#[from] Ext4Error),
}

impl ExecuteError {
    /// The reason of a `Failure` and of a condition. CamelCase and stable.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Open { .. } => "DiskBusy",
            Self::OtherDisk { .. } => "DiskChanged",
            Self::Release(_) | Self::Bios(_) | Self::Source(..) | Self::SourceDigest { .. } => "ReleaseUnusable",
            Self::FileSystem(..) => "FileSystemFailed",
            Self::Write { .. } => "WriteFailed",
            Self::ReadBack { .. } => "ReadBackFailed",
            Self::Differs(_) => "VerificationFailed",
        }
    }
}

/// Installs to the plan's target, a block device or an existing file of the plan's size.
pub fn execute(
    plan: &InstallPlan,
    release: &ReleaseSource,
    progress: &mut dyn FnMut(Progress),
) -> Result<Written, ExecuteError> {
    let open = |source| ExecuteError::Open { device: plan.target.clone(), source };
    execute_on(&mut Disk::open(&plan.target).map_err(open)?, plan, release, progress)
}

/// Installs to an opened target.
pub fn execute_on(
    target: &mut dyn Target,
    plan: &InstallPlan,
    release: &ReleaseSource,
    progress: &mut dyn FnMut(Progress),
) -> Result<Written, ExecuteError> {
    check_target(target, plan)?;
    let steps = prepare::prepare(plan, release)?;
    run::run(target, plan, release, &steps, progress)
}

/// Fails if the disk was replaced since it was probed. The plan depends on its length and its sector size.
fn check_target(target: &dyn Target, plan: &InstallPlan) -> Result<(), ExecuteError> {
    let planned = (plan.layout.disk_bytes, plan.layout.sector_bytes);
    let found = (target.length(), target.sector_bytes());
    if planned == found {
        return Ok(());
    }
    let cause = format!(
        "it has {} bytes in sectors of {}; the plan is for {} in sectors of {}",
        found.0, found.1, planned.0, planned.1
    );
    Err(ExecuteError::OtherDisk { device: plan.target.clone(), cause })
}

#[cfg(test)]
mod tests;
