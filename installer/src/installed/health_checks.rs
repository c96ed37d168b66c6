//! Drop-in health checks: programs of the release and of the user that must succeed before a slot is marked as good.

use boot_contract::paths::{HEALTH_CHECKS, USER_HEALTH_CHECKS, below};
use command::{Command, CommandError, Outcome};
use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The time that one check has.
const LIMIT: Duration = Duration::from_secs(60);
/// Characters of a check's last line that a reason shows.
const SHOWN: usize = 200;
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The checks of a system, by file name in byte order.
#[derive(Debug)]
pub struct HealthChecks(BTreeMap<OsString, PathBuf>);

impl HealthChecks {
    /// Lists the checks below `root`. The user's file replaces the release's of the same name, so that a link to
    /// `/dev/null` switches a check off. What cannot be executed is named in the log and left out.
    pub fn find(root: &Path) -> Self {
        let mut files = BTreeMap::new();
        for folder in [HEALTH_CHECKS, USER_HEALTH_CHECKS] {
            match list(&below(root, folder)) {
                Ok(listed) => files.extend(listed),
                Err(error) => tracing::warn!("listing {folder}: {error}"),
            }
        }
        files.retain(|_, file| {
            let is_program = is_executable(file);
            if !is_program {
                tracing::warn!("{} is not an executable file, so it is not run as a health check", file.display());
            }
            is_program
        });
        Self(files)
    }

    /// Runs the checks one after another to the first that fails. Returns which one failed and what it said.
    pub fn first_failure(&self) -> Option<String> {
        self.first_failure_within(LIMIT)
    }

    fn first_failure_within(&self, limit: Duration) -> Option<String> {
        self.0.iter().find_map(|(name, file)| {
            let command = Command::new(file).without_environment().env("PATH", SEARCH_PATH).current_dir(Path::new("/"));
            let why = why_failed(&command.run_within(limit), limit)?;
            Some(format!("the check {} failed: {why}", printable(&name.to_string_lossy())))
        })
    }
}

fn list(folder: &Path) -> io::Result<Vec<(OsString, PathBuf)>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
        Ok(entries) => entries.map(|entry| entry.map(|entry| (entry.file_name(), entry.path()))).collect(),
    }
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// `None` if the check succeeded.
fn why_failed(outcome: &Result<Outcome, CommandError>, limit: Duration) -> Option<String> {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            return Some(format!("it cannot be started{cause}"));
        }
    };
    let said = last_line(&outcome.output_end);
    match outcome.status {
        Some(status) if status.success() => None,
        Some(status) if said.is_empty() => Some(status.to_string()),
        Some(_) => Some(said),
        None if said.is_empty() => Some(format!("it did not end within {} s", limit.as_secs())),
        None => Some(format!("it did not end within {} s; it said: {said}", limit.as_secs())),
    }
}

/// The last line that is not empty, at most [`SHOWN`] characters.
fn last_line(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    let shown: String = line.chars().take(SHOWN).collect();
    printable(&shown) + if shown.len() < line.len() { "…" } else { "" }
}

/// The text without control characters, which a console would obey.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::time::Instant;
    use tempfile::TempDir;

    const LONG: Duration = Duration::from_secs(60);

    /// A system with shell scripts at these paths.
    fn system(scripts: &[(&str, &str)]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, script) in scripts {
            install(&below(root.path(), path), &format!("#!/bin/sh\n{script}\n"));
        }
        root
    }

    /// Another process writes the file. A file that is open for writing cannot be executed, and a test that starts a
    /// program at this moment would hand it a copy of the open file.
    fn install(path: &Path, content: &str) {
        let command = Command::new("install").args(["-D", "-m", "755", "/dev/stdin"]).arg(path);
        command.run_with_input(content.as_bytes()).unwrap();
    }

    fn failure(script: &str, limit: Duration) -> Option<String> {
        let root = system(&[("/etc/ros/health.d/own", script)]);
        HealthChecks::find(root.path()).first_failure_within(limit)
    }

    #[test]
    fn the_last_line_is_bounded_and_harmless() {
        assert_eq!(last_line(b"first\n  second  \n\n \n"), "second");
        assert_eq!(last_line(b""), "");
        assert_eq!(last_line(b"red \x1b[31m\xff"), "red  [31m\u{fffd}");
        assert_eq!(last_line("ä".repeat(300).as_bytes()), "ä".repeat(SHOWN) + "…");
    }

    #[test]
    fn a_check_succeeds_by_its_status_and_fails_with_its_last_line() {
        assert_eq!(failure("echo fine; exit 0", LONG), None);
        assert_eq!(failure("echo one; echo two >&2; exit 1", LONG), Some("the check own failed: two".into()));
        assert_eq!(failure("exit 3", LONG), Some("the check own failed: exit status: 3".into()));
        let killed = failure("kill -9 $$", LONG).unwrap();
        assert!(killed.starts_with("the check own failed: signal: 9"), "{killed}");
    }

    #[test]
    fn a_check_that_hangs_fails_when_its_time_is_over() {
        let begun = Instant::now();
        let hung = failure("sleep 1000 & sleep 1000", Duration::from_secs(1));
        assert_eq!(hung, Some("the check own failed: it did not end within 1 s".into()));
        let asked = failure("echo asking the server; sleep 1000", Duration::from_secs(1)).unwrap();
        assert!(asked.ends_with("it did not end within 1 s; it said: asking the server"), "{asked}");
        assert!(begun.elapsed() < LONG);
    }

    #[test]
    fn a_check_may_write_much_and_leave_a_process_behind() {
        assert_eq!(failure("head -c 1000000 /dev/zero; exit 0", LONG), None);
        let much = failure("head -c 1000000 /dev/zero | tr '\\0' x; exit 1", LONG).unwrap();
        assert!(much.ends_with("xxx…") && much.chars().count() < SHOWN + 40, "{much}");
        let begun = Instant::now();
        assert_eq!(failure("sleep 1000 & exit 0", LONG), None);
        assert!(begun.elapsed() < LONG, "the process that it left behind was waited for");
    }

    #[test]
    fn checks_run_by_name_to_the_first_that_fails() {
        let root = system(&[
            ("/etc/ros/health.d/20-own", "echo own; exit 1"),
            ("/usr/lib/ros/health.d/10-first", "exit 0"),
            ("/usr/lib/ros/health.d/30-last", "echo last; exit 1"),
        ]);
        let failure = |root: &TempDir| HealthChecks::find(root.path()).first_failure();
        assert_eq!(failure(&root), Some("the check 20-own failed: own".into()));
        fs::remove_file(root.path().join("etc/ros/health.d/20-own")).unwrap();
        assert_eq!(failure(&root), Some("the check 30-last failed: last".into()));
        install(&root.path().join("etc/ros/health.d/30-last"), "#!/bin/sh\nexit 0\n");
        assert_eq!(failure(&root), None, "the user's file replaces the release's");
        assert_eq!(failure(&tempfile::tempdir().unwrap()), None, "a system without checks");
    }

    #[test]
    fn what_cannot_be_executed_is_left_out() {
        let root = system(&[
            ("/usr/lib/ros/health.d/off", "exit 1"),
            ("/etc/ros/health.d/folder/file", "exit 1"),
            ("/etc/ros/health.d/text", "exit 1"),
        ]);
        let own = root.path().join("etc/ros/health.d");
        symlink("/dev/null", own.join("off")).unwrap();
        fs::set_permissions(own.join("text"), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(HealthChecks::find(root.path()).first_failure(), None);
        install(&own.join("binary"), "\x7fELF");
        let failure = HealthChecks::find(root.path()).first_failure().unwrap();
        assert!(failure.starts_with("the check binary failed: it cannot be started: Exec format error"), "{failure}");
    }

    #[test]
    fn a_check_has_a_search_path_and_nothing_else_of_the_installer() {
        let seen = failure("echo $PATH $LC_ALL $PWD $HOME $CARGO_TARGET_DIR; exit 1", LONG).unwrap();
        assert_eq!(seen, format!("the check own failed: {SEARCH_PATH} C /"));
    }
}
