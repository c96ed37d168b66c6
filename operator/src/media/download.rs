//! A base medium with the settings of one registration in its reserved space, computed while it is read. The bytes are
//! those that `ros-image customize` would write.

use super::BaseMedium;
use ::media::reserved_space::{self, ReservedSpaceError};
use cloud_config::CloudConfig;
use release::digest;
use std::io;
use std::ops::Range;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub struct Customized {
    base: Arc<BaseMedium>,
    /// The whole reserved space.
    content: Arc<[u8]>,
    etag: String,
}

impl Customized {
    /// An error if the settings do not fit.
    pub fn new(base: Arc<BaseMedium>, settings: &CloudConfig) -> Result<Self, ReservedSpaceError> {
        let content = reserved_space::filled(&settings.to_yaml())?;
        let etag = etag(base.sha256(), &digest::of_bytes(&content));
        Ok(Self { base, content: content.into(), etag })
    }

    /// In bytes. The same as the size of the base medium.
    pub fn size(&self) -> u64 {
        self.base.size()
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
        let at = range.start;
        let mut bytes = self.base.read(range)?;
        lay_over(&mut bytes, at, &self.content, self.base.space());
        Ok(bytes)
    }
}

/// 128 bits of the base medium's digest and 128 bits of the settings' digest. The settings contain a token that nobody
/// can guess, so the digest does not reveal it.
fn etag(base: &str, settings: &str) -> String {
    format!("\"{}-{}\"", &base[..32], &settings[..32])
}

/// Copies the overlapping part of `content` into `bytes`. `at` and `content_at`: the offsets of both in the medium.
fn lay_over(bytes: &mut [u8], at: u64, content: &[u8], content_at: u64) {
    let start = at.max(content_at);
    let end = (at + bytes.len() as u64).min(content_at + content.len() as u64);
    if start < end {
        let part = |from: u64| (start - from) as usize..(end - from) as usize;
        bytes[part(at)].copy_from_slice(&content[part(content_at)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use proptest::prelude::*;

    #[test]
    fn it_reads_as_the_base_medium_with_the_settings_in_its_space() {
        let folder = tempfile::tempdir().unwrap();
        let path = fixtures::base_medium(folder.path(), "a.iso", 7);
        let base = Arc::new(BaseMedium::open(&path).unwrap());
        let settings = CloudConfig::parse("rancheros: {install: {registrationURL: 'https://a.test/x'}}").unwrap();
        let customized = Customized::new(base.clone(), &settings).unwrap();
        let space = base.space() as usize;
        let filled = reserved_space::filled(&settings.to_yaml()).unwrap();
        let mut expected = std::fs::read(&path).unwrap();
        expected[space..space + filled.len()].copy_from_slice(&filled);
        assert_eq!(customized.read(0..customized.size()).unwrap(), expected);

        let other = CloudConfig::parse("rancheros: {install: {registrationURL: 'https://b.test/x'}}").unwrap();
        assert_ne!(Customized::new(base, &other).unwrap().etag(), customized.etag());
        let changed = Arc::new(BaseMedium::open(&fixtures::base_medium(folder.path(), "b.iso", 8)).unwrap());
        assert_ne!(Customized::new(changed, &settings).unwrap().etag(), customized.etag());
    }

    proptest! {
        #[test]
        fn every_part_is_a_slice_of_the_whole(
            size in 1u64..400, content in proptest::collection::vec(1u8..255, 0..60), at in 0u64..400,
            start in 0u64..400, length in 0u64..400,
        ) {
            let content_at = at.min(size);
            let content = &content[..content.len().min((size - content_at) as usize)];
            let mut whole = vec![0u8; size as usize];
            whole[content_at as usize..content_at as usize + content.len()].copy_from_slice(content);
            let start = start.min(size);
            let end = (start + length).min(size);
            let mut part = vec![0u8; (end - start) as usize];
            lay_over(&mut part, start, content, content_at);
            prop_assert_eq!(&part[..], &whole[start as usize..end as usize]);
        }
    }
}
