//! An upgrade from a container: the files of the upgrade image, unpacked by umoci, are the root folder of a process on the
//! machine, as those of a container are, and the host's root folder is mounted in it.

use super::{INSTALLED, SHORT};
use harness::world::World;
use qemu::machine::Machine;
use qemu::process::succeeded;
use release::ReleaseManifest;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The root folder of the container on the machine.
const CONTAINER: &str = "/var/tmp/container";

/// The machine runs from slot A. In the end it runs release 0.2.0, which differs from that of the image by name, from slot
/// B. What a pod finds after the restart, and after a fallback, is decided from values (`installer::container`).
pub(super) async fn upgrades_its_host(world: &World, machine: &mut Machine, name: &str, image: &Path) {
    let root = async |command: &str, port: u16| world.key.run("root", port, command, SHORT).await.unwrap();
    let port = machine.ssh_port();
    let files = unpack(image, world.path());
    let manifest = files.join("release/release.json");
    let installed = ReleaseManifest::parse(&fs::read(&manifest).unwrap()).unwrap();
    let named = |version: &str| {
        serde_json::to_string(&ReleaseManifest { version: version.into(), ..installed.clone() }).unwrap()
    };
    fs::write(&manifest, named("0.2.0")).unwrap();
    fs::create_dir(files.join("host")).unwrap();
    fs::create_dir(files.join("dev")).unwrap();
    fs::write(files.join("dev/termination-log"), "").unwrap();
    let packed = world.path().join("container.tar");
    succeeded(Command::new("tar").arg("-cf").arg(&packed).arg("-C").arg(&files).arg(".")).unwrap();
    let take = format!("mkdir -p {CONTAINER} && tar -xf - -C {CONTAINER}");
    world.key.run_with("root", port, &take, &packed, SHORT).await.unwrap();

    let mount = format!("mount --rbind / {CONTAINER}/host");

    // A pod without the host's process ids could not restart it, and says so before it writes.
    let alone = format!("{mount}; unshare --pid --fork chroot {CONTAINER} /usr/sbin/suc-upgrade");
    let alone = root(&format!("({alone}) 2>&1; echo ends with $?; cat {CONTAINER}/dev/termination-log"), port).await;
    assert!(alone.contains("ends with 1") && alone.matches("set hostPID: true").count() == 2, "{alone}");

    // In the background, because the end of the connection would be an error.
    root(&format!("chroot {CONTAINER} /usr/sbin/suc-upgrade > /var/tmp/first-pod 2>&1 &"), port).await;
    machine.console().wait_for_text("ros-boot: starting B ", INSTALLED).await.unwrap();

    // The next pod waits until the slot is good.
    let program = format!("chroot {CONTAINER} /usr/sbin/ros-installer upgrade --release /release --host /host");
    let second = root(&format!("cat /var/tmp/first-pod; {mount} && {program} && cat /proc/cmdline"), port).await;
    assert!(second.contains("release 0.2.0 runs") && second.contains("ros.slot=B"), "{second}");
    let upgraded = |inventory: &Value| inventory["status"]["os"]["version"] == "0.2.0";
    let inventory = world.inventory_ready_and(name, SHORT, upgraded).await.unwrap();
    assert_eq!(inventory["status"]["os"]["slot"], "B", "{inventory}");
    assert_eq!(inventory["status"]["hardware"]["firmware"]["secureBoot"], true, "{inventory}");

    // The record that a host makes after a fallback. Each further pod gives its reason.
    let bad = named("0.3.0");
    let failure = json!({
        "release": release::manifest_digest(bad.as_bytes()), "version": "0.3.0", "at": 7, "stage": "Checks",
        "message": "the network is not up",
    });
    let record = json!({"failure": failure});
    let fall_back = format!(
        "cat > /oem/upgrade.json <<'END'\n{record}\nEND\ncat > {CONTAINER}/release/release.json <<'END'\n{bad}\nEND\n\
         truncate -s -1 {CONTAINER}/release/release.json"
    );
    root(&fall_back, port).await;
    let pods = format!(
        "for pod in 1 2; do chroot {CONTAINER} /usr/sbin/suc-upgrade > /dev/null 2>&1; echo $?; \
         cat {CONTAINER}/dev/termination-log; echo; done; rm /oem/upgrade.json"
    );
    let reason = "17\nrelease 0.3.0 did not come up on this machine and was left again; its last start reached the stage \
                  Checks (the network is not up): use another release, or another spec.retry\n";
    assert_eq!(root(&pods, port).await, reason.repeat(2));
}

/// The files of an image.
fn unpack(image: &Path, folder: &Path) -> PathBuf {
    let (layout, files) = (folder.join("layout"), folder.join("files"));
    fs::create_dir(&layout).unwrap();
    succeeded(Command::new("tar").arg("-xf").arg(image).arg("-C").arg(&layout)).unwrap();
    succeeded(
        Command::new("umoci").args(["raw", "unpack", "--image"]).arg(format!("{}:0.1.0", layout.display())).arg(&files),
    )
    .unwrap();
    files
}
