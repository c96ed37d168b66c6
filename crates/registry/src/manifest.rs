//! The manifest of an image: which blobs hold the release, or the whole image (OCI image specification 1.1, `manifest.md`,
//! `image-index.md`).

use crate::connection::Connection;
use crate::digest::Digest;
use crate::error::{Failure, quoted};
use crate::{Reference, RegistryError};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The annotation of a layer that says what is in it. Layers of other content than [`CONTENT_RELEASE`] are not fetched.
pub const CONTENT_ANNOTATION: &str = "rancheros.cattle.io/content";
/// Files below `release/`.
pub const CONTENT_RELEASE: &str = "release";
/// The content of the layer with the program that upgrades a host from a container.
pub const CONTENT_INSTALLER: &str = "installer";

/// The annotation of an image with the digest of its `release.json`, `sha256:` and hex.
pub const RELEASE_ANNOTATION: &str = "rancheros.cattle.io/release";

/// The same limit as in the OCI distribution specification, "Pushing Manifests".
const MAX_MANIFEST_BYTES: u64 = 4 << 20;
const MAX_LAYERS: usize = 64;
/// All layers together, and everything that is unpacked from them.
pub(crate) const MAX_IMAGE_BYTES: u64 = 8 << 30;
/// The limits of an image that is no release. Docker makes at most 127 layers.
const MAX_FOREIGN_LAYERS: usize = 256;
const MAX_FOREIGN_BYTES: u64 = 32 << 30;

const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                        application/vnd.docker.distribution.manifest.v2+json, \
                        application/vnd.docker.distribution.manifest.list.v2+json";

/// A manifest that was fetched, and what was read from it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fetched<T> {
    pub(crate) digest: Digest,
    pub(crate) manifest: Vec<u8>,
    pub(crate) image: T,
}

/// What is fetched of the image of a release.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ReleaseImage {
    /// What [`RELEASE_ANNOTATION`] says.
    pub(crate) release: Option<Digest>,
    /// Lowest first; later ones replace files of earlier ones.
    pub(crate) layers: Vec<Layer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) blob: Blob,
    pub(crate) is_gzip: bool,
}

impl ReleaseImage {
    pub(crate) fn bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.blob.size).sum()
    }
}

/// Either of the two kinds of documents.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    manifests: Option<Vec<IndexEntry>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct IndexEntry {
    digest: String,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// What an index or a manifest says of a blob (OCI image specification 1.1, `descriptor.md`).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

pub(crate) enum Parsed<T> {
    Image(T),
    /// The image for this architecture.
    Index(Digest),
}

/// Reads a manifest or an index: [`of_release`] or [`of_any_image`].
pub(crate) type Parse<T> = fn(&[u8], &Reference) -> Result<Parsed<T>, RegistryError>;

/// Fetches the manifest of the image; of an index, the one for linux/amd64.
pub(crate) async fn fetch<T>(
    connection: &mut Connection,
    reference: &Reference,
    parse: Parse<T>,
) -> Result<Fetched<T>, Failure> {
    let image = connection.image();
    let name = image.digest().or(image.tag()).unwrap_or_default().to_owned();
    let manifest = download(connection, &name, reference).await?;
    match parse(&manifest, reference).map_err(Failure::permanent)? {
        Parsed::Image(image) => Ok(Fetched { digest: Digest::of(&manifest), manifest, image }),
        Parsed::Index(digest) => {
            let manifest = download(connection, &digest.to_string(), reference).await?;
            match parse(&manifest, reference).map_err(Failure::permanent)? {
                Parsed::Image(image) => Ok(Fetched { digest, manifest, image }),
                Parsed::Index(_) => {
                    let error = RegistryError::image_invalid(reference, "its index leads to another index");
                    Err(Failure::permanent(error))
                }
            }
        }
    }
}

/// A manifest by its tag or digest. Those that were asked for by digest have it.
async fn download(connection: &mut Connection, name: &str, reference: &Reference) -> Result<Vec<u8>, Failure> {
    let mut response = connection.get(&format!("manifests/{name}"), ACCEPTED, 0).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| connection.transport_failure(error))? {
        if (bytes.len() + chunk.len()) as u64 > MAX_MANIFEST_BYTES {
            return Err(Failure::permanent(too_large(reference, "its manifest is too big", MAX_MANIFEST_BYTES)));
        }
        bytes.extend_from_slice(&chunk);
    }
    let actual = Digest::of(&bytes);
    match name.parse::<Digest>() {
        Ok(expected) if expected != actual => Err(Failure::temporary(RegistryError::LayerDigestMismatch {
            host: connection.host().to_owned(),
            digest: expected.to_string(),
            why: format!("the manifest has {actual}"),
        })),
        _ => Ok(bytes),
    }
}

/// Reads what is needed of the image of a release.
pub(crate) fn of_release(bytes: &[u8], reference: &Reference) -> Result<Parsed<ReleaseImage>, RegistryError> {
    let not_a_release = |why: &str| RegistryError::not_a_release(reference, why);
    let document = match document(bytes, reference, not_a_release)? {
        Parsed::Image(document) => document,
        Parsed::Index(digest) => return Ok(Parsed::Index(digest)),
    };
    let layers = document.layers.ok_or_else(|| not_a_release("its manifest has no layers"))?;
    if layers.len() > MAX_LAYERS {
        return Err(too_large(reference, "it has too many layers", MAX_LAYERS as u64));
    }
    let mut taken = Vec::new();
    for layer in layers {
        if layer.annotations.get(CONTENT_ANNOTATION).is_some_and(|content| content != CONTENT_RELEASE) {
            continue;
        }
        let is_gzip = match layer.media_type.as_str() {
            "application/vnd.oci.image.layer.v1.tar" => false,
            "application/vnd.oci.image.layer.v1.tar+gzip" => true,
            "application/vnd.docker.image.rootfs.diff.tar.gzip" => true,
            other => {
                let other = quoted(other);
                return Err(not_a_release(&format!("a layer is of the type {other:?}; tar and tar+gzip are taken")));
            }
        };
        taken.push(Layer { blob: layer.blob().map_err(not_a_release)?, is_gzip });
    }
    if taken.is_empty() {
        return Err(not_a_release("no layer of it holds a release"));
    }
    let bytes = taken.iter().try_fold(0u64, |sum, layer| sum.checked_add(layer.blob.size));
    if bytes.is_none_or(|bytes| bytes > MAX_IMAGE_BYTES) {
        return Err(too_large(reference, "its layers have too many bytes", MAX_IMAGE_BYTES));
    }
    let release = document.annotations.get(RELEASE_ANNOTATION).and_then(|digest| digest.parse().ok());
    Ok(Parsed::Image(ReleaseImage { release, layers: taken }))
}

/// Reads the blobs of an image, whatever it holds: the configuration first, then the layers, each blob once.
pub(crate) fn of_any_image(bytes: &[u8], reference: &Reference) -> Result<Parsed<Vec<Blob>>, RegistryError> {
    let invalid = |why: &str| RegistryError::image_invalid(reference, why);
    let document = match document(bytes, reference, invalid)? {
        Parsed::Image(document) => document,
        Parsed::Index(digest) => return Ok(Parsed::Index(digest)),
    };
    let layers = document.layers.ok_or_else(|| invalid("its manifest has no layers"))?;
    if layers.len() > MAX_FOREIGN_LAYERS {
        return Err(too_large(reference, "it has too many layers", MAX_FOREIGN_LAYERS as u64));
    }
    let config = document.config.ok_or_else(|| invalid("its manifest has no configuration"))?;
    let mut blobs = Vec::new();
    for descriptor in std::iter::once(&config).chain(&layers) {
        let blob = descriptor.blob().map_err(invalid)?;
        if !blobs.contains(&blob) {
            blobs.push(blob);
        }
    }
    let bytes = blobs.iter().try_fold(0u64, |sum, blob| sum.checked_add(blob.size));
    if bytes.is_none_or(|bytes| bytes > MAX_FOREIGN_BYTES) {
        return Err(too_large(reference, "its layers have too many bytes", MAX_FOREIGN_BYTES));
    }
    Ok(Parsed::Image(blobs))
}

impl Descriptor {
    fn blob(&self) -> Result<Blob, &'static str> {
        let digest = self.digest.parse().map_err(|()| "its manifest names a blob not by SHA-256")?;
        Ok(Blob { digest, size: self.size })
    }
}

fn document(
    bytes: &[u8],
    reference: &Reference,
    invalid: impl Fn(&str) -> RegistryError,
) -> Result<Parsed<Document>, RegistryError> {
    let document: Document = serde_json::from_slice(bytes)
        .map_err(|error| invalid(&format!("its manifest: {}", quoted(&error.to_string()))))?;
    if let Some(entries) = document.manifests {
        let is_ours = |entry: &&IndexEntry| {
            entry
                .platform
                .as_ref()
                .is_some_and(|platform| (&*platform.os, &*platform.architecture) == ("linux", "amd64"))
        };
        let Some(entry) = entries.iter().find(is_ours) else {
            let platforms = entries.iter().filter_map(|entry| entry.platform.as_ref());
            let mut found: Vec<_> =
                platforms.map(|platform| format!("{}/{}", platform.os, platform.architecture)).collect();
            found.truncate(8);
            let found = if found.is_empty() { "nothing".to_owned() } else { quoted(&found.join(", ")) };
            return Err(RegistryError::WrongArchitecture { reference: reference.to_string(), found });
        };
        let digest = entry.digest.parse().map_err(|()| invalid("its index names a manifest not by SHA-256"))?;
        return Ok(Parsed::Index(digest));
    }
    Ok(Parsed::Image(document))
}

pub(crate) fn too_large(reference: &Reference, what: &'static str, limit: u64) -> RegistryError {
    RegistryError::ImageTooLarge { reference: reference.to_string(), what, limit }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn reference() -> Reference {
        "registry.example.org/ros:1".parse().unwrap()
    }
    fn layer(size: u64) -> Value {
        json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": format!("sha256:{}", "a".repeat(64)),
            "size": size,
        })
    }
    fn reason(document: Value) -> &'static str {
        of_release(document.to_string().as_bytes(), &reference()).err().map_or("none", |error| error.reason())
    }

    #[test]
    fn layers_that_hold_something_else_are_left_out() {
        let mut other = layer(7);
        other["annotations"] = json!({CONTENT_ANNOTATION: CONTENT_INSTALLER});
        other["mediaType"] = json!("something/else");
        let mut release = layer(5);
        release["annotations"] = json!({CONTENT_ANNOTATION: CONTENT_RELEASE});
        let document = json!({"layers": [release, layer(6), other]});
        let Parsed::Image(image) = of_release(document.to_string().as_bytes(), &reference()).unwrap() else { panic!() };
        assert_eq!(image.layers.iter().map(|layer| layer.blob.size).collect::<Vec<_>>(), [5, 6]);
    }

    #[test]
    fn what_cannot_be_a_release_is_refused() {
        assert_eq!(reason(json!({"layers": [layer(1)]})), "none");
        for document in [json!([]), json!({}), json!({"layers": []}), json!({"layers": [{"mediaType": "x"}]})] {
            assert_eq!(reason(document.clone()), "NotARelease", "{document}");
        }
        let mut zstd = layer(1);
        zstd["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+zstd");
        assert_eq!(reason(json!({"layers": [zstd]})), "NotARelease");
        let mut outside = layer(1);
        outside["digest"] = json!("sha256:../../etc/passwd");
        assert_eq!(reason(json!({"layers": [outside]})), "NotARelease");
        assert_eq!(reason(json!({"layers": [layer(MAX_IMAGE_BYTES), layer(1)]})), "ImageTooLarge");
        assert_eq!(reason(json!({"layers": [layer(u64::MAX), layer(1)]})), "ImageTooLarge");
        assert_eq!(reason(json!({"layers": vec![layer(1); MAX_LAYERS + 1]})), "ImageTooLarge");
        let arm = json!({"digest": "sha256:0", "platform": {"os": "linux", "architecture": "arm64"}});
        assert_eq!(reason(json!({"manifests": [arm]})), "WrongArchitecture");
        assert_eq!(reason(json!({"manifests": []})), "WrongArchitecture");
    }

    #[test]
    fn any_image_has_a_configuration_and_layers() {
        let read = |document: Value| of_any_image(document.to_string().as_bytes(), &reference());
        let reason = |document: Value| read(document).err().map_or("none", |error| error.reason());
        let mut zstd = layer(5);
        zstd["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+zstd");
        let Ok(Parsed::Image(blobs)) = read(json!({"config": layer(3), "layers": [zstd, layer(5)]})) else { panic!() };
        assert_eq!(blobs.iter().map(|blob| blob.size).collect::<Vec<_>>(), [3, 5], "each once");
        for document in [json!([]), json!({}), json!({"layers": []}), json!({"config": layer(1)})] {
            assert_eq!(reason(document.clone()), "ImageInvalid", "{document}");
        }
        let mut outside = layer(1);
        outside["digest"] = json!("sha256:../../etc/passwd");
        assert_eq!(reason(json!({"config": outside, "layers": []})), "ImageInvalid");
        assert_eq!(reason(json!({"config": layer(1), "layers": [layer(u64::MAX)]})), "ImageTooLarge");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes: Vec<u8>) {
            let _ = of_release(&bytes, &reference());
            let _ = of_any_image(&bytes, &reference());
        }
    }
}
