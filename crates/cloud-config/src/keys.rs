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
        "A list of commands, each a shell command line or a list of arguments. They run at each boot before the \
         network, for at most 5 minutes.",
    ),
    ("ca_certs", "Also `ca-certs`."),
    ("ca_certs.remove_defaults", "Trust only the certificates of `trusted`."),
    ("ca_certs.trusted", "Certificates as PEM."),
    ("chpasswd", "Passwords of users in the image or in `users`."),
    ("chpasswd.expire", "Only `false`."),
    (
        "chpasswd.list",
        "Lines `name:password`, the password as text or as a hash of crypt(5). `RANDOM` is not supported.",
    ),
    ("chpasswd.users", "A list."),
    ("chpasswd.users[].name", "The user."),
    ("chpasswd.users[].password", "In the form that `type` says."),
    ("chpasswd.users[].type", "`hash` (the default) or `text`."),
    ("fqdn", "Without `hostname`, its first part is the host name; see `prefer_fqdn_over_hostname`."),
    ("groups", "A list of names, or of mappings from a name to its members."),
    ("hostname", "Its first part is the host name."),
    ("network", "Version 2, for systemd-networkd. It may also be below another `network`."),
    ("network.bonds", "Bonds by name, with the keys of `network.ethernets.*` except `match`, and those below."),
    ("network.bonds.*.interfaces", "Ids of the members."),
    ("network.bonds.*.parameters", "How the members work together."),
    ("network.bonds.*.parameters.lacp-rate", "`slow` or `fast`."),
    ("network.bonds.*.parameters.mii-monitor-interval", "In milliseconds."),
    ("network.bonds.*.parameters.mode", "Such as `active-backup` or `802.3ad`."),
    ("network.bonds.*.parameters.transmit-hash-policy", "Such as `layer3+4`."),
    ("network.bridges", "Bridges by name, with the keys of `network.ethernets.*` except `match`, and those below."),
    ("network.bridges.*.interfaces", "Ids of the members."),
    ("network.bridges.*.parameters", "How the bridge works."),
    ("network.bridges.*.parameters.forward-delay", "In seconds."),
    ("network.bridges.*.parameters.stp", "Whether it takes part in the spanning tree protocol."),
    ("network.ethernets", "Interfaces by id. The id is the interface's name unless `match` is given."),
    ("network.ethernets.*.accept-ra", "Whether router advertisements are accepted."),
    ("network.ethernets.*.addresses", "Addresses with a prefix length."),
    ("network.ethernets.*.dhcp4", "True or false."),
    ("network.ethernets.*.dhcp6", "True or false."),
    ("network.ethernets.*.gateway4", "An address."),
    ("network.ethernets.*.gateway6", "An address."),
    ("network.ethernets.*.match", "If one of its keys cannot be applied, the interface is left out."),
    ("network.ethernets.*.match.driver", "The driver's name."),
    ("network.ethernets.*.match.macaddress", "The permanent MAC address of the network card."),
    ("network.ethernets.*.match.name", "The interface's name; `*` stands for any characters."),
    ("network.ethernets.*.mtu", "In bytes."),
    ("network.ethernets.*.nameservers", "Name servers of this interface."),
    ("network.ethernets.*.nameservers.addresses", "Addresses of the name servers."),
    ("network.ethernets.*.nameservers.search", "Domains."),
    ("network.ethernets.*.optional", "If true, the system starts without waiting for the interface."),
    ("network.ethernets.*.routes", "A list. If a part of a route cannot be used, the route is left out."),
    ("network.ethernets.*.routes[].from", "Preferred source address."),
    ("network.ethernets.*.routes[].metric", "A number."),
    ("network.ethernets.*.routes[].mtu", "In bytes."),
    (
        "network.ethernets.*.routes[].on-link",
        "If true, the gateway is reached directly, although no address has it in its prefix.",
    ),
    ("network.ethernets.*.routes[].scope", "`global`, `link` or `host`."),
    ("network.ethernets.*.routes[].table", "The number of a routing table."),
    ("network.ethernets.*.routes[].to", "`default`, or an address with a prefix length."),
    ("network.ethernets.*.routes[].type", "Such as `unicast`, `blackhole`, `unreachable` or `prohibit`."),
    ("network.ethernets.*.routes[].via", "The gateway."),
    ("network.renderer", "Only `networkd`."),
    ("network.version", "2."),
    ("network.vlans", "VLANs by name, with the keys of `network.ethernets.*` except `match`, and those below."),
    ("network.vlans.*.id", "0 to 4094."),
    ("network.vlans.*.link", "The id of the interface that it is on."),
    ("ntp", "For systemd-timesyncd."),
    ("ntp.enabled", "If false, the service is disabled."),
    ("ntp.pools", "Names."),
    ("ntp.servers", "Names."),
    ("password", "Password of `user`, or of root without `user`. Not applied if `chpasswd` names users."),
    ("prefer_fqdn_over_hostname", "If true, the whole `fqdn` is the host name."),
    (
        "rancherd",
        "The configuration of rancherd, `/etc/rancher/rancherd/config.yaml`, and of the programs that join a cluster \
         ([how](join.md)).",
    ),
    (
        "rancheros.release.keys",
        "Public keys as PEM, in addition to those of the image. One of these keys must have signed an upgrade \
         ([how](sign-releases.md)).",
    ),
    (
        "runcmd",
        "Commands as in `bootcmd`. They run once after an installation, when the network is up, for at most an hour.",
    ),
    ("ssh_authorized_keys", "Keys of `user`, or of root without `user`."),
    ("ssh_pwauth", "Whether SSH accepts passwords."),
    ("timezone", "Such as `Europe/Berlin`."),
    (
        "user",
        "A name, or a mapping as in `users`. This user gets `password` and `ssh_authorized_keys`, and may use sudo.",
    ),
    ("users", "A list of names and mappings, or a mapping by name; `default` is root, or `user`."),
    ("users[].gecos", "The full name; for a new user."),
    ("users[].groups", "A list, or text with commas. Groups that do not exist are created."),
    ("users[].hashed_passwd", "A hash of crypt(5)."),
    ("users[].homedir", "For a new user."),
    ("users[].lock_passwd", "True (the default): no password is accepted for the account."),
    ("users[].name", "Up to 32 of a-z, 0-9, `_` and `-`."),
    ("users[].no_create_home", "True or false."),
    ("users[].no_user_group", "For a new user."),
    ("users[].passwd", "A hash of crypt(5); for a new user, so not for root."),
    ("users[].plain_text_passwd", "Text."),
    ("users[].primary_group", "For a new user."),
    ("users[].shell", "For a new user."),
    ("users[].ssh_authorized_keys", "Keys that are added to the existing ones."),
    ("users[].sudo", "A rule of one line, or a list of them, without the user's name; `false` for none."),
    ("users[].system", "For a new user."),
    ("users[].uid", "For a new user."),
    ("write_files", "A list. A file that survives a restart is written once, any other file at each boot."),
    ("write_files[].append", "True or false."),
    ("write_files[].content", "Text, or `!!binary`."),
    ("write_files[].defer", "If true, the file is written after the users are created and the network is up."),
    ("write_files[].encoding", "`b64`, `gzip` or `gz+b64`."),
    ("write_files[].owner", "`user:group`, also for folders that are created for the file."),
    ("write_files[].path", "Absolute."),
    ("write_files[].permissions", "Octal digits in quotes."),
    ("write_files[].source", "Not applied; the file stays unchanged."),
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
    "noproxy",
    "password",
    "poweroff",
    "proxy",
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

/// Whether a key at the top of a document is one of a cloud-config, and not one that only rancherd knows.
pub fn is_known(key: &str) -> bool {
    let top = |path: &'static str| path.split(['.', '[']).next().unwrap_or_default();
    key == "ca-certs" || KEYS.iter().any(|(path, _)| top(path) == key)
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
