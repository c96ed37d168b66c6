//! Runs the programs of `join.d` when they are due: `ros-installer join`, as `ros-join.service` starts it.

use super::JoinError;
use super::job::{Job, State};
use super::record::Record;
use crate::clock::unix_seconds;
use crate::console::{announce, note};
use crate::installed::issue;
use boot_contract::Milestone;
use boot_contract::paths::{JOIN_PROGRAMS, USER_JOIN_PROGRAMS};
use command::Command;
use std::path::Path;

/// Runs the programs if they are due, or in any case with `again`. If the configuration changes meanwhile, they run again
/// with the new one.
pub fn run(root: &Path, again: bool) -> Result<(), JoinError> {
    let result = run_in(root, again);
    if !matches!(result, Ok(HasRun(false))) {
        // The status stands above the login.
        issue::refresh(root);
    }
    result.map(drop)
}

/// Whether the programs have run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HasRun(bool);

fn run_in(root: &Path, again: bool) -> Result<HasRun, JoinError> {
    let mut has_run = HasRun(false);
    loop {
        let State::Asked(job) = State::read(root)? else { return Ok(has_run) };
        let must_run = again && !has_run.0;
        if !must_run && !job.is_due() {
            return Ok(has_run);
        }
        has_run = HasRun(true);
        let Some(why) = attempt(&job, root)? else { continue };
        if !is_another(&State::read(root)?, &job) {
            return Err(JoinError::Program { role: job.configuration.role().to_owned(), why });
        }
        note(format!("joining the cluster: {why}; the configuration is another one now, so the programs run again"));
    }
}

/// Runs the programs once, keeps the result, and announces a success.
fn attempt(job: &Job, root: &Path) -> Result<Option<String>, JoinError> {
    let failure = job.first_failure(root, |line| eprintln!("{line}"))?;
    let (programs, configuration) = (job.names(), job.configuration.digest());
    let record = Record { configuration, programs, at: unix_seconds(), failure };
    record.write(root)?;
    match &record.failure {
        Some(_) => {}
        None if record.programs.is_empty() => note(format!(
            "this machine is to join a cluster as {}, but neither {JOIN_PROGRAMS} nor {USER_JOIN_PROGRAMS} holds a \
             program that does it",
            job.configuration.role()
        )),
        None => {
            let programs = record.programs.join(", ");
            announce(Milestone::Joined, format!("the cluster as {}, by {programs}", job.configuration.role()));
        }
    }
    Ok(record.failure)
}

fn is_another(state: &State, job: &Job) -> bool {
    match state {
        State::Asked(other) => other.configuration != job.configuration,
        State::NotAsked | State::Waiting => true,
    }
}

/// Starts `ros-join.service` if the programs are due. It runs beside the reports, because joining takes longer than a report
/// may.
pub fn start_if_due(root: &Path) -> Result<(), JoinError> {
    match State::read(root)? {
        State::Asked(job) if job.is_due() => {
            let start = ["start", "--no-block", "ros-join.service"];
            Command::new("systemctl").args(start).run().map(drop).map_err(JoinError::Start)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::installed::drop_ins::scripts::{install, system};
    use crate::join::JoinStatus;
    use crate::join::answer;
    use boot_contract::paths::{OEM_CLOUD_CONFIG, OEM_REGISTRATION, below};
    use protocol::{Join, error_chain};
    use serde_json::{Value, json};
    use std::fs;
    use tempfile::TempDir;

    const PROGRAM: &str = "/usr/lib/ros/join.d/50-own";
    const COUNTS: &str = "echo $ROS_JOIN_LABELS >> $(dirname $ROS_JOIN_CONFIG)/../../../runs";

    /// A machine of an operator, with this program.
    fn machine(rancherd: &str, script: &str) -> TempDir {
        let root = system(&[(PROGRAM, script)]);
        fs::create_dir_all(root.path().join("oem")).unwrap();
        fs::write(below(root.path(), OEM_CLOUD_CONFIG), format!("rancherd: {rancherd}")).unwrap();
        fs::write(below(root.path(), OEM_REGISTRATION), "").unwrap();
        root
    }
    fn answered(root: &TempDir, configuration: Value) {
        let configuration = Some(serde_json::from_value(configuration).unwrap());
        answer::take(root.path(), &Join { configuration, ..Join::default() }).unwrap();
    }
    fn runs(root: &TempDir) -> Vec<String> {
        let text = fs::read_to_string(root.path().join("runs")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
    fn status(root: &TempDir) -> String {
        JoinStatus::read(root.path()).map(|status| status.to_string()).unwrap_or_default()
    }

    #[test]
    fn programs_run_once_for_each_configuration() {
        let root = machine("{role: server}", COUNTS);
        run_in(root.path(), false).unwrap();
        assert_eq!((runs(&root).len(), status(&root).as_str()), (0, "waits for the operator to say how"));
        answered(&root, json!({"labels": ["a=1"]}));
        assert_eq!(status(&root), "as server, not done yet");
        for has_run in [true, false] {
            assert_eq!(run_in(root.path(), false).unwrap(), HasRun(has_run));
        }
        assert_eq!(runs(&root), ["a=1"]);
        assert!(status(&root).ends_with(" UTC by 50-own") && status(&root).starts_with("as server, done at 2"));
        answered(&root, json!({"labels": ["a=1", "b=2"]}));
        run_in(root.path(), false).unwrap();
        assert_eq!(runs(&root), ["a=1", "a=1,b=2"]);
        run_in(root.path(), true).unwrap();
        assert_eq!(runs(&root).len(), 3, "asked for by hand");
        install(&root.path().join("etc/ros/join.d/60-more"), "#!/bin/sh\n");
        run_in(root.path(), false).unwrap();
        assert_eq!(runs(&root).len(), 4, "there is another program");
    }

    #[test]
    fn a_failure_is_kept_without_the_token_and_the_next_run_tries_again() {
        let script = format!("{COUNTS}; echo no entry for $(cat $ROS_JOIN_TOKEN_FILE); exit 1");
        let root = machine("{role: agent, token: s3cret}", &script);
        answered(&root, json!({}));
        let error = error_chain(&run_in(root.path(), false).unwrap_err());
        assert_eq!(error, "joining the cluster as agent: the program 50-own failed: no entry for ***");
        assert!(status(&root).ends_with("UTC: the program 50-own failed: no entry for ***"), "{}", status(&root));
        run_in(root.path(), false).unwrap_err();
        assert_eq!(runs(&root).len(), 2);
        assert!(!root.path().join("run/ros/join").exists(), "the files of the programs are left");
        install(&below(root.path(), PROGRAM), "#!/bin/sh\nexit 0\n");
        run_in(root.path(), false).unwrap();
        assert!(status(&root).contains("done at"), "{}", status(&root));
    }

    #[test]
    fn a_configuration_that_changes_meanwhile_counts() {
        let script = format!(
            "{COUNTS}; f=$(dirname $ROS_JOIN_CONFIG)/../../../var/lib/ros/join.json; grep -q b=2 $f && exit 0; \
             echo '{{\"configuration\":{{\"labels\":[\"b=2\"]}}}}' > $f; exit 1"
        );
        let root = machine("{role: agent}", &script);
        answered(&root, json!({"labels": ["a=1"]}));
        run_in(root.path(), false).unwrap();
        assert_eq!(runs(&root), ["a=1", "b=2"]);
    }

    #[test]
    fn without_an_operator_the_cloud_config_alone_counts() {
        let root = machine("{role: agent}", COUNTS);
        fs::remove_file(below(root.path(), OEM_REGISTRATION)).unwrap();
        run_in(root.path(), false).unwrap();
        assert_eq!(runs(&root), [""]);
        fs::remove_file(below(root.path(), OEM_CLOUD_CONFIG)).unwrap();
        assert_eq!(status(&root), "");
    }

    #[test]
    fn rancherd_of_the_image_runs_unless_a_program_takes_its_place() {
        let root = machine("{role: agent}", "exit 0");
        fs::remove_file(below(root.path(), PROGRAM)).unwrap();
        answered(&root, json!({}));
        run_in(root.path(), false).unwrap();
        assert_eq!(status(&root), "as agent, not possible: no program in join.d");
        install(&root.path().join("usr/bin/rancherd"), "#!/bin/sh\necho \"does $*\"; exit 1\n");
        let error = error_chain(&run_in(root.path(), false).unwrap_err());
        assert!(error.ends_with("the program rancherd failed: does bootstrap"), "{error}");
        install(&root.path().join("etc/ros/join.d/rancherd"), "#!/bin/sh\nexit 0\n");
        run_in(root.path(), false).unwrap();
        assert!(status(&root).ends_with("by rancherd"), "{}", status(&root));
    }
}
