//! The parts of a cloud-config that we apply, with types. Each part is read by itself, so that one that cannot be used
//! does not take the others with it.

use protocol::CloudConfig;
use protocol::cloud_config_keys;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::BTreeMap;

/// What a cloud-config asks for. Absent parts are empty.
#[derive(Clone, Debug, Default)]
pub struct Document {
    pub hostname: Option<String>,
    pub groups: Vec<Group>,
    pub users: Vec<User>,
    /// Keys for `root`, the default user of this system.
    pub ssh_authorized_keys: Vec<String>,
    /// Password for `root`.
    pub password: Option<String>,
    pub chpasswd: Chpasswd,
    /// Whether SSH takes passwords; absent leaves the image's choice.
    pub ssh_pwauth: Option<bool>,
    pub write_files: Vec<WriteFile>,
    pub bootcmd: Vec<ShellCommand>,
    pub runcmd: Vec<ShellCommand>,
    pub ntp: Ntp,
    pub timezone: Option<String>,
    pub ca_certs: CaCerts,
    pub network: Option<Network>,
    /// Passed on as it is.
    pub rancherd: Option<CloudConfig>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub name: String,
    pub members: Vec<String>,
}

/// One of `users`. `Debug` shows password fields only as being there or not.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct User {
    pub name: String,
    pub gecos: Option<String>,
    pub homedir: Option<String>,
    pub primary_group: Option<String>,
    #[serde(deserialize_with = "words")]
    pub groups: Vec<String>,
    /// Absent: yes, as in cloud-init.
    #[serde(alias = "lock-passwd")]
    pub lock_passwd: Option<bool>,
    /// A crypt(5) hash; for a user that is new.
    pub passwd: Option<String>,
    /// A crypt(5) hash; for a user that may exist.
    pub hashed_passwd: Option<String>,
    pub plain_text_passwd: Option<String>,
    pub shell: Option<String>,
    /// `Value::Bool(false)`, one rule or a list of rules.
    pub sudo: Value,
    #[serde(deserialize_with = "strings")]
    pub ssh_authorized_keys: Vec<String>,
    pub no_create_home: bool,
    pub no_user_group: bool,
    pub system: bool,
    #[serde(deserialize_with = "number")]
    pub uid: Option<u32>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Chpasswd {
    pub expire: Option<bool>,
    /// `name:password` lines, as one text or as a list.
    #[serde(deserialize_with = "lines")]
    pub list: Vec<String>,
    pub users: Vec<ChpasswdUser>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ChpasswdUser {
    pub name: String,
    pub password: Option<String>,
    /// `hash` (the default) or `text`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

#[derive(Clone, Deserialize)]
pub struct WriteFile {
    pub path: String,
    #[serde(default)]
    pub content: String,
    #[serde(default)]
    pub encoding: Option<String>,
    /// Octal digits, as text or, where YAML made one of it, as a number.
    #[serde(default)]
    pub permissions: Value,
    /// `user` or `user:group`.
    #[serde(default)]
    pub owner: Option<String>,
    #[serde(default)]
    pub append: bool,
    #[serde(default)]
    pub defer: bool,
}

impl std::fmt::Debug for WriteFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// One entry of `runcmd` or `bootcmd`: a line for the shell, or a program with its arguments.
#[derive(Clone, Debug, PartialEq)]
pub enum ShellCommand {
    Line(String),
    Arguments(Vec<String>),
}

impl<'de> Deserialize<'de> for ShellCommand {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let command = match Value::deserialize(deserializer)? {
            Value::String(line) => Some(Self::Line(line)),
            Value::Array(items) => items.iter().map(scalar).collect::<Option<_>>().map(Self::Arguments),
            _ => None,
        };
        command.ok_or_else(|| D::Error::custom("a command is a string or a list of strings"))
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Ntp {
    pub enabled: Option<bool>,
    #[serde(deserialize_with = "strings")]
    pub servers: Vec<String>,
    #[serde(deserialize_with = "strings")]
    pub pools: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CaCerts {
    /// PEM certificates, to be trusted beside the image's own.
    #[serde(deserialize_with = "strings")]
    pub trusted: Vec<String>,
    /// Trust only these.
    #[serde(alias = "remove-defaults")]
    pub remove_defaults: bool,
}

/// Network configuration, version 2.
#[derive(Clone, Debug, Deserialize)]
pub struct Network {
    pub version: u32,
    #[serde(default)]
    pub ethernets: BTreeMap<String, Ethernet>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Ethernet {
    #[serde(rename = "match")]
    pub matches: Match,
    pub dhcp4: bool,
    pub dhcp6: bool,
    pub accept_ra: Option<bool>,
    /// With prefix length.
    pub addresses: Vec<String>,
    pub gateway4: Option<String>,
    pub gateway6: Option<String>,
    pub nameservers: Nameservers,
    pub routes: Vec<Route>,
    pub mtu: Option<u32>,
    /// Not waited for when the system comes up.
    pub optional: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Match {
    pub name: Option<String>,
    pub macaddress: Option<String>,
    pub driver: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Nameservers {
    pub addresses: Vec<String>,
    pub search: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Route {
    pub to: String,
    pub via: Option<String>,
    pub metric: Option<u32>,
}

impl Document {
    /// Reads a cloud-config. Beside the document come the problems, one line for each: keys that are not applied, and
    /// parts whose shape is not the documented one and which are left out.
    pub fn read(config: &CloudConfig) -> (Self, Vec<String>) {
        let mut problems = cloud_config_keys::unapplied(config);
        let mut reader = Reader { config, problems: &mut problems };
        let fqdn: Option<String> = reader.part("fqdn");
        let hostname: Option<String> = reader.part("hostname");
        let prefer_fqdn: Option<bool> = reader.part("prefer_fqdn_over_hostname");
        let hostname = if prefer_fqdn == Some(true) { fqdn.or(hostname) } else { hostname.or(fqdn) };
        let document = Self {
            hostname,
            groups: reader.groups(),
            users: reader.users(),
            ssh_authorized_keys: reader.list("ssh_authorized_keys"),
            password: reader.part("password"),
            chpasswd: reader.part("chpasswd"),
            ssh_pwauth: reader.part("ssh_pwauth"),
            write_files: reader.list("write_files"),
            bootcmd: reader.list("bootcmd"),
            runcmd: reader.list("runcmd"),
            ntp: reader.part("ntp"),
            timezone: reader.part("timezone"),
            ca_certs: if config.0.contains_key("ca_certs") { reader.part("ca_certs") } else { reader.part("ca-certs") },
            network: reader.network(),
            rancherd: reader.part("rancherd"),
        };
        (document, problems)
    }
}

struct Reader<'a> {
    config: &'a CloudConfig,
    problems: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn part<T: DeserializeOwned + Default>(&mut self, key: &str) -> T {
        match self.config.0.get(key) {
            None | Some(Value::Null) => T::default(),
            Some(value) => self.read(key, value).unwrap_or_default(),
        }
    }

    /// Item by item, so that one that is wrong costs only itself.
    fn list<T: DeserializeOwned>(&mut self, key: &str) -> Vec<T> {
        match self.config.0.get(key) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(items)) => {
                let item = |(index, item)| self.read(&format!("{key}[{index}]"), item);
                items.iter().enumerate().filter_map(item).collect()
            }
            Some(_) => {
                self.problems.push(format!("cloud-config key `{key}` is left out: it must be a list"));
                Vec::new()
            }
        }
    }

    fn read<T: DeserializeOwned>(&mut self, path: &str, value: &Value) -> Option<T> {
        // serde's message may quote the value; what is below these keys may be a secret.
        let secret = ["password", "chpasswd", "users", "write_files"].iter().any(|key| path.starts_with(key));
        match T::deserialize(value) {
            Ok(part) => Some(part),
            Err(_) if secret => {
                self.problems
                    .push(format!("cloud-config key `{path}` is left out: it does not have the documented shape"));
                None
            }
            Err(error) => {
                self.problems.push(format!("cloud-config key `{path}` is left out: {error}"));
                None
            }
        }
    }

    /// The string `default` stands for the image's own user, which we do not make: `root` is there.
    fn users(&mut self) -> Vec<User> {
        let Some(Value::Array(items)) = self.config.0.get("users") else {
            return self.list("users");
        };
        let mut users = Vec::new();
        for (index, item) in items.iter().enumerate() {
            match item {
                Value::String(name) if name == "default" => {}
                Value::String(name) => users.push(User { name: name.clone(), ..User::default() }),
                _ => users.extend(self.read::<User>(&format!("users[{index}]"), item)),
            }
        }
        users
    }

    /// `[name, {name: [member]}]`, or the mapping alone.
    fn groups(&mut self) -> Vec<Group> {
        let mapping = |fields: &serde_json::Map<String, Value>| -> Vec<Group> {
            let members = |value: &Value| words(value).unwrap_or_default();
            fields.iter().map(|(name, value)| Group { name: name.clone(), members: members(value) }).collect()
        };
        match self.config.0.get("groups") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Object(fields)) => mapping(fields),
            Some(Value::String(names)) => {
                let group = |name: &str| Group { name: name.trim().into(), members: Vec::new() };
                names.split(',').map(group).collect()
            }
            Some(Value::Array(items)) => {
                let group = |item: &Value| match item {
                    Value::Object(fields) => mapping(fields),
                    other => scalar(other).map(|name| Group { name, members: Vec::new() }).into_iter().collect(),
                };
                items.iter().flat_map(group).collect()
            }
            Some(_) => {
                self.problems.push("cloud-config key `groups` is left out: it must be a list".into());
                Vec::new()
            }
        }
    }

    fn network(&mut self) -> Option<Network> {
        let network: Network = self.read("network", self.config.0.get("network")?)?;
        if network.version != 2 {
            let problem = format!("cloud-config key `network` is left out: version {}, expected 2", network.version);
            self.problems.push(problem);
            return None;
        }
        Some(network)
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// One string or a list of them.
fn strings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    use serde::de::Error;
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(scalar).collect();
            items.ok_or_else(|| D::Error::custom("expected a list of strings"))
        }
        other => scalar(&other).map(|one| vec![one]).ok_or_else(|| D::Error::custom("expected a string or a list")),
    }
}

/// A list of strings, or one string with commas or blanks between words.
fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let split = |text: &String| -> Vec<String> {
        text.split([',', ' ']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    Ok(strings(deserializer)?.iter().flat_map(split).collect())
}

/// A list of lines, or one text of them.
fn lines<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let split = |text: &String| -> Vec<String> {
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
    };
    Ok(strings(deserializer)?.iter().flat_map(split).collect())
}

/// A number, also as text.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    use serde::de::Error;
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        other => {
            scalar(&other).and_then(|n| n.parse().ok()).map(Some).ok_or_else(|| D::Error::custom("expected a number"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Document, Vec<String>) {
        Document::read(&serde_yaml::from_str(text).unwrap())
    }

    #[test]
    fn both_spellings_of_lists_are_read() {
        let (document, problems) = read(
            "groups: [admins, {ops: [a, b]}]\n\
             users:\n- default\n- name: a\n  groups: wheel, docker\n  uid: '1200'\n- b\n\
             chpasswd: {list: 'a:x\n\n  b:y'}\n\
             runcmd:\n- echo hello\n- [echo, 1, true]\n",
        );
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(document.groups[1], Group { name: "ops".into(), members: vec!["a".into(), "b".into()] });
        assert_eq!(document.users[0].groups, ["wheel", "docker"]);
        assert_eq!((document.users[0].uid, document.users[1].name.as_str()), (Some(1200), "b"));
        assert_eq!(document.chpasswd.list.len(), 2);
        let arguments = ["echo", "1", "true"].map(str::to_owned).to_vec();
        assert_eq!(document.runcmd, [ShellCommand::Line("echo hello".into()), ShellCommand::Arguments(arguments)]);
    }

    #[test]
    fn a_part_that_is_wrong_costs_only_itself() {
        let (document, problems) = read(
            "hostname: h\ntimezone: [Europe]\nwrite_files:\n- {content: x}\n- {path: /a}\nntp: 7\nfoo: 1\nnetwork: {version: 1}\n",
        );
        assert_eq!(document.hostname.as_deref(), Some("h"));
        assert_eq!(document.write_files.len(), 1);
        for key in ["`foo`", "`timezone`", "`write_files[0]`", "`ntp`", "version 1"] {
            assert!(problems.iter().any(|p| p.contains(key)), "{key} is missing from {problems:?}");
        }
    }

    #[test]
    fn secrets_stay_out_of_problems_and_debug() {
        let (document, problems) =
            read("password: [topsecret]\nusers: [{name: [topsecret]}, {name: u, passwd: topsecret}]\n");
        assert_eq!(problems.len(), 2);
        assert!(!format!("{problems:?}{document:?}").contains("topsecret"));
    }

    #[test]
    fn the_full_name_is_used_when_asked_for_or_alone() {
        let hostname = |text| read(text).0.hostname;
        assert_eq!(hostname("{hostname: h, fqdn: h.example}").as_deref(), Some("h"));
        let preferred = "{hostname: h, fqdn: h.example, prefer_fqdn_over_hostname: true}";
        assert_eq!(hostname(preferred).as_deref(), Some("h.example"));
        assert_eq!(hostname("fqdn: h.example").as_deref(), Some("h.example"));
    }
}
