//! Pulls any image for linux/amd64 into a folder, as an OCI image layout (image-spec, `image-layout.md`).

use crate::folder::Folder;
use crate::manifest::{self, Blob, Fetched};
use crate::patience::{Clock, Patience, PullStep, SystemClock};
use crate::pull::{Pulled, connections, fetch_all, find};
use crate::{Reference, RegistriesFile, RegistryError};
use serde_json::json;
use std::fs;
use std::path::Path;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Pulls an image into `folder`: configuration and layers as they are, at most 256 with 32 GiB, each with its digest
/// checked. `index.json` names one image.
///
/// The folder is missing, empty, or was pulled into before. Blobs that it has are not fetched again, those of another image are
/// removed, and a download that was interrupted goes on. For `patience` and `tell` see [`crate::pull`].
pub async fn pull_layout(
    reference: &Reference,
    folder: &Path,
    registries: &RegistriesFile,
    patience: Patience,
    tell: &mut (dyn FnMut(PullStep<'_>) + Send),
) -> Result<Pulled, RegistryError> {
    pull_layout_with(reference, folder, registries, (patience, &mut SystemClock::start()), tell).await
}

pub(crate) async fn pull_layout_with(
    reference: &Reference,
    path: &Path,
    registries: &RegistriesFile,
    (patience, clock): (Patience, &mut impl Clock),
    tell: &mut (dyn FnMut(PullStep<'_>) + Send),
) -> Result<Pulled, RegistryError> {
    let folder = Folder::take(path)?;
    let mut connections = connections(reference, registries)?;
    let Fetched { digest, manifest, image } =
        find(&mut connections, reference, manifest::of_any_image, (patience, &mut *clock), tell).await?;
    let blobs: Vec<&Blob> = image.iter().collect();
    let final_names = path.join("blobs/sha256");
    // What is there under its final name is looked at again, as a download that is complete.
    for blob in &blobs {
        let complete = final_names.join(blob.digest.hex());
        if complete.is_file() {
            fs::rename(&complete, folder.blob(blob)).map_err(RegistryError::storage(&complete))?;
        }
    }
    folder.keep(&blobs)?;
    fetch_all(&mut connections, &blobs, &folder, (patience, clock), tell).await?;
    fs::create_dir_all(&final_names).map_err(RegistryError::storage(&final_names))?;
    for blob in &blobs {
        let complete = final_names.join(blob.digest.hex());
        fs::rename(folder.blob(blob), &complete).map_err(RegistryError::storage(&complete))?;
    }
    let named = json!({"mediaType": MANIFEST, "digest": digest.to_string(), "size": manifest.len()});
    let index = json!({"schemaVersion": 2, "manifests": [named]});
    let files = [
        (final_names.join(digest.hex()), manifest),
        (path.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        (path.join("index.json"), index.to_string().into_bytes()),
    ];
    for (path, content) in files {
        fs::write(&path, content).map_err(RegistryError::storage(&path))?;
    }
    Ok(Pulled { digest: digest.to_string() })
}
