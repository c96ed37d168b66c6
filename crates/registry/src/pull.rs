//! Pulls the image of a release into a folder.

use crate::connection::Connection;
use crate::download;
use crate::endpoint::Endpoint;
use crate::folder::Folder;
use crate::manifest::{self, Blob, Fetched, Layer, Parse};
use crate::patience::{Attempts, Clock, Patience, PullStep, SystemClock};
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
pub async fn inspect(
    reference: &Reference,
    registries: &RegistriesFile,
    patience: Patience,
    tell: &mut (dyn FnMut(PullStep<'_>) + Send),
) -> Result<Inspected, RegistryError> {
    let clock = &mut SystemClock::start();
    let mut connections = connections(reference, registries)?;
    let Fetched { digest, image, .. } =
        find(&mut connections, reference, manifest::of_release, (patience, clock), tell).await?;
    let bytes = image.bytes();
    Ok(Inspected { digest: digest.to_string(), release: image.release.map(|digest| digest.to_string()), bytes })
}

/// Pulls the image into `folder`: afterwards it holds the files that are below `release/` in the image, at most 64 with 8 GiB,
/// and nothing else but an empty `.blobs`. The digest of every blob was checked, the release's own digests were not.
///
/// The folder is missing, empty, or was pulled into before. Then its files are removed, and a download that was interrupted
/// goes on. Until then the blobs need as much space again as the release. `tell` is told how many bytes of how many are
/// there, and what is waited for: a registry that fails is asked again, as long as `patience` says.
pub async fn pull(
    reference: &Reference,
    folder: &Path,
    registries: &RegistriesFile,
    patience: Patience,
    tell: &mut (dyn FnMut(PullStep<'_>) + Send),
) -> Result<Pulled, RegistryError> {
    pull_with(reference, folder, registries, (patience, &mut SystemClock::start()), tell).await
}

pub(crate) async fn pull_with(
    reference: &Reference,
    folder: &Path,
    registries: &RegistriesFile,
    (patience, clock): (Patience, &mut impl Clock),
    tell: &mut (dyn FnMut(PullStep<'_>) + Send),
) -> Result<Pulled, RegistryError> {
    let folder = Folder::take(folder)?;
    let mut connections = connections(reference, registries)?;
    let Fetched { digest, image, .. } =
        find(&mut connections, reference, manifest::of_release, (patience, &mut *clock), tell).await?;
    let blobs: Vec<&Blob> = image.layers.iter().map(|layer| &layer.blob).collect();
    folder.keep(&blobs)?;
    fetch_all(&mut connections, &blobs, &folder, (patience, clock), tell).await?;
    let (reference, layers) = (reference.clone(), image.layers);
    let unpacked = tokio::task::spawn_blocking(move || unpack(&reference, &folder, &layers));
    unpacked.await.expect("unpacking does not panic, and is not cancelled")?;
    Ok(Pulled { digest: digest.to_string() })
}

/// Fetches the blobs into the folder. `tell` is told of all of them together.
pub(crate) async fn fetch_all(
    connections: &mut [Connection],
    blobs: &[&Blob],
    folder: &Folder,
    (patience, clock): (Patience, &mut impl Clock),
    tell: &mut (dyn FnMut(PullStep<'_>) + Send),
) -> Result<(), RegistryError> {
    let (mut before, total) = (0, blobs.iter().map(|blob| blob.size).sum());
    for blob in blobs {
        let mut of_blob = |step: PullStep<'_>| match step {
            PullStep::Fetched { bytes, .. } => tell(PullStep::Fetched { bytes: before + bytes, total }),
            waits => tell(waits),
        };
        download::blob(connections, blob, &folder.blob(blob), (patience, &mut *clock), &mut of_blob).await?;
        before += blob.size;
        tell(PullStep::Fetched { bytes: before, total });
    }
    Ok(())
}

/// To the mirrors, and to the registry itself as the last one.
pub(crate) fn connections(
    reference: &Reference,
    registries: &RegistriesFile,
) -> Result<Vec<Connection>, RegistryError> {
    let endpoints = Endpoint::all(reference, registries)?.into_iter();
    endpoints.map(|endpoint| Connection::new(endpoint, RegistryOperation::Pull)).collect()
}

/// Asks one host after the other for the manifest, again and again. Those that come before the one that has it are left out
/// of `connections`.
pub(crate) async fn find<T>(
    connections: &mut Vec<Connection>,
    reference: &Reference,
    parse: Parse<T>,
    (patience, clock): (Patience, &mut impl Clock),
    tell: &mut (dyn FnMut(PullStep<'_>) + Send),
) -> Result<Fetched<T>, RegistryError> {
    let mut attempts = Attempts::new(patience, clock);
    loop {
        let mut at = 0;
        let failure = loop {
            let failure = match manifest::fetch(&mut connections[at], reference, parse).await {
                Ok(image) => {
                    connections.drain(..at);
                    return Ok(image);
                }
                Err(failure) => failure,
            };
            let host = connections[at].host();
            tracing::warn!(
                host,
                error = &failure.error as &dyn std::error::Error,
                "the image cannot be had from this host"
            );
            // The last one is the registry itself, whose failure counts.
            if at + 1 == connections.len() {
                break failure;
            }
            if failure.retry {
                at += 1;
            } else {
                connections.remove(at);
            }
        };
        if !failure.retry || !attempts.wait(&failure.error, tell).await {
            return Err(failure.error);
        }
    }
}

fn unpack(reference: &Reference, folder: &Folder, layers: &[Layer]) -> Result<(), RegistryError> {
    let mut unpacker = Unpacker::new(reference, folder.path());
    for layer in layers {
        unpacker.layer(&folder.blob(&layer.blob), layer.is_gzip)?;
    }
    unpacker.finish()?;
    folder.drop_blobs()
}
