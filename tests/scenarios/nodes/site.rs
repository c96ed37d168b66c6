//! A cluster with a registry for its images, and machines that are installed and become its nodes.

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
use std::path::{Path, PathBuf};

pub(super) struct Site {
    pub(super) world: World,
    pub(super) registry: ImageRegistry,
    pub(super) admission: Admission,
    medium: PathBuf,
}

/// A machine that was installed, and its name as inventory and Node.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) machine: Machine,
}

impl Site {
    /// `name`: the test's. `folder`: of the release that machines are installed with.
    pub(super) async fn start(name: &str, folder: &Path, version: &str) -> Self {
        let builder = World::builder(name).unwrap().controllers(Controllers::Running);
        let registry = ImageRegistry::start(&builder.folder("registry").unwrap()).await.unwrap();
        for image in ["pause:3.10", "pod:1"] {
            pod_image::push(registry.port(), image).await.unwrap();
        }
        let world = builder.start().await.unwrap();
        let admission = world.cluster.admit_nodes().unwrap();
        let registration = registration(&world, &admission, registry.port());
        let medium = world.medium_from(&node_image::iso(folder, version), registration).await.unwrap();
        Self { world, registry, admission, medium }
    }

    /// Powers a machine on that installs itself.
    pub(super) async fn power_on(&self, serial: &str) -> Machine {
        let mut spec = MachineSpec::new(Firmware::Uefi, serial);
        spec.memory_mib = 2048;
        let folder = self.world.folder(&serial.to_lowercase()).unwrap();
        spec.disks.push(Disk::empty(&folder, "root", 8 * GIB).unwrap());
        spec.medium = Some(Medium { file: self.medium.clone(), drive: Drive::Cd });
        let mut machine = Machine::assemble(&folder, spec).await.unwrap();
        machine.power_on().await.unwrap();
        machine
    }

    /// Waits until the machine runs its installed system.
    pub(super) async fn installed(&self, mut machine: Machine) -> Member {
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
