//! The manifest of the release on an ISO.

use crate::iso9660::{Iso9660Error, Volume};
use release::{ManifestError, ReleaseManifest};
use std::io::{Read, Seek};
use thiserror::Error;

/// The folder of the release on a medium.
pub const RELEASE: &str = "/release";
const MANIFEST: &str = "/release/release.json";

#[derive(Debug, Error)]
pub enum MediumManifestError {
    #[error("reading the release's manifest")]
    Read(#[from] Iso9660Error),
    #[error("parsing {MANIFEST}")]
    Parse(#[from] ManifestError),
}

/// The manifest and its bytes, which its signatures are for.
pub fn read(volume: &mut Volume<impl Read + Seek>) -> Result<(ReleaseManifest, Vec<u8>), MediumManifestError> {
    let text = volume.read(MANIFEST, ReleaseManifest::MAX_BYTES as u64)?;
    Ok((ReleaseManifest::parse(&text)?, text))
}
