//! The paths that survive a restart: `/usr/lib/ros/persist.conf` of the image lists them, bind mounts keep them.

use std::fs;
use std::path::{Path, PathBuf};

use boot_contract::paths;

use crate::Result;
use crate::console::say;
use crate::mount::{bind, create_directory};
use crate::seed::{Kind, Seeding};

/// One line of the list: `directory <path> <mode>` or `file <path> <mode>`. The mode is octal and
/// applies to an entry that the image lacks. An entry of the image is copied with everything below it, modes and owners
/// included.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    kind: Kind,
    /// Without the leading slash.
    path: PathBuf,
    mode: u32,
}

/// Binds every entry of `root`'s list from `persistent` over its place in `root`. An entry that `persistent` lacks is
/// copied from the image first. After a power cut the copy is complete or absent.
pub fn bind_all(root: &Path, persistent: &Path) -> Result<()> {
    let list = paths::below(root, paths::KEPT_PATHS);
    let text = fs::read_to_string(&list).map_err(|e| format!("reading {}: {e}", list.display()))?;
    let entries = parse(&text).map_err(|e| format!("{}: {e}", list.display()))?;
    let mut seeding = Seeding::new(persistent);
    for entry in &entries {
        if !persistent.join(&entry.path).exists() {
            seeding.stage(&root.join(&entry.path), &entry.path, entry.kind, entry.mode)?;
        }
    }
    if !seeding.is_empty() {
        say("first boot: preparing the persistent partition");
    }
    seeding.commit()?;
    for entry in &entries {
        let target = root.join(&entry.path);
        prepare_target(&target, entry.kind)?;
        bind(&persistent.join(&entry.path), &target)?;
    }
    Ok(())
}

/// The entries of the list that identify the machine. The recovery system binds only these; its other files stay in
/// memory.
const IDENTITY: [(&str, Kind); 2] = [(paths::MACHINE_ID, Kind::File), (paths::SSH_HOST_KEYS, Kind::Directory)];

/// Binds the identity over its place in `root`. It is taken from the copy on COS_OEM, or from `persistent` if there is
/// no copy. With a copy on COS_OEM the recovery system can format COS_PERSISTENT.
pub fn bind_identity(root: &Path, persistent: &Path) -> Result<()> {
    let kept = identity_source(root, persistent);
    for (path, kind) in IDENTITY {
        let (kept, target) = (paths::below(&kept, path), paths::below(root, path));
        if kept.exists() {
            prepare_target(&target, kind)?;
            bind(&kept, &target)?;
        }
    }
    Ok(())
}

fn identity_source(root: &Path, persistent: &Path) -> PathBuf {
    let copy = paths::below(root, paths::OEM_IDENTITY);
    // The machine-id is copied last. A copy without it is incomplete.
    if paths::below(&copy, paths::MACHINE_ID).exists() { copy } else { persistent.to_owned() }
}

/// Makes the mount point if it is missing. It can be missing only in /etc, which is writable.
fn prepare_target(target: &Path, kind: Kind) -> Result<()> {
    if target.exists() {
        return Ok(());
    }
    match kind {
        Kind::Directory => create_directory(target),
        Kind::File => fs::write(target, "").map_err(|e| format!("creating {}: {e}", target.display())),
    }
}

fn parse(text: &str) -> Result<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let entry = parse_line(line).map_err(|e| format!("line {}: {e}", number + 1))?;
        if entries.iter().any(|other| other.path == entry.path) {
            return Err(format!("line {}: {} is listed twice", number + 1, entry.path.display()));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn parse_line(line: &str) -> Result<Entry> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [kind, path, mode] = words[..] else {
        return Err(format!("expected `directory|file <path> <mode>`, found {line:?}"));
    };
    let kind = match kind {
        "directory" => Kind::Directory,
        "file" => Kind::File,
        other => return Err(format!("{other} is neither `directory` nor `file`")),
    };
    let relative = path.strip_prefix('/').unwrap_or_default();
    if relative.is_empty() || relative.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(format!("{path} is not an absolute path without `.` and `..`"));
    }
    let mode = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o7777);
    Ok(Entry { kind, path: PathBuf::from(relative), mode: mode.ok_or("the mode is not an octal number up to 7777")? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_list_of_the_image_parses() {
        let entries = parse(include_str!("../../../overlay/usr/lib/ros/persist.conf")).unwrap();
        for path in ["var", "home", "root", "opt", "usr/local", "etc/machine-id", "etc/rancher"] {
            assert!(entries.iter().any(|entry| entry.path == Path::new(path)), "{path}");
        }
        for (path, kind) in IDENTITY {
            assert!(
                entries.iter().any(|entry| paths::below(Path::new("/"), path) == Path::new("/").join(&entry.path)
                    && entry.kind == kind),
                "{path}"
            );
        }
    }

    /// The README has the list as a table. Each line of the list says what it is for.
    #[test]
    fn the_readme_has_the_list() {
        let list = include_str!("../../../overlay/usr/lib/ros/persist.conf");
        let row = |line: &str| {
            let (entry, what) = line.split_once('#')?;
            let [kind, path, mode] = entry.split_whitespace().collect::<Vec<_>>()[..] else { return None };
            Some(format!("| `{path}` | {kind} | {mode} | {} |", what.trim()))
        };
        let rows: Vec<String> = list.lines().filter_map(row).collect();
        assert_eq!(rows.len(), parse(list).unwrap().len(), "an entry without its reason");
        let readme = include_str!("../../../overlay/README.md");
        let documented: Vec<&str> = readme.lines().filter(|line| line.starts_with("| `/")).collect();
        assert_eq!(documented.join("\n"), rows.join("\n"));
    }

    #[test]
    fn the_identity_of_recovery_is_the_copy_where_there_is_one() {
        let root = tempfile::tempdir().unwrap();
        let persistent = Path::new(paths::PERSISTENT);
        assert_eq!(identity_source(root.path(), persistent), persistent);
        let copy = root.path().join("oem/identity");
        fs::create_dir_all(copy.join("etc/ssh/host-keys")).unwrap();
        assert_eq!(identity_source(root.path(), persistent), persistent);
        fs::write(copy.join("etc/machine-id"), "4f3a\n").unwrap();
        assert_eq!(identity_source(root.path(), persistent), copy);
    }

    #[test]
    fn wrong_lines_are_named() {
        for bad in [
            "directory /var",
            "folder /var 0755",
            "directory var 0755",
            "directory / 0755",
            "directory /a/../b 0755",
            "directory //a 0755",
            "file /a 0999",
            "file /a 17777",
        ] {
            let error = parse(&format!("# list\n\n{bad}\n")).unwrap_err();
            assert!(error.starts_with("line 3: "), "{bad}: {error}");
        }
        assert!(parse("file /a 0644\ndirectory /a 0755\n").unwrap_err().contains("twice"));
    }

    proptest! {
        #[test]
        fn no_list_leads_out_of_the_root(text in "((directory|file) [/a.#]{0,8} [0-9]{0,5}\n?){0,4}") {
            for entry in parse(&text).unwrap_or_default() {
                prop_assert!(entry.path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }
    }
}
