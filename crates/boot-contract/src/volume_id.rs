//! The ISO 9660 volume id of an installation medium, by which a live system finds the medium that it was started from.
//! Format: ECMA-119, section 8.4 (Primary Volume Descriptor).
//!
//! ```text
//! ROS_0123abcd              a medium of a release without settings
//! ROS_0123abcd_89abcdef     one with settings: of two media of a release, the one that was started is the one that is read
//! ```

/// Bytes of a logical block, and of a volume descriptor.
pub const BLOCK_BYTES: u64 = 2048;
/// Offset of the first volume descriptor, in bytes.
pub const DESCRIPTOR_OFFSET: u64 = 16 * BLOCK_BYTES;
/// Bytes of a descriptor that [`read`] needs.
pub const DESCRIPTOR_BYTES: usize = 72;
/// Where the volume id is in a descriptor.
pub const ID: std::ops::Range<usize> = 40..DESCRIPTOR_BYTES;
/// Characters of [`of_release`].
const RELEASE_CHARACTERS: usize = 12;
/// Hex digits of the digest of a medium's settings.
const SETTINGS_DIGITS: usize = 8;

/// The volume id of the medium of a release, whose manifest has the SHA-256 `digest` (lower-case hex). Media of different
/// releases have different ids.
///
/// # Panics
/// If the digest has fewer than 8 digits.
pub fn of_release(digest: &str) -> String {
    format!("ROS_{}", &digest[..8])
}

/// The volume id of a medium of the same release with settings that have this SHA-256, lower-case hex, or without any.
pub fn with_settings(id: &str, settings: Option<&str>) -> String {
    let release: String = id.chars().take(RELEASE_CHARACTERS).collect();
    match settings {
        None => release,
        Some(digest) => format!("{release}_{}", digest.chars().take(SETTINGS_DIGITS).collect::<String>()),
    }
}

/// The bytes of an id in a descriptor. A longer id is cut off.
pub fn padded(id: &str) -> [u8; ID.end - ID.start] {
    let mut bytes = [b' '; ID.end - ID.start];
    bytes.iter_mut().zip(id.bytes()).for_each(|(byte, of_id)| *byte = of_id);
    bytes
}

/// Whether this is a volume descriptor of ISO 9660, of any type.
pub fn is_descriptor(descriptor: &[u8]) -> bool {
    descriptor.get(1..6) == Some(b"CD001")
}

/// The volume id in a primary volume descriptor, without its padding. `None` for anything else.
pub fn read(descriptor: &[u8]) -> Option<&str> {
    let is_primary = is_descriptor(descriptor) && descriptor[0] == 1 && descriptor.get(6) == Some(&1);
    let id = std::str::from_utf8(descriptor.get(ID)?).ok()?.trim_end_matches([' ', '\0']);
    (is_primary && !id.is_empty()).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn descriptor(kind: u8, magic: &[u8; 5], id: &str) -> [u8; DESCRIPTOR_BYTES] {
        let mut bytes = [b' '; DESCRIPTOR_BYTES];
        bytes[0] = kind;
        bytes[1..6].copy_from_slice(magic);
        bytes[6] = 1;
        bytes[40..40 + id.len()].copy_from_slice(id.as_bytes());
        bytes
    }

    #[test]
    fn only_a_primary_descriptor_names_a_volume() {
        let id = of_release("0123abcd4567");
        assert_eq!(read(&descriptor(1, b"CD001", &id)), Some("ROS_0123abcd"));
        assert_eq!(read(&descriptor(2, b"CD001", &id)), None);
        assert_eq!(read(&descriptor(1, b"NSR02", &id)), None);
        assert_eq!(read(&descriptor(1, b"CD001", "")), None);
        assert_eq!(read(&descriptor(1, b"CD001", &id)[..71]), None);
    }

    #[test]
    fn media_of_a_release_differ_by_their_settings() {
        let plain = of_release("0123abcd4567");
        let one = with_settings(&plain, Some("89abcdef0000"));
        assert_eq!(one, "ROS_0123abcd_89abcdef");
        assert_eq!(with_settings(&one, Some("00000000ffff")), "ROS_0123abcd_00000000");
        assert_eq!(with_settings(&one, None), plain);
        let mut changed = descriptor(1, b"CD001", &plain);
        changed[ID].copy_from_slice(&padded(&one));
        assert_eq!(read(&changed), Some(one.as_str()));
        changed[ID].copy_from_slice(&padded(&plain));
        assert_eq!(changed, descriptor(1, b"CD001", &plain));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = read(&bytes);
        }
    }
}
