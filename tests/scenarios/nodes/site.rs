//! A cluster with a registry for its images, and machines that become its nodes.

use super::{INSTALLED, LONG, SHORT};
use boot_contract::Milestone;
use harness::clusters::cluster::Controllers;
use harness::clusters::image_registry::ImageRegistry;
use harness::clusters::nodes::Admission;
use harness::clusters::operator::HOST_SEEN_BY_MACHINES;
use harness::clusters::pod_image;
use harness::node_image;
use harness::world::World;
use qemu::disk::{Disk, GIB};
use qemu::firmware::Firmware;
use qemu::machine::{Drive, Machine, MachineSpec, Medium};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Of a machine's disk, in bytes.
const DISK: u64 = 8 * GIB;

pub(super) struct Site {
    pub(super) world: World,
    pub(super) registry: ImageRegistry,
    pub(super) admission: Admission,
    /// The folder of the release that machines begin with, and its version.
    release: (PathBuf, &'static str),
    /// What the registration gives a medium.
    settings: PathBuf,
}

/// A machine that runs its system, and its name as inventory and Node.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) machine: Machine,
}

impl Site {
    /// `name`: the test's. `folder`: of the release that machines begin with.
    pub(super) async fn start(name: &str, folder: &Path, version: &'static str) -> Self {
        let builder = World::builder(name).unwrap().controllers(Controllers::Running);
        let registry = ImageRegistry::start(&builder.folder("registry").unwrap()).await.unwrap();
        for image in ["pause:3.10", "pod:1"] {
            pod_image::push(registry.port(), image).await.unwrap();
        }
        let world = builder.start().await.unwrap();
        let admission = world.cluster.admit_nodes().unwrap();
        let registration = registration(&world, &admission, registry.port());
        let settings = world.settings(registration).await.unwrap();
        Self { world, registry, admission, release: (folder.to_owned(), version), settings }
    }

    /// Powers a machine on that installs itself.
    pub(super) async fn power_on(&self, serial: &str) -> Machine {
        let disk = Disk::empty(&self.folder(serial), "root", DISK).unwrap();
        self.power_on_with(serial, Firmware::Uefi, disk, Some(Medium { file: self.medium("iso"), drive: Drive::Cd }))
            .await
    }

    /// Powers a machine on whose disk is made from the disk image.
    pub(super) async fn power_on_image(&self, serial: &str, firmware: Firmware) -> Machine {
        let image = self.folder(serial).join("root.raw");
        fs::rename(self.medium("raw"), &image).unwrap();
        let disk = Disk::of_image(&image, "root", DISK).unwrap();
        self.power_on_with(serial, firmware, disk, None).await
    }

    async fn power_on_with(&self, serial: &str, firmware: Firmware, disk: Disk, medium: Option<Medium>) -> Machine {
        let mut spec = MachineSpec::new(firmware, serial);
        spec.memory_mib = 2048;
        spec.disks.push(disk);
        spec.medium = medium;
        let mut machine = Machine::assemble(&self.folder(serial), spec).await.unwrap();
        machine.power_on().await.unwrap();
        machine
    }

    /// A medium of the release with the registration in it.
    fn medium(&self, ending: &str) -> PathBuf {
        let (folder, version) = &self.release;
        self.world.customized(&node_image::medium(folder, version, ending), &self.settings).unwrap()
    }

    /// The folder of a machine.
    fn folder(&self, serial: &str) -> PathBuf {
        self.world.folder(&serial.to_lowercase()).unwrap()
    }

    /// Waits until the machine has registered and runs its system.
    pub(super) async fn booted(&self, mut machine: Machine) -> Member {
        machine.wait_for_milestone(Milestone::Booted, INSTALLED).await.unwrap();
        let part = machine.spec.serial.to_lowercase();
        let names = self.world.inventory_names().unwrap();
        let name = names.into_iter().find(|name| name.contains(&part)).unwrap();
        Member { name, machine }
    }

    /// Hands out where to join, and waits until the machine is a node that is Ready. Gives the Node.
    pub(super) async fn join(&self, member: &Member) -> Value {
        let Admission { server, token, .. } = &self.admission;
        let config = json!({"server": server, "token": token, "labels": {"rack": "3"}});
        self.world.patch_inventory(&member.name, &json!({"config": config})).unwrap();
        self.root(member, "systemctl start ros-report.service").await;
        self.world.cluster.node_ready(&member.name, None, LONG).await.unwrap()
    }

    pub(super) fn node(&self, member: &Member) -> Value {
        self.world.cluster.get(&format!("node/{}", member.name), "").unwrap()
    }

    /// Runs a command on the machine.
    pub(super) async fn root(&self, member: &Member, command: &str) -> String {
        self.world.key.run("root", member.machine.ssh_port(), command, SHORT).await.unwrap()
    }
}

/// The example registration with what every node of this cluster needs.
fn registration(world: &World, admission: &Admission, registry_port: u16) -> Value {
    let mut registration = world.example_registration().unwrap();
    let config = &mut registration["cloudConfig"];
    config["ssh_authorized_keys"] = json!([world.key.public]);
    config["rancherd"] = json!({"role": "agent", "labels": ["site=example"]});
    let mirror = format!("[host.\"http://{HOST_SEEN_BY_MACHINES}:{registry_port}\"]\n");
    let files = [
        ("/etc/kubernetes/pki/ca.crt", admission.authority.as_str()),
        ("/etc/containerd/certs.d/_default/hosts.toml", mirror.as_str()),
    ];
    let files = files.map(|(path, content)| json!({"path": path, "content": content}));
    config["write_files"].as_array_mut().unwrap().extend(files);
    registration
}
