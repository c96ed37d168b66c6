//! Tests of `unpack`.

use super::*;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use std::io::Write;
use tar::{Builder, Header};

fn reference() -> Reference {
    "registry.example.org/ros:1".parse().unwrap()
}

fn header(kind: EntryType, name: &str, size: u64) -> Header {
    let mut header = Header::new_gnu();
    // Names that lead out of the folder are refused by `set_path`, so the bytes are written as they are.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    header
}

fn file(builder: &mut Builder<Vec<u8>>, name: &str, content: &[u8]) {
    builder.append(&header(EntryType::Regular, name, content.len() as u64), content).unwrap();
}

/// A layer of files with one byte each.
fn layer(names: &[&str]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for name in names {
        file(&mut builder, name, b"x");
    }
    builder.into_inner().unwrap()
}

/// Unpacks layers into a folder of its own.
fn unpacked(layers: &[Vec<u8>]) -> Result<tempfile::TempDir, RegistryError> {
    let folder = tempfile::tempdir().unwrap();
    let (reference, blob) = (reference(), tempfile::NamedTempFile::new().unwrap());
    let mut unpacker = Unpacker::new(&reference, folder.path());
    for layer in layers {
        fs::write(blob.path(), layer).unwrap();
        unpacker.layer(blob.path(), layer.starts_with(&[0x1f, 0x8b]))?;
    }
    unpacker.finish()?;
    Ok(folder)
}

fn error(layers: &[Vec<u8>]) -> String {
    let error = unpacked(layers).unwrap_err();
    format!("{}: {error}", error.reason())
}

#[test]
fn only_files_of_the_release_are_unpacked_and_later_layers_replace() {
    let mut first = Builder::new(Vec::new());
    first.append(&header(EntryType::Directory, "release/", 0), &[][..]).unwrap();
    file(&mut first, "./release/release.json", b"old");
    file(&mut first, "/release/boot/grub.cfg", b"menu");
    file(&mut first, "usr/bin/ros-installer", b"program");
    let mut link = header(EntryType::Symlink, "usr/sbin/suc-upgrade", 0);
    link.set_link_name("../bin/ros-installer").unwrap();
    link.set_cksum();
    first.append(&link, &[][..]).unwrap();
    let mut second = Builder::new(Vec::new());
    file(&mut second, "release/release.json", b"new");
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&second.into_inner().unwrap()).unwrap();
    let folder = unpacked(&[first.into_inner().unwrap(), packed.finish().unwrap()]).unwrap();
    assert_eq!(fs::read(folder.path().join("release.json")).unwrap(), b"new");
    assert_eq!(fs::read(folder.path().join("boot/grub.cfg")).unwrap(), b"menu");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for (name, why) in [
        ("release/../x", "leads out of the image"),
        ("../release/x", "leads out of the image"),
        ("usr/../../x", "leads out of the image"),
        ("release//x", "is no path"),
        ("release/a b", "is no path"),
        ("release/.wh.release.json", "special meaning"),
        ("release/.blobs/x", "special meaning"),
        ("release/release.json/x", "a file and a folder"),
    ] {
        let message = error(&[layer(&["release/release.json", name])]);
        assert!(message.starts_with("NotARelease") && message.contains(why) && message.contains(name), "{message}");
    }
}

#[test]
fn links_devices_and_long_names_are_refused_in_the_release_alone() {
    for kind in [EntryType::Symlink, EntryType::Link, EntryType::Char, EntryType::Fifo, EntryType::GNUSparse] {
        let with = |name: &str| {
            let mut builder = Builder::new(layer(&["release/release.json"])[..1024].to_vec());
            let mut header = header(kind, name, 0);
            header.set_link_name("etc/passwd").unwrap();
            header.set_cksum();
            builder.append(&header, &[][..]).unwrap();
            builder.into_inner().unwrap()
        };
        assert!(error(&[with("release/x")]).contains("\"release/x\" is "), "{kind:?}");
        assert!(unpacked(&[with("dev/x")]).is_ok(), "{kind:?}");
    }
    let long = |name: &str| {
        let mut builder = Builder::new(layer(&["release/release.json"])[..1024].to_vec());
        let mut plain = Header::new_gnu();
        plain.set_size(0);
        builder.append_data(&mut plain, name, &[][..]).unwrap();
        builder.into_inner().unwrap()
    };
    assert!(error(&[long(&format!("release/{}", "a".repeat(120)))]).contains("too long"));
    assert!(unpacked(&[long(&format!("usr/{}", "a".repeat(120)))]).is_ok());
}

#[test]
fn extended_headers_are_bounded() {
    let with = |extensions: &[(&str, &[u8])], name: &str| {
        let mut builder = Builder::new(layer(&["release/release.json"])[..1024].to_vec());
        builder.append_pax_extensions(extensions.iter().copied()).unwrap();
        file(&mut builder, name, b"x");
        builder.into_inner().unwrap()
    };
    assert!(unpacked(&[with(&[("mtime", b"1.5")], "release/x")]).is_ok());
    assert!(unpacked(&[with(&[("path", b"usr/y")], "usr/x")]).is_ok());
    assert!(error(&[with(&[("path", b"release/y")], "release/x")]).contains("too long"));
    assert!(error(&[with(&[("size", b"9999999999")], "usr/x")]).contains("8 GiB"));
    let big = vec![b'a'; 70_000];
    assert!(error(&[with(&[("comment", &big)], "usr/x")]).starts_with("ImageTooLarge"));
}

#[test]
fn number_and_size_of_files_are_bounded() {
    let names: Vec<String> = (0..MAX_FILES).map(|number| format!("release/{number}")).collect();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names[0] = "release/release.json";
    assert!(unpacked(&[layer(&names)]).is_ok());
    assert!(error(&[layer(&names), layer(&["release/x"])]).starts_with("ImageTooLarge"));
    // No byte is written of a file that is too large.
    let claims = header(EntryType::Regular, "release/x", MAX_IMAGE_BYTES + 1);
    assert!(error(&[claims.as_bytes().to_vec()]).starts_with("ImageTooLarge"));
}

#[test]
fn what_is_no_release_or_cut_off_is_refused() {
    assert!(error(&[layer(&["release/initrd"])]).contains("it has no release/release.json"));
    assert!(error(&[vec![7; 2000]]).contains("no tar archive"));
    assert!(error(&[vec![0x1f, 0x8b, 7, 7]]).contains("no tar archive"));
    let mut cut = header(EntryType::Regular, "release/release.json", 100).as_bytes().to_vec();
    cut.extend([1; 50]);
    assert!(error(&[cut]).starts_with("NotARelease"));
}

proptest! {
    #[test]
    fn no_bytes_make_the_unpacker_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = unpacked(&[bytes]);
    }

    #[test]
    fn no_name_makes_a_file_outside(name in "[a./]{0,12}", kind in 0u8..8) {
        let mut builder = Builder::new(layer(&["release/release.json"])[..1024].to_vec());
        let header = header(EntryType::new(b'0' + kind), &format!("release/{name}"), 0);
        builder.append(&header, &[][..]).unwrap();
        let above = tempfile::tempdir().unwrap();
        let (reference, folder, blob) = (reference(), above.path().join("a/b"), above.path().join("layer"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(&blob, builder.into_inner().unwrap()).unwrap();
        let _ = Unpacker::new(&reference, &folder).layer(&blob, false);
        prop_assert_eq!(fs::read_dir(above.path()).unwrap().count(), 2);
        prop_assert_eq!(fs::read_dir(above.path().join("a")).unwrap().count(), 1);
    }
}
