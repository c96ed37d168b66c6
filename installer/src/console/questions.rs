//! Asks questions at the console when a medium has no registration. They are plain lines, so that a serial terminal of
//! 24 lines without cursor movement works as well as a screen.

mod terminal;

use crate::settings::{Digest, Layer, Settings, Source};
use cloud_config::CloudConfig;
use disk::DiskDescription;
use disk::layout::Size;
use machine::Machine;
use serde_json::{Map, Value, json};
use std::io;
use std::time::Duration;
pub use terminal::Terminal;

/// Where questions appear and answers come from.
pub trait Console {
    fn say(&mut self, text: &str) -> io::Result<()>;
    /// Asks for one line, which is returned without its end. `None` if the console was closed.
    fn ask(&mut self, prompt: &str) -> io::Result<Option<String>>;
    /// The same, for at most `patience`. `None` also if there was no answer by then.
    fn ask_within(&mut self, prompt: &str, patience: Duration) -> io::Result<Option<String>>;
    /// Asks for one line that is not shown while it is typed.
    fn ask_secret(&mut self, prompt: &str) -> io::Result<Option<String>>;
}

/// The answers of a person.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    pub settings: Layer,
    /// Cloud-config that overrides that of the medium.
    pub cloud_config: CloudConfig,
    /// GitHub accounts whose public keys may log in. The keys are fetched when there is a network.
    pub github_users: Vec<String>,
}

/// Why the questions ended without an installation.
#[derive(Debug, thiserror::Error)]
pub enum DeclinedError {
    #[error("the installation was declined; nothing was written")]
    Declined,
    #[error("the console was closed before every question was answered; nothing was written")]
    Closed,
    #[error("this machine has no suitable disk; attach one and restart the machine")]
    NoDisk,
    #[error("asking on the console")]
    Console(#[from] io::Error),
}

/// Asks all questions, except for settings that are already known.
pub fn ask(console: &mut dyn Console, machine: &Machine, settings: &Settings) -> Result<Answers, DeclinedError> {
    let mut dialog = Dialog { console };
    dialog.say("\nThis medium has no registration. Please answer a few questions to install this machine.")?;
    let mut layer = Layer::new(Source::Answer);
    let disk = dialog.disk(machine, settings)?;
    layer.set("device", disk.path.as_str());
    let mut config = Map::new();
    let mut github_users = Vec::new();
    if settings.config_url.is_none() {
        let url = dialog.line("Configuration URL (http, https; empty for none): ")?;
        if url.is_empty() {
            github_users = dialog.keys(&mut config)?;
            dialog.cluster(&mut config)?;
        } else {
            if url.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"))
                && settings.config_sha256.is_none()
            {
                layer.set("configSHA256", dialog.digest()?);
            }
            layer.set("configURL", url);
        }
    }
    if settings.password.is_none()
        && let Some(password) = dialog.password()?
    {
        layer.set("password", password);
    }
    if settings.wipe.source != Source::Answer {
        dialog.confirm(disk)?;
    }
    layer.set("wipe", true);
    Ok(Answers { settings: layer, cloud_config: CloudConfig(config), github_users })
}

/// Time in which a person may ask for a new installation.
const CHOICE: Duration = Duration::from_secs(10);
/// The answer that asks for a new installation.
const AGAIN: &str = "again";

/// Offers to install again instead of booting the system on the disk. Returns the settings for the installation if a
/// person asked for it and typed the name of the disk. Otherwise, and without a console, returns `None`.
pub fn offer_again(console: &mut dyn Console, disk: &DiskDescription, version: &str) -> Option<Layer> {
    let mut dialog = Dialog { console };
    dialog.again(disk, version).unwrap_or_else(|error| {
        tracing::debug!("offering to install again: {error}");
        None
    })
}

struct Dialog<'a> {
    console: &'a mut dyn Console,
}

impl Dialog<'_> {
    fn say(&mut self, text: &str) -> Result<(), DeclinedError> {
        Ok(self.console.say(text)?)
    }

    fn line(&mut self, prompt: &str) -> Result<String, DeclinedError> {
        let line = self.console.ask(prompt)?.ok_or(DeclinedError::Closed)?;
        Ok(line.trim().to_owned())
    }

    fn disk<'m>(&mut self, machine: &'m Machine, settings: &Settings) -> Result<&'m DiskDescription, DeclinedError> {
        let usable = |disk: &&DiskDescription| {
            !disk.is_boot_medium && !disk.read_only && disk.mounted.is_empty() && disk.size_bytes > 0
        };
        let disks: Vec<&DiskDescription> = machine.disks.iter().filter(usable).collect();
        let named = |name: &str| {
            disks.iter().find(|disk| {
                disk.path == name || disk.path == format!("/dev/{name}") || disk.links.iter().any(|link| link == name)
            })
        };
        if let Some(disk) = settings.device.as_deref().and_then(named) {
            return Ok(disk);
        }
        if disks.is_empty() {
            return Err(DeclinedError::NoDisk);
        }
        for (number, disk) in disks.iter().enumerate() {
            self.say(&format!("  {}) {}", number + 1, summary(disk)))?;
        }
        loop {
            let prompt = format!("Disk to install to (1-{}, or a path): ", disks.len());
            let answer = self.line(&prompt)?;
            let numbered = answer.parse().ok().and_then(|number: usize| disks.get(number.checked_sub(1)?));
            match numbered.or_else(|| named(&answer)) {
                Some(disk) => return Ok(disk),
                None => self.say(&format!("There is no disk {answer:?} in the list."))?,
            }
        }
    }

    fn again(&mut self, disk: &DiskDescription, version: &str) -> Result<Option<Layer>, DeclinedError> {
        self.say(&format!("\nThis machine is installed: {} holds its system, installed as {version}.", disk.path))?;
        let seconds = CHOICE.as_secs();
        let prompt =
            format!("The system starts in {seconds} s. To erase it and install again, type {AGAIN} and press Enter: ");
        let answer = self.console.ask_within(&prompt, CHOICE)?;
        self.say("")?;
        if !answer.is_some_and(|answer| answer.trim().eq_ignore_ascii_case(AGAIN)) {
            return Ok(None);
        }
        self.say("The system, its settings and all its data (COS_PERSISTENT) will be lost.")?;
        match self.confirm(disk) {
            Ok(()) => {}
            Err(DeclinedError::Declined) => return Ok(None),
            Err(error) => return Err(error),
        }
        let mut layer = Layer::new(Source::Answer);
        layer.set("device", disk.path.as_str());
        layer.set("wipe", true);
        Ok(Some(layer))
    }

    fn digest(&mut self) -> Result<String, DeclinedError> {
        loop {
            let answer =
                self.line("SHA-256 of the document, because plain http does not protect it (64 hex digits): ")?;
            if answer.parse::<Digest>().is_ok() {
                return Ok(answer);
            }
            self.say("That is not a SHA-256 as printed by sha256sum.")?;
        }
    }

    fn keys(&mut self, config: &mut Map<String, Value>) -> Result<Vec<String>, DeclinedError> {
        self.say("SSH keys that may log in as root: a public key, or github:USER; an empty line ends the list.")?;
        let (mut keys, mut users) = (Vec::new(), Vec::new());
        loop {
            let answer = self.line("SSH key: ")?;
            match answer.strip_prefix("github:") {
                _ if answer.is_empty() => break,
                Some(user) if is_github_user(user) => users.push(user.to_owned()),
                None if is_public_key(&answer) => keys.push(Value::from(answer)),
                _ => self.say("That is neither a public key (ssh-ed25519 AAAA...) nor github:USER.")?,
            }
        }
        if !keys.is_empty() {
            config.insert("ssh_authorized_keys".to_owned(), keys.into());
        }
        Ok(users)
    }

    fn cluster(&mut self, config: &mut Map<String, Value>) -> Result<(), DeclinedError> {
        let role = loop {
            match self.line("Role in a cluster (cluster-init, server, agent; empty for none): ")?.as_str() {
                "" => return Ok(()),
                role @ ("cluster-init" | "server" | "agent") => break role.to_owned(),
                other => self.say(&format!("{other:?} is not one of these roles."))?,
            }
        };
        let mut rancherd = Map::from_iter([("role".to_owned(), json!(role))]);
        if role != "cluster-init" {
            rancherd.insert("server".to_owned(), self.line("URL of the cluster's server: ")?.into());
        }
        let token = self.console.ask_secret("Token of the cluster: ")?.ok_or(DeclinedError::Closed)?;
        if !token.is_empty() {
            rancherd.insert("token".to_owned(), token.into());
        }
        config.insert("rancherd".to_owned(), rancherd.into());
        Ok(())
    }

    fn password(&mut self) -> Result<Option<String>, DeclinedError> {
        loop {
            let first = self.console.ask_secret("Password of root (empty for none): ")?.ok_or(DeclinedError::Closed)?;
            if first.is_empty() {
                return Ok(None);
            }
            if self.console.ask_secret("Repeat the password: ")?.ok_or(DeclinedError::Closed)? == first {
                return Ok(Some(first));
            }
            self.say("The passwords differ.")?;
        }
    }

    /// Requires that the disk's name is typed, so that a habit of pressing Enter or `y` destroys nothing.
    fn confirm(&mut self, disk: &DiskDescription) -> Result<(), DeclinedError> {
        self.say(&format!("\nAll data on this disk will be erased:\n  {}", summary(disk)))?;
        let name = disk.path.trim_start_matches("/dev/");
        for _ in 0..3 {
            let answer = self.line(&format!("Type {name} to install, or no to cancel: "))?;
            if answer == name || answer == disk.path {
                return Ok(());
            }
            if answer.eq_ignore_ascii_case("no") {
                break;
            }
        }
        Err(DeclinedError::Declined)
    }
}

fn summary(disk: &DiskDescription) -> String {
    let parts = [
        disk.path.clone(),
        Size(disk.size_bytes).to_string(),
        disk.model.clone(),
        disk.serial.clone(),
        if disk.content.is_empty() { "blank".to_owned() } else { disk.content.join("; ") },
    ];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("  ")
}

/// Whether the text follows GitHub's rule for account names: at most 39 letters, digits and single hyphens, with no
/// hyphen at either end.
fn is_github_user(user: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
    user.len() <= 39 && user.split('-').all(is_word)
}

/// Whether the line has the form of sshd's `authorized_keys` without options.
pub fn is_public_key(line: &str) -> bool {
    let mut words = line.split_ascii_whitespace();
    let kind = words.next().unwrap_or_default();
    let kinds = ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"];
    let is_known = kinds.contains(&kind) || kind.starts_with("sk-");
    is_known && words.next().is_some_and(|key| key.starts_with("AAAA"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::resolve;
    use std::collections::VecDeque;

    struct Script {
        answers: VecDeque<&'static str>,
        said: String,
    }
    impl Console for Script {
        fn say(&mut self, text: &str) -> io::Result<()> {
            self.said.push_str(text);
            self.said.push('\n');
            Ok(())
        }
        fn ask(&mut self, prompt: &str) -> io::Result<Option<String>> {
            self.say(prompt)?;
            Ok(self.answers.pop_front().map(str::to_owned))
        }
        fn ask_within(&mut self, prompt: &str, _: Duration) -> io::Result<Option<String>> {
            self.ask(prompt)
        }
        fn ask_secret(&mut self, prompt: &str) -> io::Result<Option<String>> {
            self.ask(prompt)
        }
    }

    fn machine() -> Machine {
        let disk = |path: &str, is_boot_medium, content: &[&str]| DiskDescription {
            path: path.to_owned(),
            size_bytes: 8 << 30,
            is_boot_medium,
            content: content.iter().map(|c| (*c).to_owned()).collect(),
            ..DiskDescription::default()
        };
        let disks = vec![disk("/dev/sda", true, &[]), disk("/dev/vda", false, &[]), disk("/dev/vdb", false, &["NTFS"])];
        Machine { disks, ..Machine::default() }
    }

    fn asked(answers: &[&'static str]) -> (Result<Answers, DeclinedError>, String) {
        let mut script = Script { answers: answers.iter().copied().collect(), said: String::new() };
        let result = ask(&mut script, &machine(), &Settings::default());
        (result, script.said)
    }

    #[test]
    fn everything_that_is_answered_is_set() {
        let (answers, said) = asked(&[
            "3",
            "2",
            "",
            "nonsense",
            "ssh-ed25519 AAAAC3 me",
            "github:octocat",
            "",
            "agent",
            "https://c:6443",
            "t0ken",
            "secret",
            "secrte",
            "secret",
            "secret",
            "vdb",
        ]);
        let answers = answers.unwrap();
        let settings = resolve([&answers.settings]).unwrap().settings;
        assert_eq!(settings.device.as_deref(), Some("/dev/vdb"));
        assert!(*settings.wipe);
        assert_eq!(settings.password.as_ref().unwrap().expose(), "secret");
        assert_eq!(answers.github_users, ["octocat"]);
        let expected = json!({
            "ssh_authorized_keys": ["ssh-ed25519 AAAAC3 me"],
            "rancherd": {"role": "agent", "server": "https://c:6443", "token": "t0ken"},
        });
        assert_eq!(Value::Object(answers.cloud_config.0), expected);
        assert!(said.contains("2) /dev/vdb  8.0 GiB  NTFS") && !said.contains("/dev/sda"), "{said}");
        assert!(said.lines().all(|line| line.chars().count() < 110), "{said}");
    }

    #[test]
    fn nothing_happens_without_the_disks_name_or_with_a_closed_console() {
        for (answers, expected) in [
            (&["1", "https://h/c", "", "no"][..], "declined"),
            (&["1", "https://h/c", "", "y", "yes", ""], "declined"),
            (&["1", "https://h/c"], "closed"),
        ] {
            let error = asked(answers).0.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn installing_again_takes_a_word_and_the_disks_name() {
        let offered = |answers: &[&'static str]| {
            let mut script = Script { answers: answers.iter().copied().collect(), said: String::new() };
            let layer = offer_again(&mut script, &machine().disks[1], "0.1.0");
            (layer, script.said)
        };
        for answers in [&[][..], &[""], &["y"], &["again"], &["again", "no"], &["again", "y", "yes", "again"]] {
            assert_eq!(offered(answers).0, None, "{answers:?}");
        }
        let (layer, said) = offered(&["again", "vda"]);
        let settings = resolve([&layer.unwrap()]).unwrap().settings;
        assert_eq!((settings.device.as_deref(), settings.wipe.source), (Some("/dev/vda"), Source::Answer));
        assert!(said.contains("COS_PERSISTENT") && said.contains("All data on this disk"), "{said}");
    }

    #[test]
    fn keys_are_recognised() {
        assert!(is_public_key("sk-ssh-ed25519@openssh.com AAAAG me@host") && is_public_key("ssh-rsa AAAAB3"));
        assert!(!is_public_key("ssh-ed25519") && !is_public_key("-----BEGIN OPENSSH PRIVATE KEY-----"));
    }

    #[test]
    fn names_that_github_gives_to_nobody_are_not_recognised() {
        let longest = "o".repeat(39);
        for user in ["octocat", "o", "0", "a-b-c", longest.as_str()] {
            assert!(is_github_user(user), "{user}");
        }
        let too_long = "o".repeat(40);
        for user in ["", "-", "-octocat", "octocat-", "octo--cat", "octo_cat", "../x", "größe", too_long.as_str()] {
            assert!(!is_github_user(user), "{user}");
        }
    }
}
