//! What is taken out of a base that is not our own, and what is made in it. Everything else stays as it is.

use anyhow::Result;

use super::lists;
use super::tree::{Node, Tree};

const REMOVED: &str = include_str!("lists/remove-foreign.txt");
/// Where file systems are mounted, and the folders that are kept on COS_PERSISTENT. The root is read-only, so they cannot be
/// made at boot. Path and mode.
const FOLDERS: [(&str, u32); 10] = [
    ("dev", 0o755),
    ("home", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr/local", 0o755),
    ("var", 0o755),
];

/// Changes the tree of a base into one that starts as a release.
pub fn prepare(tree: &mut Tree) -> Result<()> {
    tree.remove_listed_if_present(REMOVED)?;
    // systemd fills it in at the first boot, without applying its first-boot presets.
    tree.insert("etc/machine-id", Node::file(0o444, ""))?;
    for (path, mode) in FOLDERS {
        if tree.get(path).is_none() {
            tree.insert(path, Node::folder(mode))?;
        }
    }
    Ok(())
}

/// The lines of a list that name files of the tree. Systems of other versions have other libraries.
pub fn present(tree: &Tree, list: &str) -> String {
    lists::lines(list).filter(|file| tree.get(file).is_some()).map(|file| format!("{file}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_disturb_the_boot_is_taken_out_and_the_rest_stays() {
        let mut tree = Tree::default();
        for path in [
            ".dockerenv",
            "boot/vmlinuz-6.12",
            "dev/null",
            "etc/fstab",
            "etc/machine-id",
            "etc/own.conf",
            "etc/ssh/ssh_host_rsa_key",
            "opt/own/program",
            "run/lock/x",
            "usr/lib/modules/6.12/modules.dep",
            "usr/lib/systemd/system-generators/systemd-fstab-generator",
            "usr/lib/systemd/system-generators/own-generator",
        ] {
            tree.insert(path, Node::file(0o644, "x")).unwrap();
        }
        prepare(&mut tree).unwrap();
        let has = |path: &str| tree.get(path).is_some();
        assert!(
            ["etc/own.conf", "opt/own/program", "usr/lib/systemd/system-generators/own-generator"].into_iter().all(has)
        );
        assert!(
            ![".dockerenv", "boot/vmlinuz-6.12", "dev/null", "etc/fstab", "run/lock", "usr/lib/modules/6.12"]
                .into_iter()
                .any(has)
        );
        assert!(!has("etc/ssh/ssh_host_rsa_key") && !has("usr/lib/systemd/system-generators/systemd-fstab-generator"));
        assert_eq!(tree.text("etc/machine-id").unwrap(), "");
        assert!(["dev", "home", "tmp", "usr/local"].into_iter().all(has));
        assert_eq!(present(&tree, "# x\netc/own.conf\netc/gone\n"), "etc/own.conf\n");
    }
}
