//! Pulls the image of a release into a folder.

use crate::connection::Connection;
use crate::download::{self, Patience};
use crate::endpoint::Endpoint;
use crate::folder::Folder;
use crate::manifest::{self, ImageManifest, Layer};
use crate::unpack::Unpacker;
use crate::{Reference, RegistriesFile, RegistryError};
use oci_client::RegistryOperation;
use std::path::Path;

/// What was pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// Of the image's manifest, `sha256:` and hex. Where the reference leads to an index, it is the one for linux/amd64.
    pub digest: String,
}

/// What is known of an image before its layers are fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// As in [`Pulled`].
    pub digest: String,
    /// The digest of `release.json`, `sha256:` and hex, if the image says so. Whoever pushed the image wrote it.
    pub release: Option<String>,
    /// Of the layers that are fetched.
    pub bytes: u64,
}

/// Fetches the manifest of an image, and nothing else.
pub async fn inspect(reference: &Reference, registries: &RegistriesFile) -> Result<Inspected, RegistryError> {
    let image = find(&mut connections(reference, registries)?, reference, Patience::MANIFEST).await?;
    let bytes = image.bytes();
    Ok(Inspected { digest: image.digest.to_string(), release: image.release.map(|digest| digest.to_string()), bytes })
}

/// Pulls the image into `folder`: afterwards it holds the files that are below `release/` in the image, at most 64 with 8 GiB,
/// and nothing else but an empty `.blobs`. The digest of every blob was checked, the release's own digests were not.
///
/// The folder is missing, empty, or was pulled into before. Then its files are removed, and a download that was interrupted
/// goes on. Until then the blobs need as much space again as the release. `progress` is told how many bytes of how many are
/// there.
pub async fn pull(
    reference: &Reference,
    folder: &Path,
    registries: &RegistriesFile,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Pulled, RegistryError> {
    pull_with(reference, folder, registries, progress, Patience::MANIFEST, Patience::BLOB).await
}

pub(crate) async fn pull_with(
    reference: &Reference,
    folder: &Path,
    registries: &RegistriesFile,
    progress: &mut (dyn FnMut(u64, u64) + Send),
    for_manifest: Patience,
    for_blobs: Patience,
) -> Result<Pulled, RegistryError> {
    let folder = Folder::take(folder)?;
    let mut connections = connections(reference, registries)?;
    let image = find(&mut connections, reference, for_manifest).await?;
    folder.keep(&image.layers)?;
    let (mut before, total) = (0, image.bytes());
    for layer in &image.layers {
        let mut fetched = |bytes| progress(before + bytes, total);
        download::blob(&mut connections, layer, &folder.blob(layer), for_blobs, &mut fetched).await?;
        before += layer.size;
        progress(before, total);
    }
    let (reference, layers) = (reference.clone(), image.layers);
    let unpacked = tokio::task::spawn_blocking(move || unpack(&reference, &folder, &layers));
    unpacked.await.expect("unpacking does not panic, and is not cancelled")?;
    Ok(Pulled { digest: image.digest.to_string() })
}

/// To the mirrors, and to the registry itself as the last one.
fn connections(reference: &Reference, registries: &RegistriesFile) -> Result<Vec<Connection>, RegistryError> {
    let endpoints = Endpoint::all(reference, registries)?.into_iter();
    endpoints.map(|endpoint| Connection::new(endpoint, RegistryOperation::Pull)).collect()
}

/// Asks one host after the other for the manifest. Those that did not have it are left out of `connections`.
async fn find(
    connections: &mut Vec<Connection>,
    reference: &Reference,
    patience: Patience,
) -> Result<ImageManifest, RegistryError> {
    loop {
        let error = match manifest_from(&mut connections[0], reference, patience).await {
            Ok(image) => return Ok(image),
            Err(error) => error,
        };
        let host = connections[0].host();
        tracing::warn!(host, error = &error as &dyn std::error::Error, "the image cannot be had from this host");
        // The last one is the registry itself, whose error counts.
        if connections.len() == 1 {
            return Err(error);
        }
        connections.remove(0);
    }
}

async fn manifest_from(
    connection: &mut Connection,
    reference: &Reference,
    patience: Patience,
) -> Result<ImageManifest, RegistryError> {
    let mut failures = 0;
    loop {
        let failure = match manifest::fetch(connection, reference).await {
            Ok(image) => return Ok(image),
            Err(failure) => failure,
        };
        failures += 1;
        if !failure.retry || !patience.wait(failures).await {
            return Err(failure.error);
        }
    }
}

fn unpack(reference: &Reference, folder: &Folder, layers: &[Layer]) -> Result<(), RegistryError> {
    let mut unpacker = Unpacker::new(reference, folder.path());
    for layer in layers {
        unpacker.layer(&folder.blob(layer), layer.is_gzip)?;
    }
    unpacker.finish()?;
    folder.drop_blobs()
}
