//! The kernel argument that describes the dm-verity tree of a root image.

use std::fmt;
use std::str::FromStr;

/// `datablocks:hashstart:roothash:salt`, for data and hash blocks of 4096 bytes and SHA-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerityArgument {
    pub data_blocks: u64,
    /// The block at which the hash tree starts; there is no superblock.
    pub hash_start: u64,
    /// 64 lower-case hex digits.
    pub root_hash: String,
    /// Lower-case hex, or `-` for none.
    pub salt: String,
}

/// Size of a data block and of a hash block, in bytes.
pub const BLOCK_BYTES: u64 = 4096;
/// 256 TiB: far more than any root image has, and far below the overflow of sector numbers.
const MOST_BLOCKS: u64 = 1 << 36;
/// Hex digits of the longest salt, which has 256 bytes (cryptsetup "DMVerity", on-disk format).
const LONGEST_SALT: usize = 512;

/// An argument that describes no tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedVerity(&'static str);

impl MalformedVerity {
    /// What is wrong, such as "covers no data".
    pub fn reason(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for MalformedVerity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the form of a dm-verity tree is `datablocks:hashstart:roothash:salt`; this one {}", self.0)
    }
}

impl std::error::Error for MalformedVerity {}

impl VerityArgument {
    /// Checks every field.
    pub fn check(&self) -> Result<(), MalformedVerity> {
        let is_salt = self.salt == "-"
            || is_hex(&self.salt) && self.salt.len().is_multiple_of(2) && self.salt.len() <= LONGEST_SALT;
        let rules = [
            (self.data_blocks > 0, "covers no data"),
            (self.hash_start >= self.data_blocks, "has a hash tree that begins inside the data"),
            (self.hash_start <= MOST_BLOCKS, "has more than 2^36 blocks"),
            (
                self.root_hash.len() == 64 && is_hex(&self.root_hash),
                "has a root hash that is not 64 lower-case hex digits",
            ),
            (is_salt, "has a salt that is neither hex nor `-`"),
        ];
        rules.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, reason)| Err(MalformedVerity(reason)))
    }
}

impl fmt::Display for VerityArgument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.data_blocks, self.hash_start, self.root_hash, self.salt)
    }
}

impl FromStr for VerityArgument {
    type Err = MalformedVerity;

    fn from_str(text: &str) -> Result<Self, MalformedVerity> {
        let fields: Vec<&str> = text.split(':').collect();
        let [data_blocks, hash_start, root_hash, salt] = fields[..] else {
            return Err(MalformedVerity("does not have four fields"));
        };
        let number = |text: &str| {
            let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| is_digits).ok_or(MalformedVerity("has a block that is not a number"))
        };
        let argument = Self {
            data_blocks: number(data_blocks)?,
            hash_start: number(hash_start)?,
            root_hash: root_hash.to_owned(),
            salt: salt.to_owned(),
        };
        argument.check()?;
        Ok(argument)
    }
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_the_kernel_would_misread_is_refused() {
        let hash = "0f".repeat(32);
        for good in [format!("2:2:{hash}:-"), format!("2:3:{hash}:00ff"), format!("1:68719476736:{hash}:-")] {
            assert_eq!(good.parse::<VerityArgument>().unwrap().to_string(), good);
        }
        for bad in [
            String::new(),
            "1:2:3".to_owned(),
            format!("0:1:{hash}:-"),
            format!("2:1:{hash}:-"),
            format!("-1:1:{hash}:-"),
            format!("+1:1:{hash}:-"),
            format!(":1:{hash}:-"),
            format!("1:68719476737:{hash}:-"),
            format!("1:99999999999999999999:{hash}:-"),
            format!("1:1:{}:-", &hash[1..]),
            format!("1:1:{}:-", hash.to_uppercase()),
            format!("1:1:{hash}:"),
            format!("1:1:{hash}:abc"),
            format!("1:1:{hash}:{}", "a".repeat(514)),
            format!("1:1:{hash}:- 1 ignore_corruption"),
            format!("1:1:{hash}:-:more"),
        ] {
            assert!(bad.parse::<VerityArgument>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn an_argument_round_trips_as_one_word(text in "[0-9a-f: -]{0,160}") {
            if let Ok(argument) = text.parse::<VerityArgument>() {
                prop_assert!(!argument.to_string().contains(' '));
                prop_assert_eq!(argument.to_string().parse(), Ok(argument));
            }
        }
    }
}
