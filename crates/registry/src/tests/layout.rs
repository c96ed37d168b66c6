//! Pulling an image that is no release.

use super::fake::{FakeRegistry, Faults};
use super::{Scripted, layers};
use crate::layout::pull_layout_with;
use crate::{Patience, Pulled, RegistriesFile, RegistryError};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

async fn pull(registry: &FakeRegistry, folder: &Path) -> Result<Pulled, RegistryError> {
    let (mut clock, none) = (Scripted::new(|_| ()), RegistriesFile::default());
    pull_layout_with(&registry.reference("base:1"), folder, &none, (Patience::BRIEF, &mut clock), &mut |_| ()).await
}

fn put(registry: &FakeRegistry, layers: &[Vec<u8>]) -> String {
    let mut layers: Vec<Value> = layers.iter().map(|layer| registry.put_blob(layer)).collect();
    layers[0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+zstd");
    registry.put_manifest(
        "1",
        &json!({"schemaVersion": 2, "config": registry.put_blob(br#"{"os":"linux"}"#), "layers": layers}),
    )
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn an_image_becomes_a_layout_and_is_fetched_once() {
    let (registry, folder) = (FakeRegistry::start().await, TempDir::new().unwrap());
    let digest = put(&registry, &layers());
    registry.change(|content| content.faults = Faults { cuts: vec![5], ..Faults::default() });
    assert_eq!(pull(&registry, folder.path()).await.unwrap().digest, digest);
    assert!(registry.change(|content| content.log.iter().any(|line| line.ends_with(" bytes=5-"))), "it went on");
    assert_eq!(names(folder.path()), [".blobs", "blobs", "index.json", "oci-layout"]);
    let index: Value = serde_json::from_slice(&fs::read(folder.path().join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["digest"], json!(digest));
    let blobs = folder.path().join("blobs/sha256");
    assert_eq!(names(&blobs).len(), 4, "manifest, configuration, two layers");
    for name in names(&blobs) {
        assert_eq!(crate::digest::Digest::of(&fs::read(blobs.join(&name)).unwrap()).hex(), name);
    }
    registry.change(|content| content.log.clear());
    pull(&registry, folder.path()).await.unwrap();
    let fetched = registry.change(|content| content.log.iter().filter(|line| line.contains("/blobs/")).count());
    assert_eq!(fetched, 0);
    // Another image in its place.
    put(&registry, &layers()[..1]);
    pull(&registry, folder.path()).await.unwrap();
    assert_eq!(names(&blobs).len(), 3);
}

#[tokio::test]
async fn a_layer_that_lies_leaves_no_layout() {
    for (faults, reason) in [
        (Faults { damaged: true, ..Faults::default() }, "LayerDigestMismatch"),
        (Faults { longer: 3, ..Faults::default() }, "LayerDigestMismatch"),
        (Faults { shorter: 3, ..Faults::default() }, "LayerTruncated"),
    ] {
        let (registry, folder) = (FakeRegistry::start().await, TempDir::new().unwrap());
        put(&registry, &layers());
        registry.change(|content| content.faults = faults.clone());
        assert_eq!(pull(&registry, folder.path()).await.unwrap_err().reason(), reason, "{faults:?}");
        assert_eq!(names(folder.path()), [".blobs"]);
    }
}
