//! A container image in files: an OCI image layout (image-spec 1.1, `image-layout.md`), or an archive of `docker save`
//! (moby, `image/spec/v1.2.md`).

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use release::digest;
use serde::Deserialize;

use super::{MAX_UNPACKED_BYTES, compression};
use crate::build::tree::{Budget, Kind, Names, Node, Tree};

const MAX_LAYERS: usize = 256;
const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

/// What is known of an image before its layers are unpacked.
#[derive(Debug)]
pub struct Image {
    /// SHA-256 of its manifest or, from `docker save`, of its configuration; in hex.
    pub digest: String,
    /// Lowest first.
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    /// Where it is among the files.
    path: String,
    /// Digest and size as its manifest says, where there is one.
    blob: Option<Descriptor>,
    /// The digest without compression, `sha256:` and hex.
    unpacked: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Descriptor {
    digest: String,
    size: u64,
}

/// An entry of an index.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    #[serde(default)]
    media_type: String,
    #[serde(flatten)]
    blob: Descriptor,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Named>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// `manifest.json` of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    layers: Vec<String>,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Config {
    architecture: String,
    os: String,
    rootfs: RootFilesystem,
}

#[derive(Deserialize)]
struct RootFilesystem {
    diff_ids: Vec<String>,
}

impl Image {
    /// The image in these files; `None` if they are no image.
    pub fn of(files: &Tree) -> Result<Option<Self>> {
        if files.find("index.json").is_some() && files.find("oci-layout").is_some() {
            return Self::of_layout(files).context("reading an OCI image layout").map(Some);
        }
        if files.find("manifest.json").is_some() && files.find("etc").is_none() {
            return Self::of_docker(files).context("reading an archive of docker save").map(Some);
        }
        Ok(None)
    }

    fn of_layout(files: &Tree) -> Result<Self> {
        let index: Index = parse("index.json", &document(files, "index.json")?)?;
        let mut named = choose(index)?;
        if named.media_type.contains("index") || named.media_type.contains("manifest.list") {
            named = choose(parse("an index", &blob(files, &named.blob)?)?)?;
        }
        let manifest: Manifest = parse("the manifest", &blob(files, &named.blob)?)?;
        let config: Config = parse("the configuration", &blob(files, &manifest.config)?)?;
        let layers = manifest.layers.iter().map(|layer| Ok((blob_path(layer)?, Some(layer.clone()))));
        Self::new(named.blob.digest, config, layers.collect::<Result<_>>()?)
    }

    fn of_docker(files: &Tree) -> Result<Self> {
        let saved: Vec<Saved> = parse("manifest.json", &document(files, "manifest.json")?)?;
        let [one] = saved.as_slice() else {
            let names = saved.iter().flat_map(|image| image.repo_tags.iter().flatten());
            let names: Vec<&str> = names.map(String::as_str).collect();
            bail!("it has {} images ({}); save one alone", saved.len(), names.join(", "));
        };
        let bytes = document(files, &one.config)?;
        let actual = digest::of_bytes(&bytes);
        // Its name is its digest: `<hex>.json`, or `blobs/sha256/<hex>`.
        ensure!(one.config.contains(&actual), "{} has SHA-256 {actual}, which is not its name", one.config);
        let layers = one.layers.iter().map(|path| (path.clone(), None)).collect();
        Self::new(actual, parse("the configuration", &bytes)?, layers)
    }

    fn new(digest: String, config: Config, layers: Vec<(String, Option<Descriptor>)>) -> Result<Self> {
        ensure!(
            (config.os.as_str(), config.architecture.as_str()) == ("linux", "amd64"),
            "it is for {}/{}; a base must be for linux/amd64",
            config.os,
            config.architecture
        );
        let unpacked = config.rootfs.diff_ids;
        ensure!(layers.len() <= MAX_LAYERS, "it has {} layers; the limit is {MAX_LAYERS}", layers.len());
        ensure!(!layers.is_empty(), "it has no layers");
        ensure!(
            layers.len() == unpacked.len(),
            "it has {} layers, and its configuration has the digests of {}",
            layers.len(),
            unpacked.len()
        );
        let layers = layers.into_iter().zip(unpacked);
        let layers = layers.map(|((path, blob), unpacked)| Layer { path, blob, unpacked }).collect();
        Ok(Self { digest, layers })
    }

    /// The system that the layers make, one over the other. They are unpacked into `folder`, where contents stay: it must live
    /// as long as the tree.
    pub fn unpack(&self, files: &Tree, folder: &Path) -> Result<Tree> {
        let (mut tree, mut budget, mut left) = (Tree::default(), Budget::of_a_system(), MAX_UNPACKED_BYTES);
        for (number, layer) in self.layers.iter().enumerate() {
            let plain = folder.join(format!("layer-{number}.tar"));
            let laid = layer.unpack(files, &plain, &mut left);
            laid.and_then(|()| tree.lay_tar_over(&plain, Names::OfLayer, &mut budget))
                .with_context(|| format!("layer {} of {}, {}", number + 1, self.layers.len(), layer.path))?;
        }
        Ok(tree)
    }
}

impl Layer {
    /// Writes it to `to` without compression. Takes its bytes from `left`.
    fn unpack(&self, files: &Tree, to: &Path, left: &mut u64) -> Result<()> {
        let Some(Node { kind: Kind::Stored(stored), .. }) = files.find(&self.path) else {
            bail!("the image lacks this file");
        };
        if let Some(Descriptor { digest, size }) = &self.blob {
            ensure!(stored.size() == *size, "it has {} bytes, its manifest says {size}", stored.size());
            let (actual, _) = digest::of_reader(stored.open()?).context("reading it")?;
            ensure!(*digest == format!("sha256:{actual}"), "it has SHA-256 {actual}, its manifest says {digest}");
        }
        let (bytes, actual) = compression::unpack(stored.open()?, to, *left)?;
        *left -= bytes;
        ensure!(
            self.unpacked == format!("sha256:{actual}"),
            "without compression it has SHA-256 {actual}, the configuration of the image says {}",
            self.unpacked
        );
        Ok(())
    }
}

/// The one image for this architecture. Builders add entries for `unknown/unknown`, which hold statements on an image.
fn choose(index: Index) -> Result<Named> {
    let is_ours = |named: &Named| {
        let platform = named.platform.as_ref();
        platform.is_none_or(|platform| (&*platform.os, &*platform.architecture) == ("linux", "amd64"))
    };
    let name = |named: &Named| {
        let platform = named.platform.as_ref().map(|platform| format!("{}/{}", platform.os, platform.architecture));
        let name = named.annotations.get("org.opencontainers.image.ref.name").cloned();
        name.or(platform).unwrap_or_else(|| named.blob.digest.clone())
    };
    let all: Vec<String> = index.manifests.iter().map(name).collect();
    let mut ours: Vec<Named> = index.manifests.into_iter().filter(is_ours).collect();
    ensure!(ours.len() < 2, "it has several images ({}); a base is one", all.join(", "));
    ours.pop().with_context(|| format!("it has no image for linux/amd64, only {}", all.join(", ")))
}

/// A document by its digest, which it must have.
fn blob(files: &Tree, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let bytes = document(files, &blob_path(descriptor)?)?;
    let actual = format!("sha256:{}", digest::of_bytes(&bytes));
    ensure!(
        (actual.as_str(), bytes.len() as u64) == (descriptor.digest.as_str(), descriptor.size),
        "a document of the image has {} bytes and {actual}, it should be {} bytes and {}",
        bytes.len(),
        descriptor.size,
        descriptor.digest
    );
    Ok(bytes)
}

fn blob_path(descriptor: &Descriptor) -> Result<String> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let hex = descriptor.digest.strip_prefix("sha256:").filter(|hex| hex.len() == 64 && hex.bytes().all(is_digit));
    let hex = hex.with_context(|| format!("{:?} is not a digest by SHA-256", descriptor.digest))?;
    Ok(format!("blobs/sha256/{hex}"))
}

fn document(files: &Tree, path: &str) -> Result<Vec<u8>> {
    if let Some(Node { kind: Kind::Stored(stored), .. }) = files.find(path) {
        ensure!(stored.size() <= MAX_DOCUMENT_BYTES, "{path} has {} bytes", stored.size());
    }
    files.content(path)
}

fn parse<T: for<'a> Deserialize<'a>>(name: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).with_context(|| format!("parsing {name}"))
}

#[cfg(test)]
mod tests;
