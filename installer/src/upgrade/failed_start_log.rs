//! The end of the log of a start that failed: of the kernel's panic where the firmware has kept it (efi-pstore), and of the
//! journal otherwise.

use boot_contract::boot_stage::{BootProgress, BootStage};
use boot_contract::paths::below;
use command::Command;
use protocol::bounded::cut;
use protocol::upgrade::{LONGEST_JOURNAL_LINE, MOST_JOURNAL_LINES};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Where systemd-pstore(8) moves what the firmware has kept: a file [`PANIC`] in a folder for each panic, some levels deep.
const ARCHIVE: &str = "/var/lib/systemd/pstore";
const PANIC: &str = "dmesg.txt";
const DEEPEST: usize = 3;
/// Entries of the archive that are examined at most.
const MOST_ENTRIES: usize = 1000;
/// Bytes of one log that are read at most. The kernel keeps 10 KiB by default (`printk.pstore`'s `kmsg_bytes`).
const LONGEST_PANIC: u64 = 256 << 10;
/// How the kernel begins its last message.
const BEGINNING: &str = "Kernel panic - not syncing";
/// How a line begins that only says which part of the log follows.
const PART: &str = "Panic#";

/// `last`: what the start itself has recorded. `since`: a panic of before belongs to another start.
pub fn lines(root: &Path, last: Option<&BootProgress>, since: SystemTime) -> Vec<String> {
    let panic = panic_since(&below(root, ARCHIVE), since).unwrap_or_else(|error| {
        tracing::warn!("reading the kernel's log in {ARCHIVE}: {error}");
        None
    });
    panic.or_else(|| last.map(journal_of)).unwrap_or_default()
}

/// The lines of the newest panic that was archived after `since`. On a slow machine the parts of one panic are in several
/// logs, because each has a time of its own.
fn panic_since(archive: &Path, since: SystemTime) -> io::Result<Option<Vec<String>>> {
    let mut logs = logs_since(archive, since)?;
    logs.sort();
    let mut newest = None;
    for (_, path) in logs.iter().rev() {
        let mut bytes = Vec::new();
        File::open(path)?.take(LONGEST_PANIC).read_to_end(&mut bytes)?;
        let log = String::from_utf8_lossy(&bytes).into_owned();
        if log.contains(BEGINNING) {
            return Ok(Some(of_panic(&log)));
        }
        newest.get_or_insert(log);
    }
    Ok(newest.map(|log| of_panic(&log)))
}

/// The logs, and when they were archived.
fn logs_since(archive: &Path, since: SystemTime) -> io::Result<Vec<(SystemTime, PathBuf)>> {
    let mut logs = Vec::new();
    let mut folders = vec![(archive.to_owned(), 0)];
    let mut examined = 0;
    while let Some((folder, depth)) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries.take(MOST_ENTRIES - examined) {
            let entry = entry?;
            examined += 1;
            let about = entry.metadata()?;
            if about.is_dir() && depth < DEEPEST {
                folders.push((entry.path(), depth + 1));
            } else if about.is_file() && entry.file_name() == PANIC {
                logs.push((about.modified()?, entry.path()));
            }
        }
    }
    logs.retain(|(at, _)| *at > since);
    Ok(logs)
}

/// What the kernel says from its panic on, or the end of a log that names none.
fn of_panic(log: &str) -> Vec<String> {
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty() && !line.starts_with(PART)).collect();
    let begins = lines.iter().rposition(|line| line.contains(BEGINNING));
    let from = begins.unwrap_or(lines.len().saturating_sub(MOST_JOURNAL_LINES));
    lines[from..].iter().take(MOST_JOURNAL_LINES).map(|line| cut(without_level(line), LONGEST_JOURNAL_LINE)).collect()
}

/// A line without its level, such as `<6>`.
fn without_level(line: &str) -> &str {
    line.strip_prefix('<').and_then(|rest| rest.split_once('>')).map_or(line, |(_, text)| text)
}

/// The end of the journal of a start. Empty if the start wrote none.
fn journal_of(last: &BootProgress) -> Vec<String> {
    if last.stage < BootStage::Systemd {
        return Vec::new();
    }
    // journalctl writes boot ids without hyphens.
    let boot = format!("--boot={}", last.boot_id.replace('-', ""));
    let lines = format!("--lines={MOST_JOURNAL_LINES}");
    let output = Command::new("journalctl")
        .args([boot.as_str(), &lines, "--priority=warning", "--no-pager", "--quiet", "--output=short-monotonic"])
        .output();
    let output = output.unwrap_or_else(|error| {
        tracing::warn!("reading the journal of the start that failed: {error}");
        Vec::new()
    });
    let text = String::from_utf8_lossy(&output);
    text.lines().take(MOST_JOURNAL_LINES).map(|line| cut(line, LONGEST_JOURNAL_LINE)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const LOG: &str = "Panic#1 Part2\n<6>[   50.1] eth0: up\nPanic#1 Part1\n<6>[   61.2] sysrq: Trigger a crash\n\
        <0>[   61.3] Kernel panic - not syncing: sysrq triggered crash\n<4>[   61.3] CPU: 0\n";

    fn archived(archive: &Path, name: &str, log: &str, at: SystemTime) {
        let folder = archive.join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(PANIC), log).unwrap();
        File::options().write(true).open(folder.join(PANIC)).unwrap().set_modified(at).unwrap();
    }

    #[test]
    fn the_newest_panic_since_the_upgrade_is_told_from_its_beginning() {
        let archive = tempfile::tempdir().unwrap();
        let begun = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |seconds| begun + Duration::from_secs(seconds);
        archived(archive.path(), "1/001", "an older one", begun - Duration::from_secs(5));
        assert_eq!(panic_since(archive.path(), begun).unwrap(), None);
        archived(archive.path(), "3/001", LOG, at(9));
        archived(archive.path(), "4/001", "Panic#1 Part3\n<6>[    1.2] the beginning of the same log\n", at(9));
        archived(archive.path(), "2/001", "Kernel panic - not syncing: the first start", at(5));
        let lines = panic_since(archive.path(), begun).unwrap().unwrap();
        assert_eq!(lines, ["[   61.3] Kernel panic - not syncing: sysrq triggered crash", "[   61.3] CPU: 0"]);
        assert_eq!(panic_since(&archive.path().join("none"), begun).unwrap(), None);
    }

    #[test]
    fn a_log_that_names_no_panic_is_told_by_its_end() {
        let log: String = (0..50).map(|number| format!("line {number}\n\n")).collect();
        let lines = of_panic(&log);
        assert_eq!((lines.len(), lines[19].as_str()), (MOST_JOURNAL_LINES, "line 49"));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_bounded_report(bytes in proptest::collection::vec(any::<u8>(), 0..5000), lines in 0..100usize) {
            let log = format!("{BEGINNING}\n{}", format!("{}\n", String::from_utf8_lossy(&bytes)).repeat(lines));
            let told = of_panic(&log);
            prop_assert!(told.len() <= MOST_JOURNAL_LINES);
            prop_assert!(told.iter().all(|line| line.len() <= LONGEST_JOURNAL_LINE));
        }
    }
}
