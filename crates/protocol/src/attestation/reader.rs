//! Big-endian TPM structures, read from the front.

/// The rest of a structure. No bytes make any of its methods panic.
pub(crate) struct Reader<'a>(&'a [u8]);

/// A structure that ends too early, or too late, or holds a value it may not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Malformed("the structure ends too early"))?;
        self.0 = rest;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Malformed("the structure ends too early"))?;
        self.0 = rest;
        Ok(*head)
    }
    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_be_bytes(self.array()?))
    }
    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }
    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }
    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }
    /// A TPM2B: two bytes of length, then that many bytes.
    pub(crate) fn sized(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
    /// A TPM2B that holds an unsigned number of at most `N` bytes. Some TPMs drop leading zeros; they are put back.
    pub(crate) fn padded<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let bytes = self.sized()?;
        let start = N.checked_sub(bytes.len()).ok_or(Malformed("a number is longer than its field"))?;
        let mut number = [0; N];
        number[start..].copy_from_slice(bytes);
        Ok(number)
    }
    /// Checks that nothing follows, so that two readers of the same bytes agree on their meaning.
    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("there are bytes after the end of the structure")) }
    }
}

/// Writes a TPM2B. All values that we write have a fixed size far below 64 KiB.
pub(crate) fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("a wrapped value fits its 16-bit length");
    [&length.to_be_bytes(), bytes].concat()
}
