//! The dm-verity target of the device mapper for a root image.

use boot_contract::VerityArgument;
use boot_contract::verity::BLOCK_BYTES;

const SECTOR_BYTES: u64 = 512;

/// Length of the checked device in sectors of 512 bytes.
pub fn sectors(verity: &VerityArgument) -> u64 {
    verity.data_blocks * (BLOCK_BYTES / SECTOR_BYTES)
}

/// The target's parameters (kernel: `Documentation/admin-guide/device-mapper/verity.rst`). Data and tree are on the same
/// `device`. A damaged block restarts the machine: after an I/O error instead, systemd may freeze, and the machine would
/// never restart to use up the slot's starts.
pub fn table(verity: &VerityArgument, device: &str) -> String {
    let VerityArgument { data_blocks, hash_start, root_hash, salt } = verity;
    format!(
        "1 {device} {device} {BLOCK_BYTES} {BLOCK_BYTES} {data_blocks} {hash_start} sha256 {root_hash} {salt} 1 \
         restart_on_corruption"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_table_names_device_sizes_and_restart() {
        let hash = "0f".repeat(32);
        let verity: VerityArgument = format!("14000:14001:{hash}:-").parse().unwrap();
        assert_eq!(sectors(&verity), 112_000);
        assert_eq!(
            table(&verity, "/dev/vda3"),
            format!("1 /dev/vda3 /dev/vda3 4096 4096 14000 14001 sha256 {hash} - 1 restart_on_corruption")
        );
    }

    proptest! {
        #[test]
        fn a_table_never_holds_more_words_than_it_should(text in "[0-9a-f: -]{0,160}") {
            if let Ok(verity) = text.parse::<VerityArgument>() {
                prop_assert_eq!(table(&verity, "d").split(' ').count(), 12);
            }
        }
    }
}
