//! The dm-verity hash tree: hash type 1, SHA-256, data and hash blocks of 4096 bytes, no salt, no superblock.
//! Format: the kernel's `Documentation/admin-guide/device-mapper/verity.rst`; equal to what
//! `veritysetup format --no-superblock --salt=- --hash-offset=<data size>` appends.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use protocol::release::Verity;

pub const BLOCK_BYTES: usize = 4096;
const DIGESTS_PER_BLOCK: usize = BLOCK_BYTES / SHA256_OUTPUT_LEN;

/// Appends the tree to the image at `path`, whose size is a multiple of the block size.
pub fn append(path: &Path) -> Result<Verity> {
    let image = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let size = image.metadata().with_context(|| format!("inspecting {}", path.display()))?.len();
    ensure!(
        size > 0 && size.is_multiple_of(BLOCK_BYTES as u64),
        "{} has {size} bytes, not a multiple of {BLOCK_BYTES}",
        path.display()
    );
    let data_blocks = size / BLOCK_BYTES as u64;
    let tree = Tree::of(BufReader::with_capacity(1 << 20, image), data_blocks)
        .with_context(|| format!("hashing {}", path.display()))?;
    let mut image =
        OpenOptions::new().append(true).open(path).with_context(|| format!("opening {}", path.display()))?;
    image.write_all(&tree.blocks).with_context(|| format!("appending the verity tree to {}", path.display()))?;
    Ok(Verity { data_blocks, hash_start: data_blocks, root_hash: hex::encode(tree.root), salt: "-".to_owned() })
}

/// Whether `image`, which starts at its first data block, has exactly the tree behind its data that `verity` says.
pub fn check(mut image: impl Read, verity: &Verity) -> Result<()> {
    ensure!(verity.salt == "-", "the verity tree has a salt; this program makes none");
    ensure!(verity.hash_start == verity.data_blocks, "the verity tree does not follow the data directly");
    let tree = Tree::of(&mut image, verity.data_blocks).context("reading the data blocks")?;
    let root = hex::encode(tree.root);
    ensure!(root == verity.root_hash, "the root hash is {root}, not {}", verity.root_hash);
    let mut stored = Vec::new();
    image.read_to_end(&mut stored).context("reading the hash blocks")?;
    ensure!(stored == tree.blocks, "the stored hash tree is damaged or has something behind it");
    Ok(())
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
    use std::fs;

    use super::*;

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
        assert_eq!(crate::digest::of_file(file.path()).unwrap(), DIGEST_OF_300_BLOCKS_AND_TREE);
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
