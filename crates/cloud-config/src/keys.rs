//! The keys of a cloud-config that the installed system applies. All others are reported: before an installation, in the
//! conditions of the registration, and on the console of the machine.
//!
//! Names and meaning are cloud-init's (its "Module reference") and netplan's, `rancherd` and `rancheros` ours.

use crate::document::Document;
use crate::{CloudConfig, normal_key, release_keys};
use std::fmt;

/// Every key that is applied, with how: `[]` stands for the items of a list, `*` for a name. docs/cloud-config.md is
/// made from it.
pub const KEYS: &[(&str, &str)] = &[
    (
        "bootcmd",
        "A list of commands, each a line for the shell or a list of arguments; run at each boot before the network, for at most 5 minutes.",
    ),
    ("ca_certs", "Also `ca-certs`."),
    ("ca_certs.remove_defaults", "Trust only the certificates of `trusted`."),
    ("ca_certs.trusted", "Certificates as PEM."),
    ("chpasswd", "Passwords of users that exist or that `users` makes."),
    ("chpasswd.expire", "Only `false`."),
    ("chpasswd.list", "Lines `name:password`, the password as text or as a hash of crypt(5). `RANDOM` is not applied."),
    ("chpasswd.users", "A list."),
    ("chpasswd.users[].name", "The user."),
    ("chpasswd.users[].password", "As `type` says."),
    ("chpasswd.users[].type", "`hash` (so without it) or `text`."),
    ("fqdn", "Its first part is the hostname where `hostname` is absent; see `prefer_fqdn_over_hostname`."),
    ("groups", "A list of names, or of mappings from a name to its members."),
    ("hostname", "Its first part is the name of the machine."),
    ("network", "Version 2, for systemd-networkd; also below another `network`."),
    ("network.ethernets", "By interface; its id is its name unless `match` says otherwise."),
    ("network.ethernets.*.accept-ra", "Whether router advertisements are taken."),
    ("network.ethernets.*.addresses", "With the length of their prefix."),
    ("network.ethernets.*.dhcp4", "True or false."),
    ("network.ethernets.*.dhcp6", "True or false."),
    ("network.ethernets.*.gateway4", "An address."),
    ("network.ethernets.*.gateway6", "An address."),
    ("network.ethernets.*.match", "An interface is left out where any key of it cannot be applied."),
    ("network.ethernets.*.match.driver", "The driver's name."),
    ("network.ethernets.*.match.macaddress", "The card's own address."),
    ("network.ethernets.*.match.name", "The interface's name; `*` stands for any characters."),
    ("network.ethernets.*.mtu", "In bytes."),
    ("network.ethernets.*.nameservers", "Of this interface."),
    ("network.ethernets.*.nameservers.addresses", "Of name servers."),
    ("network.ethernets.*.nameservers.search", "Domains."),
    ("network.ethernets.*.optional", "The system comes up without waiting for it."),
    ("network.ethernets.*.routes", "A list. A route of which a part cannot be used is left out."),
    ("network.ethernets.*.routes[].from", "Preferred address of the sender."),
    ("network.ethernets.*.routes[].metric", "A number."),
    ("network.ethernets.*.routes[].mtu", "In bytes."),
    ("network.ethernets.*.routes[].on-link", "The gateway is reached although no address says so."),
    ("network.ethernets.*.routes[].scope", "`global`, `link` or `host`."),
    ("network.ethernets.*.routes[].table", "The number of a routing table."),
    ("network.ethernets.*.routes[].to", "`default`, or an address with the length of its prefix."),
    ("network.ethernets.*.routes[].type", "Such as `unicast`, `blackhole`, `unreachable` or `prohibit`."),
    ("network.ethernets.*.routes[].via", "The gateway."),
    ("network.renderer", "Only `networkd`."),
    ("network.version", "2."),
    ("ntp", "For systemd-timesyncd."),
    ("ntp.enabled", "False switches it off."),
    ("ntp.pools", "Names."),
    ("ntp.servers", "Names."),
    ("password", "Of `user`, or of root where that is absent. Not where `chpasswd` names users."),
    ("prefer_fqdn_over_hostname", "The whole `fqdn` is the hostname."),
    ("rancherd", "Its configuration, `/etc/rancher/rancherd/config.yaml`."),
    (
        "rancheros.release.keys",
        "Public keys as PEM, beside those of the image: an upgrade must be signed by one of them \
         ([how](sign-releases.md)).",
    ),
    ("runcmd", "As `bootcmd`; run once after an installation, with a network, for at most an hour."),
    ("ssh_authorized_keys", "Of `user`, or of root where that is absent."),
    ("ssh_pwauth", "Whether SSH takes passwords."),
    ("timezone", "Such as `Europe/Berlin`."),
    ("user", "A name or a mapping as in `users`: who gets `password` and `ssh_authorized_keys`, and may use sudo."),
    ("users", "A list of names and mappings, or a mapping by name; `default` is root, or `user`."),
    ("users[].gecos", "The full name; for a new user."),
    ("users[].groups", "A list, or text with commas; made if they are not there."),
    ("users[].hashed_passwd", "A hash of crypt(5)."),
    ("users[].homedir", "For a new user."),
    ("users[].lock_passwd", "True, as without it: no password opens the account."),
    ("users[].name", "Up to 32 of a-z, 0-9, `_` and `-`."),
    ("users[].no_create_home", "True or false."),
    ("users[].no_user_group", "For a new user."),
    ("users[].passwd", "A hash of crypt(5); for a new user, and so not for root."),
    ("users[].plain_text_passwd", "Text."),
    ("users[].primary_group", "For a new user."),
    ("users[].shell", "For a new user."),
    ("users[].ssh_authorized_keys", "Keys beside those that are there."),
    ("users[].sudo", "A rule of one line, or a list of them, without the user's name; `false` for none."),
    ("users[].system", "For a new user."),
    ("users[].uid", "For a new user."),
    ("write_files", "A list. A file that is kept over restarts is written once, any other at each boot."),
    ("write_files[].append", "True or false."),
    ("write_files[].content", "Text, or `!!binary`."),
    ("write_files[].defer", "Write it when users are made and there is a network."),
    ("write_files[].encoding", "`b64`, `gzip` or `gz+b64`."),
    ("write_files[].owner", "`user:group`; folders that are made for it, too."),
    ("write_files[].path", "Absolute."),
    ("write_files[].permissions", "Octal digits in quotes."),
    ("write_files[].source", "Not applied, and the file is left as it is."),
];

/// What stands below `rancheros`, by [`normal_key`].
const OWN_SECTIONS: &[&str] = &["install", "release"];

/// The settings below `rancheros.install`, by [`normal_key`].
pub const INSTALL_SETTINGS: &[&str] = &[
    "automatic",
    "configurl",
    "debug",
    "device",
    "deviceselector",
    "forceefi",
    "isourl",
    "noformat",
    "password",
    "poweroff",
    "registrationcacert",
    "registrationsecret",
    "registrationurl",
    "tty",
    "wipe",
];

/// A part of a cloud-config that is not applied. `Display` is a line that never shows a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unapplied {
    /// Such as `packages` or `users[1].shell`.
    pub path: String,
    /// `None`: the key is not known.
    pub why: Option<&'static str>,
}

impl Unapplied {
    /// The path without control characters, cut to 120 characters.
    pub fn place(&self) -> String {
        const MOST: usize = 120;
        let mut place: String =
            self.path.chars().take(MOST).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        if self.path.chars().nth(MOST).is_some() {
            place.push('…');
        }
        place
    }
}

impl std::error::Error for Unapplied {}

impl fmt::Display for Unapplied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cloud-config key `{}` is not applied", self.place())?;
        self.why.map_or(Ok(()), |why| write!(f, ": {why}"))
    }
}

/// The parts of a document that the installed system does not apply.
pub fn unapplied(config: &CloudConfig) -> Vec<Unapplied> {
    let (_, mut unapplied) = Document::read(config);
    let own = config.0.iter().filter(|(key, _)| normal_key(key) == "rancheros");
    for (key, value) in own {
        let below = value.as_object().into_iter().flatten();
        let unknown =
            below.filter(|(key, value)| !OWN_SECTIONS.contains(&normal_key(key).as_str()) && !value.is_null());
        unapplied.extend(unknown.map(|(below, _)| Unapplied { path: format!("{key}.{below}"), why: None }));
    }
    unapplied.extend(release_keys::read(config).1);
    unapplied
}

/// Like [`unapplied`], with the settings below `rancheros.install` that the installer does not know.
pub fn unapplied_or_unknown(config: &CloudConfig) -> Vec<Unapplied> {
    let mut all = unapplied(config);
    let install = config.install();
    let unknown = install.iter().filter(|(key, value)| !INSTALL_SETTINGS.contains(&key.as_str()) && !value.is_null());
    all.extend(unknown.map(|(key, _)| Unapplied { path: format!("rancheros.install.{key}"), why: None }));
    all
}

/// The paths in one line of at most about 1,000 characters.
pub fn summary(unapplied: &[Unapplied]) -> String {
    const MOST: usize = 900;
    let mut line = String::new();
    for (index, one) in unapplied.iter().enumerate() {
        let place = one.place();
        if line.len() + place.len() > MOST {
            return format!("{line} and {} more", unapplied.len() - index);
        }
        let comma = if line.is_empty() { "" } else { ", " };
        line = format!("{line}{comma}{place}");
    }
    line
}

#[cfg(test)]
mod tests;
