//! Writes a tree as a tar archive, or files of it into a folder.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use tar::{Builder, EntryType, Header};

use super::{Kind, Node, Tree};

/// The key of an extended attribute in a header of POSIX, as star, GNU tar and mkfs.erofs name it.
pub(super) const ATTRIBUTE: &str = "SCHILY.xattr.";

impl Tree {
    /// Writes the tree in the order of its paths. Every time stamp is `epoch`.
    pub fn write_tar(&self, writer: impl Write, epoch: u32) -> Result<()> {
        let mut builder = Builder::new(writer);
        builder.append_data(&mut header(&Node::folder(0o755), epoch), "./", io::empty())?;
        // The first name of each stored content.
        let mut first = HashMap::new();
        for (path, node) in &self.0 {
            append(&mut builder, path, node, epoch, &mut first).with_context(|| format!("archiving {path}"))?;
        }
        builder.into_inner()?.flush()?;
        Ok(())
    }

    /// Writes the files below a folder of the tree, without owners and modes, and without links.
    pub fn write_files(&self, below: &str, folder: &Path) -> Result<()> {
        let start = format!("{below}/");
        for (path, node) in self.0.range(start.clone()..).take_while(|(path, _)| path.starts_with(&start)) {
            let to = folder.join(path);
            match &node.kind {
                Kind::Folder => fs::create_dir_all(&to).with_context(|| format!("creating {}", to.display()))?,
                Kind::File(content) => {
                    make_parent(&to)?;
                    fs::write(&to, content).with_context(|| format!("writing {}", to.display()))?;
                }
                Kind::Stored(stored) => {
                    make_parent(&to)?;
                    let mut content = stored.open()?;
                    let copied = File::create(&to).and_then(|mut file| io::copy(&mut content, &mut file));
                    copied.with_context(|| format!("writing {}", to.display()))?;
                }
                Kind::Link(_) | Kind::Device { .. } | Kind::Pipe => {}
            }
        }
        Ok(())
    }
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))
}

fn append<'a>(
    builder: &mut Builder<impl Write>,
    path: &'a str,
    node: &Node,
    epoch: u32,
    first: &mut HashMap<*const super::Stored, &'a str>,
) -> Result<()> {
    let mut header = header(node, epoch);
    if let Kind::Stored(stored) = &node.kind {
        if let Some(target) = first.get(&Arc::as_ptr(stored)) {
            header.set_entry_type(EntryType::Link);
            header.set_size(0);
            return Ok(builder.append_link(&mut header, path, target)?);
        }
        first.insert(Arc::as_ptr(stored), path);
    }
    if !node.attributes.is_empty() {
        let names: Vec<_> =
            node.attributes.iter().map(|(name, value)| (format!("{ATTRIBUTE}{name}"), value.as_slice())).collect();
        builder.append_pax_extensions(names.iter().map(|(name, value)| (name.as_str(), *value)))?;
    }
    match &node.kind {
        Kind::Folder => builder.append_data(&mut header, format!("{path}/"), io::empty())?,
        Kind::File(content) => builder.append_data(&mut header, path, content.as_slice())?,
        // It has exactly so many bytes as the header says. A file that grew meanwhile would make the rest of the archive
        // unreadable.
        Kind::Stored(stored) => builder.append_data(&mut header, path, stored.open()?)?,
        Kind::Link(target) => builder.append_link(&mut header, path, target)?,
        Kind::Device { .. } | Kind::Pipe => builder.append_data(&mut header, path, io::empty())?,
    }
    Ok(())
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
        Kind::Stored(stored) => (EntryType::Regular, stored.size()),
        Kind::Link(_) => (EntryType::Symlink, 0),
        Kind::Device { is_block: true, .. } => (EntryType::Block, 0),
        Kind::Device { is_block: false, .. } => (EntryType::Char, 0),
        Kind::Pipe => (EntryType::Fifo, 0),
    };
    header.set_entry_type(kind);
    header.set_size(size);
    if let Kind::Device { major, minor, .. } = node.kind {
        header.set_device_major(major).and_then(|()| header.set_device_minor(minor)).expect("a header of GNU's format");
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn files_below_a_folder_are_written() {
        let (from, to) = (tempfile::NamedTempFile::new().unwrap(), tempfile::tempdir().unwrap());
        fs::write(from.path(), "stored").unwrap();
        let mut tree = Tree::default();
        tree.insert("boot/a", Node::file(0o644, "a")).unwrap();
        tree.insert("boot/b/c", Node::stored(0o644, from.path()).unwrap()).unwrap();
        tree.insert("boot/link", Node::link("a")).unwrap();
        tree.insert("bootstrap", Node::file(0o644, "")).unwrap();
        tree.write_files("boot", to.path()).unwrap();
        assert_eq!(fs::read_to_string(to.path().join("boot/a")).unwrap(), "a");
        assert_eq!(fs::read_to_string(to.path().join("boot/b/c")).unwrap(), "stored");
        assert!(!to.path().join("boot/link").exists() && !to.path().join("bootstrap").exists());
    }
}
