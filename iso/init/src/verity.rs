//! The dm-verity tree of a root image, as the kernel command line describes it.

use std::str::FromStr;

/// `datablocks:hashstart:roothash:salt`, for blocks of 4096 bytes and SHA-256; written by the installer from the
/// release's manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VeritySpec {
    data_blocks: u64,
    hash_start: u64,
    root_hash: String,
    salt: String,
}

pub const BLOCK_BYTES: u64 = 4096;
const SECTOR_BYTES: u64 = 512;
/// 256 TiB: far above every image, far below where sector numbers overflow.
const MOST_BLOCKS: u64 = 1 << 36;

impl VeritySpec {
    /// Length of the checked device in sectors of 512 bytes.
    pub fn sectors(&self) -> u64 {
        self.data_blocks * (BLOCK_BYTES / SECTOR_BYTES)
    }

    /// The target's parameters (kernel: `Documentation/admin-guide/device-mapper/verity.rst`), data and tree being on
    /// the same `device`. A damaged block restarts the machine: with an I/O error instead, systemd may freeze and the
    /// boot counter would never move.
    pub fn table(&self, device: &str) -> String {
        format!(
            "1 {device} {device} {BLOCK_BYTES} {BLOCK_BYTES} {} {} sha256 {} {} 1 restart_on_corruption",
            self.data_blocks, self.hash_start, self.root_hash, self.salt
        )
    }
}

impl FromStr for VeritySpec {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let parts: Vec<&str> = s.split(':').collect();
        let [data_blocks, hash_start, root_hash, salt] = parts[..] else {
            return Err(format!("expected datablocks:hashstart:roothash:salt, found {} fields", parts.len()));
        };
        let spec = Self {
            data_blocks: block_number("datablocks", data_blocks)?,
            hash_start: block_number("hashstart", hash_start)?,
            root_hash: root_hash.to_owned(),
            salt: salt.to_owned(),
        };
        if spec.data_blocks == 0 || spec.hash_start < spec.data_blocks {
            return Err("the hash tree must start after at least one block of data".to_owned());
        }
        if spec.root_hash.len() != 64 || !is_hex(&spec.root_hash) {
            return Err("roothash is not 64 hex digits".to_owned());
        }
        if spec.salt != "-" && !(spec.salt.len() <= 512 && spec.salt.len().is_multiple_of(2) && is_hex(&spec.salt)) {
            return Err("salt is neither `-` nor up to 512 hex digits".to_owned());
        }
        Ok(spec)
    }
}

fn block_number(name: &str, digits: &str) -> Result<u64, String> {
    match digits.parse() {
        Ok(number) if number <= MOST_BLOCKS => Ok(number),
        _ => Err(format!("{name} is not a number of blocks up to {MOST_BLOCKS}")),
    }
}

fn is_hex(s: &str) -> bool {
    !s.is_empty() && s.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_table_names_device_sizes_and_restart() {
        let hash = "0f".repeat(32);
        let spec: VeritySpec = format!("14000:14001:{hash}:-").parse().unwrap();
        assert_eq!(spec.sectors(), 112_000);
        assert_eq!(
            spec.table("/dev/vda3"),
            format!("1 /dev/vda3 /dev/vda3 4096 4096 14000 14001 sha256 {hash} - 1 restart_on_corruption")
        );
    }

    #[test]
    fn what_the_kernel_would_misread_is_refused() {
        let hash = "0f".repeat(32);
        for bad in [
            String::new(),
            format!("0:1:{hash}:-"),
            format!("2:1:{hash}:-"),
            format!("-1:1:{hash}:-"),
            format!("1:99999999999999999999:{hash}:-"),
            format!("1:1:{}:-", &hash[1..]),
            format!("1:1:{hash}:"),
            format!("1:1:{hash}:abc"),
            format!("1:1:{hash}:- 1 ignore_corruption"),
            format!("1:1:{hash}:-:more"),
        ] {
            assert!(bad.parse::<VeritySpec>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_table_never_holds_more_words_than_it_should(spec in "[0-9a-f: -]{0,160}") {
            if let Ok(spec) = spec.parse::<VeritySpec>() {
                prop_assert_eq!(spec.table("d").split(' ').count(), 12);
            }
        }
    }
}
