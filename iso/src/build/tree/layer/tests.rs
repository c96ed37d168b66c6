use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};
use tempfile::NamedTempFile;

use super::super::Stored;
use super::*;
use crate::build::program::program;

/// An archive under construction.
struct Tar(Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// An entry whose name is written as it is, also where the library would refuse it.
    fn entry(mut self, kind: EntryType, name: &str, target: &str, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(7);
        header.set_gid(8);
        header.set_size(content.len() as u64);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }
    fn file(self, name: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, name, "", content.as_bytes())
    }
    fn folder(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name, "", b"")
    }
    fn link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, b"")
    }
    fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name, target, b"")
    }
    fn attribute(mut self, name: &str, value: &[u8]) -> Self {
        self.0.append_pax_extensions([(format!("SCHILY.xattr.{name}").as_str(), value)]).unwrap();
        self
    }
    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
    fn stored(self) -> NamedTempFile {
        stored(&self.bytes())
    }
}

fn stored(bytes: &[u8]) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    file
}

fn lay(tree: &mut Tree, layer: Tar) -> Result<NamedTempFile> {
    let file = layer.stored();
    tree.lay_tar_over(file.path(), Names::OfLayer, &mut Budget::of_a_system())?;
    Ok(file)
}

/// The paths of a tree made of these layers, each with its content where it is a file.
fn layers(layers: Vec<Tar>) -> Result<Vec<String>> {
    let mut tree = Tree::default();
    let files = layers.into_iter().map(|layer| lay(&mut tree, layer)).collect::<Result<Vec<_>>>()?;
    let shown = tree.0.iter().map(|(path, node)| match &node.kind {
        Kind::Folder => format!("{path}/"),
        Kind::Link(target) => format!("{path} -> {target}"),
        _ => format!("{path}={}", tree.text(path).unwrap()),
    });
    let shown = shown.collect();
    drop(files);
    Ok(shown)
}

fn lower() -> Tar {
    Tar::new().folder("a/").file("a/x", "1").file("a/y", "1").folder("a/deep/").file("a/deep/z", "1").file("b", "1")
}

#[test]
fn later_layers_replace_what_earlier_ones_have() {
    let shown = layers(vec![lower(), Tar::new().file("./a/x", "2").file("/new/file", "2")]).unwrap();
    assert_eq!(shown, ["a/", "a/deep/", "a/deep/z=1", "a/x=2", "a/y=1", "b=1", "new/", "new/file=2"]);
    let shown = layers(vec![lower(), Tar::new().file("a", "a file").folder("b/")]).unwrap();
    assert_eq!(shown, ["a=a file", "b/"]);
    // What a folder has stays where only the folder itself is changed.
    assert_eq!(layers(vec![lower(), Tar::new().folder("a/")]).unwrap().len(), 6);
}

#[test]
fn whiteouts_remove_from_lower_layers_alone() {
    let shown = layers(vec![lower(), Tar::new().file("a/.wh.deep", "").file(".wh.b", "")]).unwrap();
    assert_eq!(shown, ["a/", "a/x=1", "a/y=1"]);
    // The order within the layer says nothing.
    for layer in [Tar::new().file("a/x", "2").file("a/.wh.x", ""), Tar::new().file("a/.wh.x", "").file("a/x", "2")] {
        assert!(layers(vec![lower(), layer]).unwrap().contains(&"a/x=2".to_owned()));
    }
    assert_eq!(layers(vec![lower(), Tar::new().file("a/.wh.none", "").file("a/.wh..wh.plnk", "")]).unwrap().len(), 6);
    assert!(layers(vec![lower(), Tar::new().file("a/.wh.", "")]).is_err());
    assert!(layers(vec![lower(), Tar::new().file("a/.wh...", "")]).is_err());
}

#[test]
fn an_opaque_folder_hides_what_is_below() {
    for layer in [
        Tar::new().folder("a/").file("a/.wh..wh..opq", "").file("a/new", "2"),
        Tar::new().folder("a/").file("a/new", "2").file("a/.wh..wh..opq", ""),
    ] {
        assert_eq!(layers(vec![lower(), layer]).unwrap(), ["a/", "a/new=2", "b=1"]);
    }
    assert_eq!(layers(vec![lower(), Tar::new().file(".wh..wh..opq", "").file("c", "2")]).unwrap(), ["c=2"]);
}

#[test]
fn a_plain_archive_has_no_whiteouts() {
    let file = Tar::new().file("a", "1").file(".wh.a", "2").stored();
    let tree = Tree::from_tar(file.path()).unwrap();
    assert_eq!((tree.text("a").unwrap(), tree.text(".wh.a").unwrap()), ("1".into(), "2".into()));
}

#[test]
fn a_layer_reaches_through_links_and_never_out() {
    let merged = || Tar::new().folder("usr/").folder("usr/lib/").link("lib", "usr/lib").link("out", "../../../../usr");
    let shown = layers(vec![merged(), Tar::new().file("lib/x", "1").file("out/y", "2").file("lib/.wh.none", "")]);
    assert_eq!(
        shown.unwrap(),
        ["lib -> usr/lib", "out -> ../../../../usr", "usr/", "usr/lib/", "usr/lib/x=1", "usr/y=2"]
    );
    for name in ["../x", "a/../../x", "/../x"] {
        let error = format!("{:#}", layers(vec![Tar::new().file(name, "1")]).unwrap_err());
        assert!(error.contains("points outside of the tree"), "{error}");
    }
    let error = layers(vec![Tar::new().link("a", "b").link("b", "a"), Tar::new().file("a/x", "1")]).unwrap_err();
    assert!(format!("{error:#}").contains("symbolic links"), "{error:#}");
}

#[test]
fn hard_links_are_one_file_in_the_archive() {
    let mut tree = Tree::default();
    let lower = lay(&mut tree, lower()).unwrap();
    let upper = lay(&mut tree, Tar::new().hard_link("b2", "b").hard_link("a/x2", "./a/x").file("b", "2")).unwrap();
    assert_eq!((tree.text("b2").unwrap(), tree.text("b").unwrap()), ("1".into(), "2".into()));
    let written = NamedTempFile::new().unwrap();
    tree.write_tar(written.as_file(), 1).unwrap();
    let listed = program("tar").args(["--list", "--verbose", "--file"]).arg(written.path()).text().unwrap();
    assert!(listed.contains("a/x2 link to a/x") && !listed.contains("link to b"), "{listed}");
    drop((lower, upper));
    for (name, target) in [("c", "gone"), ("c", "../b"), ("c", "a")] {
        let layer = Tar::new().folder("a").hard_link(name, target);
        assert!(layers(vec![layer]).is_err(), "{target}");
    }
}

#[test]
fn attributes_devices_and_owners_survive() {
    let capability = [1, 0, 0, 2, 0, 0x20, b'\n', 0, b'=', 0, 0, 0];
    let mut tree = Tree::default();
    let layer = Tar::new()
        .attribute("security.capability", &capability)
        .file("ping", "p")
        .attribute("security.selinux", b"label")
        .file("other", "o")
        .entry(EntryType::Char, "null", "", b"")
        .entry(EntryType::Block, "disk", "", b"")
        .entry(EntryType::Fifo, "pipe", "", b"");
    let file = lay(&mut tree, layer).unwrap();
    assert_eq!(tree.get("ping").unwrap().attributes["security.capability"], capability);
    assert!(tree.get("other").unwrap().attributes.is_empty());
    assert_eq!((tree.get("ping").unwrap().user, tree.get("ping").unwrap().group), (7, 8));
    assert_eq!(tree.get("null").unwrap().kind, Kind::Device { is_block: false, major: 1, minor: 3 });
    assert_eq!(tree.get("disk").unwrap().kind, Kind::Device { is_block: true, major: 1, minor: 3 });
    assert_eq!(tree.get("pipe").unwrap().kind, Kind::Pipe);
    let written = NamedTempFile::new().unwrap();
    tree.write_tar(written.as_file(), 1).unwrap();
    let again = Tree::from_tar(written.path()).unwrap();
    for (path, node) in &tree.0 {
        let read = again.get(path).unwrap();
        assert_eq!((read.mode, read.user, &read.attributes), (node.mode, node.user, &node.attributes), "{path}");
    }
    drop(file);
}

/// Debian's tar is the second opinion: three formats, a name of 300 characters, and a file of 1 MiB with two holes.
#[test]
fn what_gnu_tar_writes_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(150));
    fs::create_dir(folder.path().join("d".repeat(150))).unwrap();
    fs::write(folder.path().join(&long), "long").unwrap();
    let sparse = fs::File::create(folder.path().join("sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    for at in 0..60 {
        sparse.write_all_at(b"data", at * 16384 + 4096).unwrap();
    }
    let expected = fs::read(folder.path().join("sparse")).unwrap();
    for format in ["--format=gnu", "--format=posix", "--format=oldgnu"] {
        let archive = NamedTempFile::new().unwrap();
        let files = ["--sparse", format, "-C", folder.path().to_str().unwrap(), "-cf"];
        program("tar").args(files).arg(archive.path()).arg(".").run().unwrap();
        assert!(archive.path().metadata().unwrap().len() < 600_000, "{format}: it is sparse");
        let tree = Tree::from_tar(archive.path()).unwrap();
        assert_eq!(tree.text(&long).unwrap(), "long", "{format}");
        assert_eq!(tree.content("sparse").unwrap(), expected, "{format}");
    }
}

#[test]
fn bombs_and_broken_archives_are_refused() {
    let read = |bytes: &[u8], budget: &mut Budget| {
        let file = stored(bytes);
        Tree::default().lay_tar_over(file.path(), Names::Plain, budget).map_err(|error| format!("{error:#}"))
    };
    let bytes = Tar::new().file("a", "12345").file("b", "1").bytes();
    read(&bytes, &mut Budget { entries: 2, bytes: 6 }).unwrap();
    assert!(read(&bytes, &mut Budget { entries: 1, bytes: 6 }).unwrap_err().contains("more files"));
    assert!(read(&bytes, &mut Budget { entries: 2, bytes: 5 }).unwrap_err().contains("more bytes"));
    // Within the second header, between the entries, and before the end mark.
    for cut in [700, 1024, 2048] {
        let error = read(&bytes[..cut], &mut Budget::of_a_system()).unwrap_err();
        assert!(error.contains("was cut off"), "{cut}: {error}");
    }
    let error = read(&bytes[..514], &mut Budget::of_a_system()).unwrap_err();
    assert!(error.contains("ends within \"a\""), "{error}");
    // A name of 16 MiB, which a reader would have to hold in memory.
    let long = Tar::new().entry(EntryType::GNULongName, "././@LongLink", "", &vec![b'a'; 16 << 20]).file("a", "1");
    assert!(read(&long.bytes(), &mut Budget::of_a_system()).unwrap_err().contains("exceeds limit"));
    assert!(read(&Tar::new().entry(EntryType::new(b'V'), "a", "", b"").bytes(), &mut Budget::of_a_system()).is_err());
}

/// A sparse file may say that it is larger than any disk.
#[test]
fn a_huge_hole_is_refused() {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(0);
    header.set_mode(0o644);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[0] = b'a';
    gnu.set_real_size(1 << 50);
    header.set_cksum();
    let mut builder = Builder::new(Vec::new());
    builder.append(&header, &b""[..]).unwrap();
    let file = stored(&builder.into_inner().unwrap());
    assert!(format!("{:#}", Tree::from_tar(file.path()).unwrap_err()).contains("more bytes"));
}

#[test]
fn a_tree_round_trips_through_its_archive() {
    let mut tree = Tree::default();
    let file = lay(&mut tree, lower().link("c", "a/x").hard_link("d", "b")).unwrap();
    let (first, second) = (NamedTempFile::new().unwrap(), NamedTempFile::new().unwrap());
    tree.write_tar(first.as_file(), 1).unwrap();
    Tree::from_tar(first.path()).unwrap().write_tar(second.as_file(), 1).unwrap();
    assert!(fs::read(first.path()).unwrap() == fs::read(second.path()).unwrap());
    drop(file);
}

fn contents(tree: &Tree) -> impl Iterator<Item = &Stored> {
    tree.0.values().filter_map(|node| match &node.kind {
        Kind::Stored(stored) => Some(stored.as_ref()),
        _ => None,
    })
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
        let _ = Tree::from_tar(stored(&bytes).path());
    }

    /// Bytes of a good archive are changed; its checksums are made right again, so that the change is seen.
    #[test]
    fn no_change_leads_out_or_makes_the_reader_panic(
        changes in prop::collection::vec((0usize..12, 0usize..512, any::<u8>()), 1..5), end in 0usize..14
    ) {
        let archive = lower().link("c", "../../a").hard_link("d", "b").attribute("user.x", b"y").file("e", "1");
        let mut bytes = archive.bytes();
        for (block, at, byte) in changes {
            let block = &mut bytes[block * 512..][..512];
            block[at] = byte;
            if block[257..262] == *b"ustar" {
                let mut header = Header::new_gnu();
                header.as_mut_bytes().copy_from_slice(block);
                header.set_cksum();
                block.copy_from_slice(header.as_bytes());
            }
        }
        bytes.truncate(bytes.len() - end * 300.min(bytes.len()));
        let file = stored(&bytes);
        let mut tree = Tree::default();
        if tree.lay_tar_over(file.path(), Names::OfLayer, &mut Budget { entries: 100, bytes: 1 << 20 }).is_ok() {
            prop_assert!(tree.0.keys().all(|path| path.split('/').all(|part| !matches!(part, "" | "." | ".."))));
            for stored in contents(&tree) {
                stored.open().unwrap().read_to_end(&mut Vec::new()).unwrap();
            }
        }
    }
}
