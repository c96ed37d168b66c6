//! Writes an OCI archive of one container image.
//!
//! This crate can write a layer, which is a tar archive. The rest is three small JSON documents of the OCI image
//! specification 1.1 (image-spec: `image-layout.md`, `manifest.md`, `config.md`). umoci and skopeo can make such
//! archives, but they write the present time into them, and they would be two more programs to fetch. The archive is
//! for `ros-image push`, `ctr images import`, `podman load`, `docker load` and `skopeo copy oci-archive:`. No test runs
//! one of the foreign programs: the tests follow the digests and run the program from the unpacked layer.

use std::collections::BTreeMap;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use flate2::read::GzDecoder;
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use time::OffsetDateTime;

use crate::build::tree::{Node, Tree};
use crate::output;
use release::digest;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Our programs, and what comes from Debian's packages, under the licences that their copyright files name.
const LICENSES: &str = "Apache-2.0 AND LicenseRef-Debian";

/// A container image, without its layers.
pub struct Image<'a> {
    /// Repository and tag of the image after it was loaded, where it has one.
    pub reference: Option<&'a str>,
    pub title: &'a str,
    pub description: &'a str,
    pub version: &'a str,
    /// `<user>:<group>` as numbers, because `runAsNonRoot` cannot look up a name.
    pub user: &'a str,
    pub entrypoint: &'a [&'a str],
    /// `<name>=<value>`
    pub environment: &'a [&'a str],
    pub ports: &'a [&'a str],
    /// Of the manifest, besides `org.opencontainers.image.*`.
    pub annotations: &'a [(&'a str, &'a str)],
    /// Time stamp of the image and of all files in it, in seconds since 1970.
    pub epoch: u32,
}

/// Files of an image, packed into a temporary file.
pub struct Layer {
    file: NamedTempFile,
    is_gzip: bool,
    digest: String,
    size: u64,
    /// The digest before it was compressed.
    diff_id: String,
    annotations: BTreeMap<&'static str, &'static str>,
}

impl Layer {
    pub fn plain(files: &Tree, epoch: u32) -> Result<Self> {
        Self::pack(files, epoch, false)
    }

    pub fn gzip(files: &Tree, epoch: u32) -> Result<Self> {
        Self::pack(files, epoch, true)
    }

    /// The same layer with an annotation.
    pub fn annotated(mut self, name: &'static str, value: &'static str) -> Self {
        self.annotations.insert(name, value);
        self
    }

    fn pack(files: &Tree, epoch: u32, is_gzip: bool) -> Result<Self> {
        let file = NamedTempFile::new().context("making a temporary file for a layer")?;
        let opened = || file.reopen().context("opening the layer");
        let mut writer = BufWriter::new(opened()?);
        if is_gzip {
            // The gzip header has no name and no time.
            let mut packed = GzBuilder::new().mtime(0).write(writer, Compression::best());
            files.write_tar(&mut packed, epoch).context("writing the layer")?;
            writer = packed.finish().context("compressing the layer")?;
        } else {
            files.write_tar(&mut writer, epoch).context("writing the layer")?;
        }
        writer.flush().context("writing the layer")?;
        let (digest, size) = digest::of_reader(opened()?).context("reading the layer")?;
        let diff_id = match is_gzip {
            true => digest::of_reader(GzDecoder::new(BufReader::new(opened()?))).context("reading the layer")?.0,
            false => digest.clone(),
        };
        Ok(Self { file, is_gzip, digest, size, diff_id, annotations: BTreeMap::new() })
    }

    fn descriptor(&self) -> Value {
        let mut descriptor = json!({
            "mediaType": if self.is_gzip { format!("{LAYER}+gzip") } else { LAYER.to_owned() },
            "digest": format!("sha256:{}", self.digest),
            "size": self.size,
        });
        if !self.annotations.is_empty() {
            descriptor["annotations"] = json!(self.annotations);
        }
        descriptor
    }
}

/// Writes the archive of an image to `path`, lowest layer first, and returns the digest of its manifest. The same values
/// give the same bytes.
pub fn write(image: &Image<'_>, layers: &[Layer], path: &Path) -> Result<String> {
    let config = config(image, layers)?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &config),
        "layers": layers.iter().map(Layer::descriptor).collect::<Vec<_>>(),
        "annotations": annotations(image)?,
    }))?;
    let mut named = descriptor(MANIFEST, &manifest);
    named["annotations"] = json!({"org.opencontainers.image.ref.name": image.version});
    if let Some(reference) = image.reference {
        named["annotations"]["io.containerd.image.name"] = json!(reference);
    }
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [named],
    }))?;
    let digest = digest::of_bytes(&manifest);

    let mut layout = Tree::default();
    layout.insert("oci-layout", Node::file(0o644, r#"{"imageLayoutVersion":"1.0.0"}"#))?;
    layout.insert("index.json", Node::file(0o644, index))?;
    for blob in [config, manifest] {
        layout.insert(&format!("blobs/sha256/{}", digest::of_bytes(&blob)), Node::file(0o644, blob))?;
    }
    for layer in layers {
        layout.insert(&format!("blobs/sha256/{}", layer.digest), Node::stored(0o644, layer.file.path())?)?;
    }
    output::replace(path, |file| layout.write_tar(BufWriter::new(file), image.epoch))?;
    Ok(format!("sha256:{digest}"))
}

fn config(image: &Image<'_>, layers: &[Layer]) -> Result<Vec<u8>> {
    let ports: BTreeMap<_, _> = image.ports.iter().map(|port| (*port, json!({}))).collect();
    let diff_ids: Vec<_> = layers.iter().map(|layer| format!("sha256:{}", layer.diff_id)).collect();
    let config = json!({
        "created": time_stamp(image.epoch)?,
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "User": image.user,
            "Entrypoint": image.entrypoint,
            "Env": image.environment,
            "ExposedPorts": ports,
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    Ok(serde_json::to_vec(&config)?)
}

/// Those that the specification defines (image-spec, `annotations.md`), and the image's own.
fn annotations(image: &Image<'_>) -> Result<BTreeMap<String, String>> {
    let created = time_stamp(image.epoch)?;
    let defined = [
        ("created", created.as_str()),
        ("description", image.description),
        ("licenses", LICENSES),
        ("title", image.title),
        ("version", image.version),
    ];
    let defined = defined.map(|(name, value)| (format!("org.opencontainers.image.{name}"), value.to_owned()));
    let own = image.annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Ok(defined.into_iter().chain(own).collect())
}

/// As RFC 3339 writes it, in UTC.
fn time_stamp(epoch: u32) -> Result<String> {
    let at = OffsetDateTime::from_unix_timestamp(epoch.into())?;
    let (date, (hour, minute, second)) = (at.date(), at.to_hms());
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    Ok(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"))
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
    use std::fs;
    use std::io::Read;

    fn image() -> Image<'static> {
        Image {
            reference: Some("example.test/program:1"),
            title: "Program",
            description: "Does nothing",
            version: "1",
            user: "65532:65532",
            entrypoint: &["/usr/bin/program"],
            environment: &["A=b"],
            ports: &["8443/tcp"],
            annotations: &[("example.test/own", "x")],
            epoch: 7,
        }
    }
    fn files(content: &str) -> Tree {
        let mut files = Tree::default();
        files.insert("usr/bin/program", Node::file(0o755, content)).unwrap();
        files
    }
    /// The archive of an image with two layers.
    fn archive() -> Vec<u8> {
        let path = NamedTempFile::new().unwrap();
        let layers =
            [Layer::gzip(&files("one"), 7).unwrap(), Layer::plain(&files("two"), 7).unwrap().annotated("is", "plain")];
        let digest = write(&image(), &layers, path.path()).unwrap();
        let archive = fs::read(path.path()).unwrap();
        assert_eq!(json_of(&read(&archive, "index.json"))["manifests"][0]["digest"], digest);
        archive
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
        let archive = archive();
        let index = json_of(&read(&archive, "index.json"));
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "example.test/program:1");
        let manifest = json_of(&blob(&archive, &index["manifests"][0]));
        let config = json_of(&blob(&archive, &manifest["config"]));
        assert_eq!(config["config"]["User"], "65532:65532");
        let (first, second) = (&manifest["layers"][0], &manifest["layers"][1]);
        let mut layer = Vec::new();
        GzDecoder::new(blob(&archive, first).as_slice()).read_to_end(&mut layer).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", digest::of_bytes(&layer)));
        assert_eq!(read(&layer, "usr/bin/program"), b"one");
        assert_eq!(config["rootfs"]["diff_ids"][1], second["digest"]);
        assert_eq!((&second["mediaType"], &second["annotations"]["is"]), (&json!(LAYER), &json!("plain")));
        assert_eq!(read(&blob(&archive, second), "usr/bin/program"), b"two");
    }

    #[test]
    fn annotations_say_what_the_image_is() {
        let annotations = annotations(&image()).unwrap();
        let shown: Vec<_> = annotations.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            shown,
            [
                "example.test/own=x",
                "org.opencontainers.image.created=1970-01-01T00:00:07Z",
                "org.opencontainers.image.description=Does nothing",
                "org.opencontainers.image.licenses=Apache-2.0 AND LicenseRef-Debian",
                "org.opencontainers.image.title=Program",
                "org.opencontainers.image.version=1",
            ]
        );
        assert_eq!(time_stamp(1_760_000_000).unwrap(), "2025-10-09T08:53:20Z");
    }

    #[test]
    fn the_same_values_give_the_same_bytes() {
        assert!(archive() == archive());
    }
}
