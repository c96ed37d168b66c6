//! Upgrades of an installed machine: a good release, one that does not start, and the way back. The releases differ from
//! the installed one by name, and the bad one by its initrd.

use super::{INSTALLED, SHORT};
use api::Phase;
use harness::objects::condition;
use harness::world::World;
use qemu::machine::Machine;
use qemu::wait::{Poll, until};
use release::{ReleaseFile, ReleaseManifest, digest};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Where the medium is mounted on the machine.
const MEDIUM: &str = "/run/medium";

/// The machine runs from slot A and has its medium, a CD, in the drive. `release` is the folder of the release on it. In
/// the end the machine runs release 0.2.0 from slot B.
pub(super) async fn upgrades_and_falls_back(world: &World, machine: &mut Machine, name: &str, release: &Path) {
    let installed = ReleaseManifest::parse(&fs::read(release.join("release.json")).unwrap()).unwrap();
    let mount = format!("mkdir -p {MEDIUM}; mount -o ro /dev/sr0 {MEDIUM}");
    root(world, machine, &mount).await;

    let next = ReleaseManifest { version: "0.2.0".into(), ..installed.clone() };
    lay_out(world, machine, &next, "").await;
    let checked = root(world, machine, "ros-installer upgrade --release /var/tmp/0.2.0 --check").await;
    assert!(checked.contains("release 0.2.0") && checked.contains("would be written to slot B"), "{checked}");
    root(world, machine, "ros-installer upgrade --release /var/tmp/0.2.0 --reboot").await;
    machine.console().wait_for_text("healthy: slot B is good", INSTALLED).await.unwrap();
    let os = |inventory: &Value| inventory["status"]["os"].clone();
    let inventory = reported(world, name, |inventory| os(inventory)["version"] == "0.2.0").await;
    assert_eq!(os(&inventory)["slot"], "B", "{inventory}");
    root(world, machine, &mount).await;
    let again = root(world, machine, "ros-installer upgrade --release /var/tmp/0.2.0").await;
    assert!(again.contains("runs already"), "{again}");

    let initrd = ReleaseFile { size: 4096, sha256: digest::of_bytes(&[0; 4096]), name: "no-initrd".into() };
    let bad = ReleaseManifest { version: "0.3.0".into(), initrd, ..installed };
    lay_out(world, machine, &bad, "head -c 4096 /dev/zero > no-initrd").await;
    root(world, machine, "ros-installer upgrade --release /var/tmp/0.3.0 --reboot").await;
    machine.console().wait_for_text("ros-boot: slot A has used up its starts", INSTALLED).await.unwrap();
    machine.console().wait_for_text("healthy: slot B is good", INSTALLED).await.unwrap();
    let inventory = reported(world, name, |inventory| os(inventory)["lastFailure"].is_object()).await;
    assert_eq!((&os(&inventory)["version"], &os(&inventory)["slot"]), (&"0.2.0".into(), &"B".into()), "{inventory}");
    let failure = &os(&inventory)["lastFailure"];
    assert_eq!((&failure["version"], &failure["stage"]), (&"0.3.0".into(), &"Grub".into()), "{inventory}");
    let ready = condition(&inventory, "Ready");
    assert!(ready["message"].as_str().unwrap().contains("release 0.3.0 did not come up"), "{ready}");
    let status = root(world, machine, "ros-installer status").await;
    assert!(status.contains("0.3.0") && status.contains("failed"), "{status}");

    root(world, machine, &mount).await;
    let refused = "ros-installer upgrade --release /var/tmp/0.3.0 2>&1; echo ends with $?; ros-installer rollback 2>&1";
    let refused = root(world, machine, &format!("{refused}; echo ends with $?")).await;
    assert!(refused.contains("release 0.3.0 was tried on this machine and did not come up"), "{refused}");
    assert_eq!(refused.matches("ends with 17").count(), 2, "{refused}");
}

/// The inventory when it is ready again and the machine has reported what is `expected`.
pub(super) async fn reported(world: &World, name: &str, expected: impl Fn(&Value) -> bool) -> Value {
    until("the report of the restarted machine", SHORT, async || {
        let inventory = world.inventory_in_phase(name, Phase::Ready, SHORT).await?;
        Ok(if expected(&inventory) {
            Poll::Ready(inventory)
        } else {
            Poll::Pending(inventory["status"]["os"].to_string())
        })
    })
    .await
    .unwrap()
}

/// Makes the folder of a release on the machine, with the files of the medium. `more` is run in it.
async fn lay_out(world: &World, machine: &Machine, manifest: &ReleaseManifest, more: &str) {
    let folder = format!("/var/tmp/{}", manifest.version);
    let text = serde_json::to_string(manifest).unwrap();
    let command = format!(
        "mkdir -p {folder} && cd {folder} && ln -sf {MEDIUM}/release/* . && rm release.json && cat > release.json <<'END'\n\
         {text}\nEND\n{more}"
    );
    root(world, machine, &command).await;
}

async fn root(world: &World, machine: &Machine, command: &str) -> String {
    world.key.run("root", machine.ssh_port(), command, SHORT).await.unwrap()
}
