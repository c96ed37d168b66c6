//! Applies whole documents to a folder with the files of an installed system.

use super::system::{BOOTCMD_LIMIT, RUNCMD_LIMIT};
use super::*;
use serde_json::json;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;
use tempfile::TempDir;

fn system(config: &str) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n");
    write("etc/shadow", "root:*:20000:0:99999:7:::\n");
    write("etc/group", "root:x:0:\nsudo:x:27:\n");
    write("etc/skel/.profile", "# profile\n");
    write("usr/share/zoneinfo/Europe/Berlin", "TZif");
    write("usr/bin/sudo", "");
    write("oem/cloud-config.yaml", config);
    root
}

fn read(root: &TempDir, path: &str) -> String {
    fs::read_to_string(root.path().join(path)).unwrap()
}

fn apply(root: &TempDir, stage: Stage) -> Applied {
    run_in(root.path(), stage).unwrap()
}

const DEMO: &str = "\
#cloud-config
hostname: demo
timezone: Europe/Berlin
users:
- name: demo
  groups: [sudo]
  sudo: ALL=(ALL) NOPASSWD:ALL
  ssh_authorized_keys: [ssh-ed25519 AAAA demo]
ssh_authorized_keys: [ssh-ed25519 BBBB root]
write_files:
- {path: /etc/motd, content: hello, permissions: '0600'}
- {path: /srv/owned, content: x, owner: 'demo:sudo', defer: true}
rancherd: {role: server}
";

#[test]
fn the_machines_own_document_is_laid_over_that_of_the_image() {
    let root = system("hostname: own\nwrite_files: [{path: /etc/own, content: b}]\n");
    let image = root.path().join("usr/lib/ros/cloud-config.yaml");
    fs::create_dir_all(image.parent().unwrap()).unwrap();
    fs::write(&image, "hostname: image\ntimezone: Europe/Berlin\nwrite_files: [{path: /etc/image, content: a}]\n")
        .unwrap();
    let applied = apply(&root, Stage::Early);
    assert_eq!(applied.problems, Vec::<String>::new());
    assert_eq!(read(&root, "etc/hostname"), "own\n");
    assert!(root.path().join("etc/localtime").is_symlink() && root.path().join("etc/own").exists());
    assert!(!root.path().join("etc/image").exists(), "lists count as a whole");
    fs::remove_file(root.path().join("oem/cloud-config.yaml")).unwrap();
    apply(&root, Stage::Early);
    assert_eq!(read(&root, "etc/image"), "a");
    fs::write(&image, "- a list").unwrap();
    let error = run_in(root.path(), Stage::Early).unwrap_err().to_string();
    assert!(error.contains("/usr/lib/ros/cloud-config.yaml"), "{error}");
}

#[test]
fn a_machine_finds_its_own_name() {
    for (name, hosts, expected) in [
        ("node", "127.0.0.1 localhost", "127.0.0.1 localhost\n127.0.1.1 node\n"),
        ("node.example.org", "127.0.0.1 localhost\n", "127.0.0.1 localhost\n127.0.1.1 node\n"),
        ("node", "192.0.2.1 node.example.org node\n", "192.0.2.1 node.example.org node\n"),
        ("node", "192.0.2.1 other # node\n", "192.0.2.1 other # node\n127.0.1.1 node\n"),
    ] {
        let root =
            system(&format!("hostname: {name}\nwrite_files: [{{path: /etc/hosts, content: {} }}]", json!(hosts)));
        for _ in 0..2 {
            assert_eq!(apply(&root, Stage::Early).problems, Vec::<String>::new());
            assert_eq!(read(&root, "etc/hosts"), expected, "{hosts}");
        }
    }
}

#[test]
fn a_document_becomes_a_configured_system() {
    let root = system(DEMO);
    let applied = apply(&root, Stage::Early);
    assert_eq!(applied.problems, Vec::<String>::new());
    assert_eq!(read(&root, "etc/hostname"), "demo\n");
    assert_eq!(read(&root, "etc/hosts"), "127.0.1.1 demo\n");
    assert_eq!(
        fs::read_link(root.path().join("etc/localtime")).unwrap(),
        Path::new("../usr/share/zoneinfo/Europe/Berlin")
    );
    assert!(read(&root, "etc/passwd").contains("demo:x:1000:1000::/home/demo:/bin/bash\n"));
    assert_eq!(read(&root, "etc/sudoers.d/90-cloud-config"), "demo ALL=(ALL) NOPASSWD:ALL\n");
    assert_eq!(read(&root, "root/.ssh/authorized_keys"), "ssh-ed25519 BBBB root\n");
    assert_eq!(read(&root, "home/demo/.profile"), "# profile\n");
    assert_eq!(read(&root, "etc/rancher/rancherd/config.yaml"), "#cloud-config\nrole: server\n");
    let keys = fs::metadata(root.path().join("home/demo/.ssh/authorized_keys")).unwrap();
    assert_eq!((keys.mode() & 0o7777, keys.uid()), (0o600, 1000));
    assert_eq!(fs::metadata(root.path().join("etc/motd")).unwrap().mode() & 0o7777, 0o600);

    assert_eq!(apply(&root, Stage::Final).problems, Vec::<String>::new());
    let owned = fs::metadata(root.path().join("srv/owned")).unwrap();
    assert_eq!((owned.uid(), owned.gid()), (1000, 27));
}

#[test]
fn the_operators_answer_completes_rancherds_configuration() {
    let root = system(DEMO);
    let said = protocol::Join {
        configuration: Some(serde_json::from_str(r#"{"token": "s3cret"}"#).unwrap()),
        ..protocol::Join::default()
    };
    crate::join::answer::take(root.path(), &said).unwrap();
    fs::remove_file(root.path().join("etc/rancher/rancherd/config.yaml")).unwrap();
    assert_eq!(apply(&root, Stage::Early).problems, Vec::<String>::new());
    assert_eq!(read(&root, "etc/rancher/rancherd/config.yaml"), "#cloud-config\nrole: server\ntoken: s3cret\n");
}

#[test]
fn the_next_boot_does_the_same_and_leaves_what_is_kept() {
    let root = system("write_files: [{path: /var/kept, content: first}]\nssh_authorized_keys: [a key]\n");
    fs::create_dir_all(root.path().join("run/ros/persistent")).unwrap();
    apply(&root, Stage::Early);
    assert_eq!(read(&root, "var/kept"), "first");
    fs::write(root.path().join("var/kept"), "changed by its owner").unwrap();
    apply(&root, Stage::Early);
    assert_eq!(read(&root, "var/kept"), "changed by its owner");
    assert_eq!(read(&root, "root/.ssh/authorized_keys"), "a key\n");
}

#[test]
fn each_file_that_is_kept_is_written_once() {
    let root = system(
        "users: [{name: demo}]\nwrite_files:\n- {path: /etc/early, content: x}\n- {path: /home/demo/.config/late, content: late, owner: demo, defer: true}\n\
         - {path: /var/log, content: a}\n- {path: /var/log, content: b, append: true, defer: true}\n- {path: /opt/tool, owner: 'nobody-here'}\n",
    );
    fs::create_dir_all(root.path().join("run/ros/persistent")).unwrap();
    for _ in 0..2 {
        assert!(apply(&root, Stage::Early).problems.iter().any(|problem| problem.contains("/opt/tool")));
        apply(&root, Stage::Final);
    }
    assert_eq!((read(&root, "home/demo/.config/late"), read(&root, "var/log")), ("late".into(), "ab".into()));
    let folder = fs::metadata(root.path().join("home/demo/.config")).unwrap();
    assert_eq!((folder.uid(), folder.gid()), (1000, 1000));
    fs::write(root.path().join("oem/cloud-config.yaml"), "write_files: [{path: /opt/tool, content: y}]\n").unwrap();
    apply(&root, Stage::Early);
    assert_eq!(read(&root, "opt/tool"), "y", "what failed once is written when it can be");
}

#[test]
fn setuid_stays_with_another_owner() {
    let root = system(
        "users: [{name: demo}]\nwrite_files: [{path: /srv/tool, permissions: '6755', owner: 'demo:sudo', defer: true}]\n",
    );
    apply(&root, Stage::Early);
    apply(&root, Stage::Final);
    assert_eq!(fs::metadata(root.path().join("srv/tool")).unwrap().mode() & 0o7777, 0o6755);
}

#[test]
fn a_users_link_does_not_lead_root_elsewhere() {
    let root = system(DEMO);
    fs::create_dir_all(root.path().join("home/demo")).unwrap();
    std::os::unix::fs::symlink("../../etc", root.path().join("home/demo/.ssh")).unwrap();
    let applied = apply(&root, Stage::Early);
    assert!(applied.problems.iter().any(|p| p.contains("ssh_authorized_keys of demo")), "{:?}", applied.problems);
    assert!(!root.path().join("etc/authorized_keys").exists());
}

#[test]
fn runcmd_runs_once_and_bootcmd_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let (run, boot) = (folder.path().join("run"), folder.path().join("boot"));
    let config = format!("runcmd: ['echo x >> {}']\nbootcmd: ['echo x >> {}']\n", run.display(), boot.display());
    let root = system(&config);
    for _ in 0..2 {
        apply(&root, Stage::Early);
        apply(&root, Stage::Final);
    }
    assert_eq!(fs::read_to_string(run).unwrap(), "x\n");
    assert_eq!(fs::read_to_string(boot).unwrap(), "x\nx\n");
}

#[test]
fn a_unit_has_more_time_than_the_commands_that_it_runs() {
    let limit = |unit: &str| {
        let minutes = unit.lines().find_map(|line| line.strip_prefix("TimeoutStartSec=")?.strip_suffix("min"));
        Duration::from_secs(60 * minutes.unwrap().parse::<u64>().unwrap())
    };
    assert!(limit(include_str!("../../../overlay/usr/lib/systemd/system/ros-apply.service")) > BOOTCMD_LIMIT);
    assert!(limit(include_str!("../../../overlay/usr/lib/systemd/system/ros-runcmd.service")) > RUNCMD_LIMIT);
}

#[test]
fn what_cannot_be_applied_is_named_and_the_rest_is_applied() {
    let root = system(
        "hostname: -bad\ntimezone: ../../etc/shadow\npackages: [vim]\n\
         users: [{name: demo, sudo: ALL=(ALL) ALL}]\n\
         write_files: [{path: relative, content: x}, {path: /a, owner: nobody-here}, {path: /b, content: y}]\n",
    );
    fs::remove_file(root.path().join("usr/bin/sudo")).unwrap();
    let applied = apply(&root, Stage::Early);
    assert_eq!(read(&root, "b"), "y");
    for part in ["hostname", "timezone", "`packages`", "`write_files[0].path`", "file /a: owner", "sudo"] {
        assert!(applied.problems.iter().any(|p| p.contains(part)), "{part} is missing from {:?}", applied.problems);
    }
    assert_eq!(applied.problems.len(), 6);
}

#[test]
fn a_large_file_is_written_and_one_that_is_too_large_is_refused_with_the_limit() {
    let content = "x".repeat(1_000_000);
    let root = system(&format!("write_files: [{{path: /var/large, content: {content}}}]"));
    assert_eq!(apply(&root, Stage::Early).problems, Vec::<String>::new());
    assert_eq!(read(&root, "var/large"), content);
    let root = system(&format!("write_files: [{{path: /var/large, content: {}}}]", "x".repeat(1 << 20)));
    let error = error_chain(&run_in(root.path(), Stage::Early).unwrap_err());
    assert!(error.contains("the limit is 1048576"), "{error}");
}

#[test]
fn what_is_not_yaml_is_an_error_and_no_configuration_is_none() {
    let root = system("hostname: [unclosed");
    let error = error_chain(&run_in(root.path(), Stage::Early).unwrap_err());
    assert!(error.contains("/oem/cloud-config.yaml") && error.contains("cannot be read"), "{error}");
    fs::remove_file(root.path().join("oem/cloud-config.yaml")).unwrap();
    assert_eq!(apply(&root, Stage::Early), Applied::default());
}
