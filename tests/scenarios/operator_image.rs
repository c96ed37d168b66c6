//! The operator's image: read back as a runtime reads it, and its program run where nothing else is.

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use harness::paths;
use harness::scratch::Scratch;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn it_holds_what_it_says_and_its_program_runs_in_it_alone() {
    let scratch = Scratch::new("operator-image").unwrap();
    let image = build(&scratch.folder("image").unwrap()).unwrap();
    let again = build(&scratch.folder("again").unwrap()).unwrap();
    assert!(fs::read(&image).unwrap() == fs::read(again).unwrap(), "the same inputs give the same bytes");

    let layout = scratch.folder("layout").unwrap();
    unpack(&image, &layout).unwrap();
    let index = json_file(&layout.join("index.json")).unwrap();
    let manifest = json_file(&blob(&layout, &index["manifests"][0]).unwrap()).unwrap();
    let config = json_file(&blob(&layout, &manifest["config"]).unwrap()).unwrap();
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"], json!(["/usr/bin/ros-operator"]));
    let [layer] = &manifest["layers"].as_array().unwrap()[..] else { panic!("one layer") };

    let root = scratch.folder("root").unwrap();
    unpack(&blob(&layout, layer).unwrap(), &root).unwrap();
    let vendors = fs::read_to_string(root.join("usr/share/ros-operator/tpm-vendors.pem")).unwrap();
    assert!(vendors.matches("BEGIN CERTIFICATE").count() >= 20, "{vendors}");
    // What the container's user could write to, were the root file system writable.
    let writable = writable_by_others(&root).unwrap();
    assert_eq!(writable, [root.join("tmp")]);
    // In a root of nothing but the layer, as the container's user.
    let output = Command::new("chroot")
        .args(["--userspec=65532:65532"])
        .arg(&root)
        .args(["/usr/bin/ros-operator", "crd"])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.contains("machineregistrations.rancheros.cattle.io"), "{printed}");
}

fn build(output: &Path) -> Result<PathBuf> {
    let made = Command::new(paths::program("ros-image")?)
        .args(["operator", "--version", "0.1.0", "--operator"])
        .arg(paths::program("ros-operator")?)
        .arg("--output")
        .arg(output)
        .output()
        .context("running ros-image operator")?;
    ensure!(made.status.success(), "ros-image operator: {}", String::from_utf8_lossy(&made.stderr));
    Ok(output.join("rancheros-operator-0.1.0.tar"))
}

fn unpack(archive: &Path, folder: &Path) -> Result<()> {
    let output = Command::new("tar").arg("-xpf").arg(archive).arg("-C").arg(folder).output().context("running tar")?;
    ensure!(output.status.success(), "unpacking: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The file that a descriptor names, after its digest and its size were checked.
fn blob(layout: &Path, descriptor: &Value) -> Result<PathBuf> {
    let named = descriptor["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
    let named = named.context("a descriptor without a digest")?;
    let path = layout.join("blobs/sha256").join(named);
    let content = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    ensure!(hex::encode(digest(&SHA256, &content)) == named, "{} has another digest", path.display());
    ensure!(descriptor["size"] == content.len(), "{} has another size than {descriptor}", path.display());
    Ok(path)
}

fn json_file(path: &Path) -> Result<Value> {
    let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("parsing {}", path.display()))
}

fn writable_by_others(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry?.path();
        let metadata = path.symlink_metadata()?;
        if metadata.is_symlink() {
            continue;
        }
        if metadata.permissions().mode() & 0o002 != 0 || metadata.uid() != 0 {
            found.push(path.clone());
        }
        if metadata.is_dir() {
            found.extend(writable_by_others(&path)?);
        }
    }
    Ok(found)
}
