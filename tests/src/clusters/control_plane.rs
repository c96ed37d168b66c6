//! etcd and the Kubernetes programs, from `tests/go/control-plane/`.

use crate::clusters::go_program::GoProgram;
use anyhow::Result;
use std::path::PathBuf;

/// One program for all of them. The name under which it is started chooses one.
const CONTROL_PLANE: GoProgram = GoProgram {
    name: "control-plane",
    package: ".",
    // Without these flags the version is "v0.0.0-master", which clients cannot parse.
    linker_flags: "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3 \
    -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36 \
    -X k8s.io/client-go/pkg/version.gitVersion=v1.36.3",
    links: &["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"],
    effort: "etcd and Kubernetes, 5 to 12 minutes, 3 GB of Go's build cache",
};

/// The folder that holds a link for each of the programs.
pub fn folder() -> Result<PathBuf> {
    CONTROL_PLANE.folder()
}
