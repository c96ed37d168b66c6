//! Kernel modules: a few are always loaded, the rest only when a device asks for them.
//!
//! The image builder puts them into /modules, decompressed (the signature is inside and stays valid), with four lists:
//! - `always`: one file per line, dependencies first;
//! - `by-alias`: `<pattern> <file> [<file>…]`, dependencies first, patterns as in `modules.alias`;
//! - `watchdog-by-alias`: the same for hardware watchdogs;
//! - `no-watchdog`: as `always`, for a machine on which no watchdog has appeared.

use std::collections::{BTreeSet, HashSet};
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::Result;
use crate::console::say;
use crate::watchdog;

const FOLDER: &str = "/modules";

pub struct Modules {
    devices: Rules,
    watchdogs: Rules,
    /// Files of the list `no-watchdog`.
    no_watchdog: Vec<String>,
    loaded: HashSet<String>,
    /// Device folders whose alias has been looked up; devices keep appearing while drivers probe.
    seen: HashSet<PathBuf>,
}

impl Modules {
    /// Reads the lists and loads what every boot needs.
    pub fn load_always() -> Result<Self> {
        let read = |name: &str| {
            let path = Path::new(FOLDER).join(name);
            fs::read_to_string(&path).map_err(|e| format!("reading {}: {e}; the initrd is incomplete", path.display()))
        };
        let mut modules = Self {
            devices: Rules::parse(&read("by-alias")?),
            watchdogs: Rules::parse(&read("watchdog-by-alias")?),
            no_watchdog: read("no-watchdog")?.lines().map(str::to_owned).collect(),
            loaded: HashSet::new(),
            seen: HashSet::new(),
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
        let Some(files) = self.devices.next() else { return false };
        self.load_files(&files);
        true
    }

    /// Loads the drivers of all devices, including disks that appear behind a controller.
    pub fn load_all(&mut self) {
        while self.load_next() {}
    }

    /// Loads the drivers of hardware watchdogs, and the software watchdog if none of them found its hardware. systemd uses
    /// the first watchdog that appears, so the software watchdog must not come first.
    pub fn load_watchdog(&mut self) {
        loop {
            // A driver can make the device that another driver is for.
            self.look_for_devices();
            let Some(files) = self.watchdogs.next() else { break };
            self.load_files(&files);
        }
        if !watchdog::has_appeared(Path::new("/sys")) {
            let files = std::mem::take(&mut self.no_watchdog);
            self.load_files(&files);
        }
    }

    fn look_for_devices(&mut self) {
        for device in devices() {
            if self.seen.contains(&device) {
                continue;
            }
            let alias = alias(&device);
            self.devices.want(&alias);
            self.watchdogs.want(&alias);
            self.seen.insert(device);
        }
    }

    fn load_files(&mut self, files: &[String]) {
        for file in files {
            self.load(file);
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

/// A list of drivers by alias, and which of them wait to be loaded.
struct Rules {
    rules: Vec<Rule>,
    /// Indexes of the rules that match a device. They are applied in the order of the list.
    wanted: BTreeSet<usize>,
}

#[derive(Debug, PartialEq, Eq)]
struct Rule {
    pattern: CString,
    files: Vec<String>,
}

impl Rules {
    fn parse(text: &str) -> Self {
        let rules = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let pattern = CString::new(words.next()?).ok()?;
            Some(Rule { pattern, files: words.map(str::to_owned).collect() })
        });
        Self { rules: rules.collect(), wanted: BTreeSet::new() }
    }

    /// Notes the drivers of a device with this alias.
    fn want(&mut self, alias: &CStr) {
        let matching = self.rules.iter().enumerate().filter(|(_, rule)| matches(&rule.pattern, alias));
        self.wanted.extend(matching.map(|(index, _)| index));
    }

    /// The files of the next driver that a device waits for.
    fn next(&mut self) -> Option<Vec<String>> {
        self.wanted.pop_first().map(|index| self.rules[index].files.clone())
    }
}

/// What the driver of a device is found by; empty for a device that asks for none. SD cards and eMMC have no file `modalias`, and
/// say it only in `uevent`.
fn alias(device: &Path) -> CString {
    let text = fs::read_to_string(device.join("modalias")).unwrap_or_else(|_| {
        let uevent = fs::read_to_string(device.join("uevent")).unwrap_or_default();
        uevent.lines().find_map(|line| line.strip_prefix("MODALIAS=")).unwrap_or_default().to_owned()
    });
    // sysfs gives no zero bytes.
    CString::new(text.trim_end()).unwrap_or_default()
}

/// Every device folder in sysfs that can have an alias.
fn devices() -> impl Iterator<Item = PathBuf> {
    let list = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    list(PathBuf::from("/sys/bus")).flat_map(move |bus| list(bus.join("devices")))
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
        let rules = Rules::parse("virtio:d00000002v* virtio_blk.ko\n\npci:v* libahci.ko ahci.ko\n").rules;
        assert_eq!(rules.len(), 2);
        assert_eq!(rules[1], Rule { pattern: c"pci:v*".into(), files: vec!["libahci.ko".into(), "ahci.ko".into()] });
    }

    #[test]
    fn drivers_are_loaded_once_for_each_device_in_the_order_of_the_list() {
        let mut rules = Rules::parse("pci:v1* first.ko\npci:v2* second.ko\n");
        rules.want(c"pci:v2d1");
        rules.want(c"pci:v1d1");
        rules.want(c"usb:v1");
        assert_eq!(rules.next(), Some(vec!["first.ko".to_owned()]));
        assert_eq!(rules.next(), Some(vec!["second.ko".to_owned()]));
        assert_eq!(rules.next(), None);
    }

    #[test]
    fn an_alias_is_in_one_of_two_files() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(alias(folder.path()).as_c_str(), c"");
        fs::write(folder.path().join("uevent"), "MMC_TYPE=SD\nMODALIAS=mmc:block\n").unwrap();
        assert_eq!(alias(folder.path()).as_c_str(), c"mmc:block");
        fs::write(folder.path().join("modalias"), "pci:v1\n").unwrap();
        assert_eq!(alias(folder.path()).as_c_str(), c"pci:v1");
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
