//! Drop-in programs: executables in a folder of the release and in a folder of the user, each with a time limit.

use boot_contract::paths::below;
use command::{Command, CommandError, Outcome};
use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Characters of a program's last line that a reason shows.
const SHOWN: usize = 200;
/// Longest line that is shown whole, in bytes. The rest of a longer one is left out.
const LONGEST_LINE: usize = 4096;
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program. It finds `PATH` and `LC_ALL=C`, is started in `/`, and gets nothing else of the installer.
#[derive(Clone, Debug)]
pub struct DropIn {
    /// The name for messages, without control characters.
    pub name: String,
    command: Command,
}

/// What is done with the output of a program beside the reason for its failure.
#[derive(Clone, Copy, Debug, Default)]
pub struct Output<'a> {
    /// Shows each line as soon as it is complete.
    pub show: Option<fn(&str)>,
    /// Text that neither a shown line nor a reason may hold. Asterisks take its place. Empty if there is none.
    pub secret: &'a str,
}

/// A program that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub why: String,
    /// `None` for a program that was not started, was killed, or took too long.
    pub exit_status: Option<i32>,
}

impl DropIn {
    pub fn new(name: &str, program: &Path) -> Self {
        let command = Command::new(program).without_environment().env("PATH", SEARCH_PATH).current_dir(Path::new("/"));
        Self { name: printable(name), command }
    }

    /// Lists the programs in two folders below `root`, by file name in byte order. The user's file replaces the release's of
    /// the same name, so that a link to `/dev/null` switches a program off. What cannot be executed is named in the log and
    /// left out. `kind` says what the programs are, such as "health check".
    pub fn find(root: &Path, [release, user]: [&str; 2], kind: &str) -> Vec<Self> {
        let mut files = BTreeMap::new();
        for folder in [release, user] {
            match list(&below(root, folder)) {
                Ok(listed) => files.extend(listed),
                Err(error) => tracing::warn!("listing {folder}: {error}"),
            }
        }
        files.retain(|_, file| {
            let is_program = is_executable(file);
            if !is_program {
                tracing::warn!("{} is not an executable file, so it is not run as a {kind}", file.display());
            }
            is_program
        });
        files.iter().map(|(name, file)| Self::new(&name.to_string_lossy(), file)).collect()
    }

    #[must_use]
    pub fn arg(self, argument: &str) -> Self {
        Self { command: self.command.arg(argument), ..self }
    }

    #[must_use]
    pub fn env(self, name: &str, value: &str) -> Self {
        Self { command: self.command.env(name, value), ..self }
    }

    /// Runs the program for at most `limit`. Returns `None` if it succeeded. Nothing of its process group runs any more.
    pub fn failure(&self, limit: Duration, output: Output<'_>) -> Option<Failure> {
        let mut lines = Lines { begun: Vec::new(), output };
        let outcome = self.command.run_watched_within(limit, |part| lines.add(part));
        lines.end();
        let why = why_failed(&outcome, limit, output.secret)?;
        let status = outcome.ok().and_then(|outcome| outcome.status);
        Some(Failure { why, exit_status: status.and_then(|status| status.code()) })
    }
}

/// The output of a program, shown line by line.
struct Lines<'a> {
    begun: Vec<u8>,
    output: Output<'a>,
}

impl Lines<'_> {
    fn add(&mut self, part: &[u8]) {
        if self.output.show.is_none() {
            return;
        }
        for piece in part.split_inclusive(|byte| *byte == b'\n') {
            let room = LONGEST_LINE.saturating_sub(self.begun.len());
            self.begun.extend(piece.iter().take(room));
            if piece.ends_with(b"\n") {
                self.end();
            }
        }
    }

    fn end(&mut self) {
        let line = std::mem::take(&mut self.begun);
        if let (Some(show), false) = (self.output.show, line.is_empty()) {
            show(&printable(without(self.output.secret, &String::from_utf8_lossy(&line)).trim_end()));
        }
    }
}

fn list(folder: &Path) -> io::Result<Vec<(OsString, PathBuf)>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
        Ok(entries) => entries.map(|entry| entry.map(|entry| (entry.file_name(), entry.path()))).collect(),
    }
}

/// Whether this is a file that can be started.
pub fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// `None` if the program succeeded.
fn why_failed(outcome: &Result<Outcome, CommandError>, limit: Duration, secret: &str) -> Option<String> {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            return Some(format!("it cannot be started{cause}"));
        }
    };
    let said = last_line(&without(secret, &String::from_utf8_lossy(&outcome.output_end)));
    match outcome.status {
        Some(status) if status.success() => None,
        Some(status) if said.is_empty() => Some(status.to_string()),
        Some(_) => Some(said),
        None if said.is_empty() => Some(format!("it did not end within {} s", limit.as_secs())),
        None => Some(format!("it did not end within {} s; it said: {said}", limit.as_secs())),
    }
}

fn without(secret: &str, text: &str) -> String {
    if secret.is_empty() { text.to_owned() } else { text.replace(secret, "***") }
}

/// The last line that is not empty, at most [`SHOWN`] characters.
fn last_line(text: &str) -> String {
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    let shown: String = line.chars().take(SHOWN).collect();
    printable(&shown) + if shown.len() < line.len() { "…" } else { "" }
}

/// The text without control characters, which a console would obey.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// For unit tests here and of the programs' users.
#[cfg(test)]
pub(crate) mod scripts {
    use super::*;
    use tempfile::TempDir;

    /// A system with shell scripts at these paths.
    pub(crate) fn system(scripts: &[(&str, &str)]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, script) in scripts {
            install(&below(root.path(), path), &format!("#!/bin/sh\n{script}\n"));
        }
        root
    }

    /// Another process writes the file. A file that is open for writing cannot be executed, and a test that starts a
    /// program at this moment would hand it a copy of the open file.
    pub(crate) fn install(path: &Path, content: &str) {
        let command = Command::new("install").args(["-D", "-m", "755", "/dev/stdin"]).arg(path);
        command.run_with_input(content.as_bytes()).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::scripts::{install, system};
    use super::*;
    use std::os::unix::fs::symlink;
    use std::sync::Mutex;
    use std::time::Instant;

    const LONG: Duration = Duration::from_secs(60);
    const FOLDERS: [&str; 2] = ["/usr/lib/x.d", "/etc/x.d"];

    fn failure(script: &str, limit: Duration) -> Option<String> {
        let root = system(&[("/etc/x.d/own", script)]);
        DropIn::find(root.path(), FOLDERS, "test")[0].failure(limit, Output::default()).map(|failure| failure.why)
    }

    #[test]
    fn the_last_line_is_bounded_and_harmless() {
        assert_eq!(last_line("first\n  second  \n\n \n"), "second");
        assert_eq!(last_line(""), "");
        assert_eq!(last_line("red \x1b[31m\u{fffd}"), "red  [31m\u{fffd}");
        assert_eq!(last_line(&"ä".repeat(300)), "ä".repeat(SHOWN) + "…");
    }

    #[test]
    fn a_program_succeeds_by_its_status_and_fails_with_its_last_line() {
        assert_eq!(failure("echo fine; exit 0", LONG), None);
        assert_eq!(failure("echo one; echo two >&2; exit 1", LONG), Some("two".into()));
        assert_eq!(failure("exit 3", LONG), Some("exit status: 3".into()));
        let killed = failure("kill -9 $$", LONG).unwrap();
        assert!(killed.starts_with("signal: 9"), "{killed}");
    }

    #[test]
    fn a_program_that_hangs_fails_when_its_time_is_over() {
        let begun = Instant::now();
        let hung = failure("sleep 1000 & sleep 1000", Duration::from_secs(1));
        assert_eq!(hung, Some("it did not end within 1 s".into()));
        let asked = failure("echo asking the server; sleep 1000", Duration::from_secs(1)).unwrap();
        assert!(asked.ends_with("it did not end within 1 s; it said: asking the server"), "{asked}");
        assert!(begun.elapsed() < LONG);
    }

    #[test]
    fn a_program_may_write_much_and_leave_a_process_behind() {
        assert_eq!(failure("head -c 1000000 /dev/zero; exit 0", LONG), None);
        let much = failure("head -c 1000000 /dev/zero | tr '\\0' x; exit 1", LONG).unwrap();
        assert!(much.ends_with("xxx…") && much.chars().count() < SHOWN + 40, "{much}");
        let begun = Instant::now();
        assert_eq!(failure("sleep 1000 & exit 0", LONG), None);
        assert!(begun.elapsed() < LONG, "the process that it left behind was waited for");
    }

    #[test]
    fn what_cannot_be_executed_is_left_out() {
        let root = system(&[
            ("/usr/lib/x.d/off", "exit 1"),
            ("/usr/lib/x.d/text", "exit 1"),
            ("/usr/lib/x.d/replaced", "exit 1"),
            ("/etc/x.d/replaced", "echo own; exit 1"),
            ("/etc/x.d/folder/file", "exit 1"),
        ]);
        symlink("/dev/null", root.path().join("etc/x.d/off")).unwrap();
        fs::set_permissions(root.path().join("usr/lib/x.d/text"), fs::Permissions::from_mode(0o644)).unwrap();
        install(&root.path().join("etc/x.d/binary"), "\x7fELF");
        let found = DropIn::find(root.path(), FOLDERS, "test");
        let why = |number: usize| found[number].failure(LONG, Output::default()).unwrap().why;
        assert_eq!(found.iter().map(|program| program.name.as_str()).collect::<Vec<_>>(), ["binary", "replaced"]);
        assert!(why(0).starts_with("it cannot be started: Exec format error"), "{}", why(0));
        assert_eq!(why(1), "own");
    }

    #[test]
    fn a_program_has_a_search_path_and_nothing_else_of_the_installer() {
        let seen = failure("echo $PATH $LC_ALL $PWD $HOME $CARGO_TARGET_DIR; exit 1", LONG).unwrap();
        assert_eq!(seen, format!("{SEARCH_PATH} C /"));
    }

    #[test]
    fn lines_are_shown_as_they_come_without_the_secret() {
        static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let script = "echo the token is s3cret; printf '\\033[2Jno end'; head -c 5000 /dev/zero | tr '\\0' x; echo; \
                      echo; echo s3cret/s3cret >&2; exit 1";
        let root = system(&[("/etc/x.d/own", script)]);
        let output = Output { show: Some(|line| SEEN.lock().unwrap().push(line.to_owned())), secret: "s3cret" };
        let why = DropIn::find(root.path(), FOLDERS, "test")[0].failure(LONG, output).map(|failure| failure.why);
        assert_eq!(why.as_deref(), Some("***/***"));
        let seen = SEEN.lock().unwrap();
        assert_eq!((seen[0].as_str(), seen[1].len(), seen[3].as_str()), ("the token is ***", LONGEST_LINE, "***/***"));
        assert!(seen[1].starts_with(" [2Jno endxxx"), "{}", seen[1]);
    }
}
