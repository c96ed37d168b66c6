//! What changes in a medium when settings are put into it: the space that an ISO and a disk image reserve for them, and the
//! volume id of an ISO.

use std::io::{self, Read, Seek, SeekFrom};

use boot_contract::volume_id::ID;
use thiserror::Error;

use crate::composed::Composed;
use crate::disk_image::{DiskImage, DiskImageError};
use crate::iso9660::{Extent, Iso9660Error, Volume};
use crate::reserved_space::{self, ReservedSpaceError};

/// The places of a medium that change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    pub settings: Extent,
    /// The volume id of an ISO, and where it is.
    pub id: Option<(String, Extent)>,
}

/// Why settings cannot be put into a file.
#[derive(Debug, Error)]
pub enum PlacesError {
    #[error(transparent)]
    DiskImage(#[from] DiskImageError),
    #[error(transparent)]
    Iso(#[from] Iso9660Error),
    #[error(transparent)]
    ReservedSpace(#[from] ReservedSpaceError),
    #[error("reading it")]
    Read(#[from] io::Error),
}

impl Places {
    pub fn find(mut file: impl Read + Seek) -> Result<Self, PlacesError> {
        if let Some(image) = DiskImage::open(&mut file)? {
            return Ok(Self { settings: image.settings, id: None });
        }
        file.seek(SeekFrom::Start(0))?;
        let mut volume = Volume::open(file)?;
        let settings = reserved_space::find(&mut volume)?;
        Ok(Self { settings, id: Some((volume.id, volume.id_extent)) })
    }

    /// What is written for this content of the reserved space, in the order of writing. The id comes last: a medium whose change
    /// was interrupted is found by the old one.
    pub fn changes(&self, reserved: Vec<u8>) -> Vec<(Extent, Vec<u8>)> {
        let id = self.new_id(&reserved).map(|(place, id)| (place, id.to_vec()));
        [(self.settings, reserved)].into_iter().chain(id).collect()
    }

    /// The medium of `size` bytes with this content of the reserved space. Its source is the medium as it is.
    pub fn composed(&self, size: u64, reserved: Vec<u8>) -> Composed {
        let mut changes = self.changes(reserved);
        changes.sort_by_key(|(place, _)| place.offset);
        let mut content = Composed::default();
        let up_to = |content: &Composed, end: u64| {
            let offset = content.size();
            Extent { offset, size: end.saturating_sub(offset) }
        };
        for (place, part) in &changes {
            content.push(up_to(&content, place.offset));
            content.push_bytes(part);
        }
        content.push(up_to(&content, size));
        content
    }

    /// The volume id of an ISO with this content of the reserved space.
    pub fn id_with(&self, reserved: &[u8]) -> Option<String> {
        let (_, id) = self.new_id(reserved)?;
        Some(String::from_utf8_lossy(&id).trim_end().to_owned())
    }

    /// The same in the form of a volume descriptor, and its place.
    fn new_id(&self, reserved: &[u8]) -> Option<(Extent, [u8; ID.end - ID.start])> {
        let (id, place) = self.id.as_ref()?;
        Some((*place, reserved_space::volume_id(id, reserved_space::digest(reserved).as_deref())))
    }
}
