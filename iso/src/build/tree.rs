//! A file tree as a value. It is read from archives and folders, changed in memory and written once as a tar archive.
//! This needs no root privileges, and owners, times and order are exactly those of the value.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use tar::{Archive, Builder, EntryType, Header};

use super::lists;

/// Nodes by path, without a leading slash; a folder comes before its content.
#[derive(Debug, Default)]
pub struct Tree(BTreeMap<String, Node>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub mode: u32,
    pub user: u64,
    pub group: u64,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Folder,
    File(Vec<u8>),
    /// A file whose content is in another file. It is read while the archive is written, so it may be larger than memory.
    Stored {
        path: PathBuf,
        size: u64,
    },
    Link(String),
}

impl Node {
    pub fn folder(mode: u32) -> Self {
        Self { mode, user: 0, group: 0, kind: Kind::Folder }
    }

    pub fn file(mode: u32, content: impl Into<Vec<u8>>) -> Self {
        Self { mode, user: 0, group: 0, kind: Kind::File(content.into()) }
    }

    /// A file with the content of the file at `path`.
    pub fn stored(mode: u32, path: &Path) -> Result<Self> {
        let size = path.metadata().with_context(|| format!("inspecting {}", path.display()))?.len();
        Ok(Self { mode, user: 0, group: 0, kind: Kind::Stored { path: path.to_owned(), size } })
    }

    pub fn link(target: impl Into<String>) -> Self {
        Self { mode: 0o777, user: 0, group: 0, kind: Kind::Link(target.into()) }
    }
}

impl Tree {
    /// Reads a tar archive. Hard links become files of their own; devices and pipes are left out, because a running
    /// system makes its own.
    pub fn from_tar(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        Self::read_tar(BufReader::new(file)).with_context(|| format!("reading {}", path.display()))
    }

    fn read_tar(reader: impl Read) -> Result<Self> {
        let mut tree = Self::default();
        for entry in Archive::new(reader).entries()? {
            let mut entry = entry?;
            let name = normal(&String::from_utf8(entry.path_bytes().into_owned()).context("a path is not UTF-8")?)?;
            if name.is_empty() {
                continue;
            }
            let header = entry.header();
            let (mode, user, group) = (header.mode()? & 0o7777, header.uid()?, header.gid()?);
            let target = entry.link_name_bytes().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            let kind = match header.entry_type() {
                EntryType::Directory => Kind::Folder,
                EntryType::Regular => {
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content)?;
                    Kind::File(content)
                }
                EntryType::Symlink => {
                    Kind::Link(target.with_context(|| format!("the symbolic link {name} has no target"))?)
                }
                EntryType::Link => {
                    let target = normal(&target.unwrap_or_default())?;
                    let linked = tree
                        .0
                        .get(&target)
                        .with_context(|| format!("{name} is a hard link to {target}, which is missing"))?;
                    linked.kind.clone()
                }
                EntryType::Char | EntryType::Block | EntryType::Fifo => continue,
                other => bail!("{name} has the unsupported type {other:?}"),
            };
            tree.0.insert(name, Node { mode, user, group, kind });
        }
        Ok(tree)
    }

    /// Lays the content of `folder` over the tree below `prefix`, owned by root. Only the executable bit of a file's
    /// mode is kept, as in a version control system.
    pub fn lay_over(&mut self, folder: &Path, prefix: &str) -> Result<()> {
        let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.with_context(|| format!("the name of {} is not UTF-8", path.display()))?;
            let name = format!("{prefix}/{name}");
            let metadata = path.symlink_metadata().with_context(|| format!("inspecting {}", path.display()))?;
            if metadata.is_dir() {
                self.0.entry(normal(&name)?).or_insert_with(|| Node::folder(0o755));
                self.lay_over(&path, &name)?;
            } else if metadata.is_symlink() {
                let target = fs::read_link(&path).with_context(|| format!("reading the link {}", path.display()))?;
                self.insert(&name, Node::link(target.to_string_lossy()))?;
            } else {
                let executable = metadata.permissions().mode() & 0o100 != 0;
                let content = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
                self.insert(&name, Node::file(if executable { 0o755 } else { 0o644 }, content))?;
            }
        }
        Ok(())
    }

    /// Puts a node into the tree; missing folders above it are made.
    pub fn insert(&mut self, path: &str, node: Node) -> Result<()> {
        let path = normal(path)?;
        let mut end = 0;
        while let Some(slash) = path[end..].find('/') {
            let parent = &path[..end + slash];
            let above = self.0.entry(parent.to_owned()).or_insert_with(|| Node::folder(0o755));
            ensure!(above.kind == Kind::Folder, "{path} cannot be put below {parent}, which is not a folder");
            end += slash + 1;
        }
        self.0.insert(path, node);
        Ok(())
    }

    pub fn get(&self, path: &str) -> Option<&Node> {
        self.0.get(path.trim_start_matches('/'))
    }

    /// The content of a text file.
    pub fn text(&self, path: &str) -> Result<String> {
        let Some(Node { kind: Kind::File(content), .. }) = self.get(path) else {
            bail!("the tree has no file {path}");
        };
        String::from_utf8(content.clone()).with_context(|| format!("reading {path}"))
    }

    /// Removes the paths of a list in the format of `lists/remove.txt`. A line that matches nothing is an error:
    /// otherwise a path that has moved would come back into the image unnoticed.
    pub fn remove_listed(&mut self, text: &str) -> Result<()> {
        for line in lists::lines(text) {
            let pattern = normal(line)?;
            let removed: Vec<String> = self.0.keys().filter(|path| is_below(path, &pattern)).cloned().collect();
            ensure!(
                !removed.is_empty(),
                "the list of paths to remove names {line}, which does not exist; correct the list"
            );
            for path in removed {
                self.0.remove(&path);
            }
        }
        Ok(())
    }

    /// Writes the tree in the order of its paths. Every time stamp is `epoch`.
    pub fn write_tar(&self, writer: impl Write, epoch: u32) -> Result<()> {
        let mut builder = Builder::new(writer);
        builder.append_data(&mut header(&Node::folder(0o755), epoch), "./", std::io::empty())?;
        for (path, node) in &self.0 {
            let mut header = header(node, epoch);
            let result = match &node.kind {
                Kind::Folder => builder.append_data(&mut header, format!("{path}/"), std::io::empty()),
                Kind::File(content) => builder.append_data(&mut header, path, content.as_slice()),
                Kind::Stored { path: from, size } => {
                    let file = File::open(from).with_context(|| format!("opening {}", from.display()))?;
                    // A file that grew meanwhile would make the rest of the archive unreadable.
                    builder.append_data(&mut header, path, ExactReader { file, left: *size })
                }
                Kind::Link(target) => builder.append_link(&mut header, path, target),
            };
            result.with_context(|| format!("archiving {path}"))?;
        }
        builder.into_inner()?.flush()?;
        Ok(())
    }
}

fn header(node: &Node, epoch: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(node.mode);
    header.set_uid(node.user);
    header.set_gid(node.group);
    header.set_mtime(epoch.into());
    let (kind, size) = match &node.kind {
        Kind::Folder => (EntryType::Directory, 0),
        Kind::File(content) => (EntryType::Regular, content.len() as u64),
        Kind::Stored { size, .. } => (EntryType::Regular, *size),
        Kind::Link(_) => (EntryType::Symlink, 0),
    };
    header.set_entry_type(kind);
    header.set_size(size);
    header
}

/// A file of which exactly so many bytes are read.
struct ExactReader {
    file: File,
    left: u64,
}

impl Read for ExactReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read(&mut buffer[..limit])?;
        if read == 0 && limit > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// A path without leading `/` or `./` and without a trailing slash.
fn normal(path: &str) -> Result<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    ensure!(!parts.contains(&".."), "{path} points outside of the tree");
    Ok(parts.join("/"))
}

/// Whether `path` matches `pattern`, or is below a path that does.
fn is_below(path: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => path == pattern || path.strip_prefix(pattern).is_some_and(|rest| rest.starts_with('/')),
        Some((start, end)) => path.strip_prefix(start).is_some_and(|rest| {
            let name = rest.split('/').next().unwrap_or_default();
            name.ends_with(end)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Tree {
        let mut tree = Tree::default();
        tree.insert("/etc/passwd-", Node::file(0o600, "old")).unwrap();
        tree.insert("/usr/bin/perl5.40", Node::file(0o755, "p")).unwrap();
        tree.insert("/usr/bin/ls", Node::file(0o755, "ls")).unwrap();
        tree.insert("/usr/share/perl5/a/b", Node::file(0o644, "b")).unwrap();
        tree.insert("/bin", Node::link("usr/bin")).unwrap();
        tree
    }

    fn paths(tree: &Tree) -> Vec<&str> {
        tree.0.keys().map(String::as_str).collect()
    }

    #[test]
    fn a_tree_round_trips_through_its_archive() {
        let mut archive = Vec::new();
        sample().write_tar(&mut archive, 1).unwrap();
        let read = Tree::read_tar(archive.as_slice()).unwrap();
        assert_eq!(read.0, sample().0);
        let mut again = Vec::new();
        read.write_tar(&mut again, 1).unwrap();
        assert_eq!(archive, again);
    }

    #[test]
    fn a_stored_file_is_archived_like_one_in_memory() {
        let stored = tempfile::NamedTempFile::new().unwrap();
        let content = vec![7; 100_000];
        fs::write(stored.path(), &content).unwrap();
        let archived = |node: Node| {
            let mut tree = Tree::default();
            tree.insert("a/b", node).unwrap();
            let mut archive = Vec::new();
            tree.write_tar(&mut archive, 1).map(|()| archive)
        };
        let node = Node::stored(0o644, stored.path()).unwrap();
        assert_eq!(archived(node.clone()).unwrap(), archived(Node::file(0o644, content)).unwrap());
        // One that changed meanwhile spoils no archive.
        fs::write(stored.path(), [7; 10]).unwrap();
        assert!(archived(node).is_err());
    }

    #[test]
    fn removing_takes_what_is_below_and_knows_stars() {
        let mut tree = sample();
        tree.remove_listed("/usr/bin/perl*\n/usr/share/perl*\n/etc/*-\n").unwrap();
        assert_eq!(paths(&tree), ["bin", "etc", "usr", "usr/bin", "usr/bin/ls", "usr/share"]);
        assert!(tree.remove_listed("/usr/bin/perl*").unwrap_err().to_string().contains("/usr/bin/perl*"));
    }

    #[test]
    fn nothing_is_put_outside_or_below_a_link() {
        let mut tree = sample();
        assert!(tree.insert("../x", Node::folder(0o755)).is_err());
        assert!(tree.insert("bin/x", Node::folder(0o755)).is_err());
    }
}
