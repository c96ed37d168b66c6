//! The changes that a cloud-config makes to the system, as values.

use super::{Stage, network, script};
use crate::installed::files::RANCHERD_CONFIG;
use cloud_config::document::{CaCerts, Document, WriteFile};
use flate2::read::MultiGzDecoder;
use std::fmt;
use std::io::Read;

/// One change. `Display` names it for messages and never shows content.
#[derive(Clone, Debug)]
pub enum Change {
    /// A script that the shell runs at each boot.
    BootCommands(String),
    File(FileChange),
    Hostname(String),
    /// Groups, users and passwords of the whole document.
    Accounts(Box<Document>),
    /// Content of a file of rules, for a system that has `sudo`.
    Sudo(String),
    /// Keys for a user. They are added to the existing ones.
    AuthorizedKeys {
        user: String,
        keys: Vec<String>,
    },
    Timezone(String),
    /// A service that does not run in this boot.
    Disable(&'static str),
    CaCertificates(CaCerts),
    /// A script that the shell runs once after an installation.
    RunCommands(String),
}

/// A file with its content and its properties.
#[derive(Clone)]
pub struct FileChange {
    pub path: String,
    pub content: Vec<u8>,
    pub mode: u32,
    /// Names of user and group.
    pub owner: (String, String),
    pub append: bool,
    /// Number of earlier files with the same path.
    pub earlier: usize,
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
            Self::Disable(unit) => write!(f, "disabling {unit}"),
            Self::CaCertificates(_) => f.write_str("ca_certs"),
            Self::RunCommands(_) => f.write_str("runcmd"),
        }
    }
}

/// Plans the changes of one stage, in cloud-init's order. Returns them, and one line for each part that cannot be
/// applied.
pub fn plan(document: &Document, stage: Stage) -> (Vec<Change>, Vec<String>) {
    let mut plan = Plan { changes: Vec::new(), problems: Vec::new() };
    match stage {
        Stage::Early => plan.early(document),
        Stage::Final => plan.last(document),
    }
    (plan.changes, plan.problems)
}

/// The file sorts before the image's own `10-ros.conf`. sshd uses the first value of a keyword.
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
            for (name, content) in network::files(network) {
                self.file(&format!("{NETWORK_FOLDER}/{name}"), content, 0o644);
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
        if !document.passwords.is_empty() || !document.users.is_empty() || !document.groups.is_empty() {
            self.changes.push(Change::Accounts(Box::new(document.clone())));
        }
        let default = [(document.default_user.as_str(), &document.ssh_authorized_keys)];
        let users = document.users.iter().map(|user| (user.name.as_str(), &user.ssh_authorized_keys));
        for (user, keys) in default.into_iter().chain(users).filter(|(_, keys)| !keys.is_empty()) {
            self.changes.push(Change::AuthorizedKeys { user: user.into(), keys: keys.clone() });
        }
        let rules: String = document
            .users
            .iter()
            .flat_map(|user| user.sudo.iter().map(|rule| format!("{} {rule}\n", user.name)))
            .collect();
        if !rules.is_empty() {
            self.changes.push(Change::Sudo(rules));
        }
    }

    fn time(&mut self, document: &Document) {
        let ntp = &document.ntp;
        let servers: Vec<&str> = ntp.servers.iter().chain(&ntp.pools).map(String::as_str).collect();
        if ntp.enabled == Some(false) {
            self.changes.push(Change::Disable("systemd-timesyncd.service"));
        } else if !servers.is_empty() {
            self.file(TIMESYNCD_CONFIG, format!("[Time]\nNTP={}\n", servers.join(" ")), 0o644);
        }
        self.changes.extend(document.timezone.clone().map(Change::Timezone));
    }

    fn write_files(&mut self, document: &Document, deferred: bool) {
        for file in document.write_files.iter().filter(|file| file.defer == deferred) {
            match content(file) {
                Ok(content) => self.changes.push(Change::File(FileChange {
                    path: file.path.clone(),
                    content,
                    mode: file.mode,
                    owner: file.owner.clone(),
                    append: file.append,
                    earlier: file.earlier,
                })),
                Err(error) => self.problems.push(format!("{}: content is not gzip: {error}", file.at)),
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
            earlier: 0,
        }));
    }
}

fn content(file: &WriteFile) -> std::io::Result<Vec<u8>> {
    if !file.gzip {
        return Ok(file.content.clone());
    }
    let mut plain = Vec::new();
    MultiGzDecoder::new(&file.content[..]).read_to_end(&mut plain)?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloud_config::CloudConfig;

    fn planned(text: &str, stage: Stage) -> (Vec<Change>, Vec<String>) {
        let (document, unapplied) = Document::read(&CloudConfig::parse(text).unwrap());
        assert!(unapplied.is_empty(), "{unapplied:?}");
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
ca_certs: {trusted: ['-----BEGIN CERTIFICATE-----']}
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
    fn an_empty_document_changes_nothing() {
        assert_eq!(names("{}", Stage::Early), Vec::<String>::new());
        assert_eq!(names("{}", Stage::Final), Vec::<String>::new());
    }

    #[test]
    fn gzip_is_unpacked() {
        let file = |content: &str| {
            planned(&format!("write_files: [{{path: /x, encoding: gz+b64, content: {content}}}]"), Stage::Early)
        };
        match &file("H4sIAAAAAAACA8vIBACsKpPYAgAAAA==").0[..] {
            [Change::File(file)] => assert_eq!(file.content, b"hi"),
            other => panic!("{other:?}"),
        }
        let (changes, problems) = file("aGk=");
        assert!(changes.is_empty() && problems[0].starts_with("write_files[0]: content is not gzip"), "{problems:?}");
    }

    #[test]
    fn contents_stay_out_of_debug() {
        let (changes, _) = planned("write_files: [{path: /x, content: topsecret}]", Stage::Early);
        assert!(!format!("{changes:?}").contains("topsecret"));
    }
}
