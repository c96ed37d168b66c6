//! The dm-verity tree of a root image: its parameters, as the manifest and the kernel command line carry them, and the
//! tree itself: hash type 1, SHA-256, data and hash blocks of 4096 bytes, no salt, no superblock.
//!
//! Format: the kernel's `Documentation/admin-guide/device-mapper/verity.rst`; equal to what
//! `veritysetup format --no-superblock --salt=- --hash-offset=<data size>` appends.

use crate::manifest::is_hex;
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Size of a data block and of a hash block, in bytes.
const BLOCK_BYTES: usize = Verity::BLOCK_BYTES as usize;
const DIGESTS_PER_BLOCK: usize = BLOCK_BYTES / SHA256_OUTPUT_LEN;

/// Parameters of the dm-verity target, for data and hash blocks of 4096 bytes and SHA-256.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verity {
    pub data_blocks: u64,
    /// Block at which the hash tree starts (there is no superblock).
    pub hash_start: u64,
    /// Lower-case hex.
    pub root_hash: String,
    /// Lower-case hex, or `-` for none.
    pub salt: String,
}

impl Verity {
    /// Size of a data block and of a hash block, in bytes.
    pub const BLOCK_BYTES: u64 = 4096;

    /// The kernel argument's value: `datablocks:hashstart:roothash:salt`. Parses back by `FromStr`.
    pub fn kernel_argument(&self) -> String {
        format!("{}:{}:{}:{}", self.data_blocks, self.hash_start, self.root_hash, self.salt)
    }

    pub(crate) fn check(&self) -> Result<(), &'static str> {
        // A salt may have 256 bytes (cryptsetup "DMVerity", on-disk format).
        let salted = self.salt == "-" || (self.salt.len().is_multiple_of(2) && is_hex(&self.salt, self.salt.len() / 2));
        let rules = [
            (self.data_blocks > 0, "covers no data"),
            (self.hash_start >= self.data_blocks, "has a hash tree that begins inside of the data"),
            (is_hex(&self.root_hash, 32), "has a root hash that is not 64 lower-case hex digits"),
            (salted && (1..=512).contains(&self.salt.len()), "has a salt that is neither hex nor `-`"),
        ];
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, reason)| Err(reason))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("dm-verity parameters are `datablocks:hashstart:roothash:salt`; these: {0}")]
pub struct MalformedVerity(&'static str);

impl FromStr for Verity {
    type Err = MalformedVerity;
    fn from_str(argument: &str) -> Result<Self, MalformedVerity> {
        let fields: Vec<&str> = argument.split(':').collect();
        let [data_blocks, hash_start, root_hash, salt] = fields[..] else {
            return Err(MalformedVerity("have not four fields"));
        };
        let number = |text: &str| {
            let digits = text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|_| digits).ok_or(MalformedVerity("have a block that is not a number"))
        };
        let verity = Self {
            data_blocks: number(data_blocks)?,
            hash_start: number(hash_start)?,
            root_hash: root_hash.to_owned(),
            salt: salt.to_owned(),
        };
        verity.check().map_err(MalformedVerity)?;
        Ok(verity)
    }
}

/// Why a tree cannot be appended, or is not the one that the parameters describe.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("{action} {path}", path = .path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} has {size} bytes, not a multiple of {BLOCK_BYTES}", path = .path.display())]
    Size { path: PathBuf, size: u64 },
    #[error("reading the data blocks")]
    Data(#[source] io::Error),
    #[error("reading the hash blocks")]
    Hashes(#[source] io::Error),
    #[error("the verity tree has a salt; `ros-image` makes none")]
    Salt,
    #[error("the verity tree does not follow the data directly")]
    Gap,
    #[error("the root hash is {actual}, not {expected}")]
    RootHash { actual: String, expected: String },
    #[error("the stored hash tree is damaged or has something behind it")]
    Stored,
}

/// Appends the tree to the image at `path`, whose size is a multiple of the block size.
pub fn append(path: &Path) -> Result<Verity, TreeError> {
    let failed = |action| move |source| TreeError::File { action, path: path.to_owned(), source };
    let image = File::open(path).map_err(failed("opening"))?;
    let size = image.metadata().map_err(failed("inspecting"))?.len();
    if size == 0 || !size.is_multiple_of(Verity::BLOCK_BYTES) {
        return Err(TreeError::Size { path: path.to_owned(), size });
    }
    let data_blocks = size / Verity::BLOCK_BYTES;
    let tree = Tree::of(BufReader::with_capacity(1 << 20, image), data_blocks).map_err(failed("hashing"))?;
    let mut image = OpenOptions::new().append(true).open(path).map_err(failed("opening"))?;
    image.write_all(&tree.blocks).map_err(failed("appending the verity tree to"))?;
    Ok(Verity { data_blocks, hash_start: data_blocks, root_hash: hex::encode(tree.root), salt: "-".to_owned() })
}

/// Checks that `image`, which starts at its first data block, has exactly the tree behind its data that `verity`
/// describes.
pub fn check(mut image: impl Read, verity: &Verity) -> Result<(), TreeError> {
    if verity.salt != "-" {
        return Err(TreeError::Salt);
    }
    if verity.hash_start != verity.data_blocks {
        return Err(TreeError::Gap);
    }
    let tree = Tree::of(&mut image, verity.data_blocks).map_err(TreeError::Data)?;
    let actual = hex::encode(tree.root);
    if actual != verity.root_hash {
        return Err(TreeError::RootHash { actual, expected: verity.root_hash.clone() });
    }
    let mut stored = Vec::new();
    image.read_to_end(&mut stored).map_err(TreeError::Hashes)?;
    if stored == tree.blocks { Ok(()) } else { Err(TreeError::Stored) }
}

struct Tree {
    root: [u8; SHA256_OUTPUT_LEN],
    /// All levels, the one nearest to the root first, as they are stored.
    blocks: Vec<u8>,
}

impl Tree {
    fn of(mut data: impl Read, data_blocks: u64) -> io::Result<Self> {
        let mut block = [0; BLOCK_BYTES];
        let mut level = Vec::new();
        for _ in 0..data_blocks {
            data.read_exact(&mut block)?;
            level.extend(digest(&SHA256, &block).as_ref());
        }
        let mut levels = Vec::new();
        while level.len() > SHA256_OUTPUT_LEN {
            pad(&mut level);
            let above: Vec<u8> = level.chunks(BLOCK_BYTES).flat_map(|b| digest(&SHA256, b).as_ref().to_vec()).collect();
            levels.push(std::mem::replace(&mut level, above));
        }
        let root = level.try_into().map_err(|_| io::Error::other("there is no data"))?;
        Ok(Self { root, blocks: levels.into_iter().rev().flatten().collect() })
    }
}

/// Fills the last block of a level with zeroes.
fn pad(level: &mut Vec<u8>) {
    let digests = level.len() / SHA256_OUTPUT_LEN;
    level.resize(digests.div_ceil(DIGESTS_PER_BLOCK) * BLOCK_BYTES, 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    /// Made with cryptsetup 2.6.1: 300 blocks, block `i` filled with the byte `i % 251`;
    /// `veritysetup format --salt=- --no-superblock --hash-offset=1228800 f f`.
    const ROOT_OF_300_BLOCKS: &str = "edc24cd4615abcd726845d41c1e48a99aeb5837da57ffd6c74dce3919d1d6447";
    const DIGEST_OF_300_BLOCKS_AND_TREE: &str = "2c979c88026595a698b2e79ee8b52a36da44602553ac4e642e4281927e13f1e2";

    fn image(blocks: usize) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..blocks).flat_map(|i| [(i % 251) as u8; BLOCK_BYTES]).collect();
        fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn the_tree_is_that_of_veritysetup() {
        let file = image(300);
        let verity = append(file.path()).unwrap();
        assert_eq!(verity.root_hash, ROOT_OF_300_BLOCKS);
        assert_eq!(crate::digest::of_file(file.path()).unwrap().0, DIGEST_OF_300_BLOCKS_AND_TREE);
    }

    #[test]
    fn a_changed_byte_is_found_in_data_and_in_the_tree() {
        let file = image(130);
        let verity = append(file.path()).unwrap();
        let good = fs::read(file.path()).unwrap();
        check(good.as_slice(), &verity).unwrap();
        for position in [0, 129 * BLOCK_BYTES + 7, 130 * BLOCK_BYTES + 3, good.len() - 1] {
            let mut bad = good.clone();
            bad[position] ^= 1;
            check(bad.as_slice(), &verity).unwrap_err();
        }
        check(&good[..good.len() - 1], &verity).unwrap_err();
    }

    #[test]
    fn odd_sizes_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        append(file.path()).unwrap_err();
        fs::write(file.path(), [0; 4097]).unwrap();
        append(file.path()).unwrap_err();
    }

    #[test]
    fn verity_parameters_that_cannot_be_are_refused() {
        let hash = "ab".repeat(32);
        assert!(format!("2:2:{hash}:-").parse::<Verity>().is_ok());
        assert!(format!("2:3:{hash}:00ff").parse::<Verity>().is_ok());
        for bad in
            ["", "1:2:3", &format!("2:1:{hash}:-"), &format!("+2:2:{hash}:-"), &format!("2:2:{hash}:-:"), "2:2::-"]
        {
            assert!(bad.parse::<Verity>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn an_argument_that_parses_comes_back(text in "[0-9a-f:-]{0,90}") {
            if let Ok(verity) = text.parse::<Verity>() {
                prop_assert_eq!(verity.kernel_argument().parse(), Ok(verity));
            }
        }
    }
}
