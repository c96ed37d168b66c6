//! The shared libraries that a program loads, searched in a tree: what the program's loader would not find on the machine.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result};
use goblin::elf::Elf;

use crate::build::tree::Tree;

/// Where the loaders of Debian, and of others, search.
const FOLDERS: [&str; 3] = ["usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib"];
/// The library through which TPMs are reached. libtss2-tctildr loads it at run time, by its name.
const BY_NAME: &str = "libtss2-tcti-device.so.0";
/// Debian's packages of those that are not in every system.
const PACKAGES: [(&str, &str); 6] = [
    ("libtss2-esys.so", "libtss2-esys-3.0.2-0"),
    ("libtss2-mu.so", "libtss2-mu-4.0.1-0"),
    ("libtss2-sys.so", "libtss2-sys1"),
    ("libtss2-tcti-device.so", "libtss2-tcti-device0"),
    ("libtss2-tctildr.so", "libtss2-tctildr0"),
    ("libgcc_s.so", "libgcc-s1"),
];

/// A library that is not there, or is too old.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Library {
    name: String,
    /// The version that it lacks, such as `GLIBC_2.34`.
    version: Option<String>,
    wanted_by: String,
}

impl Library {
    pub fn package(&self) -> Option<&'static str> {
        let named = PACKAGES.iter().find(|(library, _)| self.name.starts_with(library));
        named.filter(|_| self.version.is_none()).map(|(_, package)| *package)
    }
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, version, wanted_by } = self;
        match version {
            None => write!(f, "{name} (for {wanted_by})"),
            Some(version) => write!(f, "{version} in its {name}, which is too old (for {wanted_by})"),
        }
    }
}

/// The libraries that `program` needs and the tree lacks, with those that these need in turn.
pub fn missing(tree: &Tree, name: &str, program: &[u8]) -> Result<BTreeSet<Library>> {
    let mut search = Search { tree, seen: BTreeSet::new(), missing: BTreeSet::new() };
    search.needs_of(name, program)?;
    search.library(BY_NAME, name, &[])?;
    Ok(search.missing)
}

struct Search<'a> {
    tree: &'a Tree,
    seen: BTreeSet<String>,
    missing: BTreeSet<Library>,
}

impl Search<'_> {
    fn needs_of(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let elf = Elf::parse(bytes).with_context(|| format!("reading the program {name}"))?;
        for needed in &elf.libraries {
            let versions = elf.verneed.iter().flat_map(|all| all.iter());
            let of_needed = versions.filter(|version| elf.dynstrtab.get_at(version.vn_file) == Some(needed));
            let versions: Vec<String> = of_needed
                .flat_map(|version| {
                    version.iter().filter_map(|one| elf.dynstrtab.get_at(one.vna_name)).collect::<Vec<_>>()
                })
                .map(str::to_owned)
                .collect();
            self.library(needed, name, &versions)?;
        }
        Ok(())
    }

    fn library(&mut self, name: &str, wanted_by: &str, versions: &[String]) -> Result<()> {
        let path = FOLDERS.iter().map(|folder| format!("{folder}/{name}")).find(|path| self.tree.find(path).is_some());
        let lacks =
            |version: Option<String>| Library { name: name.to_owned(), version, wanted_by: wanted_by.to_owned() };
        let Some(path) = path else {
            self.missing.insert(lacks(None));
            return Ok(());
        };
        let bytes = self.tree.content(&path)?;
        let elf = Elf::parse(&bytes).with_context(|| format!("reading the library {path}"))?;
        let defined: BTreeSet<&str> = elf
            .verdef
            .iter()
            .flat_map(|all| all.iter())
            .filter_map(|version| version.iter().next().and_then(|name| elf.dynstrtab.get_at(name.vda_name)))
            .collect();
        for version in versions.iter().filter(|version| !defined.contains(version.as_str())) {
            self.missing.insert(lacks(Some(version.clone())));
        }
        if self.seen.insert(name.to_owned()) {
            self.needs_of(name, &bytes)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::tree::Node;
    use proptest::prelude::*;
    use std::fs;
    use std::path::Path;

    /// This test program, and the libraries of this machine.
    fn own() -> (Vec<u8>, Tree) {
        let program = fs::read(std::env::current_exe().unwrap()).unwrap();
        let mut tree = Tree::default();
        for library in Elf::parse(&program).unwrap().libraries {
            let path = Path::new("/usr/lib/x86_64-linux-gnu").join(library);
            tree.insert(path.to_str().unwrap(), Node::stored(0o644, &path).unwrap()).unwrap();
        }
        (program, tree)
    }

    #[test]
    fn what_runs_here_lacks_only_the_library_of_the_tpm() {
        let (program, mut tree) = own();
        let names = |tree: &Tree| -> Vec<String> {
            missing(tree, "me", &program).unwrap().iter().map(Library::to_string).collect()
        };
        assert_eq!(names(&tree), [format!("{BY_NAME} (for me)")]);
        tree.remove_listed("/usr/lib/x86_64-linux-gnu/libc.so.6").unwrap();
        assert!(names(&tree).contains(&"libc.so.6 (for me)".to_owned()), "{:?}", names(&tree));
        // A library without the versions of the right one.
        let other = tree.get("usr/lib/x86_64-linux-gnu/libm.so.6").unwrap().clone();
        tree.insert("usr/lib/x86_64-linux-gnu/libc.so.6", other).unwrap();
        assert!(names(&tree).iter().any(|name| name.contains("which is too old")), "{:?}", names(&tree));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(at in 0usize..4096, bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut program = fs::read("/usr/lib/x86_64-linux-gnu/libgcc_s.so.1").unwrap();
            program[at..at + bytes.len()].copy_from_slice(&bytes);
            let _ = missing(&Tree::default(), "x", &program);
        }
    }
}
