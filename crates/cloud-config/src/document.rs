//! The parts of a cloud-config that an installed system applies, with types. The meaning of each key is cloud-init's
//! ("Module reference") and netplan's; `rancherd` and `rancheros` are ours.

mod accounts;
mod commands;
mod files;
mod network;
mod system;

pub use accounts::{Group, Password, PasswordOf, User, is_name};
pub use commands::ShellCommand;
pub use files::WriteFile;
pub use network::{Bond, Bridge, Ethernet, Interface, Match, Nameservers, Network, Route, Vlan};
pub use system::{CaCerts, Ntp};

use crate::keys::Unapplied;
use crate::node::{Fields, Log};
use crate::{CloudConfig, normal_key};
use accounts::{default_user, groups, passwords, users};
use commands::commands;
use files::write_files;
use network::network;
use serde_json::{Map, Value};
use system::{ca_certs, hostname, ntp, rancherd};

/// The parts of a cloud-config that are applied. Absent parts are empty.
#[derive(Clone, Debug, Default)]
pub struct Document {
    pub hostname: Option<String>,
    pub groups: Vec<Group>,
    /// The users of `users`, and the one that `user` describes.
    pub users: Vec<User>,
    /// The user that `password` and `ssh_authorized_keys` are for: the one of `user`, or else `root`.
    pub default_user: String,
    pub ssh_authorized_keys: Vec<String>,
    /// Passwords from all places except `users`. Later ones win.
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

impl Document {
    /// Reads a cloud-config. Also returns the parts that are not applied, in the document's order where it has one:
    /// unknown keys, and values that cannot be used. Such a value does not affect the rest of the document.
    pub fn read(config: &CloudConfig) -> (Self, Vec<Unapplied>) {
        let log = Log::default();
        let document = read(config, &log);
        (document, log.unapplied.into_inner())
    }
}

pub(crate) fn read(config: &CloudConfig, log: &Log) -> Document {
    // The installer's own section may be spelled in several ways. It is checked where it is used.
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
    // The parts that are not applied are reported when the whole document is read.
    let log = Log::default();
    let mut top = Fields::of_document(config, &log);
    let name = hostname(&mut top);
    drop(top);
    name
}
