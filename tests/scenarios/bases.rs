//! Releases that are made of another base than the Debian packages of our own recipe.

use crate::install::{SHORT, becomes_ready};
use harness::clusters::image_registry::ImageRegistry;
use harness::image_build;
use harness::world::World;
use qemu::disk::{Disk, GIB};
use qemu::firmware::Firmware;
use qemu::machine::{Drive, MachineSpec, Medium};
use qemu::paths;
use qemu::process::succeeded;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The packages of Debian 12 that a base needs beside the essential ones. The kernel comes from Debian 13.
const OF_DEBIAN_12: &str = "ca-certificates,dbus,e2fsprogs,iproute2,kmod,libtss2-esys-3.0.2-0,libtss2-mu0,libtss2-sys1,\
                            libtss2-tcti-device0,libtss2-tctildr0,login,netbase,openssh-server,sudo,systemd,\
                            systemd-resolved,systemd-sysv,systemd-timesyncd,udev";

/// The Dockerfile of the documentation, on an image of Debian in a registry. Its kernel is Debian's, so that it starts with
/// Secure Boot.
#[tokio::test(flavor = "multi_thread")]
async fn matrix_base_from_a_registry_on_secure_boot() {
    let world = World::builder("base-registry").unwrap().start().await.unwrap();
    let folder = world.folder("base").unwrap();
    let registry = ImageRegistry::start(&world.folder("registry").unwrap()).await.unwrap();
    let image = |name: &str| format!("127.0.0.1:{}/{name}", registry.port());

    let debian = debootstrap(&folder, "trixie", &["--variant=apt"]);
    buildah(&folder, "from", &["--name", "debian", "scratch"]);
    buildah(&folder, "add", &["debian", debian.to_str().unwrap(), "/"]);
    let to = format!("docker://{}", image("debian:trixie"));
    buildah(&folder, "commit", &["--tls-verify=false", "debian", &to]);
    let argument = format!("DEBIAN={}", image("debian:trixie"));
    let example = paths::workspace().join("examples/base");
    let options = [
        "--isolation",
        "chroot",
        "--layers",
        "--tls-verify=false",
        "--build-arg",
        &argument,
        "--tag",
        &image("base:1"),
    ];
    buildah(&folder, "build", &[&options[..], &[example.to_str().unwrap()]].concat());
    buildah(&folder, "push", &["--tls-verify=false", &image("base:1")]);
    let output = build(&folder, &[&image("base:1"), "--formats", "iso"]);

    let mut registration = world.example_registration().unwrap();
    registration["cloudConfig"]["ssh_authorized_keys"] = json!([world.key.public]);
    let medium = world.medium_from(&output.join("ros-0.1.0-x86_64.iso"), registration).await.unwrap();
    let mut spec = MachineSpec::new(Firmware::SecureBoot, "BASE-1");
    spec.disks.push(Disk::empty(world.path(), "root", 4 * GIB).unwrap());
    spec.medium = Some(Medium { file: medium, drive: Drive::Cd });
    let mut machine = world.machine(spec).await.unwrap();
    machine.power_on().await.unwrap();
    becomes_ready(&world, &mut machine).await;
    let facts = "journalctl --boot --unit greeting.service --output cat; ls /usr/share/doc 2>&1; uname -r; \
                 systemctl is-system-running";
    let facts = world.key.run("root", machine.ssh_port(), facts, SHORT).await.unwrap();
    assert!(facts.contains("This machine was built from a container image."), "a file of a layer: {facts}");
    assert!(facts.contains("/usr/share/doc': No such file"), "a layer removed it: {facts}");
    assert!(facts.trim().ends_with("-cloud-amd64\nrunning"), "{facts}");
}

/// An archive that has no kernel, of a system with older programs than those of our recipe.
#[tokio::test(flavor = "multi_thread")]
async fn matrix_base_of_debian_12_on_bios() {
    let world = World::builder("base-debian-12").unwrap().start().await.unwrap();
    let folder = world.folder("base").unwrap();
    let packages = format!("--include={OF_DEBIAN_12}");
    let debian = debootstrap(&folder, "bookworm", &["--variant=essential", &packages]);
    let hook = folder.join("hook");
    fs::write(&hook, "#!/bin/sh\nid -un > /etc/hook-ran-as\n").unwrap();
    let options = ["--kernel", "cloud", "--hook", hook.to_str().unwrap(), "--formats", "raw"];
    let output = build(&folder, &[&[debian.to_str().unwrap()], &options[..]].concat());

    let mut registration = world.example_registration().unwrap();
    registration["cloudConfig"]["ssh_authorized_keys"] = json!([world.key.public]);
    let image = world.medium_from(&output.join("ros-0.1.0-x86_64.raw"), registration).await.unwrap();
    let mut spec = MachineSpec::new(Firmware::Bios, "BASE-2");
    spec.disks.push(Disk::of_image(&image, "root", 8 * GIB).unwrap());
    let mut machine = world.machine(spec).await.unwrap();
    machine.power_on().await.unwrap();
    becomes_ready(&world, &mut machine).await;
    let facts = "cat /etc/debian_version /etc/hook-ran-as; uname -r; systemctl is-system-running";
    let facts = world.key.run("root", machine.ssh_port(), facts, SHORT).await.unwrap();
    let facts: Vec<&str> = facts.lines().collect();
    assert!(facts[0].starts_with("12.") && facts[2].ends_with("-cloud-amd64"), "{facts:?}");
    assert_eq!((facts[1], facts[3]), ("root", "running"));
}

/// A system of Debian in a tar archive, from the mirrors that `make image` used.
fn debootstrap(folder: &Path, suite: &str, options: &[&str]) -> PathBuf {
    let archives = fs::read_dir(paths::cache().unwrap().join("archive")).unwrap();
    let mut lists = archives.map(|archive| fs::read_to_string(archive.unwrap().path().join("sources.list")).unwrap());
    let sources = lists.find(|list| list.ends_with(" main\n")).unwrap();
    let sources: Vec<String> = sources.lines().map(|line| line.replace("trixie", suite)).collect();
    let system = folder.join(format!("{suite}.tar"));
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--quiet", "--format=tar", "--aptopt=APT::Install-Recommends \"false\""]).args(options);
    succeeded(mmdebstrap.arg(suite).arg(&system).args(sources)).unwrap();
    system
}

/// With a store of its own in `folder`, which needs no overlayfs.
fn buildah(folder: &Path, verb: &str, arguments: &[&str]) {
    let mut buildah = Command::new("buildah");
    buildah.arg("--root").arg(folder.join("store")).arg("--runroot").arg(folder.join("run"));
    succeeded(buildah.args(["--storage-driver", "vfs", verb]).args(arguments)).unwrap();
}

/// Builds a release of a base. The stages of each build are another folder's, so that they do not pile up.
fn build(folder: &Path, arguments: &[&str]) -> PathBuf {
    let (shared, cache, output) = (paths::cache().unwrap(), folder.join("cache"), folder.join("output"));
    fs::create_dir_all(&cache).unwrap();
    for stage in ["archive", "packages", "tools"] {
        succeeded(Command::new("cp").arg("-r").arg(shared.join(stage)).arg(&cache)).unwrap();
    }
    let mut build = image_build::command("0.1.0", &output).unwrap();
    build.arg("--overlay").arg(paths::workspace().join("overlay")).arg("--cache").arg(&cache);
    succeeded(build.args(arguments)).unwrap();
    output
}
