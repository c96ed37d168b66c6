//! The dm-verity tree of a root image: its parameters, as the manifest and the kernel command line carry them, and the
//! tree itself: hash type 1, SHA-256, data and hash blocks of 4096 bytes, no salt, no superblock.
//!
//! Format: the kernel's `Documentation/admin-guide/device-mapper/verity.rst`; equal to what
//! `veritysetup format --no-superblock --salt=- --hash-offset=<data size>` appends.

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use boot_contract::VerityArgument;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

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
    pub const BLOCK_BYTES: u64 = boot_contract::verity::BLOCK_BYTES;

    /// The parameters as a kernel argument.
    pub fn argument(&self) -> VerityArgument {
        let Self { data_blocks, hash_start, root_hash, salt } = self.clone();
        VerityArgument { data_blocks, hash_start, root_hash, salt }
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
    #[error("the verity tree has a salt; `ros-image` builds trees without one")]
    Salt,
    #[error("the verity tree does not follow the data directly")]
    Gap,
    #[error("the root hash is {actual}, not {expected}")]
    RootHash { actual: String, expected: String },
    #[error("the stored hash tree is damaged or followed by other data")]
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
}
