//! Kernel modules: a few always, the rest only when a device asks for them.
//!
//! The image builder put them into /modules, decompressed (a signature stays valid: it is inside), with two lists:
//! - `always`: one file per line, dependencies first;
//! - `by-alias`: `<pattern> <file> [<file>…]`, dependencies first, patterns as in `modules.alias`.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::console::say;
use crate::{Result, glob};

const FOLDER: &str = "/modules";

pub struct Modules {
    by_alias: Vec<Rule>,
    loaded: HashSet<String>,
    /// Device folders whose alias has been looked up; devices keep appearing while drivers probe.
    seen: HashSet<PathBuf>,
    /// Rules that a device asked for, by their place in the list: the order in which people wrote them is the order
    /// in which they are tried.
    wanted: BTreeSet<usize>,
}

#[derive(Debug, PartialEq, Eq)]
struct Rule {
    pattern: String,
    files: Vec<String>,
}

impl Modules {
    /// Reads the lists and loads what every boot needs.
    pub fn load_always() -> Result<Self> {
        let read = |name: &str| {
            let path = Path::new(FOLDER).join(name);
            fs::read_to_string(&path).map_err(|e| format!("reading {}: {e}; the initrd is incomplete", path.display()))
        };
        let mut modules = Self {
            by_alias: parse_rules(&read("by-alias")?),
            loaded: HashSet::new(),
            seen: HashSet::new(),
            wanted: BTreeSet::new(),
        };
        for file in read("always")?.lines() {
            modules.load(file);
        }
        Ok(modules)
    }

    /// Loads the driver of one device; `false` if no device waits for one now. One at a time, because the root may be
    /// found before the slow controllers have been probed; systemd's udev finds those later.
    pub fn load_next(&mut self) -> bool {
        self.look_for_devices();
        let Some(rule) = self.wanted.pop_first() else { return false };
        let files = self.by_alias[rule].files.clone();
        for file in files {
            self.load(&file);
        }
        true
    }

    /// Loads the drivers of all devices, to the last disk that appears behind a controller.
    pub fn load_all(&mut self) {
        while self.load_next() {}
    }

    fn look_for_devices(&mut self) {
        for device in devices() {
            if self.seen.contains(&device) {
                continue;
            }
            let alias = fs::read_to_string(device.join("modalias")).unwrap_or_default();
            let alias = alias.trim_end();
            let matching = self.by_alias.iter().enumerate().filter(|(_, rule)| glob::matches(&rule.pattern, alias));
            self.wanted.extend(matching.map(|(index, _)| index));
            self.seen.insert(device);
        }
    }

    /// A module that cannot be loaded is reported, not fatal: the machine may do without it.
    fn load(&mut self, file: &str) {
        if !self.loaded.insert(file.to_owned()) {
            return;
        }
        let path = Path::new(FOLDER).join(file);
        match File::open(&path).and_then(|module| finit_module(&module)) {
            Ok(()) => {}
            // There already, or for a processor with other instructions than this one's.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EEXIST | libc::ENODEV)) => {}
            Err(e) => say(&format!("loading the module {file}: {e}")),
        }
    }
}

/// Every device folder in sysfs that can have a `modalias`.
fn devices() -> impl Iterator<Item = PathBuf> {
    let list = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    list(PathBuf::from("/sys/bus")).flat_map(move |bus| list(bus.join("devices")))
}

fn parse_rules(text: &str) -> Vec<Rule> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().map(str::to_owned);
            let pattern = words.next()?;
            Some(Rule { pattern, files: words.collect() })
        })
        .collect()
}

fn finit_module(module: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the parameters are an empty zero-terminated string.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, module.as_raw_fd(), c"".as_ptr(), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_a_pattern_and_files_in_order() {
        let rules = parse_rules("virtio:d00000002v* virtio_blk.ko\n\npci:v* libahci.ko ahci.ko\n");
        assert_eq!(rules.len(), 2);
        assert_eq!(rules[1], Rule { pattern: "pci:v*".into(), files: vec!["libahci.ko".into(), "ahci.ko".into()] });
    }
}
