//! Watches whether the set of a machine's disks still changes. Controllers report disks one by one, some after seconds.

use machine::disks;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The set of disks is complete when it has not changed for this long.
const QUIET: Duration = Duration::from_secs(3);
/// After this long the set is used as it is, even if it still changes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time between two checks. A check reads a folder of sysfs.
const INTERVAL: Duration = Duration::from_millis(250);

/// The disks at the last check.
#[derive(Clone, Debug)]
pub struct DiskWatch {
    root: PathBuf,
    seen: Seen,
}

#[derive(Clone, Debug)]
struct Seen {
    names: Vec<String>,
    since: Instant,
}

impl Seen {
    /// Stores `names` and returns whether they differ from the stored ones.
    fn changes(&mut self, names: Vec<String>, now: Instant) -> bool {
        let changed = names != self.names;
        if changed {
            *self = Self { names, since: now };
        }
        changed
    }

    fn is_quiet(&self, now: Instant) -> bool {
        now.duration_since(self.since) >= QUIET
    }
}

impl DiskWatch {
    pub fn begin(root: &Path) -> Self {
        Self { root: root.to_owned(), seen: Seen { names: disks::names(root), since: Instant::now() } }
    }

    fn refresh(&mut self) -> bool {
        self.seen.changes(disks::names(&self.root), Instant::now())
    }

    /// Blocks until the set of disks has not changed for `QUIET`, but at most for `PATIENCE`.
    pub fn wait_until_quiet(&mut self) {
        let begun = Instant::now();
        self.refresh();
        while !self.seen.is_quiet(Instant::now()) && begun.elapsed() < PATIENCE {
            std::thread::sleep(INTERVAL);
            self.refresh();
        }
    }

    /// Blocks until a disk appears or disappears, but at most until `end`.
    pub fn wait_for_change(&mut self, end: Instant) {
        while !self.refresh() && Instant::now() < end {
            std::thread::sleep(INTERVAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_quiet_when_nothing_came_for_some_seconds() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut seen = Seen { names: Vec::new(), since: start };
        assert!(!seen.changes(names(&[]), after(2)) && !seen.is_quiet(after(2)));
        assert!(seen.changes(names(&["vda"]), after(3)) && !seen.is_quiet(after(4)));
        assert!(!seen.changes(names(&["vda"]), after(6)) && seen.is_quiet(after(6)));
        assert!(seen.changes(names(&["vda", "vdb"]), after(7)) && !seen.is_quiet(after(7)), "a second disk");
    }

    #[test]
    fn a_change_ends_the_wait() {
        let root = tempfile::tempdir().unwrap();
        let mut watch = DiskWatch::begin(root.path());
        std::fs::create_dir_all(root.path().join("sys/class/block/vda/device")).unwrap();
        watch.wait_for_change(Instant::now() + Duration::from_secs(3600));
        assert_eq!(watch.seen.names, ["vda"]);
        watch.wait_for_change(Instant::now());
    }
}
