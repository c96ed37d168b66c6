//! The examples of programs that join a cluster, `examples/join/`, run by `ros-installer join` in a root folder laid out as on
//! a machine, with fakes of the programs that they start.

use harness::fakes::chroot::Chroot;
use qemu::paths;
use qemu::process::printed;
use qemu::scratch::Scratch;
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

const TOKEN: &str = "abcdef.0123456789abcdef";
const SHOWS_ARGUMENTS: &str = "echo \"$(basename $0) $*\" >> /started";

struct Machine {
    root: Chroot,
    _scratch: Scratch,
}

impl Machine {
    /// A machine whose one program is the example of this name.
    fn new(example: &str) -> Self {
        let scratch = Scratch::new(&format!("join-{example}")).unwrap();
        let root = Chroot::new(scratch.folder("root").unwrap()).unwrap();
        let program = fs::read(paths::workspace().join("examples/join").join(example)).unwrap();
        root.write_program(&format!("/etc/ros/join.d/{example}"), program).unwrap();
        for fake in ["systemctl", "rancherd"] {
            root.add_program(fake, SHOWS_ARGUMENTS).unwrap();
        }
        Self { root, _scratch: scratch }
    }

    /// Runs `ros-installer join` with this configuration. Gives whether it succeeded, and all that it printed.
    fn join(&self, rancherd: &Value) -> (bool, String) {
        self.root.write("/oem/cloud-config.yaml", json!({"rancherd": rancherd}).to_string()).unwrap();
        let output = self.root.run("ros-installer", &["join"]).unwrap();
        (output.status.success(), printed(&output))
    }

    fn joins(&self, rancherd: &Value) {
        let (joined, said) = self.join(rancherd);
        assert!(joined && !said.contains(TOKEN), "{said}");
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.root.path(path)).unwrap_or_default()
    }

    fn yaml(&self, path: &str) -> Value {
        serde_yaml::from_str(&self.text(path)).unwrap()
    }
}

fn configuration(role: &str) -> Value {
    json!({
        "role": role, "server": "https://cluster:6443", "token": TOKEN, "nodeName": "Shop-1", "internalAddress": "10.0.0.7",
        "labels": ["site=shop", "example.org/rack=3"], "taints": ["gpu=yes:NoSchedule"],
    })
}

#[test]
fn kubelet_gets_a_bootstrap_kubeconfig_and_its_arguments() {
    let machine = Machine::new("kubelet");
    let (joined, said) = machine.join(&configuration("agent"));
    assert!(!joined && said.contains("the program kubelet failed: /etc/kubernetes/pki/ca.crt is missing"), "{said}");
    machine.root.write("/etc/kubernetes/pki/ca.crt", "PEM").unwrap();
    machine.joins(&configuration("agent"));
    let kubeconfig = machine.yaml("/etc/kubernetes/bootstrap-kubelet.conf");
    assert_eq!(kubeconfig["clusters"][0]["cluster"]["server"], "https://cluster:6443");
    assert_eq!(kubeconfig["users"][0]["user"]["token"], TOKEN);
    assert_eq!(
        machine.text("/etc/kubernetes/kubelet.env"),
        "KUBELET_ARGUMENTS=--hostname-override=shop-1 --node-ip=10.0.0.7 \
         --node-labels=site=shop,example.org/rack=3 --register-with-taints=gpu=yes:NoSchedule\n"
    );
    assert_eq!(machine.text("/started"), "systemctl restart kubelet.service\n");

    for file in ["/etc/kubernetes/kubelet.conf", "/var/lib/kubelet/pki/kubelet-client-current.pem"] {
        machine.root.write(file, "identity").unwrap();
    }
    let mut other = configuration("agent");
    other["labels"] = json!([]);
    machine.joins(&other);
    assert_eq!(machine.text("/etc/kubernetes/kubelet.conf"), "identity", "the cluster is the same");
    other["server"] = json!("https://another:6443");
    machine.joins(&other);
    assert_eq!(machine.text("/etc/kubernetes/kubelet.conf"), "", "another cluster gives another identity");
    assert!(!machine.root.path("/var/lib/kubelet/pki").exists());
}

#[test]
fn k3s_is_a_server_or_an_agent() {
    let machine = Machine::new("k3s");
    machine.joins(&configuration("agent"));
    assert_eq!(
        machine.yaml("/etc/rancher/k3s/config.yaml"),
        json!({
            "server": "https://cluster:6443", "token-file": "/etc/rancher/k3s/token", "node-name": "Shop-1",
            "node-ip": "10.0.0.7", "node-label": ["site=shop", "example.org/rack=3"],
            "node-taint": ["gpu=yes:NoSchedule"],
        })
    );
    assert_eq!(machine.text("/etc/rancher/k3s/token"), TOKEN);
    machine.joins(&json!({"role": "cluster-init"}));
    assert_eq!(machine.yaml("/etc/rancher/k3s/config.yaml"), json!({"cluster-init": true}));
    let marks = ["is-server", "is-agent"].map(|mark| machine.root.path("/etc/rancher/k3s").join(mark).exists());
    assert_eq!(marks, [true, false]);
    assert_eq!(machine.text("/started"), "systemctl restart k3s-agent.service\nsystemctl restart k3s.service\n");
    let (joined, said) = machine.join(&json!({"role": "server"}));
    assert!(!joined && said.contains("spec.config.server is missing"), "{said}");
}

#[test]
fn rancherd_bootstraps_again_when_its_configuration_changes() {
    let machine = Machine::new("rancherd");
    for role in ["agent", "agent", "server"] {
        machine.joins(&configuration(role));
    }
    assert_eq!(machine.text("/started"), "rancherd bootstrap --force\n".repeat(2));
}

#[test]
fn the_examples_have_no_mistakes_that_shellcheck_knows() {
    let folders = ["examples/join", "examples/node/usr/lib/ros/health.d"];
    let scripts = |folder| fs::read_dir(paths::workspace().join(folder)).unwrap();
    let examples: Vec<_> = folders.into_iter().flat_map(scripts).map(|entry| entry.unwrap().path()).collect();
    assert!(examples.len() > folders.len());
    let checked = Command::new("shellcheck").args(&examples).output().unwrap();
    assert!(checked.status.success(), "{}", printed(&checked));
}
