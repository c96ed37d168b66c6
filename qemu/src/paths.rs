//! Paths of the clone, of what was built from it, and of the cache outside it.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// The root of the clone.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("qemu/ lies in the workspace")
}

/// `out/` of the clone: images, logs, the state of the demo.
pub fn output() -> PathBuf {
    workspace().join("out")
}

/// What may be kept between clones: `$ROS_CACHE`, by default `~/.cache/rancheros`.
pub fn cache() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("ROS_CACHE") {
        return Ok(folder.into());
    }
    let home = std::env::var_os("HOME").context("finding the cache: set ROS_CACHE or HOME")?;
    Ok(Path::new(&home).join(".cache/rancheros"))
}

/// A program of this workspace, from the same build as the caller.
pub fn program(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe().context("finding the running program")?;
    // Tests run from `release/deps/`, programs from `release/`.
    let folders = this.ancestors().skip(1).take(2);
    match folders.map(|folder| folder.join(name)).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("no {name} beside {}; build it first: make build", this.display()),
    }
}

/// The live ISO: `$ROS_ISO`, or the one that `make image` left in `out/image/`.
pub fn iso() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("ROS_ISO") {
        return Ok(path.into());
    }
    only(&output().join("image"), "iso", "make image")
}

/// The kernel that `make image` left in `out/image/`.
pub fn kernel() -> PathBuf {
    output().join("image/release/vmlinuz")
}

/// The live ISO with the kernel for real hardware, as `make hardware-image` left it.
pub fn hardware_iso() -> Result<PathBuf> {
    only(&output().join("hardware-image"), "iso", "make hardware-image")
}

/// The disk image that `make image` left in `out/image/`. `ending`: `raw` or `qcow2`.
pub fn disk_image(ending: &str) -> Result<PathBuf> {
    only(&output().join("image"), ending, "make image")
}

/// The file in the folder with this ending.
fn only(folder: &Path, ending: &str, remedy: &str) -> Result<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == ending))
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(path), true) => Ok(path),
        (None, _) => bail!("no file .{ending} in {}; build it first: {remedy}", folder.display()),
        (Some(_), false) => {
            bail!("more than one file .{ending} in {}; remove those of other versions", folder.display())
        }
    }
}
