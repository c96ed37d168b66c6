//! Cloud-configs that cannot be parsed, and unknown keys, from every source. The installer names the document, the line
//! and the remedy, and its exit status tells whether to try again.

use harness::fakes::chroot::Chroot;
use qemu::disk::GIB;
use qemu::process::printed;
use qemu::scratch::Scratch;
use std::fs;
use std::process::Output;

const MEDIUM: &str = "/run/ros/medium/registration.yaml";
const INSTALLED: &str = "/oem/cloud-config.yaml";
/// The list `users` is not closed. The parser notices at the next list.
const NO_YAML: &str = "#cloud-config\nhostname: edge-1\nusers: [\nruncmd:\n  - true\n";
const UNKNOWN_KEYS: &str = "#cloud-config\npakages: [vim]\nrancheros: {install: {devcie: /dev/vda}}\n";
/// No disk of this host has this name. The mounts of this host are visible in the chroot.
const DISK: &str = "rosdisk";
/// `exit_code.rs`
const FAILED: i32 = 1;
const SETTINGS: i32 = 11;

struct Machine {
    root: Chroot,
    _scratch: Scratch,
}

impl Machine {
    /// With one empty disk and a release to install.
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name).unwrap();
        let root = Chroot::new(scratch.folder("root").unwrap()).unwrap();
        root.add_disk(DISK, 4 * GIB).unwrap();
        let release = qemu::paths::workspace().join("crates/release/testdata/release.json");
        root.write("/release/release.json", fs::read(release).unwrap()).unwrap();
        Self { root, _scratch: scratch }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.root.run("ros-installer", arguments).unwrap()
    }

    fn dry_run(&self) -> Output {
        self.run(&["install", "--dry-run", "--release", "/release"])
    }
}

fn says(output: &Output, status: i32, words: &[&str]) {
    let said = printed(output);
    assert_eq!(output.status.code(), Some(status), "{said}");
    for word in words {
        assert!(said.contains(word), "no {word:?} in {said}");
    }
}

#[test]
fn from_the_medium() {
    let machine = Machine::new("cloud-config-medium");
    machine.root.write(MEDIUM, NO_YAML).unwrap();
    says(&machine.dry_run(), SETTINGS, &[MEDIUM, "line 5", "ros-image customize"]);
    machine.root.write(MEDIUM, "#cloud-config\nhostname: a\nhostname: b\n").unwrap();
    says(&machine.dry_run(), SETTINGS, &[MEDIUM, "`hostname` appears twice", "line 2"]);
    machine.root.write(MEDIUM, "- a list\n").unwrap();
    says(&machine.dry_run(), SETTINGS, &[MEDIUM, "this document is a list", "ros-image customize"]);

    machine.root.write(MEDIUM, UNKNOWN_KEYS).unwrap();
    let unknown = ["devcie, from the medium's registration.yaml, is not a known setting", "`pakages` is not applied"];
    says(&machine.dry_run(), 0, &[&unknown[..], &["/dev/rosdisk", "COS_STATE_A"]].concat());
}

#[test]
fn from_config_url() {
    let machine = Machine::new("cloud-config-url");
    // Without --dry-run, which would not fetch configURL. Nothing is written, because there is no release.
    let install = ["install", "--automatic", "--release", "/nonexistent", "--config-url", "file:///config.yaml"];
    machine.root.write("/config.yaml", NO_YAML).unwrap();
    says(&machine.run(&install), SETTINGS, &["failed: ", "/config.yaml", "line 5", "correct the file"]);
    machine.root.write("/config.yaml", UNKNOWN_KEYS).unwrap();
    let unknown = "devcie, from the document at configURL, is not a known setting";
    says(&machine.run(&install), FAILED, &[unknown, "check its spelling", "/nonexistent"]);
}

#[test]
fn on_the_kernel_command_line() {
    let machine = Machine::new("cloud-config-kernel");
    machine.root.boot_with("quiet rancheros.install.wipe=perhaps").unwrap();
    says(&machine.dry_run(), SETTINGS, &["wipe, from the kernel command line, must be true or false"]);
    machine.root.boot_with("quiet rancheros.install.registrationCACert=LS0t").unwrap();
    says(&machine.dry_run(), SETTINGS, &["registrationCACert, from the kernel command line", "base64"]);
    machine.root.boot_with("quiet rancheros.install.devcie=/dev/vda").unwrap();
    says(&machine.dry_run(), 0, &["devcie, from the kernel command line, is not a known setting", "/dev/rosdisk"]);
}

#[test]
fn on_the_installed_system() {
    let machine = Machine::new("cloud-config-installed");
    machine.root.write(INSTALLED, NO_YAML).unwrap();
    says(&machine.run(&["apply"]), FAILED, &["failed: ", INSTALLED, "line 5", "correct the file"]);
    machine.root.write(INSTALLED, "pakages: [vim]\nwrite_files: [{path: /srv/a, content: b}]\n").unwrap();
    says(&machine.run(&["apply"]), 0, &["applied: ", "not applied: cloud-config key `pakages`"]);
    assert_eq!(fs::read_to_string(machine.root.path("/srv/a")).unwrap(), "b");
}
