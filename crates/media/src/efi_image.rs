//! The file system on an ISO with the boot loaders that UEFI starts. Firmware reads it; everybody else takes a boot loader
//! from it by its place, which the ISO names: a second copy would make every ISO 2 MB larger.

use crate::iso9660::{Extent, Iso9660Error, Volume};
use serde::{Deserialize, Serialize};
use std::io::{Read, Seek};
use thiserror::Error;

/// Path of the image on the medium.
pub const PATH: &str = "/boot/efi.img";
/// Path of [`Places`] on the medium, as JSON.
pub const PLACES_PATH: &str = "/boot/efi.json";
/// Bytes of the largest [`PLACES_PATH`] that is read.
const MAX_PLACES: u64 = 4096;

/// Where boot loaders lie in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// GRUB, which starts a medium as well as a machine in a network.
    pub grub: Place,
}

/// In bytes from the start of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub offset: u64,
    pub size: u64,
}

#[derive(Debug, Error)]
pub enum EfiImageError {
    #[error(transparent)]
    Image(#[from] Iso9660Error),
    #[error("parsing {PLACES_PATH}")]
    Places(#[source] serde_json::Error),
    #[error("{PLACES_PATH} names a place that is not in {PATH}")]
    Outside,
}

/// The extent of GRUB in the ISO.
pub fn network_grub(volume: &mut Volume<impl Read + Seek>) -> Result<Extent, EfiImageError> {
    let image = volume.find(PATH)?;
    let places: Places =
        serde_json::from_slice(&volume.read(PLACES_PATH, MAX_PLACES)?).map_err(EfiImageError::Places)?;
    let Place { offset, size } = places.grub;
    match offset.checked_add(size) {
        Some(end) if size > 0 && end <= image.size => Ok(Extent { offset: image.offset + offset, size }),
        _ => Err(EfiImageError::Outside),
    }
}
