//! `ros-image` on the real ISO and on disk images: settings go in and out without a trace, and foreign files are not changed.

use iso::cli::{DiskSize, Format};
use iso::format;
use qemu::disk::{Disk, GIB};
use qemu::paths;
use qemu::process::{printed, succeeded};
use qemu::scratch::Scratch;
use release::digest;
use release::fixtures::write_tiny_release;
use serde_json::Value;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const TOKEN: &str = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzab";

fn ros_image(arguments: &[&str]) -> Output {
    Command::new(paths::program("ros-image").unwrap()).args(arguments).output().unwrap()
}

fn succeeds(arguments: &[&str]) -> String {
    succeeded(Command::new(paths::program("ros-image").unwrap()).args(arguments)).unwrap()
}

/// Writes a settings file that names a host.
fn settings(folder: &Path, host: &str) -> PathBuf {
    let file = folder.join(format!("{host}.yaml"));
    let url = format!("https://{host}/v1-rancheros/registration/{TOKEN}");
    fs::write(&file, format!("#cloud-config\nrancheros: {{install: {{registrationURL: '{url}'}}}}\n")).unwrap();
    file
}

/// The settings of a medium, as `show` prints them.
fn shown(iso: &str) -> Value {
    let shown = succeeds(&["show", iso, "--json"]);
    assert!(!shown.contains(TOKEN), "the token is shown: {shown}");
    serde_json::from_str::<Value>(&shown).unwrap()["registration"].take()
}

fn names(shown: &Value, host: &str) {
    assert_eq!(
        shown["rancheros"]["install"]["registrationURL"],
        format!("https://{host}/v1-rancheros/registration/***")
    );
}

#[test]
fn iso_settings_go_in_and_out_in_place() {
    let scratch = Scratch::new("medium-in-place").unwrap();
    let original = fs::read(paths::iso().unwrap()).unwrap();
    let file = scratch.path().join("mine.iso");
    fs::write(&file, &original).unwrap();
    let iso = file.to_str().unwrap();
    for host in ["first.example.org", "second.example.org"] {
        let settings = settings(scratch.path(), host);
        succeeds(&["customize", iso, "--registration", settings.to_str().unwrap()]);
        names(&shown(iso), host);
        succeeds(&["verify", iso]);
    }
    succeeds(&["customize", iso, "--remove"]);
    assert_eq!(shown(iso), Value::Null);
    assert!(fs::read(&file).unwrap() == original, "the settings left a trace");
}

#[test]
fn iso_settings_go_into_a_copy_and_out_of_it() {
    let scratch = Scratch::new("medium-copy").unwrap();
    let source = paths::iso().unwrap();
    let original = fs::read(&source).unwrap();
    let (copy, bare) = (scratch.path().join("copy.iso"), scratch.path().join("bare.iso"));
    let [source, copy, bare] = [&source, &copy, &bare].map(|path| path.to_str().unwrap());
    let settings = settings(scratch.path(), "copy.example.org");
    succeeds(&["customize", source, "--registration", settings.to_str().unwrap(), "--output", copy]);
    names(&shown(copy), "copy.example.org");
    succeeds(&["verify", copy]);
    assert!(fs::read(source).unwrap() == original, "the source was changed");
    let piped = ros_image(&["customize", source, "--registration", settings.to_str().unwrap(), "--output", "-"]);
    assert!(piped.stdout == fs::read(copy).unwrap(), "{}", String::from_utf8_lossy(&piped.stderr));

    succeeds(&["customize", copy, "--remove", "--output", bare]);
    assert!(fs::read(bare).unwrap() == original, "the settings left a trace");
}

#[test]
fn iso_and_disk_images_are_verified_with_settings_in_them() {
    let scratch = Scratch::new("medium-verified").unwrap();
    let settings = settings(scratch.path(), "image.example.org");
    for format in ["raw", "qcow2"] {
        let image = scratch.path().join(format!("own.{format}"));
        let built = paths::disk_image(format).unwrap();
        let [from, to] = [&built, &image].map(|path| path.to_str().unwrap());
        succeeds(&["customize", from, "--registration", settings.to_str().unwrap(), "--output", to]);
        succeeds(&["verify", to]);
        // A qcow2 file shows no partitions. There the place is in one of the root images, which are most of the file.
        let place = Disk::of_image(&image, "own", 4 * GIB).unwrap().partition("COS_STATE_A").unwrap();
        let place = place.unwrap_or(image.metadata().unwrap().len() / 2);
        let file = File::options().read(true).write(true).open(&image).unwrap();
        let mut bytes = [0; 64];
        file.read_exact_at(&mut bytes, place).unwrap();
        file.write_all_at(&bytes.map(|byte| byte ^ 1), place).unwrap();
        let output = ros_image(&["verify", to]);
        let said = printed(&output);
        assert!(output.status.code() == Some(1) && said.contains("is damaged or was changed"), "{said}");
    }
}

#[test]
fn iso_without_its_end_or_of_others_is_left_alone() {
    let scratch = Scratch::new("medium-refused").unwrap();
    let settings = settings(scratch.path(), "no.example.org");
    let truncated = scratch.path().join("truncated.iso");
    fs::copy(paths::iso().unwrap(), &truncated).unwrap();
    let file = File::options().write(true).open(&truncated).unwrap();
    // The reserved space for settings is before the release, so it still exists.
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    refused(&truncated, &settings, "the download may be incomplete");

    let folder = scratch.folder("content").unwrap();
    fs::write(folder.join("readme.txt"), "somebody's data").unwrap();
    refused(&foreign(&folder), &settings, "finding the reserved space; the medium must be built by `ros-image build`");
    fs::write(folder.join("registration.yaml"), "somebody's registration").unwrap();
    refused(&foreign(&folder), &settings, "bytes instead of");
}

#[test]
fn disk_images_take_settings_and_give_them_back() {
    let scratch = Scratch::new("disk-images").unwrap();
    let settings = settings(scratch.path(), "image.example.org");
    let settings = settings.to_str().unwrap();
    for format in [Format::Raw, Format::Qcow2] {
        let folder = scratch.folder(format.disk_image().unwrap()).unwrap();
        let image = tiny_disk_image(&folder, format).unwrap();
        let path = image.to_str().unwrap();
        let original = digest::of_file(&image).unwrap();
        assert_eq!(shown(path), Value::Null);
        let other = File::open(&image).unwrap();
        other.lock().unwrap();
        let output = ros_image(&["customize", path, "--registration", settings]);
        assert!(printed(&output).contains("is being changed by another program"), "{}", printed(&output));
        drop(other);
        succeeds(&["customize", path, "--registration", settings]);
        names(&shown(path), "image.example.org");
        assert_ne!(digest::of_file(&image).unwrap(), original);
        succeeds(&["customize", path, "--remove"]);
        assert_eq!(digest::of_file(&image).unwrap(), original, "the settings left a trace");

        let short = folder.join("short");
        let mut begin = Vec::new();
        File::open(&image).unwrap().take(200 << 10).read_to_end(&mut begin).unwrap();
        fs::write(&short, begin).unwrap();
        let output = ros_image(&["customize", short.to_str().unwrap(), "--registration", settings]);
        let said = printed(&output);
        assert!(output.status.code() == Some(1) && said.contains("cut off"), "{said}");
    }
}

/// A disk image of a release that does not boot.
pub fn tiny_disk_image(folder: &Path, format: Format) -> anyhow::Result<PathBuf> {
    let release = folder.join("release");
    fs::create_dir(&release)?;
    write_tiny_release(&release, &[7; 8192]);
    let image = folder.join(format!("tiny.{}", format.disk_image().unwrap_or_default()));
    format::disk::write(&release, DiskSize(2 << 30), 0, &[(format, image.clone())])?;
    Ok(image)
}

/// Makes an ISO with another program.
fn foreign(content: &Path) -> PathBuf {
    let iso = content.with_extension("iso");
    let _ = fs::remove_file(&iso);
    let xorriso = Command::new("xorriso").args(["-as", "mkisofs", "-quiet", "-r", "-o"]).args([&iso, content]).output();
    let xorriso = xorriso.unwrap();
    assert!(xorriso.status.success(), "{}", printed(&xorriso));
    iso
}

fn refused(iso: &Path, settings: &Path, why: &str) {
    let before = fs::read(iso).unwrap();
    let [path, settings] = [iso, settings].map(|path| path.to_str().unwrap());
    for (arguments, why) in [
        (&["customize", path, "--registration", settings][..], why),
        (&["customize", path, "--remove"], why),
        (&["show", path], ""),
        (&["verify", path], "is damaged or was changed"),
    ] {
        let output = ros_image(arguments);
        let said = printed(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains(path) && said.contains(why), "{arguments:?}: {said}");
    }
    assert!(fs::read(iso).unwrap() == before, "{path} was changed");
}

#[test]
fn iso_boot_partition_has_no_damage() {
    let scratch = Scratch::new("medium-efi").unwrap();
    let image = scratch.path().join("efi.img");
    let iso = paths::iso().unwrap();
    for (program, arguments) in [
        ("xorriso", &["-indev", iso.to_str().unwrap(), "-osirrox", "on", "-extract", "/boot/efi.img"][..]),
        ("fsck.vfat", &["-n"]),
    ] {
        let output = Command::new(program).args(arguments).arg(&image).output().unwrap();
        assert!(output.status.success(), "{program}: {}", printed(&output));
    }
}
