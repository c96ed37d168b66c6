//! Users, groups and passwords.

use crate::node::{Fields, Node};
use serde_json::Value;

#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub name: String,
    pub members: Vec<String>,
}

/// One of `users`. `Debug` shows the name only.
#[derive(Clone, Default)]
pub struct User {
    /// Its path in the document, such as `users[0]`.
    pub at: String,
    pub name: String,
    pub gecos: Option<String>,
    pub homedir: Option<String>,
    pub primary_group: Option<String>,
    pub groups: Vec<String>,
    /// Absent means true, as in cloud-init.
    pub lock_passwd: Option<bool>,
    /// A crypt(5) hash, only for new users.
    pub passwd: Option<String>,
    /// A crypt(5) hash, for new and existing users.
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
    /// Its path in the document.
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

/// Accounts of every root image. Keys for new users, such as `passwd`, cannot be applied to them.
const EXISTING: &[&str] = &["root", "daemon", "bin", "sys", "sync", "mail", "www-data", "backup", "nobody", "sshd"];

/// The user that `user` describes. It may become root, as on other distributions.
pub(super) fn default_user(node: Node) -> Option<User> {
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
pub(super) fn users(node: &Node) -> Vec<User> {
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

/// A key that applies only to new accounts.
fn of_new<'a>(fields: &mut Fields<'a>, key: &str, exists: bool) -> Option<Node<'a>> {
    let node = fields.get(key)?;
    if exists {
        node.refuse("the user exists in the image, and the key applies only to new users");
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

/// Rules; `false` means none. A rule is one line: a second line could name another user.
fn sudo(node: &Node) -> Vec<String> {
    if node.value == false || node.value.as_str().is_some_and(|word| ["no", "off"].contains(&word)) {
        return Vec::new();
    }
    let one_line = |rule: &str| !rule.trim().is_empty() && !rule.trim().contains(char::is_control);
    let rule = |node: &Node| node.text_that(one_line, "a rule must be one line");
    node.one_or_more().iter().filter_map(rule).map(|rule| rule.trim().to_owned()).collect()
}

/// `[name, {name: [member]}]`, the mapping alone, or names in one text.
pub(super) fn groups(node: &Node) -> Vec<Group> {
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

/// `password` applies only where `chpasswd` names no user (cloud-init's `cc_set_passwords`).
pub(super) fn passwords(top: &mut Fields, default_user: &str) -> Vec<PasswordOf> {
    const PAIR: &str = "it must be `name:password`, and RANDOM is not supported";
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
            password.refuse("`chpasswd` names the users whose passwords are set");
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
        fields.refuse("it has no password, and RANDOM is not supported");
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

/// Decides for a password without a type. It is a hash if it begins as crypt(5) writes one: a dollar sign, a word, and
/// another dollar sign.
fn hash_or_text(password: &str) -> Password {
    let word = password.strip_prefix('$').and_then(|rest| rest.find('$'));
    if word.is_some_and(|length| (1..=3).contains(&length)) {
        Password::Hash(password.into())
    } else {
        Password::Text(password.into())
    }
}

const NAME_RULE: &str = "a name has up to 32 of a-z, 0-9, _ and -, and begins with a letter or _";

/// Whether this is a name for an account or a group, by the rule of `useradd`.
pub fn is_name(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    let rest = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b));
    first && rest && name.len() <= 32
}
