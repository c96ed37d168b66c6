use std::fs;
use std::io::Write;

use flate2::write::GzEncoder;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::build::program::program;

/// An image layout under construction, with an image of these layers: each a compressed blob and what it unpacks to.
struct Layout(TempDir);

impl Layout {
    fn new(layers: &[(Vec<u8>, Vec<u8>)]) -> Self {
        let layout = Self(TempDir::new().unwrap());
        fs::create_dir_all(layout.0.path().join("blobs/sha256")).unwrap();
        let diff_ids: Vec<String> =
            layers.iter().map(|(_, plain)| format!("sha256:{}", digest::of_bytes(plain))).collect();
        let config =
            json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = layout.put(config.to_string().as_bytes());
        let layers: Vec<Value> = layers.iter().map(|(blob, _)| layout.put(blob)).collect();
        let manifest = layout.put(json!({"config": config, "layers": layers}).to_string().as_bytes());
        layout.index(&json!([manifest]));
        layout
    }
    fn put(&self, bytes: &[u8]) -> Value {
        let digest = digest::of_bytes(bytes);
        fs::write(self.0.path().join("blobs/sha256").join(&digest), bytes).unwrap();
        json!({"mediaType": "x", "digest": format!("sha256:{digest}"), "size": bytes.len()})
    }
    fn index(&self, manifests: &Value) {
        self.write("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
        self.write("index.json", &json!({"schemaVersion": 2, "manifests": manifests}).to_string());
    }
    fn read_json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.0.path().join(name)).unwrap()).unwrap()
    }
    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
    }
    fn files(&self) -> Tree {
        let mut files = Tree::default();
        files.lay_over(self.0.path(), "").unwrap();
        files
    }
    /// The text of `etc/x` in the image.
    fn unpack(&self) -> Result<String> {
        let (files, folder) = (self.files(), TempDir::new().unwrap());
        let tree = Image::of(&files)?.context("no image")?.unpack(&files, folder.path())?;
        tree.text("etc/x")
    }
    fn error(&self) -> String {
        format!("{:#}", self.unpack().unwrap_err())
    }
}

/// A layer with one file, as it is and packed in three ways.
fn layer(content: &str) -> Vec<u8> {
    let mut tree = Tree::default();
    tree.insert("etc/x", Node::file(0o644, content)).unwrap();
    let mut layer = Vec::new();
    tree.write_tar(&mut layer, 1).unwrap();
    layer
}

fn gzip(plain: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&plain).unwrap();
    (encoder.finish().unwrap(), plain)
}

fn zstd(plain: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    (zstd::encode_all(plain.as_slice(), 1).unwrap(), plain)
}

#[test]
fn the_last_layer_counts_however_it_is_compressed() {
    let plain = layer("1");
    assert_eq!(Layout::new(&[(plain.clone(), plain)]).unpack().unwrap(), "1");
    assert_eq!(Layout::new(&[gzip(layer("1")), zstd(layer("2"))]).unpack().unwrap(), "2");
}

#[test]
fn an_index_leads_to_the_image_for_this_architecture() {
    let layout = Layout::new(&[gzip(layer("1"))]);
    let mut ours = layout.read_json("index.json")["manifests"][0].clone();
    ours["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let other = |os: &str, architecture: &str| {
        let mut other = ours.clone();
        other["digest"] = json!(format!("sha256:{}", "0".repeat(64)));
        other["platform"] = json!({"os": os, "architecture": architecture});
        other
    };
    let manifests = json!([other("linux", "arm64"), ours, other("unknown", "unknown")]);
    layout.index(&manifests);
    assert_eq!(layout.unpack().unwrap(), "1");
    let mut inner = layout.put(json!({"manifests": manifests}).to_string().as_bytes());
    inner["mediaType"] = json!("application/vnd.oci.image.index.v1+json");
    layout.index(&json!([inner]));
    assert_eq!(layout.unpack().unwrap(), "1");
    layout.index(&json!([other("linux", "arm64")]));
    assert!(layout.error().contains("no image for linux/amd64, only linux/arm64"), "{}", layout.error());
    layout.index(&json!([ours, ours]));
    assert!(layout.error().contains("several images"), "{}", layout.error());
}

#[test]
fn what_lies_about_size_or_digest_is_refused() {
    let (blob, plain) = gzip(layer("1"));
    let layout = Layout::new(&[(blob.clone(), plain.clone())]);
    let path = blob_path(&Descriptor { digest: format!("sha256:{}", digest::of_bytes(&blob)), size: 0 }).unwrap();
    fs::write(layout.0.path().join(&path), &blob[..blob.len() - 1]).unwrap();
    assert!(layout.error().contains("its manifest says"), "{}", layout.error());
    let mut changed = blob.clone();
    changed[9] ^= 1;
    fs::write(layout.0.path().join(&path), &changed).unwrap();
    assert!(layout.error().contains("its manifest says sha256:"), "{}", layout.error());
    fs::remove_file(layout.0.path().join(&path)).unwrap();
    assert!(layout.error().contains("lacks this file"), "{}", layout.error());
    let layout = Layout::new(&[(blob, layer("2"))]);
    assert!(layout.error().contains("the configuration of the image says"), "{}", layout.error());

    let layout = Layout::new(&[gzip(layer("1"))]);
    let mut named = layout.read_json("index.json")["manifests"][0].clone();
    named["digest"] = json!("sha256:../../../etc/passwd");
    layout.index(&json!([named]));
    assert!(layout.error().contains("not a digest"), "{}", layout.error());
}

#[test]
fn an_image_of_another_architecture_is_refused() {
    let layout = Layout::new(&[gzip(layer("1"))]);
    let config = json!({"architecture": "arm64", "os": "linux", "rootfs": {"diff_ids": []}});
    let config = layout.put(config.to_string().as_bytes());
    let manifest = layout.put(json!({"config": config, "layers": []}).to_string().as_bytes());
    layout.index(&json!([manifest]));
    assert!(layout.error().contains("it is for linux/arm64"), "{}", layout.error());
}

/// As Docker before version 25 writes it: a layer that another one has as well is a symbolic link.
#[test]
fn an_archive_of_docker_save_is_an_image() {
    let layout = Layout(TempDir::new().unwrap());
    let plain = layer("1");
    for folder in ["one", "two"] {
        fs::create_dir(layout.0.path().join(folder)).unwrap();
    }
    fs::write(layout.0.path().join("one/layer.tar"), &plain).unwrap();
    std::os::unix::fs::symlink("../one/layer.tar", layout.0.path().join("two/layer.tar")).unwrap();
    let diff_id = format!("sha256:{}", digest::of_bytes(&plain));
    let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [&diff_id, &diff_id]}});
    let name = format!("{}.json", digest::of_bytes(config.to_string().as_bytes()));
    layout.write(&name, &config.to_string());
    let saved = json!([{"Config": name, "RepoTags": null, "Layers": ["one/layer.tar", "two/layer.tar"]}]);
    layout.write("manifest.json", &saved.to_string());
    assert_eq!(layout.unpack().unwrap(), "1");
    // The same in one file.
    let (archive, folder) = (layout.0.path().with_extension("tar"), TempDir::new().unwrap());
    program("tar").args(["-C", layout.0.path().to_str().unwrap(), "-cf"]).arg(&archive).arg(".").run().unwrap();
    let files = Tree::from_tar(&archive).unwrap();
    let tree = Image::of(&files).unwrap().unwrap().unpack(&files, folder.path()).unwrap();
    assert_eq!(tree.text("etc/x").unwrap(), "1");
    fs::remove_file(&archive).unwrap();
    layout.write(&name, "{}");
    assert!(layout.error().contains("which is not its name"), "{}", layout.error());
}

#[test]
fn a_system_is_no_image() {
    let mut files = Tree::default();
    files.insert("etc/os-release", Node::file(0o644, "")).unwrap();
    files.insert("manifest.json", Node::file(0o644, "{}")).unwrap();
    assert!(Image::of(&files).unwrap().is_none());
}

proptest! {
    #[test]
    fn no_documents_make_the_reader_panic(index in ".{0,200}", manifest in ".{0,200}", size: u64) {
        let mut files = Tree::default();
        let named = json!({"digest": format!("sha256:{}", digest::of_bytes(manifest.as_bytes())), "size": size});
        for index in [index.clone(), json!({"manifests": [named]}).to_string()] {
            for (name, content) in [("oci-layout", "{}"), ("index.json", &index), ("manifest.json", &manifest)] {
                files.insert(name, Node::file(0o644, content)).unwrap();
            }
            let _ = Image::of(&files);
        }
    }
}
