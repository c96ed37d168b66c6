//! An OS release: its manifest, the digests of its files, its dm-verity tree, and the folder that holds them.

pub mod architecture;
pub mod digest;
#[doc(hidden)]
pub mod fixtures;
mod manifest;
mod source;
pub mod verity;

pub use manifest::{BootFiles, MANIFEST, ManifestError, ReleaseFile, ReleaseManifest, manifest_digest};
pub use source::{ReleaseError, ReleaseSource, read_manifest};
pub use verity::Verity;
