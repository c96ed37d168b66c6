//! The digest that names a blob.

use std::fmt;
use std::str::FromStr;

/// `sha256:` and 64 lower-case hex digits. A file name can be made from it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Digest(String);

impl Digest {
    pub(crate) fn hex(&self) -> &str {
        &self.0
    }

    /// The digest of bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(release::digest::of_bytes(bytes))
    }
}

impl FromStr for Digest {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let hex = text.strip_prefix("sha256:").ok_or(())?;
        let is_hex = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        is_hex.then(|| Self(hex.to_owned())).ok_or(())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}
