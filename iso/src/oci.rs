//! Writes an OCI archive of one container image with one layer.
//!
//! This crate can write a layer, which is a tar archive. The rest is three small JSON documents of the OCI image
//! specification 1.1 (image-spec: `image-layout.md`, `manifest.md`, `config.md`). umoci and skopeo can make such
//! archives, but they write the present time into them, and they would be two more programs to fetch. The archive is
//! for `ctr images import`, `podman load`, `docker load` and `skopeo copy oci-archive:`. No test runs one of these: the
//! tests follow the digests and run the program from the unpacked layer.

use std::io::Write;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};

use crate::build::tree::{Node, Tree};
use release::digest;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The configuration of a container image.
pub struct Image<'a> {
    /// Repository and tag of the image after it was loaded.
    pub reference: &'a str,
    pub version: &'a str,
    /// `<user>:<group>` as numbers, because `runAsNonRoot` cannot look up a name.
    pub user: &'a str,
    pub entrypoint: &'a [&'a str],
    /// `<name>=<value>`
    pub environment: &'a [&'a str],
    pub ports: &'a [&'a str],
    /// Time stamp of all files in it, in seconds since 1970.
    pub epoch: u32,
}

/// The archive of an image with one layer. The same values give the same bytes.
pub fn archive(image: &Image<'_>, files: &Tree) -> Result<Vec<u8>> {
    let mut layer = Vec::new();
    files.write_tar(&mut layer, image.epoch).context("writing the layer")?;
    let uncompressed = digest::of_bytes(&layer);
    // The gzip header has no name and no time.
    let mut packed = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    packed.write_all(&layer).context("compressing the layer")?;
    let packed = packed.finish().context("compressing the layer")?;

    let ports: serde_json::Map<String, Value> =
        image.ports.iter().map(|port| ((*port).to_owned(), json!({}))).collect();
    let config = serde_json::to_vec(&json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "User": image.user,
            "Entrypoint": image.entrypoint,
            "Env": image.environment,
            "ExposedPorts": ports,
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{uncompressed}")]},
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &config),
        "layers": [descriptor(LAYER, &packed)],
        "annotations": {"org.opencontainers.image.version": image.version},
    }))?;
    let mut named = descriptor(MANIFEST, &manifest);
    named["annotations"] = json!({
        "io.containerd.image.name": image.reference,
        "org.opencontainers.image.ref.name": image.version,
    });
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [named],
    }))?;

    let mut layout = Tree::default();
    layout.insert("oci-layout", Node::file(0o644, r#"{"imageLayoutVersion":"1.0.0"}"#))?;
    layout.insert("index.json", Node::file(0o644, index))?;
    for blob in [config, manifest, packed] {
        layout.insert(&format!("blobs/sha256/{}", digest::of_bytes(&blob)), Node::file(0o644, blob))?;
    }
    let mut archive = Vec::new();
    layout.write_tar(&mut archive, image.epoch).context("writing the archive")?;
    Ok(archive)
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({
        "mediaType": media_type,
        "digest": format!("sha256:{}", digest::of_bytes(content)),
        "size": content.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn image() -> Image<'static> {
        Image {
            reference: "example.test/program:1",
            version: "1",
            user: "65532:65532",
            entrypoint: &["/usr/bin/program"],
            environment: &["A=b"],
            ports: &["8443/tcp"],
            epoch: 7,
        }
    }
    fn files() -> Tree {
        let mut files = Tree::default();
        files.insert("usr/bin/program", Node::file(0o755, "bytes")).unwrap();
        files
    }
    /// The content of a file of the archive.
    fn read(archive: &[u8], name: &str) -> Vec<u8> {
        for entry in tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            if entry.path_bytes() == name.as_bytes() {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                return content;
            }
        }
        panic!("no {name}")
    }
    fn blob(archive: &[u8], descriptor: &Value) -> Vec<u8> {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let content = read(archive, &format!("blobs/sha256/{digest}"));
        assert_eq!(
            (digest::of_bytes(&content).as_str(), content.len() as u64),
            (digest, descriptor["size"].as_u64().unwrap())
        );
        content
    }
    fn json_of(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn every_digest_leads_to_what_it_names() {
        let archive = archive(&image(), &files()).unwrap();
        let index = json_of(&read(&archive, "index.json"));
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "example.test/program:1");
        let manifest = json_of(&blob(&archive, &index["manifests"][0]));
        let config = json_of(&blob(&archive, &manifest["config"]));
        assert_eq!(config["config"]["User"], "65532:65532");
        assert_eq!(config["config"]["Entrypoint"], json!(["/usr/bin/program"]));
        let mut layer = Vec::new();
        flate2::read::GzDecoder::new(blob(&archive, &manifest["layers"][0]).as_slice())
            .read_to_end(&mut layer)
            .unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", digest::of_bytes(&layer)));
        assert_eq!(read(&layer, "usr/bin/program"), b"bytes");
    }

    #[test]
    fn the_same_values_give_the_same_bytes() {
        assert_eq!(archive(&image(), &files()).unwrap(), archive(&image(), &files()).unwrap());
    }
}
