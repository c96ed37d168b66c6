//! An OS release: its manifest and who signed it, the digests of its files, its dm-verity tree, and the folder that holds
//! them.

pub mod architecture;
pub mod digest;
#[doc(hidden)]
pub mod fixtures;
mod manifest;
pub mod signature;
mod source;
pub mod verity;
mod version;

pub use manifest::{
    BootFiles, MANIFEST, ManifestError, ReleaseFile, ReleaseManifest, is_inside, is_plain_line, manifest_digest,
};
pub use source::{ReleaseError, ReleaseSource, read_manifest, read_manifest_bytes};
pub use verity::Verity;
pub use version::{SemanticVersion, TooOld};
