//! Reads folders of this machine into a tree.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{lgetxattr, llistxattr, major, minor};
use rustix::io::Errno;

use super::entries::is_kept;
use super::{Kind, Node, Tree, normal};

/// The largest list of names, and the largest value (Linux, `limits.h`).
const MAX_ATTRIBUTE_BYTES: usize = 64 << 10;

impl Tree {
    /// Lays the content of `folder` over the tree below `prefix`, owned by root. Only the executable bit of a file's
    /// mode is kept, as in a version control system.
    pub fn lay_over(&mut self, folder: &Path, prefix: &str) -> Result<()> {
        for (path, name) in entries(folder)? {
            let name = format!("{prefix}/{name}");
            let metadata = inspect(&path)?;
            if metadata.is_dir() {
                self.0.entry(normal(&name)?).or_insert_with(|| Node::folder(0o755));
                self.lay_over(&path, &name)?;
            } else if metadata.is_symlink() {
                self.insert(&name, Node::link(target(&path)?))?;
            } else {
                let executable = metadata.permissions().mode() & 0o100 != 0;
                self.insert(&name, Node::stored(if executable { 0o755 } else { 0o644 }, &path)?)?;
            }
        }
        Ok(())
    }

    /// Reads a folder as it is: owners, modes, attributes, devices and hard links. File systems that are mounted below it are
    /// left out.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let mut reader = Reader { tree: Self::default(), device: inspect(folder)?.dev(), linked: HashMap::new() };
        reader.read(folder, "")?;
        Ok(reader.tree)
    }
}

struct Reader {
    tree: Tree,
    device: u64,
    /// Files with several names, by inode.
    linked: HashMap<u64, Node>,
}

impl Reader {
    fn read(&mut self, folder: &Path, prefix: &str) -> Result<()> {
        for (path, name) in entries(folder)? {
            let name = format!("{prefix}/{name}");
            let metadata = inspect(&path)?;
            if metadata.dev() == self.device && !metadata.file_type().is_socket() {
                let node = self.node(&path, &metadata)?;
                self.tree.insert(&name, node)?;
                if metadata.is_dir() {
                    self.read(&path, &name)?;
                }
            } else if metadata.is_dir() {
                self.tree.insert(&name, Node::folder(0o755))?;
            }
        }
        Ok(())
    }

    fn node(&mut self, path: &Path, metadata: &Metadata) -> Result<Node> {
        let has_names = !metadata.is_dir() && metadata.nlink() > 1;
        if let Some(node) = self.linked.get(&metadata.ino()).filter(|_| has_names) {
            return Ok(node.clone());
        }
        let kind = metadata.file_type();
        let mut node = if kind.is_dir() {
            Node::folder(0)
        } else if kind.is_symlink() {
            Node::link(target(path)?)
        } else if kind.is_file() {
            // The file is read when the build is under way; it is better to know now that this fails.
            fs::File::open(path).with_context(|| format!("opening {}; run this as its owner", path.display()))?;
            Node::stored(0, path)?
        } else {
            let device = metadata.rdev();
            let is_device = kind.is_block_device() || kind.is_char_device();
            let device = Kind::Device { is_block: kind.is_block_device(), major: major(device), minor: minor(device) };
            Node { kind: if is_device { device } else { Kind::Pipe }, ..Node::folder(0) }
        };
        node.mode = metadata.mode() & 0o7777;
        (node.user, node.group) = (metadata.uid().into(), metadata.gid().into());
        node.attributes = attributes(path).with_context(|| format!("reading attributes of {}", path.display()))?;
        if has_names {
            self.linked.insert(metadata.ino(), node.clone());
        }
        Ok(node)
    }
}

/// Path and name of what is in a folder, in the order of the names.
fn entries(folder: &Path) -> Result<BTreeMap<std::path::PathBuf, String>> {
    let reading = || format!("reading {}", folder.display());
    let mut entries = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.with_context(|| format!("the name of {} is not UTF-8", path.display()))?.to_owned();
        entries.insert(path, name);
    }
    Ok(entries)
}

fn inspect(path: &Path) -> Result<Metadata> {
    path.symlink_metadata().with_context(|| format!("inspecting {}", path.display()))
}

fn target(path: &Path) -> Result<String> {
    let target = fs::read_link(path).with_context(|| format!("reading the link {}", path.display()))?;
    Ok(target.to_str().with_context(|| format!("the target of {} is not UTF-8", path.display()))?.to_owned())
}

fn attributes(path: &Path) -> rustix::io::Result<BTreeMap<String, Vec<u8>>> {
    let mut buffer = vec![0; MAX_ATTRIBUTE_BYTES];
    let listed = match llistxattr(path, buffer.as_mut_slice()) {
        // The file system has none.
        Err(Errno::NOTSUP) => 0,
        listed => listed?,
    };
    let names: Vec<String> =
        buffer[..listed].split(|byte| *byte == 0).map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    let mut attributes = BTreeMap::new();
    for name in names.into_iter().filter(|name| is_kept(name)) {
        let length = lgetxattr(path, name.as_str(), buffer.as_mut_slice())?;
        attributes.insert(name, buffer[..length].to_vec());
    }
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{chown, symlink};

    #[test]
    fn a_folder_is_read_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("bin")).unwrap();
        fs::write(path("bin/a"), "content").unwrap();
        fs::hard_link(path("bin/a"), path("bin/b")).unwrap();
        fs::set_permissions(path("bin/a"), fs::Permissions::from_mode(0o4751)).unwrap();
        symlink("../bin/a", path("link")).unwrap();
        let me = fs::metadata(path("bin/a")).unwrap().uid();
        // Only root may give a file to somebody else.
        let owner = if me == 0 { 1234 } else { me };
        chown(path("bin/a"), Some(owner), None).unwrap();
        fs::set_permissions(path("bin/a"), fs::Permissions::from_mode(0o4751)).unwrap();
        let tree = Tree::from_folder(folder.path()).unwrap();
        let (first, second) = (tree.get("bin/a").unwrap(), tree.get("bin/b").unwrap());
        assert_eq!((first.mode, first.user), (0o4751, owner.into()));
        let (Kind::Stored(first), Kind::Stored(second)) = (&first.kind, &second.kind) else { panic!() };
        assert!(std::sync::Arc::ptr_eq(first, second), "one file with two names");
        assert_eq!(tree.get("link").unwrap().kind, Kind::Link("../bin/a".into()));
        assert_eq!(tree.text("link").unwrap(), "content");
    }
}
