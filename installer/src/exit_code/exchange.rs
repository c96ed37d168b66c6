//! The exit codes after an exchange with the operator.

use super::ExitCode;
use crate::session::ExchangeError;
use attest::TpmError;

impl From<&ExchangeError> for ExitCode {
    fn from(error: &ExchangeError) -> Self {
        match error {
            ExchangeError::Tpm(error) => error.into(),
            error if error.may_succeed_later() => Self::Failed,
            _ => Self::Refused,
        }
    }
}

impl From<&TpmError> for ExitCode {
    fn from(error: &TpmError) -> Self {
        if error.may_succeed_later() { Self::Failed } else { Self::NoTpm }
    }
}
