//! Downloads blobs into files. A download that broke off goes on where it was, in this process or in a later one.

use crate::RegistryError;
use crate::connection::{Connection, range_start};
use crate::error::Failure;
use crate::manifest::Blob;
use crate::patience::{Attempts, Clock, Patience, PullStep};
use aws_lc_rs::digest::{Context, SHA256};
use http::StatusCode;
use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

/// A failed attempt that fetched so much starts the time of failures again.
const GAIN_BYTES: u64 = 1 << 20;

/// Downloads a blob to `path` and checks it while it is read. Every connection is asked in turn until one delivers. `tell`
/// is told how many bytes of the blob are there.
pub(crate) async fn blob(
    connections: &mut [Connection],
    blob: &Blob,
    path: &Path,
    (patience, clock): (Patience, &mut impl Clock),
    tell: &mut (dyn FnMut(PullStep<'_>) + Send),
) -> Result<(), RegistryError> {
    let mut partial = Partial::open(path, blob.size).await?;
    let mut usable: Vec<&mut Connection> = connections.iter_mut().collect();
    let mut attempts = Attempts::new(patience, clock);
    let (mut turn, mut most, mut was_damaged) = (0, partial.length, false);
    loop {
        let mut fetched = |bytes| tell(PullStep::Fetched { bytes, total: blob.size });
        fetched(partial.length);
        let index = turn % usable.len();
        let connection = &mut *usable[index];
        let failure = match attempt(connection, blob, &mut partial, &mut fetched).await {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        tracing::warn!(
            error = &failure.error as &dyn std::error::Error,
            bytes = partial.length,
            "the download of a blob broke off"
        );
        // Once may be a fault of what was there before; a host that sends other bytes twice has no others.
        let is_damaged = matches!(failure.error, RegistryError::LayerDigestMismatch { .. });
        if !failure.retry || (is_damaged && std::mem::replace(&mut was_damaged, true)) {
            usable.remove(index);
            if usable.is_empty() {
                return Err(failure.error);
            }
            turn = index;
            continue;
        }
        if partial.length >= most + GAIN_BYTES {
            attempts.begin_again();
        }
        most = most.max(partial.length);
        if !attempts.wait(&failure.error, tell).await {
            return Err(failure.error);
        }
        turn += 1;
    }
}

/// One request, for what is not there yet.
async fn attempt(
    connection: &mut Connection,
    blob: &Blob,
    partial: &mut Partial,
    fetched: &mut (dyn FnMut(u64) + Send),
) -> Result<(), Failure> {
    if partial.length < blob.size {
        let result = receive(connection, blob, partial, fetched).await;
        // What came is kept, whatever happened then.
        partial.flush().await.map_err(Failure::permanent)?;
        result?;
    }
    let actual = hex::encode(partial.context.clone().finish());
    if actual == blob.digest.hex() {
        return Ok(());
    }
    partial.restart().await.map_err(Failure::permanent)?;
    Err(Failure::temporary(mismatch(connection, blob, format!("it has SHA-256 {actual}"))))
}

async fn receive(
    connection: &mut Connection,
    blob: &Blob,
    partial: &mut Partial,
    fetched: &mut (dyn FnMut(u64) + Send),
) -> Result<(), Failure> {
    let mut response = connection.get(&format!("blobs/{}", blob.digest), "*/*", partial.length).await?;
    match response.status() {
        StatusCode::RANGE_NOT_SATISFIABLE => {
            let error = truncated(connection, blob, partial.length);
            partial.restart().await.map_err(Failure::permanent)?;
            return Err(Failure::permanent(error));
        }
        StatusCode::PARTIAL_CONTENT if range_start(response.headers()) == Some(partial.length) => (),
        // The host does not know ranges, or answers with another one.
        status => {
            partial.restart().await.map_err(Failure::permanent)?;
            if status == StatusCode::PARTIAL_CONTENT {
                return Err(Failure::temporary(connection.unreachable("it answers with another range".into())));
            }
        }
    }
    let remaining = blob.size - partial.length;
    if let Some(announced) = response.content_length().filter(|announced| *announced > remaining) {
        let why = format!("the registry has {} bytes, its manifest says {}", partial.length + announced, blob.size);
        return Err(Failure::permanent(mismatch(connection, blob, why)));
    }
    while let Some(chunk) = response.chunk().await.map_err(|error| connection.transport_failure(error))? {
        if chunk.len() as u64 > blob.size - partial.length {
            partial.restart().await.map_err(Failure::permanent)?;
            let why = format!("it has more than the {} bytes that its manifest says", blob.size);
            return Err(Failure::permanent(mismatch(connection, blob, why)));
        }
        partial.append(&chunk).await.map_err(Failure::permanent)?;
        fetched(partial.length);
    }
    if partial.length < blob.size {
        return Err(Failure::temporary(truncated(connection, blob, partial.length)));
    }
    Ok(())
}

fn mismatch(connection: &Connection, blob: &Blob, why: String) -> RegistryError {
    RegistryError::LayerDigestMismatch { host: connection.host().to_owned(), digest: blob.digest.to_string(), why }
}

fn truncated(connection: &Connection, blob: &Blob, actual: u64) -> RegistryError {
    RegistryError::LayerTruncated {
        host: connection.host().to_owned(),
        digest: blob.digest.to_string(),
        expected: blob.size,
        actual,
    }
}

/// The beginning of a blob in a file, and the digest of it.
struct Partial {
    path: PathBuf,
    file: File,
    context: Context,
    length: u64,
}

impl Partial {
    /// Opens the file and reads what is there. A file that is longer than the blob is begun again.
    async fn open(path: &Path, size: u64) -> Result<Self, RegistryError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).await.map_err(RegistryError::storage(path))?;
        let mut partial = Self { path: path.to_owned(), file, context: Context::new(&SHA256), length: 0 };
        partial.read(size).await.map_err(RegistryError::storage(path))?;
        if partial.length > size {
            partial.restart().await?;
        }
        Ok(partial)
    }

    async fn read(&mut self, size: u64) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 20];
        while self.length <= size {
            match self.file.read(&mut buffer).await? {
                0 => break,
                read => {
                    self.context.update(&buffer[..read]);
                    self.length += read as u64;
                }
            }
        }
        Ok(())
    }

    async fn append(&mut self, bytes: &[u8]) -> Result<(), RegistryError> {
        self.file.write_all(bytes).await.map_err(RegistryError::storage(&self.path))?;
        self.context.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), RegistryError> {
        self.file.flush().await.map_err(RegistryError::storage(&self.path))
    }

    async fn restart(&mut self) -> Result<(), RegistryError> {
        self.flush().await?;
        let emptied = async {
            self.file.set_len(0).await?;
            self.file.seek(SeekFrom::Start(0)).await
        };
        emptied.await.map_err(RegistryError::storage(&self.path))?;
        (self.context, self.length) = (Context::new(&SHA256), 0);
        Ok(())
    }
}
