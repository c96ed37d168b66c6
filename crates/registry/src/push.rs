//! Pushes an image from an archive to its registry.

use crate::archive::{Blob, ImageArchive};
use crate::connection::Connection;
use crate::endpoint::Endpoint;
use crate::error::Failure;
use crate::patience::{Attempts, Patience, SystemClock};
use crate::{Reference, RegistriesFile, RegistryError};
use futures::Stream;
use futures::stream::try_unfold;
use http::HeaderValue;
use oci_client::RegistryOperation;
use oci_client::errors::OciDistributionError;
use std::io::{self, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// Bytes of one read of the archive.
const CHUNK_BYTES: u64 = 1 << 20;

/// Bytes of how many are in the registry. It is called from within the upload.
pub type PushProgress = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// What was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Of the manifest, `sha256:` and hex.
    pub digest: String,
}

/// Pushes the one image of an OCI archive, byte by byte as it is there, to the registry itself: mirrors are for pulling.
/// Blobs that the registry has are left out. The tag is set last.
pub async fn push(
    archive: &Path,
    reference: &Reference,
    registries: &RegistriesFile,
    progress: PushProgress,
) -> Result<Pushed, RegistryError> {
    let archive = ImageArchive::open(archive)?;
    let digest = archive.digest.to_string();
    if reference.digest().is_some_and(|named| named != digest) {
        let why = format!("the archive's image is {digest}");
        return Err(RegistryError::ReferenceInvalid { reference: reference.to_string(), why });
    }
    let endpoint = Endpoint::of_registry(reference, registries)?;
    let mut connection = Connection::new(endpoint, RegistryOperation::Push)?;
    retried(&mut connection, async |connection| connection.log_in().await).await?;
    let total = archive.blobs.iter().map(|blob| blob.size).sum();
    let sent = Arc::new(AtomicU64::new(0));
    let mut before = 0;
    for blob in &archive.blobs {
        retried(&mut connection, async |connection| {
            sent.store(before, Ordering::Relaxed);
            push_blob(connection, &archive, blob, total, &sent, &progress).await
        })
        .await?;
        before += blob.size;
        progress(before, total);
    }
    let media_type = HeaderValue::from_str(&archive.media_type).map_err(|_| RegistryError::ArchiveInvalid {
        path: archive.path().to_owned(),
        why: "the media type of its manifest is none".into(),
    })?;
    retried(&mut connection, async |connection| {
        let pushed =
            connection.oci().push_manifest_raw(connection.image(), archive.manifest.clone(), media_type.clone());
        pushed.await.map(drop).map_err(|error| connection.oci_failure(error))
    })
    .await?;
    Ok(Pushed { digest })
}

async fn retried(
    connection: &mut Connection,
    mut attempt: impl AsyncFnMut(&mut Connection) -> Result<(), Failure>,
) -> Result<(), RegistryError> {
    let mut clock = SystemClock::start();
    let mut attempts = Attempts::new(Patience::BRIEF, &mut clock);
    loop {
        let Err(failure) = attempt(connection).await else { return Ok(()) };
        if !failure.retry || !attempts.wait(&failure.error, &mut |_| ()).await {
            return Err(failure.error);
        }
    }
}

async fn push_blob(
    connection: &Connection,
    archive: &ImageArchive,
    blob: &Blob,
    total: u64,
    sent: &Arc<AtomicU64>,
    progress: &PushProgress,
) -> Result<(), Failure> {
    let (oci, image, digest) = (connection.oci(), connection.image(), blob.digest.to_string());
    let failed = |error| connection.oci_failure(error);
    if oci.blob_exists(image, &digest).await.map_err(failed)? {
        return Ok(());
    }
    let content = content(archive.path(), blob).await;
    let content = content.map_err(RegistryError::storage(archive.path())).map_err(Failure::permanent)?;
    let (sent, progress) = (sent.clone(), progress.clone());
    let counted = futures::StreamExt::inspect(content, move |chunk| {
        if let Ok(chunk) = chunk {
            let length = chunk.len() as u64;
            progress(sent.fetch_add(length, Ordering::Relaxed) + length, total);
        }
    });
    let counted = futures::TryStreamExt::map_ok(counted, Into::into);
    let result = oci.push_blob_stream(image, counted, &digest, Some(blob.size)).await;
    result.map(drop).map_err(failed)
}

/// The bytes of a blob in the archive.
async fn content(
    archive: &Path,
    blob: &Blob,
) -> io::Result<impl Stream<Item = Result<Vec<u8>, OciDistributionError>> + Send + 'static> {
    let mut file = File::open(archive).await?;
    file.seek(SeekFrom::Start(blob.offset)).await?;
    Ok(try_unfold(file.take(blob.size), async |mut file| {
        let mut chunk = Vec::new();
        (&mut file).take(CHUNK_BYTES).read_to_end(&mut chunk).await?;
        Ok((!chunk.is_empty()).then_some((chunk, file)))
    }))
}
