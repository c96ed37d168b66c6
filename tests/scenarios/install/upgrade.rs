//! Upgrades of an installed machine by the operator (`engine: Machine`), from a container registry: a good release, one by
//! a key that is not trusted any more, and one that does not start. They differ from the installed release by name and
//! signature, the first one also by its boot code, and the last one by its initrd.

use super::{INSTALLED, SHORT};
use api::{Phase, reason};
use harness::clusters::image_registry::{self, ImageRegistry, REPOSITORY};
use harness::objects::condition;
use harness::other_release::OtherRelease;
use harness::world::World;
use qemu::machine::Machine;
use release::signature::PrivateKey;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

const OS_IMAGE: &str = "edge";
/// Shorter than the time between two usual reports, and long enough for one that is early on a busy host.
const BEGUN: Duration = Duration::from_secs(240);

/// Nothing starts it.
const OTHER_MOK_MANAGER: &[u8] = b"other\n";

/// Where the releases come from, and who signs them.
pub(super) struct Releases {
    registry: ImageRegistry,
    keys: [PrivateKey; 2],
}

impl Releases {
    pub(super) async fn new(world: &World) -> Self {
        let registry = ImageRegistry::start(&world.folder("registry").unwrap()).await.unwrap();
        Self { registry, keys: [PrivateKey::generate(), PrivateKey::generate()] }
    }

    /// Machines of the registration use this registry, and trust the first key alone.
    pub(super) fn add_to(&self, registration: &mut Value) {
        let config = &mut registration["cloudConfig"];
        config["write_files"].as_array_mut().unwrap().push(self.registry.for_machines());
        config["rancheros"]["release"] = json!({"keys": [self.keys[0].public_key().to_pem()]});
    }

    /// The ManagedOSImage of the machines, with the release that they are installed with.
    pub(super) fn adopt(&self, world: &World) {
        let spec = json!({"engine": "Machine", "osImage": format!("{REPOSITORY}:0.1.0")});
        world.apply_os_image(OS_IMAGE, &spec).unwrap();
    }

    async fn push(&self, world: &World, release: OtherRelease<'_>) {
        let tag = release.version.to_owned();
        let archive = release.image(&world.folder("releases").unwrap()).unwrap();
        image_registry::push(&archive, self.registry.port(), &tag).await.unwrap();
    }

    /// The machine runs from slot A, and has just reported. In the end it runs release 0.2.0 from slot B. Nobody tells
    /// it to report: it asks by itself what it should run. That release has another MokManager, so that it brings boot code
    /// of its own. The last one brings the boot code of the installation again.
    pub(super) async fn upgrade_and_fall_back(&self, world: &World, machine: &mut Machine, name: &str, of: &Path) {
        let [first, second] = &self.keys;
        let release = |version, signed_by| OtherRelease {
            of,
            version,
            initrd: None,
            mok_manager: None,
            signed_by: Some(signed_by),
        };
        let good = OtherRelease { mok_manager: Some(OTHER_MOK_MANAGER), ..release("0.2.0", first) };
        self.push(world, good).await;
        world.os_image_with_reason(OS_IMAGE, reason::UPGRADED, SHORT).await.unwrap();
        let edited = Instant::now();
        edit(world, "0.2.0");
        let fetching = format!("fetching {REPOSITORY}:0.2.0");
        let console = machine.console();
        console.wait_for_text(&fetching, BEGUN).await.unwrap();
        println!("upgrade begun {:.0} s after the edit", edited.elapsed().as_secs_f64());
        console.wait_for_text("starts the boot code of the release next, on trial", INSTALLED).await.unwrap();
        console.wait_for_text(r"the firmware starts \EFI\ros-", INSTALLED).await.unwrap();
        console.wait_for_text("healthy: slot B is good", INSTALLED).await.unwrap();
        let done = world.os_image_with_reason(OS_IMAGE, reason::UPGRADED, SHORT).await.unwrap();
        println!("upgraded {:.0} s after the edit", edited.elapsed().as_secs_f64());
        assert_eq!(done["status"]["counts"], json!({"desired": 1, "done": 1, "updating": 0, "failed": 0}));
        let inventory = ready(world, name).await;
        assert_eq!(os(&inventory)["version"], "0.2.0", "{inventory}");
        assert_eq!(os(&inventory)["slot"], "B", "{inventory}");
        boot_code_is_that_of_the_release(world, machine).await;

        // For the recording: the power may be cut between the two.
        let back = root(world, machine, "ros-installer rollback && ros-installer boot B").await;
        assert!(back.contains("slot A is started next") && back.contains("slot B is started next"), "{back}");

        // The machine moves to the second key. Then the first one is refused.
        self.push(world, release("0.2.1", first)).await;
        trust(world, machine, second).await;
        let again = root(world, machine, &format!("ros-installer upgrade {REPOSITORY}:0.2.0")).await;
        assert!(again.contains("runs already"), "{again}");
        edit(world, "0.2.1");
        let failed = world.os_image_with_reason(OS_IMAGE, reason::FAILED, SHORT).await.unwrap();
        let [first, second_id] = [first, second].map(|key| key.public_key().id().to_string());
        for part in [name, "SignatureInvalid", &first, &second_id] {
            assert!(message(&failed).contains(part), "{part} is not in: {}", message(&failed));
        }
        let left = root(world, machine, "ls /var/lib/ros/upgrade 2>&1 || true").await;
        assert!(left.contains("No such file"), "a release that was refused takes no room: {left}");

        let bad = OtherRelease { initrd: Some(&[0; 4096]), ..release("0.3.0", second) };
        self.push(world, bad).await;
        edit(world, "0.3.0");
        let console = machine.console();
        console.wait_for_text("ros-boot: slot A has used up its starts", INSTALLED).await.unwrap();
        console.wait_for_text("the boot code on trial has not started this system", INSTALLED).await.unwrap();
        console.wait_for_text("healthy: slot B is good", INSTALLED).await.unwrap();
        let failed = world.os_image_with_reason(OS_IMAGE, reason::FAILED, SHORT).await.unwrap();
        for part in [name, "ReleaseDidNotComeUp", "Grub"] {
            assert!(message(&failed).contains(part), "{part} is not in: {}", message(&failed));
        }
        let inventory = ready(world, name).await;
        assert_eq!(
            (&os(&inventory)["version"], &os(&inventory)["slot"]),
            (&"0.2.0".into(), &"B".into()),
            "{inventory}"
        );
        let failure = &os(&inventory)["lastFailure"];
        assert_eq!((&failure["version"], &failure["stage"]), (&"0.3.0".into(), &"Grub".into()), "{inventory}");
        let ready = condition(&inventory, "Ready");
        assert!(ready["message"].as_str().unwrap().contains("release 0.3.0 did not come up"), "{ready}");
        boot_code_is_that_of_the_release(world, machine).await;
        let status = root(world, machine, "ros-installer status").await;
        assert!(status.contains("0.3.0") && status.contains("failed"), "{status}");

        let refused = format!("ros-installer upgrade {REPOSITORY}:0.3.0 2>&1; echo ends with $?");
        let refused = format!("{refused}; ros-installer rollback 2>&1; echo ends with $?");
        let refused = root(world, machine, &refused).await;
        assert!(refused.contains("release 0.3.0 was tried on this machine and did not come up"), "{refused}");
        assert_eq!(refused.matches("ends with 17").count(), 2, "{refused}");
    }
}

/// The first entry of the boot order leads to a folder with the release's boot code. The removable path is as installed.
async fn boot_code_is_that_of_the_release(world: &World, machine: &Machine) {
    let question = "cd /sys/firmware/efi/efivars; number=$(od -An -tx2 -j4 -N2 BootOrder-* | tr -d ' ' | tr a-f A-F); \
                tr -cd '[:print:]' < Boot$number-*; echo; mount -o ro /run/ros/dev/COS_BOOT /mnt; \
                wc -c /mnt/EFI/*/mmx64.efi; umount /mnt";
    let found = root(world, machine, question).await;
    assert!(found.contains(r"\EFI\ros-") && found.contains("RancherOS"), "the first of the boot order: {found}");
    let size = |folder: &str| {
        let line = found.lines().find(|line| line.contains(&format!("/mnt/EFI/{folder}")));
        line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok())
    };
    assert_eq!(size("ros-"), Some(OTHER_MOK_MANAGER.len()), "{found}");
    assert_ne!(size("BOOT/"), Some(OTHER_MOK_MANAGER.len()), "{found}");
}

fn edit(world: &World, version: &str) {
    world.patch_os_image(OS_IMAGE, &json!({"osImage": format!("{REPOSITORY}:{version}")})).unwrap();
}

fn os(inventory: &Value) -> &Value {
    &inventory["status"]["os"]
}

fn message(object: &Value) -> String {
    condition(object, "Ready")["message"].as_str().unwrap_or_default().to_owned()
}

/// The machine trusts this key alone from now on.
async fn trust(world: &World, machine: &Machine, key: &PrivateKey) {
    const FILE: &str = "/oem/cloud-config.yaml";
    let mut config: Value = serde_yaml::from_str(&root(world, machine, &format!("cat {FILE}")).await).unwrap();
    config["rancheros"]["release"]["keys"] = json!([key.public_key().to_pem()]);
    // JSON is YAML as well, but the first line says what the file is.
    let text = format!("#cloud-config\n{config}");
    root(world, machine, &format!("cat > {FILE} <<'END'\n{text}\nEND")).await;
}

async fn ready(world: &World, name: &str) -> Value {
    world.inventory_in_phase(name, Phase::Ready, SHORT).await.unwrap()
}

async fn root(world: &World, machine: &Machine, command: &str) -> String {
    world.key.run("root", machine.ssh_port(), command, SHORT).await.unwrap()
}
