//! The space that a medium reserves for registration settings: the file /registration.yaml. Its size is fixed and it is
//! padded with newlines. So it is changed in place, and it is valid YAML at any time.

use std::io::{Read, Seek};

use boot_contract::volume_id;
use cloud_config::{CloudConfig, CloudConfigError};
use release::digest;
use thiserror::Error;

use crate::iso9660::{Extent, Iso9660Error, Volume};

/// Path on the medium.
pub const PATH: &str = "/registration.yaml";
/// Size of the file in bytes.
pub const RESERVED_BYTES: usize = 64 << 10;

/// Why the reserved space of a medium cannot be read or filled.
#[derive(Debug, Error)]
pub enum ReservedSpaceError {
    #[error("finding the reserved space; the medium must be built by `ros-image build`")]
    Missing(#[source] Iso9660Error),
    #[error("{PATH} has {0} bytes instead of {RESERVED_BYTES}; the medium must be built by `ros-image build`")]
    Size(u64),
    #[error("{PATH} lies before the volume's descriptor; the medium must be built by `ros-image build`")]
    Place,
    #[error(
        "the settings have {0} bytes and the medium reserves {RESERVED_BYTES}; shorten them, or move a part to \
         configURL"
    )]
    TooBig(usize),
    #[error("the settings on the medium are not UTF-8")]
    NotText(#[source] std::str::Utf8Error),
    #[error("reading the settings")]
    Malformed(#[source] CloudConfigError),
}

/// The extent of a volume's reserved space. It has [`RESERVED_BYTES`].
pub fn find(volume: &mut Volume<impl Read + Seek>) -> Result<Extent, ReservedSpaceError> {
    let extent = volume.find(PATH).map_err(ReservedSpaceError::Missing)?;
    if extent.size != RESERVED_BYTES as u64 {
        return Err(ReservedSpaceError::Size(extent.size));
    }
    let descriptor = volume.id_extent;
    if extent.offset < descriptor.offset + descriptor.size { Err(ReservedSpaceError::Place) } else { Ok(extent) }
}

/// The content of a medium without settings.
pub fn empty() -> String {
    "\n".repeat(RESERVED_BYTES)
}

/// The reserved space with `settings` in it. They must parse as a cloud-config and fit.
pub fn filled(settings: &str) -> Result<Vec<u8>, ReservedSpaceError> {
    parse(settings)?;
    if settings.len() > RESERVED_BYTES {
        return Err(ReservedSpaceError::TooBig(settings.len()));
    }
    let mut content = settings.as_bytes().to_vec();
    content.resize(RESERVED_BYTES, b'\n');
    Ok(content)
}

/// The lower-case hex SHA-256 of a reserved space. `None`: it holds no settings.
pub fn digest(content: &[u8]) -> Option<String> {
    content.iter().any(|byte| *byte != b'\n').then(|| digest::of_bytes(content))
}

/// The volume id of a medium whose reserved space has this digest, in its descriptor's form. `id`: the one it has now.
pub fn volume_id(id: &str, digest: Option<&str>) -> [u8; volume_id::ID.end - volume_id::ID.start] {
    volume_id::padded(&volume_id::with_settings(id, digest))
}

/// The settings in a reserved space; `None` if there are none.
pub fn read(content: &[u8]) -> Result<Option<CloudConfig>, ReservedSpaceError> {
    let text = std::str::from_utf8(content).map_err(ReservedSpaceError::NotText)?;
    if text.trim().is_empty() { Ok(None) } else { parse(text).map(Some) }
}

fn parse(settings: &str) -> Result<CloudConfig, ReservedSpaceError> {
    CloudConfig::parse(settings).map_err(ReservedSpaceError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_medium_without_settings_has_the_id_of_its_release() {
        let id = |id: &str, content: &[u8]| volume_id(id, digest(content).as_deref());
        let plain = id("ROS_0123abcd", empty().as_bytes());
        let one = id("ROS_0123abcd", &filled("a: 1").unwrap());
        assert_eq!(&plain[..13], b"ROS_0123abcd ");
        assert!(one.starts_with(b"ROS_0123abcd_") && one != id("ROS_0123abcd", &filled("a: 2").unwrap()));
        assert_eq!(id(std::str::from_utf8(&one).unwrap(), empty().as_bytes()), plain);
    }

    const SETTINGS: &str = "#cloud-config\nrancheros:\n  install:\n    registrationURL: https://a.test/x\n";

    #[test]
    fn settings_round_trip_through_the_space() {
        let content = filled(SETTINGS).unwrap();
        assert_eq!(content.len(), RESERVED_BYTES);
        let read = read(&content).unwrap().unwrap();
        assert_eq!(read.0["rancheros"]["install"]["registrationURL"], "https://a.test/x");
        assert_eq!(super::read(empty().as_bytes()).unwrap(), None);
    }

    #[test]
    fn what_does_not_fit_or_is_no_cloud_config_is_refused() {
        let big = format!("{SETTINGS}# {}", "x".repeat(RESERVED_BYTES));
        assert!(filled(&big).unwrap_err().to_string().contains("65536"));
        for bad in ["- a list", "just text", "a: [", "\u{0}"] {
            assert!(filled(bad).is_err(), "{bad:?}");
        }
    }
}
