//! Drop-in health checks: programs of the release and of the user that must succeed before a slot is marked as good.

use crate::installed::drop_ins::{DropIn, Output};
use boot_contract::paths::{HEALTH_CHECKS, USER_HEALTH_CHECKS};
use std::path::Path;
use std::time::Duration;

/// The time that one check has.
const LIMIT: Duration = Duration::from_secs(60);

/// Exit status of a check by which it says that waiting does not help: the slot has failed.
const FINAL: i32 = 99;

/// Why a system is not good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckFailure {
    pub reason: String,
    /// Whether the check said that waiting does not help.
    pub is_final: bool,
}

/// The checks of a system, by file name in byte order.
#[derive(Debug)]
pub struct HealthChecks(Vec<DropIn>);

impl HealthChecks {
    /// Lists the checks below `root`.
    pub fn find(root: &Path) -> Self {
        Self(DropIn::find(root, [HEALTH_CHECKS, USER_HEALTH_CHECKS], "health check"))
    }

    /// Runs the checks one after another to the first that fails. Returns which one failed and what it said.
    pub fn first_failure(&self) -> Option<CheckFailure> {
        self.0.iter().find_map(|check| {
            let failure = check.failure(LIMIT, Output::default())?;
            Some(CheckFailure {
                reason: format!("the check {} failed: {}", check.name, failure.why),
                is_final: failure.exit_status == Some(FINAL),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::installed::drop_ins::scripts::{install, system};
    use std::fs;
    use tempfile::TempDir;

    #[test]
    fn a_check_may_say_that_waiting_does_not_help() {
        let is_final = |script: &str| {
            let root = system(&[("/etc/ros/health.d/own", script)]);
            HealthChecks::find(root.path()).first_failure().unwrap().is_final
        };
        assert!(is_final("exit 99"));
        assert!(!is_final("exit 1") && !is_final("kill -9 $$"));
    }

    #[test]
    fn checks_run_by_name_to_the_first_that_fails() {
        let root = system(&[
            ("/etc/ros/health.d/20-own", "echo own; exit 1"),
            ("/usr/lib/ros/health.d/10-first", "exit 0"),
            ("/usr/lib/ros/health.d/30-last", "echo last; exit 1"),
        ]);
        let failure = |root: &TempDir| HealthChecks::find(root.path()).first_failure().map(|failure| failure.reason);
        assert_eq!(failure(&root), Some("the check 20-own failed: own".into()));
        fs::remove_file(root.path().join("etc/ros/health.d/20-own")).unwrap();
        assert_eq!(failure(&root), Some("the check 30-last failed: last".into()));
        install(&root.path().join("etc/ros/health.d/30-last"), "#!/bin/sh\nexit 0\n");
        assert_eq!(failure(&root), None, "the user's file replaces the release's");
        assert_eq!(failure(&tempfile::tempdir().unwrap()), None, "a system without checks");
    }
}
