//! What a base must have. What is missing is said by name, before the first long stage.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::libraries;
use crate::build::lists;
use crate::build::tree::{Kind, Node, Tree};

const NEEDS: &str = include_str!("../lists/base-needs.txt");
/// What the paths of overlay/ take for links into /usr, as in every Debian since 12.
const MERGED: [&str; 3] = ["bin", "lib", "sbin"];

/// Something that a base lacks.
#[derive(Debug, PartialEq, Eq)]
struct Missing {
    what: String,
    /// Debian's package that brings it.
    package: Option<String>,
}

/// Fails if the system lacks something that our units or `installer`, the program, need.
pub fn check(base: &Tree, installer: &Path) -> Result<()> {
    ensure!(base.find("usr/lib").is_some(), "it is no system: there is no /usr/lib");
    for folder in MERGED {
        ensure!(
            matches!(base.get(folder), Some(Node { kind: Kind::Link(target), .. }) if target.ends_with(&format!("usr/{folder}"))),
            "its /{folder} is not a link to usr/{folder}; a base has a merged /usr, as Debian 12 and later: install usrmerge"
        );
    }
    let mut missing = missing(base, NEEDS)?;
    let program = std::fs::read(installer).with_context(|| format!("reading {}", installer.display()))?;
    for library in libraries::missing(base, "ros-installer", &program)? {
        missing.push(Missing { what: library.to_string(), package: library.package().map(str::to_owned) });
    }
    if missing.is_empty() {
        return Ok(());
    }
    let what: Vec<&str> = missing.iter().map(|missing| missing.what.as_str()).collect();
    let mut packages: Vec<&str> = missing.iter().filter_map(|missing| missing.package.as_deref()).collect();
    packages.sort_unstable();
    packages.dedup();
    let remedy = if packages.is_empty() {
        String::new()
    } else {
        format!("; in Debian: apt-get install {}", packages.join(" "))
    };
    bail!("it lacks {}{remedy}", what.join(", "))
}

fn missing(base: &Tree, needs: &str) -> Result<Vec<Missing>> {
    let users = base.text("etc/passwd").unwrap_or_default();
    let mut missing = Vec::new();
    for line in lists::lines(needs) {
        let [kind, name, package] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            bail!("expected `file|user NAME PACKAGE`, found {line:?}");
        };
        let (is_there, what) = match kind {
            "file" => (base.find(name).is_some(), name.to_owned()),
            "user" => (users.lines().any(|user| user.split(':').next() == Some(name)), format!("the user {name}")),
            other => bail!("{other} is neither `file` nor `user`"),
        };
        if !is_there {
            missing.push(Missing { what, package: Some(package.to_owned()) });
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Tree {
        let mut base = Tree::default();
        for line in lists::lines(NEEDS).filter(|line| line.starts_with("file")) {
            let path = line.split_whitespace().nth(1).unwrap();
            base.insert(path, Node::file(0o755, "")).unwrap();
        }
        for folder in MERGED {
            base.insert(folder, Node::link(format!("usr/{folder}"))).unwrap();
        }
        base
    }

    #[test]
    fn everything_that_is_missing_is_named() {
        let mut base = base();
        base.remove_listed("/usr/sbin/mke2fs\n/usr/bin/udevadm").unwrap();
        base.insert("etc/passwd", Node::file(0o644, "sshd:x:1:1::/:/bin/false\nsystemd-network:x:2:2::/:/x\n"))
            .unwrap();
        let missing = missing(&base, NEEDS).unwrap();
        let what: Vec<&str> = missing.iter().map(|missing| missing.what.as_str()).collect();
        let users = ["the user systemd-resolve", "the user systemd-timesync", "the user messagebus"];
        assert_eq!(what, [&["/usr/bin/udevadm"], &users[..], &["/usr/sbin/mke2fs"]].concat());
        assert_eq!(missing[0].package.as_deref(), Some("udev"));
    }

    #[test]
    fn a_base_is_merged() {
        let installer = tempfile::NamedTempFile::new().unwrap();
        let mut base = base();
        base.insert("lib", Node::folder(0o755)).unwrap();
        let error = check(&base, installer.path()).unwrap_err().to_string();
        assert!(error.contains("/lib is not a link") && error.contains("usrmerge"), "{error}");
        assert!(check(&Tree::default(), installer.path()).unwrap_err().to_string().contains("no system"));
    }
}
