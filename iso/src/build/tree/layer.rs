//! Lays archives over a tree, one over the other, as the layers of an image are (OCI image specification 1.1, `layer.md`).

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::entries::{self, Budget, Entry, What};
use super::{Kind, Node, Tree, normal};

/// What stands in front of the name of a file that a layer removes.
const WHITEOUT: &str = ".wh.";
/// Removes what lower layers have in its folder.
const OPAQUE: &str = ".wh..wh..opq";
/// Other names of aufs, which mean nothing here.
const OF_AUFS: &str = ".wh..wh.";

/// What names that begin with `.wh.` are in an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// They remove files of the layers below.
    OfLayer,
    /// Files like others.
    Plain,
}

impl Tree {
    /// Reads a tar archive of a system, without compression. Contents stay in the archive.
    pub fn from_tar(path: &Path) -> Result<Self> {
        let mut tree = Self::default();
        tree.lay_tar_over(path, Names::Plain, &mut Budget::of_a_system())?;
        Ok(tree)
    }

    /// Lays a tar archive over the tree.
    pub fn lay_tar_over(&mut self, path: &Path, names: Names, budget: &mut Budget) -> Result<()> {
        let entries = entries::read(path, budget);
        entries
            .and_then(|entries| self.apply(entries, names))
            .with_context(|| format!("reading the archive {}", path.display()))
    }

    /// First what the layer removes: it concerns lower layers alone, wherever it stands in the archive.
    fn apply(&mut self, entries: Vec<Entry>, names: Names) -> Result<()> {
        let mut added = Vec::new();
        for Entry { path, what } in entries {
            let path = normal(&path)?;
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
            match name.strip_prefix(WHITEOUT).filter(|_| names == Names::OfLayer) {
                Some(_) if name == OPAQUE => {
                    let folder = self.resolve(folder, true)?;
                    self.remove_below(&folder);
                }
                Some(_) if name.starts_with(OF_AUFS) => {}
                Some(removed) => {
                    ensure!(!matches!(removed, "" | "." | ".."), "{path:?} names nothing that could be removed");
                    let removed = self.resolve(&format!("{folder}/{removed}"), false)?;
                    self.remove_below(&removed);
                    self.0.remove(&removed);
                }
                None => added.push((path, what)),
            }
        }
        added.into_iter().try_for_each(|(path, what)| self.add(&path, what))
    }

    fn add(&mut self, path: &str, what: What) -> Result<()> {
        let path = self.resolve(path, false)?;
        // The root folder is the same in every system.
        if path.is_empty() {
            return Ok(());
        }
        let node = match what {
            What::Node(node) => node,
            What::HardLink(target) => {
                let target = self.resolve(&normal(&target)?, false)?;
                match self.0.get(&target) {
                    Some(Node { kind: Kind::Folder, .. }) => bail!("{path:?} is a hard link to the folder {target:?}"),
                    Some(linked) => linked.clone(),
                    None => bail!("{path:?} is a hard link to {target:?}, which is missing"),
                }
            }
        };
        if node.kind != Kind::Folder {
            self.remove_below(&path);
        }
        self.insert(&path, node)
    }
}

#[cfg(test)]
mod tests;
