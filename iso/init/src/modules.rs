//! Kernel modules: a few are always loaded, the rest only when a device asks for them.
//!
//! The image builder puts them into /modules, decompressed (the signature is inside and stays valid), with two lists:
//! - `always`: one file per line, dependencies first;
//! - `by-alias`: `<pattern> <file> [<file>…]`, dependencies first, patterns as in `modules.alias`.

use std::collections::{BTreeSet, HashSet};
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::Result;
use crate::console::say;

const FOLDER: &str = "/modules";

pub struct Modules {
    by_alias: Vec<Rule>,
    loaded: HashSet<String>,
    /// Device folders whose alias has been looked up; devices keep appearing while drivers probe.
    seen: HashSet<PathBuf>,
    /// Indexes of the rules that match a device. They are applied in the order of the list.
    wanted: BTreeSet<usize>,
}

#[derive(Debug, PartialEq, Eq)]
struct Rule {
    pattern: CString,
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

    /// Loads the driver of one device. `false` if no device waits for a driver now. It loads one at a time, because the
    /// root may be found before the slow controllers have been probed. systemd's udev finds those later.
    pub fn load_next(&mut self) -> bool {
        self.look_for_devices();
        let Some(rule) = self.wanted.pop_first() else { return false };
        let files = self.by_alias[rule].files.clone();
        for file in files {
            self.load(&file);
        }
        true
    }

    /// Loads the drivers of all devices, including disks that appear behind a controller.
    pub fn load_all(&mut self) {
        while self.load_next() {}
    }

    fn look_for_devices(&mut self) {
        for device in devices() {
            if self.seen.contains(&device) {
                continue;
            }
            let alias = fs::read_to_string(device.join("modalias")).unwrap_or_default();
            // sysfs gives no zero bytes.
            let alias = CString::new(alias.trim_end()).unwrap_or_default();
            let matching = self.by_alias.iter().enumerate().filter(|(_, rule)| matches(&rule.pattern, &alias));
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
        match File::open(&path).and_then(|module| Ok(rustix::system::finit_module(module, c"", 0)?)) {
            Ok(()) => {}
            // It is loaded already, or needs instructions that this processor lacks.
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
            let mut words = line.split_whitespace();
            let pattern = CString::new(words.next()?).ok()?;
            Some(Rule { pattern, files: words.map(str::to_owned).collect() })
        })
        .collect()
}

/// Whether an alias matches a pattern, by fnmatch(3) without flags, as kmod does it.
fn matches(pattern: &CStr, alias: &CStr) -> bool {
    // SAFETY: two zero-terminated strings that outlive the call.
    unsafe { libc::fnmatch(pattern.as_ptr(), alias.as_ptr(), 0) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_a_pattern_and_files_in_order() {
        let rules = parse_rules("virtio:d00000002v* virtio_blk.ko\n\npci:v* libahci.ko ahci.ko\n");
        assert_eq!(rules.len(), 2);
        assert_eq!(rules[1], Rule { pattern: c"pci:v*".into(), files: vec!["libahci.ko".into(), "ahci.ko".into()] });
    }

    #[test]
    fn aliases_match_as_in_kmod() {
        for (pattern, alias, expected) in [
            (c"virtio:d00000002v*", c"virtio:d00000002v00001AF4", true),
            (c"virtio:d00000002v*", c"virtio:d00000001v00001AF4", false),
            (c"pci:v*d*sv*sd*bc01sc06i01*", c"pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", true),
            (c"scsi:t-0x05*", c"scsi:t-0x05", true),
            (c"usb:v*p*d*dc*dsc*dp*ic08isc0[1-6]ip50in*", c"usb:v1p2d3dc0dsc0dp0ic08isc06ip50in00", true),
            (c"a?c", c"abc", true),
            (c"a[bd]c", c"acc", false),
            (c"*", c"", true),
            (c"", c"a", false),
        ] {
            assert_eq!(matches(pattern, alias), expected, "{pattern:?} {alias:?}");
        }
    }
}
