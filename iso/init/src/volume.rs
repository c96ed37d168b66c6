//! The ISO 9660 volume id, by which a live system finds the medium it was started from.
//! Format: ECMA-119, section 8.4 (Primary Volume Descriptor).

/// Where the first volume descriptor stands, in bytes.
pub const DESCRIPTOR_OFFSET: u64 = 16 * 2048;
/// As much of the descriptor as we read.
pub const DESCRIPTOR_BYTES: usize = 72;

/// The volume id in a primary volume descriptor, without its padding; `None` for anything else.
pub fn volume_id(descriptor: &[u8; DESCRIPTOR_BYTES]) -> Option<&str> {
    let is_primary = descriptor[0] == 1 && &descriptor[1..6] == b"CD001" && descriptor[6] == 1;
    let id = std::str::from_utf8(&descriptor[40..72]).ok()?.trim_end_matches([' ', '\0']);
    (is_primary && !id.is_empty()).then_some(id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
        assert_eq!(volume_id(&descriptor(1, b"CD001", "ROS_0123abcd")), Some("ROS_0123abcd"));
        assert_eq!(volume_id(&descriptor(2, b"CD001", "ROS_0123abcd")), None);
        assert_eq!(volume_id(&descriptor(1, b"NSR02", "ROS_0123abcd")), None);
        assert_eq!(volume_id(&descriptor(1, b"CD001", "")), None);
    }

    proptest! {
        #[test]
        fn any_sector_is_answered(bytes in proptest::collection::vec(any::<u8>(), DESCRIPTOR_BYTES)) {
            let _ = volume_id(&bytes.try_into().unwrap());
        }
    }
}
