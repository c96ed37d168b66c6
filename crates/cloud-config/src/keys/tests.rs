//! Tests of documents from the field, and of the page for users.

use super::*;
use crate::document::{self, Password, ShellCommand};
use crate::node::Log;

fn read(text: &str) -> (Document, Vec<String>) {
    let config = CloudConfig::parse(text).unwrap();
    let (document, _) = Document::read(&config);
    (document, unapplied(&config).into_iter().map(|one| one.path).collect())
}

fn of(text: &str) -> Vec<String> {
    read(text).1
}

/// Asserts that everything is applied.
fn whole(text: &str) -> Document {
    let (document, unapplied) = read(text);
    assert_eq!(unapplied, Vec::<String>::new(), "{text}");
    document
}

#[test]
fn what_is_not_applied_is_named_with_its_place() {
    let cases: &[(&str, &[&str])] = &[
        ("pakages: [vim]\nfoo: null", &["pakages"]),
        ("users: [{name: u, ssh_import_id: ['gh:u'], uid: x}]", &["users[0].uid", "users[0].ssh_import_id"]),
        ("users: [{name: root, passwd: $6$s$h, shell: /bin/sh}]", &["users[0].passwd", "users[0].shell"]),
        (
            "users: [{shell: /bin/sh}, {name: 'a:b'}, {name: [x]}, good, !x y]",
            &["users[0]", "users[1].name", "users[2].name", "users[4]"],
        ),
        (
            "users: [{name: u, shell: \"/bin/sh\\nx\", lock_passwd: perhaps, sudo: [a, \"b\\nroot c\"]}]",
            &["users[0].shell", "users[0].sudo[1]", "users[0].lock_passwd"],
        ),
        (
            "write_files: [{content: x}, {path: a}, {path: /b, source: {uri: u}}, {path: /c, encoding: zip}]",
            &["write_files[0]", "write_files[1].path", "write_files[2].source", "write_files[3].encoding"],
        ),
        (
            "write_files: [{path: /a, content: '*', encoding: b64}, {path: /b, permissions: rwx}, {path: /c, permissions: 400}, {path: /d, mode: 1}]",
            &[
                "write_files[0].content",
                "write_files[1].permissions",
                "write_files[2].permissions",
                "write_files[3].mode",
            ],
        ),
        (
            "password: w\nchpasswd: {expire: true, list: ['a:b', 'root:RANDOM']}",
            &["chpasswd.list[1]", "chpasswd.expire", "password"],
        ),
        (
            "chpasswd: {users: [{name: a, password: b, type: c}, {name: a, type: RANDOM}, {password: x}]}",
            &["chpasswd.users[0].type", "chpasswd.users[1]", "chpasswd.users[2]"],
        ),
        ("network: {version: 1, config: []}", &["network.version", "network.config"]),
        (
            "network: {version: 2, tunnels: {}, nameservers: {addresses: []}, ethernets: {e: {wakeonlan: true, mtu: x, dhcp4: true}}}",
            &["network.ethernets.e.mtu", "network.ethernets.e.wakeonlan", "network.tunnels", "network.nameservers"],
        ),
        (
            "network: {vlans: {v: {id: 5000, link: e}, long-name-of-vlan: {}}, bonds: {b: {interfaces: [e, 'x y'], parameters: {mode: x, primary: e}}}, bridges: {c: {match: {}, parameters: {stp: 7}}}}",
            &[
                "network.vlans.v",
                "network.vlans.long-name-of-vlan",
                "network.bonds.b.interfaces[1]",
                "network.bonds.b.parameters.mode",
                "network.bonds.b.parameters.primary",
                "network.bridges.c.match",
                "network.bridges.c.parameters.stp",
            ],
        ),
        (
            "network: {ethernets: {e: {match: {path: x}}, f: {routes: [{to: 10.0.0.0/8, type: nosuch}, {to: 10.0.0.0/8, advmss: 1}], nameservers: {addresses: [x], foo: 1}}}}",
            &[
                "network.ethernets.e.match.path",
                "network.ethernets.e",
                "network.ethernets.f.nameservers.addresses[0]",
                "network.ethernets.f.nameservers.foo",
                "network.ethernets.f.routes[0].type",
                "network.ethernets.f.routes[0]",
                "network.ethernets.f.routes[1].advmss",
            ],
        ),
        (
            "## template: jinja\nhostname: '{{ x }}'\nruncmd: [a, 'b {{ c }}', [d, '{{ e }}']]\nrancherd: {a: '{{ b }}', c: d}",
            &["hostname", "runcmd[1]", "runcmd[2][1]", "rancherd.a"],
        ),
        (
            "runcmd: x\nbootcmd: [{a: b}, 5]\nntp: 7\nca_certs: {trusted: [x]}\ngroups: {A: [b]}\nrancheros: {instal: {}}\nwrite-files: []",
            &[
                "bootcmd[0]",
                "bootcmd[1]",
                "runcmd",
                "ntp",
                "ca_certs.trusted[0]",
                "groups.A",
                "write-files",
                "rancheros.instal",
            ],
        ),
    ];
    for (text, expected) in cases {
        let mut found = of(text);
        let mut expected: Vec<&str> = expected.to_vec();
        found.sort();
        expected.sort_unstable();
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn spellings_of_users() {
    let names = |text: &str| whole(text).users.into_iter().map(|user| user.name).collect::<Vec<_>>();
    assert_eq!(names("users: [default, a, 'b, c', {name: d}, null]"), ["a", "b", "c", "d"]);
    assert_eq!(names("users: a, b"), ["a", "b"]);
    assert_eq!(names("users: {demo: {shell: /bin/bash, groups: adm}, no: false, two: yes}"), ["demo", "two"]);
    let user = whole(
        "users: [{name: demo, primary-group: users, hashed-passwd: $6$s$h, lock-passwd: no, no_create_home: null, \
         ssh-authorized-keys: [\"a\\nb\\n\"], uid: '1200', groups: 'x, y', sudo: \"ALL=(ALL) ALL\\n\"}]",
    );
    let user = &user.users[0];
    assert_eq!((user.primary_group.as_deref(), user.lock_passwd, user.uid), (Some("users"), Some(false), Some(1200)));
    assert_eq!(
        (&user.sudo[..], &user.ssh_authorized_keys[..]),
        (&["ALL=(ALL) ALL".to_owned()][..], &["a".to_owned(), "b".into()][..])
    );
    assert_eq!(user.groups, ["x", "y"]);
    for none in ["false", "no", "null", "off"] {
        assert!(whole(&format!("users: [{{name: u, sudo: {none}}}]")).users[0].sudo.is_empty());
    }
}

#[test]
fn passwords_are_as_written_and_for_whom_they_are_meant() {
    let of = |text: &str| {
        let of = |one: &document::PasswordOf| match &one.password {
            Password::Text(text) => (one.user.clone(), text.clone()),
            Password::Hash(hash) => (one.user.clone(), format!("hash {hash}")),
        };
        read(text).0.passwords.iter().map(of).map(|(user, password)| format!("{user}={password}")).collect::<Vec<_>>()
    };
    assert_eq!(of("password: 123456789012345678901234567890123"), ["root=123456789012345678901234567890123"]);
    assert_eq!(of("password: 0x10"), ["root=0x10"]);
    assert_eq!(of("password: no"), ["root=no"]);
    assert_eq!(of("user: ops\npassword: word"), ["ops=word"]);
    assert_eq!(of("password: x\nusers: [default]\nchpasswd: {expire: false, list: ['demo:word']}"), ["demo=word"]);
    assert_eq!(of("chpasswd: {list: \"a:x\\n\\n b:$6$s$h\"}"), ["a=x", "b=hash $6$s$h"]);
    assert_eq!(
        of("chpasswd: {users: [{name: a, password: 4711, type: text}, 7, {name: b, password: h}]}"),
        ["a=4711", "b=hash h"]
    );
    let ops = whole("user: {name: ops, groups: adm}\nssh_authorized_keys: k");
    assert_eq!((ops.default_user.as_str(), &ops.users[0].sudo[0][..]), ("ops", "ALL=(ALL) NOPASSWD:ALL"));
}

#[test]
fn files() {
    let file = |fields: &str| whole(&format!("write_files: [{{path: /x, {fields}}}]")).write_files.remove(0);
    assert_eq!(file("content: !!binary f0VMRgIBAf8=").content, [0x7f, b'E', b'L', b'F', 2, 1, 1, 0xff]);
    assert_eq!(file("content: aGk=, encoding: b64, append: null").content, b"hi");
    assert!(file("content: aGk=, encoding: gz+b64").gzip);
    assert_eq!(file("content: 1.50, owner: 'root : adm'").owner, ("root".into(), "adm".into()));
    assert_eq!(file("owner: ':adm', content: 1.50").content, b"1.50");
    let modes = [
        ("'0644'", 0o644),
        ("0755", 0o755),
        ("0o600", 0o600),
        ("420", 0o644),
        ("493", 0o755),
        ("384", 0o600),
        ("511", 0o777),
        ("644", 0o644),
        ("755", 0o755),
        ("600", 0o600),
        ("440", 0o440),
        ("'4755'", 0o4755),
        ("2541", 0o4755),
        ("null", 0o644),
    ];
    for (written, mode) in modes {
        assert_eq!(file(&format!("permissions: {written}")).mode, mode, "{written}");
    }
    let twice = whole("write_files: [{path: /a}, {path: /a, append: on, defer: yes}]").write_files;
    assert!(twice[1].earlier == 1 && twice[1].append && twice[1].defer);
}

#[test]
fn names_of_machines_and_the_rest() {
    let hostname = |text: &str| whole(text).hostname.unwrap();
    assert_eq!(hostname("hostname: node1.example.org"), "node1");
    assert_eq!(hostname("{hostname: h, fqdn: h2.example}"), "h");
    assert_eq!(hostname("fqdn: h.example"), "h");
    assert_eq!(hostname("{hostname: h, fqdn: h.example, prefer_fqdn_over_hostname: yes}"), "h.example");
    let document = whole(
        "runcmd: [echo one, null, [echo, 1, true]]\ngroups: [a, {ops: [a, b]}, {c: null}]\nssh_pwauth: off\nntp: {enabled: no}\nnetwork: null",
    );
    let arguments = ["echo", "1", "true"].map(str::to_owned).to_vec();
    assert_eq!(document.runcmd, [ShellCommand::Line("echo one".into()), ShellCommand::Arguments(arguments)]);
    assert_eq!((document.groups.len(), document.ssh_pwauth, document.ntp.enabled), (3, Some(false), Some(false)));
    let network = whole(
        "network: {network: {version: '2', renderer: networkd, ethernets: {eth0: {dhcp4: no, addresses: [10.0.0.1/24], mtu: '1500'}}}}",
    );
    let (_, eth0) = &network.network.unwrap().ethernets[0];
    let eth0 = &eth0.interface;
    assert_eq!((eth0.dhcp4, eth0.mtu, eth0.addresses.len()), (false, Some(1500), 1));
}

#[test]
fn a_message_shows_no_value_and_has_its_bounds() {
    let secret = "s3cr3t";
    let text = format!(
        "password: [{secret}]\nusers: [{{name: [{secret}]}}, {{name: '{secret} x', passwd: [{secret}]}}]\nhostname: [{secret}]\n\
         ssh_pwauth: {secret}\ntimezone: [{secret}]\nnetwork: {{ethernets: {{e: {{mtu: {secret}, addresses: [{secret}]}}}}}}\n\
         write_files: [{{path: {secret}, permissions: {secret}}}]\nruncmd: {secret}\nchpasswd: {{list: [{secret}]}}\nrancherd: {secret}\n"
    );
    let config = CloudConfig::parse(&text).unwrap();
    let all = unapplied(&config);
    assert!(all.len() >= 11, "{all:?}");
    let lines: Vec<String> = all.iter().map(ToString::to_string).collect();
    assert!(
        !lines.join("\n").contains(secret) && !format!("{:?}", Document::read(&config)).contains(secret),
        "{lines:?}"
    );
    let many: Vec<Unapplied> =
        (0..500).map(|i| Unapplied { path: format!("{}\n{i}", "k".repeat(i)), why: None }).collect();
    let line = summary(&many);
    assert!(line.len() < 1100 && line.contains(" more") && !line.contains('\n'), "{line}");
    assert_eq!(summary(&many[..2]), "\u{fffd}0, k\u{fffd}1");
}

#[test]
fn settings_of_the_installer_are_known_however_they_are_spelled() {
    let config =
        CloudConfig::parse("RancherOS: {install: {registration_url: x, devcie: y, deviceSelector: {byId: z}}}")
            .unwrap();
    let all: Vec<String> = unapplied_or_unknown(&config).into_iter().map(|one| one.path).collect();
    assert_eq!(all, ["rancheros.install.devcie"]);
    assert!(INSTALL_SETTINGS.is_sorted());
}

/// A document that has every mapping that can be read.
const EVERYTHING: &str = "\
user: {name: ops}
users: [{name: a}]
chpasswd: {users: [{name: a, password: b, type: text}]}
write_files: [{path: /a}]
ntp: {enabled: true}
ca_certs: {trusted: []}
network:
  ethernets: {e: {match: {name: e}, nameservers: {addresses: []}, routes: [{to: default}]}}
  vlans: {v: {id: 1, link: e}}
  bonds: {b: {parameters: {mode: active-backup}}}
  bridges: {c: {parameters: {stp: true}}}
";

#[test]
fn the_table_has_the_keys_that_are_read() {
    let log = Log::default();
    document::read(&CloudConfig::parse(EVERYTHING).unwrap(), &log);
    let asked = log.asked.into_inner();
    assert!(KEYS.is_sorted());
    // Our own section may be spelled in several ways and is read elsewhere.
    let table: Vec<&str> = KEYS.iter().map(|(key, _)| *key).filter(|key| !key.starts_with("rancheros.")).collect();
    assert_eq!(asked.iter().map(String::as_str).collect::<Vec<_>>(), table);
}

#[test]
fn the_page_for_users_has_the_table() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cloud-config.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (text, _) = page.split_once("\n| key |").unwrap();
    let rows: String = KEYS.iter().map(|(key, how)| format!("| `{key}` | {how} |\n")).collect();
    let expected = format!("{text}\n| key | how |\n|---|---|\n{rows}");
    if std::env::var_os("ROS_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    assert!(page == expected, "docs/cloud-config.md differs from the code; write it again with ROS_WRITE_GOLDEN=1");
}
