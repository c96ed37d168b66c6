//! A file that is sent: a base medium with the settings of one registration in its reserved space, or a file of a network
//! boot that is a part of it. It is put together while it is read.

use super::BaseMedium;
use ::media::composed::Composed;
use ::media::reserved_space::{self, ReservedSpaceError};
use cloud_config::CloudConfig;
use release::digest;
use std::io;
use std::ops::Range;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub struct Download {
    base: Arc<BaseMedium>,
    content: Arc<Composed>,
    etag: String,
}

impl Download {
    /// The bytes that `ros-image customize` would write. An error if the settings do not fit.
    pub fn customized(base: Arc<BaseMedium>, settings: &CloudConfig) -> Result<Self, ReservedSpaceError> {
        let space = reserved_space::filled(&settings.to_yaml())?;
        let digest = digest::of_bytes(&space);
        let etag = etag(base.sha256(), &digest[..32]);
        let content = base.places().composed(base.size(), space);
        Ok(Self { base, content: content.into(), etag })
    }

    /// A file of a network boot. `None`: the medium has none of this name.
    pub fn network_file(base: Arc<BaseMedium>, name: &str) -> Option<Self> {
        let content = base.network_set()?.ok()?.file(name)?.clone().into();
        let etag = etag(base.sha256(), name);
        Some(Self { base, content, etag })
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.content.size()
    }

    /// A strong ETag. The same bytes have the same tag in all replicas and after a restart.
    pub fn etag(&self) -> &str {
        &self.etag
    }

    /// Whether the bytes of the ETag can still be read.
    pub fn is_unchanged(&self) -> bool {
        self.base.is_unchanged()
    }

    /// Reads bytes. The range must be within the size.
    pub fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        self.content.read(range, |range| self.base.read(range))
    }
}

/// 128 bits of the base medium's digest, and the digest of the settings or the name of the file. The settings contain a
/// token that nobody can guess, so the digest does not reveal it.
fn etag(base: &str, rest: &str) -> String {
    format!("\"{}-{rest}\"", &base[..32])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use ::media::network_set::KERNEL;

    #[test]
    fn it_reads_as_the_base_medium_with_the_settings_in_its_space() {
        let folder = tempfile::tempdir().unwrap();
        let path = fixtures::base_medium(folder.path(), "a.iso", 7);
        let base = Arc::new(BaseMedium::open(&path).unwrap());
        let settings = CloudConfig::parse("rancheros: {install: {registrationURL: 'https://a.test/x'}}").unwrap();
        let customized = Download::customized(base.clone(), &settings).unwrap();
        let mut expected = std::fs::read(&path).unwrap();
        for (place, part) in base.places().changes(reserved_space::filled(&settings.to_yaml()).unwrap()) {
            expected[place.offset as usize..][..part.len()].copy_from_slice(&part);
        }
        assert_eq!(customized.size(), base.size());
        assert_eq!(customized.read(0..customized.size()).unwrap(), expected);

        let other = CloudConfig::parse("rancheros: {install: {registrationURL: 'https://b.test/x'}}").unwrap();
        assert_ne!(Download::customized(base, &other).unwrap().etag(), customized.etag());
        let changed = Arc::new(BaseMedium::open(&fixtures::base_medium(folder.path(), "b.iso", 8)).unwrap());
        assert_ne!(Download::customized(changed, &settings).unwrap().etag(), customized.etag());
    }

    #[test]
    fn a_file_of_a_network_boot_is_a_part_of_the_base_medium() {
        let folder = tempfile::tempdir().unwrap();
        let base = Arc::new(BaseMedium::open(&fixtures::base_medium(folder.path(), "a.iso", 7)).unwrap());
        let kernel = Download::network_file(base.clone(), KERNEL).unwrap();
        assert_eq!(kernel.read(0..kernel.size()).unwrap(), [b'k'; 70_000], "as in the tiny release");
        assert!(Download::network_file(base, "registration.yaml").is_none());
    }
}
