//! Memory that is aligned for direct I/O.

use std::ops::{Deref, DerefMut};

/// The alignment that direct I/O needs. A page suits every device.
pub const MEMORY_ALIGNMENT: usize = 4096;

/// Zeroed bytes that begin at a multiple of [`MEMORY_ALIGNMENT`].
pub struct AlignedBuffer {
    storage: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBuffer {
    pub fn new(length: usize) -> Self {
        let storage = vec![0; length + MEMORY_ALIGNMENT];
        // A vector that is never resized keeps its address, even when the buffer itself is moved.
        let start = (storage.as_ptr() as usize).next_multiple_of(MEMORY_ALIGNMENT) - storage.as_ptr() as usize;
        Self { storage, start, length }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.length]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_aligned_and_as_many_as_asked_for() {
        let buffer = AlignedBuffer::new(5000);
        assert_eq!(buffer.len(), 5000);
        assert_eq!(buffer.as_ptr() as usize % MEMORY_ALIGNMENT, 0);
    }
}
