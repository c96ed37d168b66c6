//! A file tree as a value. It is read from archives and folders, changed in memory and written once as a tar archive.
//! This needs no root privileges, and owners, times and order are exactly those of the value.

mod entries;
mod folder;
mod layer;
mod stored;
mod write;

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

use super::lists;
pub use entries::Budget;
pub use layer::Names;
pub use stored::Stored;

/// The largest file that is read as text.
const MAX_TEXT_BYTES: u64 = 64 << 20;
/// As many symbolic links as Linux follows for one path.
const MAX_LINKS: usize = 40;

/// Nodes by path, without a leading slash; a folder comes before its content.
#[derive(Clone, Debug, Default)]
pub struct Tree(BTreeMap<String, Node>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub mode: u32,
    pub user: u64,
    pub group: u64,
    /// Extended attributes by name, such as `security.capability`.
    pub attributes: BTreeMap<String, Vec<u8>>,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Folder,
    File(Vec<u8>),
    /// A file whose content is in another file. It is read while the archive is written, so it may be larger than memory.
    /// Two nodes that share the value are hard links to one file.
    Stored(Arc<Stored>),
    Link(String),
    Device {
        is_block: bool,
        major: u32,
        minor: u32,
    },
    Pipe,
}

impl Node {
    pub fn folder(mode: u32) -> Self {
        Self::of_root(mode, Kind::Folder)
    }

    pub fn file(mode: u32, content: impl Into<Vec<u8>>) -> Self {
        Self::of_root(mode, Kind::File(content.into()))
    }

    /// A file with the content of the file at `path`.
    pub fn stored(mode: u32, path: &Path) -> Result<Self> {
        Ok(Self::of_root(mode, Kind::Stored(Arc::new(Stored::whole(path)?))))
    }

    pub fn link(target: impl Into<String>) -> Self {
        Self::of_root(0o777, Kind::Link(target.into()))
    }

    fn of_root(mode: u32, kind: Kind) -> Self {
        Self { mode, user: 0, group: 0, attributes: BTreeMap::new(), kind }
    }
}

impl Tree {
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

    /// The node at `path` as a program in the tree finds it: symbolic links are followed, the last one as well.
    pub fn find(&self, path: &str) -> Option<&Node> {
        self.0.get(&self.resolve(path, true).ok()?)
    }

    /// The content of a file, at most 64 MiB.
    pub fn content(&self, path: &str) -> Result<Vec<u8>> {
        match self.find(path).map(|node| &node.kind) {
            Some(Kind::File(content)) => Ok(content.clone()),
            Some(Kind::Stored(stored)) => {
                ensure!(stored.size() <= MAX_TEXT_BYTES, "{path} has more than {MAX_TEXT_BYTES} bytes");
                let mut content = Vec::new();
                stored.open()?.read_to_end(&mut content).with_context(|| format!("reading {path}"))?;
                Ok(content)
            }
            _ => bail!("the tree has no file {path}"),
        }
    }

    /// The content of a text file.
    pub fn text(&self, path: &str) -> Result<String> {
        String::from_utf8(self.content(path)?).with_context(|| format!("reading {path}"))
    }

    /// Removes the paths of a list in the format of `lists/remove.txt`. A line that matches nothing is an error:
    /// otherwise a path that has moved would come back into the image unnoticed.
    pub fn remove_listed(&mut self, text: &str) -> Result<()> {
        for line in lists::lines(text) {
            ensure!(
                self.remove_matching(line)?,
                "the list of paths to remove names {line}, which does not exist; correct the list"
            );
        }
        Ok(())
    }

    /// The same, where a line may match nothing.
    pub fn remove_listed_if_present(&mut self, text: &str) -> Result<()> {
        lists::lines(text).try_for_each(|line| self.remove_matching(line).map(drop))
    }

    /// Whether there was anything.
    fn remove_matching(&mut self, line: &str) -> Result<bool> {
        let pattern = normal(line)?;
        let before = self.0.len();
        self.0.retain(|path, _| !is_below(path, &pattern));
        Ok(self.0.len() < before)
    }

    /// Removes what is in a folder, and leaves the folder.
    fn remove_below(&mut self, folder: &str) {
        let start = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let below = self.0.range(start.clone()..).take_while(|(path, _)| path.starts_with(&start));
        let below: Vec<String> = below.map(|(path, _)| path.clone()).collect();
        for path in below {
            self.0.remove(&path);
        }
    }

    /// The path that `path` leads to: the symbolic links in the folders above it are followed, and where `and_last` is set,
    /// one at its end as well. A link never leads out of the tree: its `/` is that of the tree, and there is nothing above.
    fn resolve(&self, path: &str, and_last: bool) -> Result<String> {
        let mut left: VecDeque<String> = path.split('/').map(str::to_owned).collect();
        let (mut found, mut links) = (Vec::<String>::new(), 0);
        while let Some(part) = left.pop_front() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    found.pop();
                    continue;
                }
                _ => found.push(part),
            }
            let is_last = left.iter().all(|part| part.is_empty());
            let Some(Kind::Link(target)) = self.0.get(&found.join("/")).map(|node| &node.kind) else { continue };
            if is_last && !and_last {
                continue;
            }
            links += 1;
            ensure!(links <= MAX_LINKS, "{path} leads through more than {MAX_LINKS} symbolic links");
            found.pop();
            if target.starts_with('/') {
                found.clear();
            }
            for part in target.split('/').rev() {
                left.push_front(part.to_owned());
            }
        }
        Ok(found.join("/"))
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
    fn removing_takes_what_is_below_and_knows_stars() {
        let mut tree = sample();
        tree.remove_listed("/usr/bin/perl*\n/usr/share/perl*\n/etc/*-\n").unwrap();
        assert_eq!(paths(&tree), ["bin", "etc", "usr", "usr/bin", "usr/bin/ls", "usr/share"]);
        assert!(tree.remove_listed("/usr/bin/perl*").unwrap_err().to_string().contains("/usr/bin/perl*"));
        tree.remove_listed_if_present("/usr/bin/perl*\n/usr\n").unwrap();
        assert_eq!(paths(&tree), ["bin", "etc"]);
    }

    #[test]
    fn nothing_is_put_outside_or_below_a_link() {
        let mut tree = sample();
        assert!(tree.insert("../x", Node::folder(0o755)).is_err());
        assert!(tree.insert("bin/x", Node::folder(0o755)).is_err());
    }

    #[test]
    fn links_are_followed_and_stay_inside() {
        let mut tree = sample();
        for (path, target) in [
            ("usr/bin/up", "../../../../../etc"),
            ("etc/absolute", "/bin/ls"),
            ("etc/a", "b"),
            ("etc/b", "a"),
            ("etc/gone", "/nowhere/at/all"),
        ] {
            tree.insert(path, Node::link(target)).unwrap();
        }
        assert_eq!(tree.find("bin/ls"), tree.get("usr/bin/ls"));
        assert_eq!(tree.find("/etc/absolute"), tree.get("usr/bin/ls"));
        assert_eq!(tree.resolve("bin/up/passwd-", true).unwrap(), "etc/passwd-");
        assert_eq!(tree.resolve("bin/up", false).unwrap(), "usr/bin/up");
        assert_eq!(tree.find("etc/gone"), None);
        assert_eq!(tree.find("etc/a"), None, "a circle");
        assert_eq!(tree.text("etc/absolute").unwrap(), "ls");
    }
}
