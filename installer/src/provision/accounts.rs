//! Users, groups and passwords: three files of `/etc` as values that are changed in memory.
//!
//! Formats: passwd(5), shadow(5), group(5). `/etc` is made anew at each boot, and so are users. Their numbers come from
//! the owners of their homes, which stay.

use cloud_config::document::{Document, Password, PasswordOf, User, is_name};
use std::fmt::Write;

/// The contents of `/etc/passwd`, `/etc/shadow` and `/etc/group`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    passwd: Table,
    shadow: Table,
    group: Table,
}

type Table = Vec<Vec<String>>;

/// The properties of a user that are needed to create its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: String,
}

/// The properties of the machine that are needed to create users.
pub struct Host<'a> {
    /// Owner and group of a folder, if it exists.
    pub owner: &'a dyn Fn(&str) -> Option<(u32, u32)>,
    /// The crypt(5) hash of a password.
    pub hash: &'a dyn Fn(&str) -> String,
    /// Days since 1 January 1970.
    pub today: u64,
}

/// Number ranges of ordinary users and of system users, as in Debian's login.defs.
const ORDINARY: std::ops::Range<u32> = 1000..60000;
const SYSTEM: std::ops::Range<u32> = 100..1000;
const LOCKED: &str = "!";

impl Accounts {
    pub fn parse(passwd: &str, shadow: &str, group: &str) -> Self {
        let table = |text: &str| text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect();
        Self { passwd: table(passwd), shadow: table(shadow), group: table(group) }
    }

    /// `passwd`, `shadow` and `group`, in this order.
    pub fn to_texts(&self) -> [String; 3] {
        [&self.passwd, &self.shadow, &self.group].map(|table| {
            table.iter().fold(String::new(), |mut text, row| {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{}", row.join(":"));
                text
            })
        })
    }

    pub fn find(&self, name: &str) -> Option<Account> {
        let row = row(&self.passwd, name)?;
        let number = |field: usize| row.get(field)?.parse().ok();
        Some(Account { name: name.into(), uid: number(2)?, gid: number(3)?, home: row.get(5)?.clone() })
    }

    pub fn group_id(&self, name: &str) -> Option<u32> {
        row(&self.group, name)?.get(2)?.parse().ok()
    }

    /// Creates the groups and users of a document and sets their passwords. Returns one line for each part that failed.
    /// All other parts are applied.
    pub fn apply(&mut self, document: &Document, host: &Host) -> Vec<String> {
        let mut problems = Vec::new();
        for group in &document.groups {
            let made = self.ensure_group(&group.name, ORDINARY, None).map(drop);
            note(&mut problems, &format!("group {}", group.name), made);
        }
        for user in &document.users {
            if let Err(cause) = self.ensure_user(user, host, &mut problems) {
                problems.push(format!("{}: {cause}", user.at));
            }
        }
        for group in &document.groups {
            for member in &group.members {
                note(&mut problems, &format!("group {}", group.name), self.add_member(&group.name, member));
            }
        }
        for PasswordOf { at, user, password } in &document.passwords {
            let hash = match password {
                Password::Hash(hash) => hash.clone(),
                Password::Text(text) => (host.hash)(text),
            };
            note(&mut problems, at, self.set_password(user, &hash, host.today));
        }
        problems
    }

    /// Creates a user if it does not exist. Parts that fail become `problems`. An error means that there is no such
    /// user.
    fn ensure_user(&mut self, user: &User, host: &Host, problems: &mut Vec<String>) -> Result<(), String> {
        let is_new = self.find(&user.name).is_none();
        if is_new {
            self.add_user(user, host, problems)?;
        }
        for group in &user.groups {
            let member = self.ensure_group(group, ORDINARY, None).and_then(|_| self.add_member(group, &user.name));
            note(problems, &format!("{}.groups", user.at), member);
        }
        let (key, hash) = match (&user.hashed_passwd, &user.plain_text_passwd, &user.passwd) {
            (Some(hash), _, _) => ("hashed_passwd", Some(hash.clone())),
            (None, Some(text), _) => ("plain_text_passwd", Some((host.hash)(text))),
            (None, None, hash) => ("passwd", hash.clone()),
        };
        if key == "passwd" && hash.is_some() && !is_new {
            problems.push(format!(
                "{}.passwd: the user exists in the image, and the key applies only to new users",
                user.at
            ));
        } else if let Some(hash) = hash {
            note(problems, &format!("{}.{key}", user.at), self.set_password(&user.name, &hash, host.today));
        }
        if user.lock_passwd.unwrap_or(true) {
            self.lock(&user.name);
        }
        Ok(())
    }

    fn add_user(&mut self, user: &User, host: &Host, problems: &mut Vec<String>) -> Result<(), String> {
        check_name(&user.name)?;
        let home = user.homedir.clone().unwrap_or_else(|| format!("/home/{}", user.name));
        let shell = user.shell.clone().unwrap_or_else(|| "/bin/bash".into());
        let gecos = user.gecos.clone().unwrap_or_default();
        let range = if user.system { SYSTEM } else { ORDINARY };
        let owner = (host.owner)(&home).filter(|(uid, _)| range.contains(uid) && !self.uses(&self.passwd, *uid));
        let asked = user.uid.filter(|uid| !self.uses(&self.passwd, *uid));
        if user.uid != asked {
            problems.push(format!("{}.uid: the number is in use, so the user gets another one", user.at));
        }
        let uid = match asked.or(owner.map(|(uid, _)| uid)) {
            Some(uid) => uid,
            None => self.free(&self.passwd, range.clone())?,
        };
        let gid = match &user.primary_group {
            Some(group) => self.ensure_group(group, range, None)?,
            None if user.no_user_group => self.group_id("users").unwrap_or(100),
            None => self.ensure_group(&user.name, range, Some(uid))?,
        };
        let fields = [&user.name, "x", &uid.to_string(), &gid.to_string(), &gecos, &home, &shell];
        self.passwd.push(fields.map(str::to_owned).to_vec());
        let today = host.today.to_string();
        self.shadow.push([&user.name, LOCKED, &today, "0", "99999", "7", "", "", ""].map(str::to_owned).to_vec());
        Ok(())
    }

    /// Number of a group. A missing group is created, with the number `wanted` if that is free.
    fn ensure_group(&mut self, name: &str, range: std::ops::Range<u32>, wanted: Option<u32>) -> Result<u32, String> {
        if let Some(gid) = self.group_id(name) {
            return Ok(gid);
        }
        check_name(name)?;
        let gid = match wanted.filter(|gid| !self.uses(&self.group, *gid)) {
            Some(gid) => gid,
            None => self.free(&self.group, range)?,
        };
        self.group.push([name, "x", &gid.to_string(), ""].map(str::to_owned).to_vec());
        Ok(gid)
    }

    fn add_member(&mut self, group: &str, user: &str) -> Result<(), String> {
        if self.find(user).is_none() {
            return Err("there is no such user".into());
        }
        let members = self.group.iter_mut().find(|row| row[0] == group).and_then(|row| row.get_mut(3));
        let members = members.ok_or("there is no such group")?;
        if !members.split(',').any(|member| member == user) {
            *members = if members.is_empty() { user.to_owned() } else { format!("{members},{user}") };
        }
        Ok(())
    }

    fn set_password(&mut self, name: &str, hash: &str, today: u64) -> Result<(), String> {
        if hash.contains([':', '\n']) {
            return Err("a hash must not contain a colon or a line break".into());
        }
        let row = self.shadow.iter_mut().find(|row| row[0] == name).filter(|row| row.len() > 2);
        let row = row.ok_or("there is no such user")?;
        row[1] = hash.to_owned();
        row[2] = today.to_string();
        Ok(())
    }

    /// Locks the password as `passwd -l` does. The hash can be restored.
    fn lock(&mut self, name: &str) {
        let password = self.shadow.iter_mut().find(|row| row[0] == name).and_then(|row| row.get_mut(1));
        if let Some(password) = password.filter(|password| !password.starts_with(LOCKED)) {
            password.insert_str(0, LOCKED);
        }
    }

    fn uses(&self, table: &Table, number: u32) -> bool {
        let number = number.to_string();
        table.iter().any(|row| row.get(2) == Some(&number))
    }

    fn free(&self, table: &Table, mut range: std::ops::Range<u32>) -> Result<u32, String> {
        range.find(|number| !self.uses(table, *number)).ok_or_else(|| "no number is free".into())
    }
}

fn row<'a>(table: &'a Table, name: &str) -> Option<&'a Vec<String>> {
    table.iter().find(|row| row[0] == name)
}

fn note(problems: &mut Vec<String>, what: &str, result: Result<(), String>) {
    if let Err(cause) = result {
        problems.push(format!("{what}: {cause}"));
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if is_name(name) { Ok(()) } else { Err("it is not a valid name of a user or a group".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloud_config::CloudConfig;

    fn image() -> Accounts {
        Accounts::parse(
            "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/:/usr/sbin/nologin\n",
            "root:*:20000:0:99999:7:::\ndaemon:*:20000:0:99999:7:::\n",
            "root:x:0:\nsudo:x:27:\nusers:x:100:\n",
        )
    }

    fn applied(text: &str, owner: Option<(u32, u32)>) -> (Accounts, Vec<String>) {
        let (document, _) = Document::read(&CloudConfig::parse(text).unwrap());
        let mut accounts = image();
        let host = Host { owner: &|_| owner, hash: &|password| format!("$6${password}$"), today: 20500 };
        let problems = accounts.apply(&document, &host);
        (accounts, problems)
    }

    #[test]
    fn an_image_without_changes_is_itself() {
        let texts = image().to_texts();
        assert_eq!(Accounts::parse(&texts[0], &texts[1], &texts[2]), image());
    }

    #[test]
    fn a_user_gets_number_group_home_and_a_locked_password() {
        let (accounts, problems) = applied("users: [{name: demo, groups: [sudo, ops], gecos: Demo}]", None);
        assert_eq!(problems, Vec::<String>::new());
        let [passwd, shadow, group] = accounts.to_texts();
        assert!(passwd.ends_with("demo:x:1000:1000:Demo:/home/demo:/bin/bash\n"), "{passwd}");
        assert!(shadow.ends_with("demo:!:20500:0:99999:7:::\n"), "{shadow}");
        assert!(
            group.contains("sudo:x:27:demo\n")
                && group.contains("demo:x:1000:\n")
                && group.contains("ops:x:1001:demo\n")
        );
    }

    #[test]
    fn the_number_follows_the_home() {
        let (accounts, _) = applied("users: [{name: demo}]", Some((1234, 1234)));
        assert_eq!(accounts.find("demo").unwrap().uid, 1234);
        let (accounts, _) = applied("users: [{name: demo}]", Some((0, 0)));
        assert_eq!(accounts.find("demo").unwrap().uid, 1000, "a home of root makes nobody root");
        let (accounts, _) = applied("users: [{name: demo, uid: 1500}]", Some((1234, 1234)));
        assert_eq!(accounts.find("demo").unwrap().uid, 1500);
    }

    #[test]
    fn passwords_come_from_every_place_cloud_init_knows() {
        let (accounts, problems) = applied(
            "users:\n- {name: a, plain_text_passwd: x, lock_passwd: false}\n- {name: b, passwd: $6$s$h}\n- {name: c, lock_passwd: false}\n- d\n\
             chpasswd: {list: ['c:$5$s$h'], users: [{name: daemon, password: p, type: text}, {name: d, password: '*'}]}\n",
            None,
        );
        assert_eq!(problems, Vec::<String>::new());
        let shadow = &accounts.to_texts()[1];
        for expected in ["\na:$6$x$:", "\nb:!$6$s$h:", "\nc:$5$s$h:", "\ndaemon:$6$p$:", "\nd:*:"] {
            assert!(shadow.contains(expected), "{expected} is missing from {shadow}");
        }
    }

    #[test]
    fn failures_are_reported_and_the_rest_is_applied() {
        let (accounts, problems) = applied(
            "users:\n- {name: 'a:b'}\n- {name: root2, uid: 0}\n- {name: ok, shell: \"/bin/sh\\nx\"}\n- fine\n\
             groups: [{ops: [nobody-here]}]\nchpasswd: {expire: true, list: ['root:RANDOM']}\n",
            None,
        );
        assert_eq!(
            problems,
            ["users[1].uid: the number is in use, so the user gets another one", "group ops: there is no such user"]
        );
        assert!(["fine", "ok"].iter().all(|name| accounts.find(name).is_some()));
        assert_eq!(accounts.find("root2").unwrap().uid, 1000);
    }
}
