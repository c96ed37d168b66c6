//! `ros-image build` gives the same bytes on every machine with the same package lists.

use harness::image_build;
use qemu::paths;
use qemu::process::{printed, succeeded};
use qemu::scratch::Scratch;
use release::digest;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The user of the other build, and what it may map into a user namespace.
const USER: u32 = 65534;
const MAPPED: &str = "nobody:100000:65536\n";

/// Builds the release of `make image` again: in another folder, without the stages that the first build left, as another
/// user, a day later, in another time zone, and with files that nobody else may read.
#[test]
fn matrix_a_build_elsewhere_gives_the_same_bytes() {
    let scratch = Scratch::new("reproducible-build").unwrap();
    let folder = |name: &str| scratch.folder(name).unwrap();
    let (programs, cache, output, home) = (folder("programs"), folder("cache"), folder("output"), folder("home"));
    let copy = |from: &Path, to: &Path| succeeded(Command::new("cp").arg("-r").args([from, to])).unwrap();
    for program in image_build::PROGRAMS {
        copy(&paths::program(program).unwrap(), &programs);
    }
    copy(&paths::workspace().join("overlay"), scratch.path());
    copy(&paths::cache().unwrap().join("archive"), &cache);
    let mapped = scratch.path().join("mapped");
    fs::write(&mapped, MAPPED).unwrap();
    succeeded(Command::new("chown").args(["-R", &format!("{USER}:{USER}")]).arg(scratch.path())).unwrap();
    succeeded(Command::new("chmod").arg("755").arg(scratch.path())).unwrap();

    let script = r#"
        mount --bind "$MAPPED" /etc/subuid
        mount --bind "$MAPPED" /etc/subgid
        # Where faketime keeps what its processes share.
        mount -t tmpfs -o mode=1777 tmpfs /dev/shm
        umask 077
        exec setpriv --reuid "$USER" --regid "$USER" --clear-groups faketime -f +1d "$@"
    "#;
    let mut build = Command::new("unshare");
    build.args(["--mount", "sh", "-ec", script, "sh"]).env_clear().current_dir(scratch.path());
    build.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", &home).env("TZ", "Asia/Tokyo");
    build.env("MAPPED", &mapped).env("USER", USER.to_string());
    let again = image_build::command_with(&programs, "0.1.0", &output);
    build.arg(again.get_program()).args(again.get_args()).arg("--overlay").arg(scratch.path().join("overlay"));
    build.arg("--cache").arg(&cache).args(["--formats", "iso,pxe,oci,raw,qcow2"]);
    let built = build.output().unwrap();
    assert!(built.status.success(), "{}", printed(&built));

    let again = digests(&output);
    let image = paths::output().join("image");
    let first: BTreeMap<String, String> =
        digests(&image).into_iter().filter(|(name, _)| again.contains_key(name)).collect();
    assert!(first.len() > 20, "{first:?}");
    assert_eq!(again, first);
}

/// SHA-256 of every file, by its path in the folder.
fn digests(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(digests(&path).into_iter().map(|(below, digest)| (format!("{name}/{below}"), digest)));
        } else {
            found.insert(name, digest::of_file(&path).unwrap().0);
        }
    }
    found
}
