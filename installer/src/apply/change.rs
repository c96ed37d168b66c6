//! What a document does to the system, as a list of values.

use super::document::{CaCerts, Document, WriteFile};
use super::{Stage, network, script};
use crate::installed_system::RANCHERD_CONFIG;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::MultiGzDecoder;
use serde_json::Value;
use std::fmt;
use std::io::Read;

/// One thing to do. `Display` names it for messages and never shows a content.
#[derive(Clone, Debug)]
pub enum Change {
    /// Runs with the shell, at each boot.
    BootCommands(String),
    File(FileChange),
    Hostname(String),
    /// Groups, users and passwords of the whole document.
    Accounts(Box<Document>),
    /// The content of a file of rules, for a system that has `sudo`.
    Sudo(String),
    /// Keys for a user, beside those that are there.
    AuthorizedKeys {
        user: String,
        keys: Vec<String>,
    },
    Timezone(String),
    /// Takes a service out of this boot.
    Disable(&'static str),
    CaCertificates(CaCerts),
    /// Runs with the shell, once after an installation.
    RunCommands(String),
}

/// A file with all that is known of it.
#[derive(Clone)]
pub struct FileChange {
    pub path: String,
    pub content: Vec<u8>,
    pub mode: u32,
    /// User and group by name.
    pub owner: (String, String),
    pub append: bool,
}

impl fmt::Debug for FileChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:o}, {} bytes)", self.path, self.mode, self.content.len())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BootCommands(_) => f.write_str("bootcmd"),
            Self::File(file) => write!(f, "file {}", file.path),
            Self::Hostname(name) => write!(f, "hostname {name}"),
            Self::Accounts(document) => {
                f.write_str("users")?;
                document.users.iter().try_for_each(|user| write!(f, " {}", user.name))
            }
            Self::Sudo(_) => f.write_str("sudo"),
            Self::AuthorizedKeys { user, .. } => write!(f, "ssh_authorized_keys of {user}"),
            Self::Timezone(zone) => write!(f, "timezone {zone}"),
            Self::Disable(unit) => write!(f, "switching off {unit}"),
            Self::CaCertificates(_) => f.write_str("ca_certs"),
            Self::RunCommands(_) => f.write_str("runcmd"),
        }
    }
}

/// The changes of one stage, in cloud-init's order, and one line for each part that cannot be made into one.
pub fn plan(document: &Document, stage: Stage) -> (Vec<Change>, Vec<String>) {
    let mut plan = Plan { changes: Vec::new(), problems: Vec::new() };
    match stage {
        Stage::Early => plan.early(document),
        Stage::Final => plan.last(document),
    }
    (plan.changes, plan.problems)
}

/// Sorts before the image's own `10-ros.conf`; sshd takes the first word on anything.
const SSHD_CONFIG: &str = "/etc/ssh/sshd_config.d/05-cloud-config.conf";
const TIMESYNCD_CONFIG: &str = "/etc/systemd/timesyncd.conf.d/50-cloud-config.conf";
const NETWORK_FOLDER: &str = "/etc/systemd/network";

struct Plan {
    changes: Vec<Change>,
    problems: Vec<String>,
}

impl Plan {
    fn early(&mut self, document: &Document) {
        if let Some(network) = &document.network {
            match network::files(network) {
                Ok(files) => {
                    for (name, content) in files {
                        self.file(&format!("{NETWORK_FOLDER}/{name}"), content, 0o644);
                    }
                }
                Err(problem) => self.problems.push(problem),
            }
        }
        if !document.bootcmd.is_empty() {
            self.changes.push(Change::BootCommands(script::script(&document.bootcmd)));
        }
        self.write_files(document, false);
        self.changes.extend(document.hostname.clone().map(Change::Hostname));
        let certificates = &document.ca_certs;
        if !certificates.trusted.is_empty() || certificates.remove_defaults {
            self.changes.push(Change::CaCertificates(certificates.clone()));
        }
        self.users(document);
        if let Some(allowed) = document.ssh_pwauth {
            let word = if allowed { "yes" } else { "no" };
            self.file(SSHD_CONFIG, format!("PasswordAuthentication {word}\n"), 0o644);
        }
        self.time(document);
        if let Some(rancherd) = &document.rancherd {
            self.file(RANCHERD_CONFIG, rancherd.to_yaml(), 0o600);
        }
    }

    fn last(&mut self, document: &Document) {
        self.write_files(document, true);
        if !document.runcmd.is_empty() {
            self.changes.push(Change::RunCommands(script::script(&document.runcmd)));
        }
    }

    fn users(&mut self, document: &Document) {
        let chpasswd = &document.chpasswd;
        let passwords = document.password.is_some() || !chpasswd.list.is_empty() || !chpasswd.users.is_empty();
        if passwords || !document.users.is_empty() || !document.groups.is_empty() {
            self.changes.push(Change::Accounts(Box::new(document.clone())));
        }
        let root = [("root", &document.ssh_authorized_keys)];
        let users = document.users.iter().map(|user| (user.name.as_str(), &user.ssh_authorized_keys));
        for (user, keys) in root.into_iter().chain(users).filter(|(_, keys)| !keys.is_empty()) {
            self.changes.push(Change::AuthorizedKeys { user: user.into(), keys: keys.clone() });
        }
        let rules: String = document.users.iter().flat_map(|user| sudo_rules(&user.name, &user.sudo)).collect();
        if !rules.is_empty() {
            self.changes.push(Change::Sudo(rules));
        }
    }

    fn time(&mut self, document: &Document) {
        let ntp = &document.ntp;
        let servers: Vec<&str> = ntp.servers.iter().chain(&ntp.pools).map(String::as_str).collect();
        if ntp.enabled == Some(false) {
            self.changes.push(Change::Disable("systemd-timesyncd.service"));
        } else if servers.iter().any(|server| server.contains(char::is_whitespace)) {
            self.problems.push("ntp: a server's name must not hold blanks".into());
        } else if !servers.is_empty() {
            self.file(TIMESYNCD_CONFIG, format!("[Time]\nNTP={}\n", servers.join(" ")), 0o644);
        }
        self.changes.extend(document.timezone.clone().map(Change::Timezone));
    }

    fn write_files(&mut self, document: &Document, deferred: bool) {
        for file in document.write_files.iter().filter(|file| file.defer == deferred) {
            match file_change(file) {
                Ok(change) => self.changes.push(Change::File(change)),
                Err(problem) => self.problems.push(format!("write_files {}: {problem}", file.path)),
            }
        }
    }

    fn file(&mut self, path: &str, content: String, mode: u32) {
        self.changes.push(Change::File(FileChange {
            path: path.into(),
            content: content.into_bytes(),
            mode,
            owner: ("root".into(), "root".into()),
            append: false,
        }));
    }
}

fn file_change(file: &WriteFile) -> Result<FileChange, String> {
    if !file.path.starts_with('/') {
        return Err("the path must be absolute".into());
    }
    let owner = file.owner.as_deref().unwrap_or("root:root");
    let (user, group) = owner.split_once(':').unwrap_or((owner, ""));
    Ok(FileChange {
        path: file.path.clone(),
        content: decode(&file.content, file.encoding.as_deref().unwrap_or_default())?,
        mode: mode(&file.permissions)?,
        owner: (user.into(), group.into()),
        append: file.append,
    })
}

/// Encodings and their spellings as in cloud-init's `cc_write_files`.
fn decode(content: &str, encoding: &str) -> Result<Vec<u8>, String> {
    let base64 = || {
        let compact: String = content.split_whitespace().collect();
        STANDARD.decode(compact).map_err(|error| format!("content is not base64: {error}"))
    };
    let gunzip = |bytes: &[u8]| {
        let mut plain = Vec::new();
        let read = MultiGzDecoder::new(bytes).read_to_end(&mut plain);
        read.map(|_| plain).map_err(|error| format!("content is not gzip: {error}"))
    };
    match encoding.to_lowercase().trim() {
        "" | "text/plain" => Ok(content.as_bytes().to_vec()),
        "b64" | "base64" => base64(),
        "gz" | "gzip" => gunzip(content.as_bytes()),
        "gz+b64" | "gz+base64" | "gzip+b64" | "gzip+base64" => gunzip(&base64()?),
        other => Err(format!("encoding {other:?} is not known")),
    }
}

/// Text is octal. A number is the mode itself: a YAML 1.1 reader, such as kubectl, makes 420 of `0644`.
fn mode(permissions: &Value) -> Result<u32, String> {
    let invalid = || format!("permissions {permissions} must be octal digits in quotes, such as '0644'");
    let mode = match permissions {
        Value::Null => Some(0o644),
        Value::String(digits) => u32::from_str_radix(digits.trim().trim_start_matches("0o"), 8).ok(),
        Value::Number(number) => number.as_u64().and_then(|mode| u32::try_from(mode).ok()),
        _ => None,
    };
    mode.filter(|mode| *mode <= 0o7777).ok_or_else(invalid)
}

fn sudo_rules(user: &str, sudo: &Value) -> Vec<String> {
    let rules: Vec<&str> = match sudo {
        Value::String(rule) => vec![rule],
        Value::Array(rules) => rules.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    // A line break would begin a rule for somebody else.
    rules.iter().filter(|rule| !rule.contains('\n')).map(|rule| format!("{user} {rule}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(text: &str, stage: Stage) -> (Vec<Change>, Vec<String>) {
        let (document, problems) = Document::read(&serde_yaml::from_str(text).unwrap());
        assert_eq!(problems, Vec::<String>::new());
        plan(&document, stage)
    }

    fn names(text: &str, stage: Stage) -> Vec<String> {
        let (changes, problems) = planned(text, stage);
        assert_eq!(problems, Vec::<String>::new());
        changes.iter().map(Change::to_string).collect()
    }

    const EVERYTHING: &str = "\
hostname: demo
users: [{name: demo, sudo: 'ALL=(ALL) NOPASSWD:ALL', ssh_authorized_keys: [ssh-ed25519 AAA demo]}]
ssh_authorized_keys: [ssh-ed25519 BBB root]
ssh_pwauth: false
write_files: [{path: /etc/a, content: a}, {path: /etc/b, content: b, defer: true}]
runcmd: [echo run]
bootcmd: [echo boot]
ntp: {servers: [a.example], pools: [b.example]}
timezone: Europe/Berlin
ca_certs: {trusted: [PEM]}
network: {version: 2, ethernets: {eth0: {dhcp4: true}}}
rancherd: {role: server}
";

    #[test]
    fn the_order_is_that_of_cloud_init() {
        let expected = [
            "file /etc/systemd/network/10-cloud-config-eth0.network",
            "bootcmd",
            "file /etc/a",
            "hostname demo",
            "ca_certs",
            "users demo",
            "ssh_authorized_keys of root",
            "ssh_authorized_keys of demo",
            "sudo",
            "file /etc/ssh/sshd_config.d/05-cloud-config.conf",
            "file /etc/systemd/timesyncd.conf.d/50-cloud-config.conf",
            "timezone Europe/Berlin",
            "file /etc/rancher/rancherd/config.yaml",
        ];
        assert_eq!(names(EVERYTHING, Stage::Early), expected);
        assert_eq!(names(EVERYTHING, Stage::Final), ["file /etc/b", "runcmd"]);
    }

    #[test]
    fn nothing_asked_is_nothing_done() {
        assert_eq!(names("{}", Stage::Early), Vec::<String>::new());
        assert_eq!(names("{}", Stage::Final), Vec::<String>::new());
    }

    #[test]
    fn encodings_and_permissions_are_read_as_cloud_init_reads_them() {
        let file = |fields: &str| {
            let text = format!("write_files: [{{path: /x, {fields}}}]");
            let (changes, problems) = planned(&text, Stage::Early);
            match &changes[..] {
                [Change::File(file)] => Ok((String::from_utf8(file.content.clone()).unwrap(), file.mode)),
                _ => Err(problems.join("; ")),
            }
        };
        assert_eq!(file("content: aGk=, encoding: b64, permissions: '0600'").unwrap(), ("hi".into(), 0o600));
        let gzip = "content: H4sIAAAAAAACA8vIBACsKpPYAgAAAA==, encoding: gz+b64";
        assert_eq!(file(gzip).unwrap(), ("hi".into(), 0o644));
        assert_eq!(file("content: x, permissions: 0755").unwrap().1, 0o755);
        assert_eq!(file("content: x, permissions: 420").unwrap().1, 0o644);
        assert!(file("content: x, permissions: rwx").unwrap_err().contains("octal"));
        assert!(file("content: x, encoding: zip").unwrap_err().contains("zip"));
        assert!(file("content: '*', encoding: b64").unwrap_err().contains("base64"));
    }

    #[test]
    fn a_sudo_rule_is_one_line_for_its_user() {
        let rules = |sudo: Value| sudo_rules("u", &sudo);
        assert_eq!(rules("ALL=(ALL) ALL".into()), ["u ALL=(ALL) ALL\n"]);
        assert_eq!(rules(vec!["a", "b\nroot c"].into()), ["u a\n"]);
        assert!(rules(false.into()).is_empty() && rules(Value::Null).is_empty());
    }

    #[test]
    fn contents_stay_out_of_debug() {
        let (changes, _) = planned("write_files: [{path: /x, content: topsecret}]", Stage::Early);
        assert!(!format!("{changes:?}").contains("topsecret"));
    }
}
