//! The parts of a cloud-config that an installed system applies, with types. The meaning of each key is cloud-init's
//! ("Module reference") and netplan's; `rancherd` and `rancheros` are ours.

use super::node::{Fields, Log, Node};
use super::{BINARY, CloudConfig, normal_key, tag};
use crate::keys::Unapplied;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a cloud-config asks for. Absent parts are empty.
#[derive(Clone, Debug, Default)]
pub struct Document {
    pub hostname: Option<String>,
    pub groups: Vec<Group>,
    /// With the one that `user` describes.
    pub users: Vec<User>,
    /// Whom `password` and `ssh_authorized_keys` are for: `root`, unless `user` names somebody.
    pub default_user: String,
    pub ssh_authorized_keys: Vec<String>,
    /// From everywhere a document may have them, beside `users`; later ones win.
    pub passwords: Vec<PasswordOf>,
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

/// One of `users`. `Debug` shows the name only.
#[derive(Clone, Default)]
pub struct User {
    /// Where it stands, such as `users[0]`.
    pub at: String,
    pub name: String,
    pub gecos: Option<String>,
    pub homedir: Option<String>,
    pub primary_group: Option<String>,
    pub groups: Vec<String>,
    /// Absent: yes, as in cloud-init.
    pub lock_passwd: Option<bool>,
    /// A crypt(5) hash; for a user that is new.
    pub passwd: Option<String>,
    /// A crypt(5) hash; for a user that may exist.
    pub hashed_passwd: Option<String>,
    pub plain_text_passwd: Option<String>,
    pub shell: Option<String>,
    /// Rules of one line each, without the user's name.
    pub sudo: Vec<String>,
    pub ssh_authorized_keys: Vec<String>,
    pub no_create_home: bool,
    pub no_user_group: bool,
    pub system: bool,
    pub uid: Option<u32>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A password for a user. `Debug` shows the name only.
#[derive(Clone)]
pub struct PasswordOf {
    /// Where it stands.
    pub at: String,
    pub user: String,
    pub password: Password,
}

impl std::fmt::Debug for PasswordOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PasswordOf").field("user", &self.user).finish_non_exhaustive()
    }
}

#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// As crypt(5) writes it.
    Hash(String),
    Text(String),
}

/// A file with its content. `Debug` shows the path only.
#[derive(Clone)]
pub struct WriteFile {
    /// Where it stands, such as `write_files[0]`.
    pub at: String,
    pub path: String,
    pub content: Vec<u8>,
    /// Whether the content is to be unpacked.
    pub gzip: bool,
    pub mode: u32,
    /// User and group by name; an empty group is the user's own.
    pub owner: (String, String),
    pub append: bool,
    pub defer: bool,
    /// How many entries before it have the same path.
    pub earlier: usize,
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

#[derive(Clone, Debug, Default)]
pub struct Ntp {
    pub enabled: Option<bool>,
    pub servers: Vec<String>,
    pub pools: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct CaCerts {
    /// PEM certificates, to be trusted beside the image's own.
    pub trusted: Vec<String>,
    /// Trust only these.
    pub remove_defaults: bool,
}

/// Network configuration, version 2: interfaces with their ids.
#[derive(Clone, Debug, Default)]
pub struct Network {
    pub ethernets: Vec<(String, Ethernet)>,
}

/// Every text in it is one line.
#[derive(Clone, Debug, Default)]
pub struct Ethernet {
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

#[derive(Clone, Debug, Default)]
pub struct Match {
    pub name: Option<String>,
    pub macaddress: Option<String>,
    pub driver: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Nameservers {
    pub addresses: Vec<String>,
    pub search: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Route {
    pub to: String,
    pub via: Option<String>,
    pub on_link: Option<bool>,
    pub metric: Option<u32>,
    pub kind: Option<String>,
    pub table: Option<String>,
    pub scope: Option<String>,
    pub from: Option<String>,
    pub mtu: Option<u32>,
}

/// Accounts that every image has, so that `passwd` and the like, which are for new ones, cannot be applied to them.
const EXISTING: &[&str] = &["root", "daemon", "bin", "sys", "sync", "mail", "www-data", "backup", "nobody", "sshd"];

impl Document {
    /// Reads a cloud-config. Beside the document comes what of it is not applied, in the document's order where it has
    /// one: keys that are not known, and values that cannot be used, each of which costs itself alone.
    pub fn read(config: &CloudConfig) -> (Self, Vec<Unapplied>) {
        let log = Log::default();
        let document = read(config, &log);
        (document, log.unapplied.into_inner())
    }
}

pub(crate) fn read(config: &CloudConfig, log: &Log) -> Document {
    // What is the installer's own may be spelled in several ways, and is checked where it is used.
    let mut map = config.0.clone();
    map.retain(|key, _| normal_key(key) != "rancheros");
    let mut top = Fields::of_document(&map, log);
    let default = top.get("user").and_then(default_user);
    let default_user = default.as_ref().map_or_else(|| "root".to_owned(), |user| user.name.clone());
    let mut users = top.get("users").map(|node| users(&node)).unwrap_or_default();
    users.extend(default);
    let document = Document {
        hostname: hostname(&mut top),
        groups: top.get("groups").map(|node| groups(&node)).unwrap_or_default(),
        ssh_authorized_keys: top.get("ssh_authorized_keys").map(|node| node.lines()).unwrap_or_default(),
        passwords: passwords(&mut top, &default_user),
        ssh_pwauth: top.get("ssh_pwauth").filter(|node| node.value != "unchanged").and_then(|node| node.flag()),
        write_files: top.get("write_files").map(|node| write_files(&node)).unwrap_or_default(),
        bootcmd: top.get("bootcmd").map(|node| commands(&node)).unwrap_or_default(),
        runcmd: top.get("runcmd").map(|node| commands(&node)).unwrap_or_default(),
        ntp: top.get("ntp").and_then(|node| ntp(&node)).unwrap_or_default(),
        timezone: top.get("timezone").and_then(|node| node.line()),
        ca_certs: top.get("ca_certs").and_then(|node| ca_certs(&node)).unwrap_or_default(),
        network: top.get("network").and_then(|node| network(&node)),
        rancherd: top.get("rancherd").and_then(|node| rancherd(&node)),
        users,
        default_user,
    };
    drop(top);
    document
}

/// The host name that a machine with this cloud-config has. `None`: the cloud-config gives none.
pub fn host_name(config: &Map<String, Value>) -> Option<String> {
    // What of it is not applied is said by who reads the whole document.
    let log = Log::default();
    let mut top = Fields::of_document(config, &log);
    let name = hostname(&mut top);
    drop(top);
    name
}

/// A name with a domain is the full one (cloud-init's `get_hostname_fqdn`); an empty one is none.
fn hostname(top: &mut Fields) -> Option<String> {
    let given = |node: Node| node.line().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    let [fqdn, hostname] = ["fqdn", "hostname"].map(|key| top.get(key).and_then(given));
    let prefers_full = top.get("prefer_fqdn_over_hostname").and_then(|node| node.flag()) == Some(true);
    let full = fqdn.or_else(|| hostname.clone());
    let short = hostname.or_else(|| full.clone()).map(|name| match name.split_once('.') {
        Some((short, _)) if !short.is_empty() && !name.contains("${") => short.to_owned(),
        _ => name,
    });
    if prefers_full { full } else { short }
}

/// As on other distributions, the default user may become root.
fn default_user(node: Node) -> Option<User> {
    let mut user = match node.value {
        Value::Object(_) => user(&node.like("users[]"), None),
        _ => named_user(&node),
    }?;
    if user.sudo.is_empty() && user.name != "root" {
        user.sudo.push("ALL=(ALL) NOPASSWD:ALL".into());
    }
    Some(user)
}

/// A list, names in one text, or a mapping by name. `default` stands for the default user.
fn users(node: &Node) -> Vec<User> {
    let names = |node: &Node| -> Vec<User> {
        let Some(text) = node.text() else { return Vec::new() };
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty() && *name != "default");
        names.filter_map(|name| checked_user(node, name.into())).collect()
    };
    match node.value {
        Value::Object(_) => {
            let entry = |(name, node): (&str, Node)| match node.value {
                Value::Object(_) => user(&node.like("users[]"), Some(name)),
                _ => node
                    .flag()
                    .filter(|wanted| *wanted && name != "default")
                    .and_then(|_| checked_user(&node, name.into())),
            };
            node.named().into_iter().filter(|(_, node)| !node.value.is_null()).filter_map(entry).collect()
        }
        Value::String(_) => names(node),
        _ => {
            let item = |node: &Node| match node.value {
                Value::Object(_) => user(node, None).into_iter().collect(),
                _ => names(node),
            };
            node.items().iter().flat_map(item).collect()
        }
    }
}

fn named_user(node: &Node) -> Option<User> {
    checked_user(node, node.line()?)
}

fn checked_user(node: &Node, name: String) -> Option<User> {
    if !is_name(&name) {
        node.refuse(NAME_RULE);
        return None;
    }
    Some(User { at: node.path.clone(), name, ..User::default() })
}

/// A key that is for new accounts alone.
fn of_new<'a>(fields: &mut Fields<'a>, key: &str, exists: bool) -> Option<Node<'a>> {
    let node = fields.get(key)?;
    if exists {
        node.refuse("the user exists in the image, and this is for new ones");
    }
    Some(node).filter(|_| !exists)
}

fn user(node: &Node, name: Option<&str>) -> Option<User> {
    let mut fields = node.fields()?;
    let name = match (fields.get("name"), name) {
        (Some(name), _) => match name.text_that(is_name, NAME_RULE) {
            Some(name) => name,
            None => {
                fields.leave();
                return None;
            }
        },
        (None, Some(name)) if is_name(name) => name.to_owned(),
        _ => {
            fields.refuse("it has no name");
            return None;
        }
    };
    let plain = |text: &str| !text.contains(':') && !text.contains(char::is_control);
    let exists = EXISTING.contains(&name.as_str());
    let passwd = of_new(&mut fields, "passwd", exists).and_then(|node| node.line());
    let uid = of_new(&mut fields, "uid", exists).and_then(|node| node.number());
    let system = of_new(&mut fields, "system", exists).and_then(|node| node.flag()).unwrap_or_default();
    let no_user_group = of_new(&mut fields, "no_user_group", exists).and_then(|node| node.flag()).unwrap_or_default();
    let primary_group =
        of_new(&mut fields, "primary_group", exists).and_then(|node| node.text_that(is_name, NAME_RULE));
    let [gecos, homedir, shell] = ["gecos", "homedir", "shell"].map(|key| {
        of_new(&mut fields, key, exists).and_then(|node| node.text_that(plain, "it must be one line without a colon"))
    });
    let sudo = fields.get("sudo").map(|node| sudo(&node)).unwrap_or_default();
    Some(User {
        at: node.path.clone(),
        gecos,
        homedir,
        primary_group,
        groups: fields.get("groups").map(|node| node.words()).unwrap_or_default(),
        lock_passwd: fields.get("lock_passwd").and_then(|node| node.flag()),
        passwd,
        hashed_passwd: fields.get("hashed_passwd").and_then(|node| node.line()),
        plain_text_passwd: fields.get("plain_text_passwd").and_then(|node| node.line()),
        shell,
        sudo,
        ssh_authorized_keys: fields.get("ssh_authorized_keys").map(|node| node.lines()).unwrap_or_default(),
        no_create_home: fields.get("no_create_home").and_then(|node| node.flag()).unwrap_or_default(),
        no_user_group,
        system,
        uid,
        name,
    })
}

/// Rules; `false` is none. A second line would be a rule for somebody else.
fn sudo(node: &Node) -> Vec<String> {
    if node.value == false || node.value.as_str().is_some_and(|word| ["no", "off"].contains(&word)) {
        return Vec::new();
    }
    let one_line = |rule: &str| !rule.trim().is_empty() && !rule.trim().contains(char::is_control);
    let rule = |node: &Node| node.text_that(one_line, "a rule must be one line");
    node.one_or_more().iter().filter_map(rule).map(|rule| rule.trim().to_owned()).collect()
}

/// `[name, {name: [member]}]`, the mapping alone, or names in one text.
fn groups(node: &Node) -> Vec<Group> {
    let mapping = |node: &Node| -> Vec<Group> {
        let mut groups = Vec::new();
        for (name, members) in node.named() {
            if is_name(name) {
                let members = if members.value.is_null() { Vec::new() } else { members.words() };
                groups.push(Group { name: name.to_owned(), members });
            } else {
                members.refuse(NAME_RULE);
            }
        }
        groups
    };
    let names = |node: &Node| -> Vec<Group> {
        let mut groups = Vec::new();
        for name in node.words() {
            if is_name(&name) {
                groups.push(Group { name, members: Vec::new() });
            } else {
                node.refuse(NAME_RULE);
            }
        }
        groups
    };
    let one = |node: &Node| if node.value.is_object() { mapping(node) } else { names(node) };
    node.one_or_more().iter().flat_map(one).collect()
}

/// `password` counts where `chpasswd` names nobody (cloud-init's `cc_set_passwords`).
fn passwords(top: &mut Fields, default_user: &str) -> Vec<PasswordOf> {
    const PAIR: &str = "it must be `name:password`, and RANDOM is not applied";
    let password = top.get("password");
    let mut passwords = Vec::new();
    let mut is_listed = false;
    if let Some(mut fields) = top.get("chpasswd").and_then(|node| node.fields()) {
        for node in fields.get("list").map(|node| node.one_or_more()).unwrap_or_default() {
            is_listed = true;
            let Some(text) = node.text() else { continue };
            for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
                match line.split_once(':') {
                    Some((user, password)) if !["R", "RANDOM"].contains(&password) => {
                        let (at, user) = (node.path.clone(), user.trim().to_owned());
                        passwords.push(PasswordOf { at, user, password: hash_or_text(password) });
                    }
                    _ => node.refuse(PAIR),
                }
            }
        }
        for node in fields.get("users").map(|node| node.items()).unwrap_or_default() {
            is_listed = true;
            passwords.extend(chpasswd_user(&node));
        }
        if let Some(expire) = fields.get("expire")
            && expire.flag() == Some(true)
        {
            expire.refuse("passwords are set from the configuration at each boot");
        }
    }
    if let Some(password) = password {
        if is_listed {
            password.refuse("`chpasswd` names whose passwords are set");
        } else if let Some(text) = password.line() {
            let user = default_user.to_owned();
            passwords.push(PasswordOf { at: password.path, user, password: hash_or_text(&text) });
        }
    }
    passwords
}

fn chpasswd_user(node: &Node) -> Option<PasswordOf> {
    let mut fields = node.fields()?;
    let user = fields.get("name").and_then(|name| name.line());
    let password = fields.get("password");
    let kind = fields.get("type");
    let Some(user) = user else {
        fields.refuse("it has no name");
        return None;
    };
    let Some(password) = password else {
        fields.refuse("it has no password, and RANDOM is not applied");
        return None;
    };
    let password = match kind.as_ref().and_then(|kind| kind.value.as_str()) {
        None if kind.is_none() => Password::Hash(password.line()?),
        Some("hash") => Password::Hash(password.line()?),
        Some("text") => Password::Text(password.line()?),
        _ => {
            kind?.refuse("it must be hash or text");
            return None;
        }
    };
    Some(PasswordOf { at: node.path.clone(), user, password })
}

/// Where a document does not say which it is, a hash is what crypt(5) writes: a dollar sign, a word, and another one.
fn hash_or_text(password: &str) -> Password {
    let word = password.strip_prefix('$').and_then(|rest| rest.find('$'));
    if word.is_some_and(|length| (1..=3).contains(&length)) {
        Password::Hash(password.into())
    } else {
        Password::Text(password.into())
    }
}

fn write_files(node: &Node) -> Vec<WriteFile> {
    let mut files: Vec<WriteFile> = Vec::new();
    for node in node.items() {
        if let Some(mut file) = write_file(&node) {
            file.earlier = files.iter().filter(|other| other.path == file.path).count();
            files.push(file);
        }
    }
    files
}

/// A file of which anything but `defer` cannot be used is not written: it would be another file.
fn write_file(node: &Node) -> Option<WriteFile> {
    let mut fields = node.fields()?;
    let path = fields.get("path");
    let content = fields.get("content");
    let encoding = fields.get("encoding");
    let permissions = fields.get("permissions");
    let owner = fields.get("owner");
    let append = fields.get("append");
    let defer = fields.get("defer").and_then(|node| node.flag()).unwrap_or_default();
    let source = fields.get("source");
    drop(fields);
    if let Some(source) = source {
        source.refuse("nothing is fetched, and the file is left as it is");
        return None;
    }
    let Some(path) = path else {
        node.refuse("it has no path");
        return None;
    };
    let is_path = |path: &str| path.starts_with('/') && !path.contains('\0');
    let path = path.text_that(is_path, "the path must be absolute")?;
    let encoding = match encoding {
        Some(node) => Some((node.text()?, node)),
        None => None,
    };
    let (content, gzip) = decode(content.as_ref(), encoding.as_ref())?;
    let owner = match owner {
        Some(node) => node.line()?,
        None => "root:root".into(),
    };
    let (user, group) = owner.split_once(':').unwrap_or((&owner, ""));
    let user = if user.trim().is_empty() { "root" } else { user.trim() };
    Some(WriteFile {
        at: node.path.clone(),
        path,
        content,
        gzip,
        mode: match permissions {
            Some(node) => mode(&node)?,
            None => 0o644,
        },
        owner: (user.to_owned(), group.trim().to_owned()),
        append: match append {
            Some(node) => node.flag()?,
            None => false,
        },
        defer,
        earlier: 0,
    })
}

/// Encodings and their spellings as in cloud-init's `cc_write_files`. Gzip is left for whoever writes the file.
fn decode(content: Option<&Node>, encoding: Option<&(String, Node)>) -> Option<(Vec<u8>, bool)> {
    let bytes = match content {
        None => Vec::new(),
        Some(node) => match node.value.get(BINARY).and_then(Value::as_str) {
            Some(base64) if tag(node.value) == Some(BINARY) => from_base64(base64, node)?,
            _ => node.text()?.into_bytes(),
        },
    };
    let unpacked = |bytes: Vec<u8>| match content {
        Some(node) => from_base64(&String::from_utf8_lossy(&bytes), node),
        None => Some(bytes),
    };
    match encoding.map(|(encoding, _)| encoding.trim().to_lowercase()).as_deref() {
        None | Some("" | "text/plain") => Some((bytes, false)),
        Some("b64" | "base64") => Some((unpacked(bytes)?, false)),
        Some("gz" | "gzip") => Some((bytes, true)),
        Some("gz+b64" | "gz+base64" | "gzip+b64" | "gzip+base64") => Some((unpacked(bytes)?, true)),
        Some(_) => {
            encoding?.1.refuse("the encoding is not known");
            None
        }
    }
}

fn from_base64(text: &str, node: &Node) -> Option<Vec<u8>> {
    let compact: String = text.split_whitespace().collect();
    let decoded = STANDARD.decode(compact).ok();
    if decoded.is_none() {
        node.refuse("it is not base64");
    }
    decoded
}

/// Text is octal. A number is the mode itself, since a reader of YAML 1.1, such as kubectl, makes 420 of `0644`; unless
/// only its digits, read as octal ones, are a mode that somebody wants: 644 is `01204`.
fn mode(node: &Node) -> Option<u32> {
    let octal = |digits: &str| u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o7777);
    let mode = match node.value {
        Value::String(digits) => octal(digits.trim().trim_start_matches("0o")),
        Value::Number(number) => {
            let itself = number.as_u64().and_then(|mode| u32::try_from(mode).ok()).filter(|mode| *mode <= 0o7777);
            let written = octal(&number.to_string()).filter(|mode| is_usual(*mode));
            match (itself.filter(|mode| is_usual(*mode)), written) {
                // The digits of 0777, which nobody means by 0511.
                (Some(0o777), _) => Some(0o777),
                (Some(mode), None) | (None, Some(mode)) => Some(mode),
                _ => None,
            }
        }
        _ => None,
    };
    if mode.is_none() {
        node.refuse("permissions must be octal digits in quotes, such as '0644'");
    }
    mode
}

/// Whether the owner may read, and nobody may do what somebody nearer to the file may not.
fn is_usual(mode: u32) -> bool {
    let (user, group, other) = ((mode >> 6) & 7, (mode >> 3) & 7, mode & 7);
    user & 4 != 0 && group & !user == 0 && other & !group == 0
}

fn commands(node: &Node) -> Vec<ShellCommand> {
    let command = |node: &Node| match node.value {
        Value::String(_) => node.text().map(ShellCommand::Line),
        Value::Array(items) => {
            let arguments: Vec<String> = node.items().iter().filter_map(Node::text).collect();
            if items.iter().any(Value::is_null) {
                node.refuse("an argument must be text");
            }
            Some(arguments).filter(|arguments| arguments.len() == items.len()).map(ShellCommand::Arguments)
        }
        _ => {
            node.refuse("a command is text or a list of texts");
            None
        }
    };
    node.items().iter().filter_map(command).collect()
}

fn ntp(node: &Node) -> Option<Ntp> {
    let mut fields = node.fields()?;
    let enabled = fields.get("enabled").and_then(|node| node.flag());
    let [servers, pools] = ["servers", "pools"].map(|key| {
        let plain = |name: &str| !name.is_empty() && !name.contains([' ', '\t', '\n', '\r']);
        let nodes = fields.get(key).map(|node| node.one_or_more()).unwrap_or_default();
        nodes.iter().filter_map(|node| node.text_that(plain, "a name holds no blanks")).collect()
    });
    Some(Ntp { enabled, servers, pools })
}

fn ca_certs(node: &Node) -> Option<CaCerts> {
    let mut fields = node.fields()?;
    let trusted = fields.get("trusted").map(|node| node.one_or_more()).unwrap_or_default();
    let pem = |text: &str| text.contains("-----BEGIN CERTIFICATE-----");
    Some(CaCerts {
        trusted: trusted.iter().filter_map(|node| node.text_that(pem, "it must be a certificate as PEM")).collect(),
        remove_defaults: fields.get("remove_defaults").and_then(|node| node.flag()).unwrap_or_default(),
    })
}

/// netplan's own files have everything below another `network`.
fn network(node: &Node) -> Option<Network> {
    let inner = node.value.as_object().filter(|map| map.len() == 1).and_then(|map| map.get("network"));
    if inner.is_some_and(Value::is_object) {
        return node.named().first().and_then(|(_, node)| network(&node.clone().like("network")));
    }
    let mut fields = node.fields()?;
    let is_usable = fields.get("version").is_none_or(|version| {
        let number = version.number();
        if number.is_some_and(|number| number != 2) {
            version.refuse("it must be 2");
        }
        number == Some(2)
    });
    if let Some(renderer) = fields.get("renderer") {
        renderer.text_that(|name| name == "networkd", "it must be networkd");
    }
    let ethernets = fields.get("ethernets").map(|node| node.named()).unwrap_or_default();
    let interface = |(id, node): (&str, Node)| Some((id.to_owned(), ethernet(id, &node)?));
    let present = ethernets.into_iter().filter(|(_, node)| !node.value.is_null());
    Some(Network { ethernets: present.filter_map(interface).collect() }).filter(|_| is_usable)
}

fn ethernet(id: &str, node: &Node) -> Option<Ethernet> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if id.is_empty() || id.starts_with('.') || !id.chars().all(plain) {
        node.refuse("it is no name of an interface");
        return None;
    }
    let mut fields = node.fields()?;
    // An interface whose `match` is only partly understood would be another one, or more of them.
    let matches = match fields.get("match") {
        Some(node) => matches(&node),
        None => Some(Match::default()),
    };
    let address = |node: Option<Node>| node.and_then(|node| node.text_that(is_address, ADDRESS_RULE));
    let flag = |node: Option<Node>| node.and_then(|node| node.flag());
    let mtu = fields.get("mtu").and_then(|node| node.number());
    let addresses = fields.get("addresses").map(|node| node.items()).unwrap_or_default();
    let routes = fields.get("routes").map(|node| node.items()).unwrap_or_default();
    let ethernet = Ethernet {
        matches: Match::default(),
        dhcp4: flag(fields.get("dhcp4")).unwrap_or_default(),
        dhcp6: flag(fields.get("dhcp6")).unwrap_or_default(),
        accept_ra: flag(fields.get("accept-ra")),
        addresses: addresses.iter().filter_map(own_address).collect(),
        gateway4: address(fields.get("gateway4")),
        gateway6: address(fields.get("gateway6")),
        nameservers: fields.get("nameservers").and_then(|node| nameservers(&node)).unwrap_or_default(),
        routes: routes.iter().filter_map(route).collect(),
        mtu,
        optional: flag(fields.get("optional")).unwrap_or_default(),
    };
    if matches.is_none() {
        fields.refuse("its `match` cannot be applied");
    }
    Some(Ethernet { matches: matches?, ..ethernet })
}

fn matches(node: &Node) -> Option<Match> {
    let mut fields = node.fields()?;
    let asked = node.value.as_object().map_or(0, |map| map.values().filter(|value| !value.is_null()).count());
    let [name, macaddress, driver] =
        ["name", "macaddress", "driver"].map(|key| fields.get(key).and_then(|node| node.line()));
    let found = [&name, &macaddress, &driver].into_iter().flatten().count();
    Some(Match { name, macaddress, driver }).filter(|_| found == asked)
}

/// An address, or a mapping of it to what is set about it.
fn own_address(node: &Node) -> Option<String> {
    const RULE: &str = "it must be an address with the length of its prefix, such as 10.0.0.5/24";
    if !node.value.is_object() {
        return node.text_that(is_prefix, RULE);
    }
    let mut named = node.named().into_iter();
    match (named.next(), named.next()) {
        (Some((address, about)), None) if is_prefix(address) => {
            if !about.value.is_null() {
                about.refuse("nothing but the address is applied");
            }
            Some(address.to_owned())
        }
        _ => {
            node.refuse(RULE);
            None
        }
    }
}

fn nameservers(node: &Node) -> Option<Nameservers> {
    let mut fields = node.fields()?;
    let addresses = fields.get("addresses").map(|node| node.one_or_more()).unwrap_or_default();
    let search = fields.get("search").map(|node| node.one_or_more()).unwrap_or_default();
    let domain = |name: &str| !name.is_empty() && !name.contains([' ', '\t', '\n', '\r']);
    Some(Nameservers {
        addresses: addresses.iter().filter_map(|node| node.text_that(is_address, ADDRESS_RULE)).collect(),
        search: search.iter().filter_map(|node| node.text_that(domain, "a name holds no blanks")).collect(),
    })
}

/// A route of which one part cannot be used leads elsewhere, so it is left out; its metric and MTU cost themselves.
fn route(node: &Node) -> Option<Route> {
    let mut fields = node.fields()?;
    let mut is_whole = true;
    let mut part = |fields: &mut Fields, key: &str, holds: &dyn Fn(&str) -> bool, rule| {
        let node = fields.get(key)?;
        let text = node.text_that(holds, rule);
        is_whole &= text.is_some();
        text
    };
    let destination = |to: &str| to == "default" || is_prefix(to) || is_address(to);
    let to = part(&mut fields, "to", &destination, "it must be `default` or an address with a prefix");
    let via = part(&mut fields, "via", &is_address, ADDRESS_RULE);
    let from = part(&mut fields, "from", &is_address, ADDRESS_RULE);
    let kinds =
        ["unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit", "throw"];
    let kind = part(&mut fields, "type", &|kind| kinds.contains(&kind), "the type of route is not known");
    let table = |table: &str| ["default", "main", "local"].contains(&table) || table.parse().is_ok_and(|n: u32| n > 0);
    let table = part(&mut fields, "table", &table, "it must be the number of a table");
    let scope = |scope: &str| ["global", "link", "host"].contains(&scope);
    let scope = part(&mut fields, "scope", &scope, "it must be global, link or host");
    let on_link = fields.get("on-link");
    let flag = on_link.as_ref().and_then(Node::flag);
    is_whole &= on_link.is_some() == flag.is_some();
    let metric = fields.get("metric").and_then(|node| node.number());
    let mtu = fields.get("mtu").and_then(|node| node.number());
    let Some(to) = to.filter(|_| is_whole) else {
        fields.refuse("the route is left out");
        return None;
    };
    Some(Route { to, via, on_link: flag, metric, kind, table, scope, from, mtu })
}

/// Everything but values whose tag cannot be followed.
fn rancherd(node: &Node) -> Option<CloudConfig> {
    fn plain(node: &Node) -> Option<Value> {
        if tag(node.value).is_some() {
            node.refuse("it cannot be passed on");
            return None;
        }
        Some(match node.value {
            Value::Object(_) => Value::Object(
                node.named().iter().filter_map(|(key, node)| Some(((*key).to_owned(), plain(node)?))).collect(),
            ),
            Value::Array(_) => node.items().iter().filter_map(plain).collect(),
            other => other.clone(),
        })
    }
    match plain(node)? {
        Value::Object(map) => Some(CloudConfig(map)),
        _ => {
            node.refuse("it must be a mapping");
            None
        }
    }
}

const ADDRESS_RULE: &str = "it must be an address";

fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

fn is_prefix(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let Ok(length) = length.parse::<u8>() else { return false };
    address.parse::<Ipv4Addr>().is_ok() && length <= 32 || address.parse::<Ipv6Addr>().is_ok() && length <= 128
}

const NAME_RULE: &str = "a name has up to 32 of a-z, 0-9, _ and -, and begins with a letter or _";

/// As `useradd` has it: what is a name also to the programs that read the files of accounts.
pub fn is_name(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    let rest = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b));
    first && rest && name.len() <= 32
}
