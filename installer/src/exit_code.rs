//! The exit codes of `ros-installer`, and which error ends with which code. `ros-installer install` retries after an error
//! that can be corrected while the machine is on ([`ExitCode::may_change`]). `ros-install.service` does not restart it after
//! the other codes (`RestartPreventExitStatus=`).

#[cfg(feature = "agent")]
mod exchange;

use crate::console::questions::DeclinedError;
use crate::settings::Source;
use crate::upgrade::UpgradeError;

/// Exit status of a command. The numbers are an interface: units and scripts rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    Success = 0,
    /// Something failed that may succeed when tried again.
    Failed = 1,
    /// The command line cannot be understood (clap's own code).
    Usage = 2,
    /// The operator refused this machine for a reason that only a person can change.
    Refused = 10,
    /// The settings of the medium or the command line cannot be used, or the medium is for another machine. Never
    /// restarted.
    Settings = 11,
    /// The machine has no TPM, or one that cannot prove an identity. Never restarted.
    NoTpm = 12,
    /// No disk may be installed to: none, several, foreign content, too small, or in use.
    NoTarget = 13,
    /// The person at the console declined. Never restarted.
    Declined = 14,
    /// The disk was being written when the installation failed; it does not boot. Never restarted.
    Write = 15,
    /// What the operator, the document at configURL or a person answered cannot be used.
    Configuration = 16,
    /// A release cannot be used on this machine, or did not come up on it before. The machine is as it was.
    Release = 17,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

impl From<&DeclinedError> for ExitCode {
    fn from(error: &DeclinedError) -> Self {
        match error {
            DeclinedError::Declined | DeclinedError::Closed => Self::Declined,
            DeclinedError::NoDisk => Self::NoTarget,
            DeclinedError::Console(_) => Self::Failed,
        }
    }
}

impl From<&UpgradeError> for ExitCode {
    fn from(error: &UpgradeError) -> Self {
        if error.is_about_the_release() { Self::Release } else { Self::Failed }
    }
}

/// An error with its exit code. `Display` and the chain of causes come from the error.
#[derive(Debug)]
pub struct Coded {
    pub code: ExitCode,
    error: anyhow::Error,
}

impl std::fmt::Display for Coded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}
impl std::error::Error for Coded {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// Attaches an exit status to an error.
pub trait OrExit<T> {
    fn or_exit(self, code: ExitCode) -> anyhow::Result<T>;
}
impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, code: ExitCode) -> anyhow::Result<T> {
        self.map_err(|error| code.with(error))
    }
}

impl ExitCode {
    /// Every exit code except success.
    pub const FAILURES: [Self; 10] = [
        Self::Failed,
        Self::Usage,
        Self::Refused,
        Self::Settings,
        Self::NoTpm,
        Self::NoTarget,
        Self::Declined,
        Self::Write,
        Self::Configuration,
        Self::Release,
    ];

    /// Whether the cause can be corrected while the machine is on: in the cluster, in the network, or by attaching a disk.
    /// To change the medium, the firmware's setup or a failing disk, the machine has to be off.
    pub fn may_change(self) -> bool {
        match self {
            Self::Failed | Self::Refused | Self::NoTarget | Self::Configuration | Self::Release => true,
            Self::Success | Self::Usage | Self::Settings | Self::NoTpm | Self::Declined | Self::Write => false,
        }
    }

    /// The exit code for an unusable setting from `source`.
    pub fn of_setting(source: Source) -> Self {
        match source {
            Source::Operator | Source::ConfigUrl | Source::Answer => Self::Configuration,
            Source::BuiltIn | Source::Medium | Source::Seed | Source::KernelCommandLine | Source::Flag => {
                Self::Settings
            }
        }
    }

    /// The error with this exit code attached.
    pub fn with(self, error: impl Into<anyhow::Error>) -> anyhow::Error {
        anyhow::Error::new(Coded { code: self, error: error.into() })
    }

    /// What happens next to a machine that was to be installed, and what a person at the machine can do.
    pub fn next_step(self) -> &'static str {
        match self {
            Self::Success => "nothing needs to be done",
            Self::Failed => "the installer tries again in a moment",
            Self::Declined => "nothing was written; restart the machine to be asked again",
            _ => "the installer does not try again; correct the cause, then restart the machine",
        }
    }

    /// The exit code of an error. [`ExitCode::Failed`] if it has none.
    pub fn of(error: &anyhow::Error) -> Self {
        error.downcast_ref::<Coded>().map_or(Self::Failed, |coded| coded.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_unit_does_not_restart_what_cannot_change_while_the_machine_is_on() {
        let unit = include_str!("../../overlay/usr/lib/systemd/system/ros-install.service");
        let never = unit.lines().find_map(|line| line.strip_prefix("RestartPreventExitStatus=")).unwrap();
        let final_codes = ExitCode::FAILURES.into_iter().filter(|code| !code.may_change());
        assert_eq!(never, final_codes.map(|code| (code as u8).to_string()).collect::<Vec<_>>().join(" "));
    }

    #[test]
    fn a_setting_can_be_mended_where_it_comes_from_outside() {
        assert!(ExitCode::of_setting(Source::Operator).may_change());
        assert!(!ExitCode::of_setting(Source::Medium).may_change());
    }

    #[test]
    fn the_code_survives_added_context_and_the_chain_is_printed_once() {
        let failed: Result<(), _> = Err(anyhow::anyhow!("no such key").context("reading the key"));
        let error = failed.or_exit(ExitCode::Settings).context("resolving the settings").unwrap_err();
        assert_eq!(ExitCode::of(&error), ExitCode::Settings);
        assert_eq!(format!("{error:#}"), "resolving the settings: reading the key: no such key");
        assert_eq!(ExitCode::of(&anyhow::anyhow!("plain")), ExitCode::Failed);
    }
}
