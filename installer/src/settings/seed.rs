//! Settings on a volume that a hypervisor or a cloud attaches, as cloud-init reads them: NoCloud and ConfigDrive. Formats:
//! cloud-init's documentation, "NoCloud" and "ConfigDrive".
//!
//! ```text
//! volume label      settings                    host name, SSH keys
//! cidata            user-data                   meta-data
//! config-2          openstack/latest/user_data  openstack/latest/meta_data.json
//! ```
//!
//! Of each volume the document in the second column is taken if it is a cloud-config, and of the third what the cloud-config
//! does not say itself.

use cloud_config::CloudConfig;
use command::Command;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use protocol::error_chain;
use serde_json::Value;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// How long the devices of the machine may take to appear, in seconds.
const SETTLE_SECONDS: u32 = 10;
const LIMIT: u64 = CloudConfig::MAX_DOCUMENT as u64 + 1;

/// A kind of volume. Its label may also be in capitals.
struct Kind {
    label: &'static str,
    user_data: &'static str,
    meta_data: &'static str,
}

const KINDS: [Kind; 2] = [
    Kind { label: "cidata", user_data: "user-data", meta_data: "meta-data" },
    Kind { label: "config-2", user_data: "openstack/latest/user_data", meta_data: "openstack/latest/meta_data.json" },
];

/// What the volumes of this machine say, and one line for each thing that is left out.
#[derive(Debug, Default, PartialEq)]
pub struct Seed {
    pub document: CloudConfig,
    /// Whether the document has more than what every volume of a cloud says: host name and SSH keys.
    pub has_user_data: bool,
    pub left_out: Vec<String>,
}

/// Reads the first volume that is found.
pub fn find() -> Seed {
    // A failure means only that devices may be missing, and then no volume is found.
    let settle = format!("--timeout={SETTLE_SECONDS}");
    if let Err(error) = Command::new("udevadm").args(["settle", &settle]).run() {
        tracing::debug!("waiting for devices: {}", error_chain(&error));
    }
    for kind in &KINDS {
        let Some(device) = device(kind.label) else { continue };
        return match with_mounted(&device, |folder| kind.read(folder)) {
            Ok(seed) => seed,
            Err(error) => Seed {
                left_out: vec![format!("the volume {} on {} cannot be read: {error}", kind.label, device.display())],
                ..Seed::default()
            },
        };
    }
    Seed::default()
}

/// The first device whose file system has this label.
fn device(label: &str) -> Option<PathBuf> {
    [label.to_owned(), label.to_uppercase()].iter().find_map(|label| {
        let token = format!("LABEL={label}");
        let output = Command::new("blkid").args(["--match-token", &token, "--output", "device"]).text().ok()?;
        output.lines().next().map(PathBuf::from)
    })
}

fn with_mounted<T>(device: &Path, read: impl FnOnce(&Path) -> T) -> io::Result<T> {
    let folder = TempDir::new_in("/run")?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mount_as = |kind| mount(Some(device), folder.path(), Some(kind), flags, None::<&str>);
    mount_as("iso9660").or_else(|_| mount_as("vfat"))?;
    let result = read(folder.path());
    umount2(folder.path(), MntFlags::MNT_DETACH)?;
    Ok(result)
}

impl Kind {
    fn read(&self, folder: &Path) -> Seed {
        let mut seed = Seed::default();
        let mut take = |name: &str| match text(&folder.join(name)) {
            Ok(text) => text,
            Err(problem) => {
                seed.left_out.push(format!("{name} of the volume {}: {problem}", self.label));
                None
            }
        };
        let (user_data, meta_data) = (take(self.user_data), take(self.meta_data));
        if let Some(text) = user_data.filter(|text| !text.trim().is_empty()) {
            match cloud_config(&text) {
                Ok(document) => {
                    seed.has_user_data = !document.0.is_empty();
                    seed.document = document;
                }
                Err(problem) => {
                    seed.left_out.push(format!("{} of the volume {}: {problem}", self.user_data, self.label))
                }
            }
        }
        match meta_data.map(|text| CloudConfig::parse(&text)) {
            None => {}
            Some(Ok(meta_data)) => add_meta_data(&mut seed.document, &meta_data),
            Some(Err(error)) => {
                let problem = error_chain(&error);
                seed.left_out.push(format!("{} of the volume {}: {problem}", self.meta_data, self.label));
            }
        }
        seed
    }
}

/// `None` if the file does not exist.
fn text(path: &Path) -> Result<Option<String>, String> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(LIMIT).read_to_end(&mut bytes)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
        Ok(_) => {}
    }
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| "it is not text, and other forms of user data are not supported".into())
}

fn cloud_config(text: &str) -> Result<CloudConfig, String> {
    let first = text.lines().next().unwrap_or_default();
    if first.trim_end() != "#cloud-config" {
        let first: String = first.chars().take(40).collect();
        return Err(format!("it begins with {first:?}; only user data that begins with #cloud-config is supported"));
    }
    CloudConfig::parse(text).map_err(|error| error_chain(&error))
}

/// Adds the host name and the SSH keys unless the document has its own.
fn add_meta_data(document: &mut CloudConfig, meta_data: &CloudConfig) {
    let hostname = ["local-hostname", "hostname"].iter().find_map(|key| meta_data.0.get(*key)?.as_str());
    if let Some(hostname) = hostname {
        document.0.entry("hostname").or_insert_with(|| hostname.into());
    }
    let keys = ["public-keys", "public_keys"].iter().find_map(|key| meta_data.0.get(*key));
    let keys: Vec<Value> = match keys {
        Some(Value::Array(keys)) => keys.iter().filter(|key| key.is_string()).cloned().collect(),
        Some(Value::Object(keys)) => keys.values().filter(|key| key.is_string()).cloned().collect(),
        _ => Vec::new(),
    };
    if !keys.is_empty() {
        document.0.entry("ssh_authorized_keys").or_insert_with(|| keys.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use std::fs;

    fn read(kind: usize, files: &[(&str, &str)]) -> Seed {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        KINDS[kind].read(folder.path())
    }

    #[test]
    fn user_data_counts_before_meta_data() {
        let meta_data = "instance-id: i-1\nlocal-hostname: vm-7\npublic-keys:\n  - ssh-ed25519 AAAA\n";
        let seed = read(0, &[("user-data", "#cloud-config\nhostname: own\n"), ("meta-data", meta_data)]);
        let expected = json!({"hostname": "own", "ssh_authorized_keys": ["ssh-ed25519 AAAA"]});
        assert_eq!((Value::Object(seed.document.0), seed.left_out.len()), (expected, 0));
        assert!(seed.has_user_data);
    }

    #[test]
    fn a_config_drive_of_openstack_is_read() {
        let meta_data = r#"{"uuid": "1", "hostname": "vm.example.org", "public_keys": {"mine": "ssh-rsa BBBB"}}"#;
        let seed = read(1, &[("openstack/latest/meta_data.json", meta_data)]);
        let expected = json!({"hostname": "vm.example.org", "ssh_authorized_keys": ["ssh-rsa BBBB"]});
        assert_eq!((Value::Object(seed.document.0), seed.has_user_data), (expected, false));
    }

    #[test]
    fn what_is_no_cloud_config_is_named() {
        for (content, named) in
            [("#!/bin/sh\nreboot\n", "#!/bin/sh"), ("#cloud-config\n- a\n", "user-data of the volume")]
        {
            let seed = read(0, &[("user-data", content), ("meta-data", "local-hostname: a\n")]);
            assert!(seed.left_out.len() == 1 && seed.left_out[0].contains(named), "{:?}", seed.left_out);
            assert_eq!(seed.document.0["hostname"], "a");
        }
    }

    proptest! {
        #[test]
        fn no_content_makes_it_panic(user_data in ".{0,200}", meta_data in ".{0,200}") {
            let _ = read(0, &[("user-data", &user_data), ("meta-data", &meta_data)]);
        }
    }
}
