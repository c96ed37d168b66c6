//! The image of a machine that is a node, as `docs/node-image.md` describes it, with the kubelet that the tests build.

use crate::clusters::control_plane;
use crate::image_build;
use anyhow::{Context, Result, bail};
use qemu::paths;
use std::fs;
use std::path::{Path, PathBuf};

const PACKAGES: [&str; 3] = ["containerd", "containernetworking-plugins", "runc"];

/// Builds a release of this version, and of it these formats, with commas. Gives their folder, which is
/// `out/node-image/VERSION/`. Quick when nothing has changed.
pub fn build(version: &str, formats: &str) -> Result<PathBuf> {
    let (workspace, parent) = (paths::workspace(), paths::output().join("node-image"));
    let (overlay, output) = (parent.join("overlay"), parent.join(version));
    put(&control_plane::kubelet()?, &overlay.join("usr/bin/kubelet"))?;
    put(&workspace.join("examples/join/kubelet"), &overlay.join("usr/lib/ros/join.d/50-kubelet"))?;
    let mut build = image_build::command(version, &output)?;
    build.args(["--formats", formats]);
    for folder in [workspace.join("overlay"), workspace.join("examples/node"), overlay] {
        build.arg("--overlay").arg(folder);
    }
    for package in PACKAGES {
        build.args(["--package", package]);
    }
    let status = build.status().context("running ros-image build")?;
    if !status.success() {
        bail!("building the image of a node: ros-image build ended with {status}");
    }
    Ok(output)
}

/// The live ISO (`iso`) or the disk image (`raw`) that `build` has written to this folder.
pub fn medium(folder: &Path, version: &str, ending: &str) -> PathBuf {
    folder.join(format!("ros-{version}-{}.{ending}", std::env::consts::ARCH))
}

fn put(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().context("finding a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    fs::copy(from, to).map(drop).with_context(|| format!("copying {}", from.display()))
}
