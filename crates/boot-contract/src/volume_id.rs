//! The ISO 9660 volume id of an installation medium, by which a live system finds the medium that it was started from.
//! Format: ECMA-119, section 8.4 (Primary Volume Descriptor).

/// Bytes of a logical block, and of a volume descriptor.
pub const BLOCK_BYTES: u64 = 2048;
/// Offset of the first volume descriptor, in bytes.
pub const DESCRIPTOR_OFFSET: u64 = 16 * BLOCK_BYTES;
/// Bytes of a descriptor that [`read`] needs.
pub const DESCRIPTOR_BYTES: usize = 72;

/// The volume id of the medium of a release, whose manifest has the SHA-256 `digest` (lower-case hex). Media of different
/// releases have different ids.
///
/// # Panics
/// If the digest has fewer than 8 digits.
pub fn of_release(digest: &str) -> String {
    format!("ROS_{}", &digest[..8])
}

/// Whether this is a volume descriptor of ISO 9660, of any type.
pub fn is_descriptor(descriptor: &[u8]) -> bool {
    descriptor.get(1..6) == Some(b"CD001")
}

/// The volume id in a primary volume descriptor, without its padding. `None` for anything else.
pub fn read(descriptor: &[u8]) -> Option<&str> {
    let is_primary = is_descriptor(descriptor) && descriptor[0] == 1 && descriptor.get(6) == Some(&1);
    let id = std::str::from_utf8(descriptor.get(40..DESCRIPTOR_BYTES)?).ok()?.trim_end_matches([' ', '\0']);
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

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = read(&bytes);
        }
    }
}
