//! The contents of sectors. Equal contents have the same number.

use qemu::write_log::SECTOR;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};

/// Bytes of a sector.
pub const BYTES: usize = SECTOR as usize;
/// The number of a sector of zeros.
pub const ZERO: u32 = 0;

pub struct Contents {
    bytes: Vec<u8>,
    numbers: HashMap<u64, u32>,
}

impl Contents {
    pub fn new() -> Self {
        let mut contents = Self { bytes: Vec::new(), numbers: HashMap::new() };
        contents.number(&[0; BYTES]);
        contents
    }

    /// The number of a sector's content.
    pub fn number(&mut self, sector: &[u8]) -> u32 {
        let mut hasher = DefaultHasher::new();
        hasher.write(sector);
        let hash = hasher.finish();
        if let Some(known) = self.numbers.get(&hash)
            && self.bytes(*known) == sector
        {
            return *known;
        }
        let number = (self.bytes.len() / BYTES) as u32;
        self.bytes.extend_from_slice(sector);
        self.numbers.insert(hash, number);
        number
    }

    /// The numbers of bytes that begin at a sector. The last sector is filled up with zeros.
    pub fn numbers(&mut self, bytes: &[u8]) -> Vec<u32> {
        let number = |sector: &[u8]| {
            let mut whole = [0; BYTES];
            whole[..sector.len()].copy_from_slice(sector);
            self.number(&whole)
        };
        bytes.chunks(BYTES).map(number).collect()
    }

    pub fn bytes(&self, number: u32) -> &[u8] {
        &self.bytes[number as usize * BYTES..][..BYTES]
    }
}
