//! etcd and the Kubernetes programs, from `tests/go/control-plane/`.

use crate::clusters::go_program::GoProgram;
use anyhow::Result;
use std::path::PathBuf;

// Without these flags the version is "v0.0.0-master", which clients cannot parse.
const LINKER_FLAGS: &str = "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3 \
    -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36 \
    -X k8s.io/client-go/pkg/version.gitVersion=v1.36.3";

/// One program for all of them. The name under which it is started chooses one.
const CONTROL_PLANE: GoProgram = GoProgram {
    name: "control-plane",
    package: ".",
    linker_flags: LINKER_FLAGS,
    links: &["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"],
    effort: "etcd and Kubernetes, 5 to 12 minutes, 3 GB of Go's build cache",
};

const KUBELET: GoProgram = GoProgram {
    name: "control-plane",
    package: "./kubelet",
    linker_flags: LINKER_FLAGS,
    links: &["kubelet"],
    effort: "kubelet, a minute where the control plane was built before",
};

/// The folder that holds a link for each of the programs of the control plane.
pub fn folder() -> Result<PathBuf> {
    CONTROL_PLANE.folder()
}

/// The program kubelet, for machines that become nodes.
pub fn kubelet() -> Result<PathBuf> {
    Ok(KUBELET.folder()?.join("kubelet"))
}
