//! The container image of a release, from which machines are upgraded.
//!
//! Its layers are the small files of the release, its root image, and the program that upgrades a host from a container.
//! They are annotated, so that a machine, which has a program of its own, fetches the first two and no layer of an image that
//! somebody built on this one. The first is gzipped: the kernel and the initrd are compressed already, but GRUB, shim and
//! MokManager are not, and the layer has 15.9 instead of 18.5 MB. The root image is compressed inside; gzip would only take
//! time.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use registry::{CONTENT_ANNOTATION, CONTENT_INSTALLER, CONTENT_RELEASE, RELEASE_ANNOTATION};
use release::signature::{self, SIGNATURES};
use release::{MANIFEST, ReleaseManifest, manifest_digest};
use serde::Serialize;

use crate::build::tree::{Node, Tree};
use crate::oci::{self, Image, Layer};

/// The folder of the release in the image.
const RELEASE: &str = "release";
const PROGRAM: &str = "usr/sbin/ros-installer";
/// The name by which Plans run the program, as they did that of the first release. It is also the entry point: the program
/// needs no arguments under this name.
const PLAN_NAME: &str = "usr/sbin/suc-upgrade";

/// What was written, a part of the result of a build.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Written {
    pub image: PathBuf,
    pub image_bytes: u64,
    /// Of the manifest: what a reference to the image can be pinned to.
    pub image_digest: String,
}

/// Writes `<output>/ros-<version>.oci.tar` from the release in `folder`. `program` upgrades a host; it needs no libraries,
/// because the image has none.
pub fn write(folder: &Path, manifest: &ReleaseManifest, program: &Path, epoch: u32, output: &Path) -> Result<Written> {
    let bytes = fs::read(folder.join(MANIFEST)).with_context(|| format!("reading {MANIFEST}"))?;
    let digest = manifest_digest(&bytes);
    let image = Image {
        reference: None,
        title: "RancherOS",
        description: "A release of RancherOS",
        version: &manifest.version,
        user: "0:0",
        entrypoint: &[&format!("/{PLAN_NAME}")],
        environment: &[],
        ports: &[],
        annotations: &[(RELEASE_ANNOTATION, &digest)],
        epoch,
    };
    let layers = [
        Layer::gzip(&small_files(folder, manifest)?, epoch)?.annotated(CONTENT_ANNOTATION, CONTENT_RELEASE),
        Layer::plain(&root_image(folder, manifest)?, epoch)?.annotated(CONTENT_ANNOTATION, CONTENT_RELEASE),
        Layer::gzip(&programs(program)?, epoch)?.annotated(CONTENT_ANNOTATION, CONTENT_INSTALLER),
    ];
    let path = output.join(format!("ros-{}.oci.tar", manifest.version));
    let image_digest = oci::write(&image, &layers, &path)?;
    let image_bytes = path.metadata().with_context(|| format!("inspecting {}", path.display()))?.len();
    Ok(Written { image: path, image_bytes, image_digest })
}

/// Everything but the root image. Files that the manifest does not name are left out, signatures excepted.
fn small_files(folder: &Path, manifest: &ReleaseManifest) -> Result<Tree> {
    let mut tree = Tree::default();
    let mut add = |name: &str| tree.insert(&format!("{RELEASE}/{name}"), Node::stored(0o644, &folder.join(name))?);
    add(MANIFEST)?;
    for (_, file) in manifest.files().filter(|(_, file)| **file != manifest.root) {
        add(&file.name)?;
    }
    for key in signature::signers(folder).context("reading the signatures")? {
        add(&format!("{SIGNATURES}/{key}"))?;
    }
    Ok(tree)
}

fn root_image(folder: &Path, manifest: &ReleaseManifest) -> Result<Tree> {
    let mut tree = Tree::default();
    let name = &manifest.root.name;
    tree.insert(&format!("{RELEASE}/{name}"), Node::stored(0o644, &folder.join(name))?)?;
    Ok(tree)
}

fn programs(program: &Path) -> Result<Tree> {
    let mut tree = Tree::default();
    tree.insert(PROGRAM, Node::stored(0o755, program)?)?;
    tree.insert(PLAN_NAME, Node::link("ros-installer"))?;
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::BTreeMap;
    use std::io::Read;

    fn files(archive: impl Read) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            if !name.ends_with('/') {
                files.insert(name, content);
            }
        }
        files
    }

    /// Manifest, configuration, and the names of each layer's files.
    fn read(image: &Path) -> (Value, Value, Vec<Vec<String>>) {
        let layout = files(fs::File::open(image).unwrap());
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let blob = |descriptor: &Value| {
            &layout[&format!("blobs/{}", descriptor["digest"].as_str().unwrap().replace(':', "/"))]
        };
        let manifest = json(blob(&json(&layout["index.json"])["manifests"][0]));
        let config = json(blob(&manifest["config"]));
        let layers = manifest["layers"].as_array().unwrap().iter().map(|layer| {
            let bytes = blob(layer).as_slice();
            let is_gzip = layer["mediaType"].as_str().unwrap().ends_with("gzip");
            let found = if is_gzip { files(flate2::read::GzDecoder::new(bytes)) } else { files(bytes) };
            found.into_keys().collect()
        });
        let layers = layers.collect();
        (manifest, config, layers)
    }

    #[test]
    fn an_image_holds_the_release_its_signatures_and_the_program_that_upgrades() {
        let folder = tempfile::tempdir().unwrap();
        release::fixtures::write_tiny_release(folder.path(), &[5; 8192]);
        let (manifest, bytes) = release::read_manifest(folder.path()).unwrap();
        fs::create_dir(folder.path().join(SIGNATURES)).unwrap();
        fs::write(folder.path().join(SIGNATURES).join("0123456789abcdef"), b"signature").unwrap();
        fs::write(folder.path().join("leftover"), b"x").unwrap();
        let output = tempfile::tempdir().unwrap();
        let program = output.path().join("container-installer");
        fs::write(&program, b"program").unwrap();
        let write = || write(folder.path(), &manifest, &program, 7, output.path()).unwrap();

        let written = write();
        assert!(written.image.ends_with("ros-0.1.0.oci.tar"));
        let once = fs::read(&written.image).unwrap();
        let (image, config, layers) = read(&written.image);
        let small = [
            "release/boot/boot.img",
            "release/boot/core.img",
            "release/boot/grub.cfg",
            "release/boot/grubx64.efi",
            "release/boot/mmx64.efi",
            "release/boot/shimx64.efi",
            "release/initrd",
            "release/release.json",
            "release/release.json.sig.d/0123456789abcdef",
            "release/vmlinuz",
        ];
        let programs = ["usr/sbin/ros-installer", "usr/sbin/suc-upgrade"];
        assert_eq!(layers, [&small[..], &["release/root.erofs"], &programs]);
        assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/usr/sbin/suc-upgrade"]));
        assert_eq!(image["annotations"][RELEASE_ANNOTATION], manifest_digest(&bytes));
        let content = |index: usize| image["layers"][index]["annotations"][CONTENT_ANNOTATION].clone();
        assert_eq!([content(0), content(1), content(2)], [CONTENT_RELEASE, CONTENT_RELEASE, CONTENT_INSTALLER]);
        write();
        assert!(fs::read(&written.image).unwrap() == once, "the same inputs give the same bytes");
    }
}
