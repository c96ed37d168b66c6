//! Signatures of a release: ECDSA with P-256 over the SHA-256 of the bytes of `release.json`, as DER, each in a file
//! `release.json.sig.d/<key id>`. `openssl dgst -sha256 -verify PUBLIC.pem -signature FILE release.json` checks one.
//!
//! The manifest has the digest of every file of the release, so its signature covers them all. One signature by a key
//! that the machine trusts suffices, so that a release can be signed by an old and by a new key while machines move from
//! one to the other.

mod private_key;
mod public_key;
mod trusted_keys;

pub use private_key::PrivateKey;
pub use public_key::{KeyId, PublicKey};
pub use trusted_keys::TrustedKeys;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The folder of the signatures, beside `release.json`.
pub const SIGNATURES: &str = "release.json.sig.d";
/// Bytes of the largest signature. DER of two numbers of 32 bytes has at most 72.
pub const MAX_SIGNATURE_BYTES: u64 = 72;
/// Most signatures that an error names.
const MOST_NAMED: usize = 16;
/// Most files among which they are looked for.
const MOST_LISTED: usize = 256;

/// Why a release may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The key `key_id`, which is trusted, signed the manifest.
    Signed { key_id: KeyId },
    /// There is no trusted key, so every release is taken. The caller says so.
    UnsignedAllowed,
}

/// Why a release may not be used, or a key.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    #[error(
        "the release in {folder} is not signed, and this machine takes only releases signed by {trusted}: sign it with \
         `ros-image build --sign KEY`, or choose a signed one",
        folder = .folder.display(), trusted = list(.trusted)
    )]
    Missing { folder: PathBuf, trusted: Vec<KeyId> },
    #[error(
        "no signature of the release in {folder} is valid: it is signed by {found}, and this machine trusts {trusted}{damaged}: \
         choose a release that is signed by a trusted key, or add its public key to rancheros.release.keys",
        folder = .folder.display(), found = list(.found), trusted = list(.trusted),
        damaged = if .damaged.is_empty() { String::new() } else {
            format!("; what {} signed is not this release.json", list(.damaged))
        }
    )]
    Invalid {
        folder: PathBuf,
        /// The keys after which the signatures are named, some of them if there are many.
        found: Vec<KeyId>,
        trusted: Vec<KeyId>,
        /// Those of the trusted keys whose signatures do not fit.
        damaged: Vec<KeyId>,
    },
    #[error("{file} cannot be used as a key for releases: {reason}")]
    KeyUnusable { file: String, reason: String },
    #[error("{action} {path}", path = .path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
}

impl SignatureError {
    /// The reason in one word, for conditions. It does not change between versions.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "SignatureMissing",
            Self::Invalid { .. } => "SignatureInvalid",
            Self::KeyUnusable { .. } => "KeyUnusable",
            Self::File { .. } => "SignatureUnreadable",
        }
    }
}

/// Checks whether a trusted key signed `manifest_bytes`, the bytes of `release.json` in `folder`. Reads nothing else of
/// the folder but its signatures.
pub fn verify(folder: &Path, manifest_bytes: &[u8], keys: &TrustedKeys) -> Result<Trust, SignatureError> {
    if keys.is_empty() {
        return Ok(Trust::UnsignedAllowed);
    }
    let signatures = folder.join(SIGNATURES);
    let mut damaged = Vec::new();
    for key in keys.iter() {
        match read_signature(&signatures.join(key.id().to_string()))? {
            Some(signature) if key.verifies(manifest_bytes, &signature) => {
                return Ok(Trust::Signed { key_id: key.id() });
            }
            Some(_) => damaged.push(key.id()),
            None => {}
        }
    }
    let (folder, trusted) = (folder.to_owned(), keys.iter().map(PublicKey::id).collect());
    let found = signers(&folder)?;
    if found.is_empty() {
        return Err(SignatureError::Missing { folder, trusted });
    }
    Err(SignatureError::Invalid { folder, found, trusted, damaged })
}

/// The keys after which the signatures in the folder of a release are named, at most 16, in order. Checks none of them.
pub fn signers(folder: &Path) -> Result<Vec<KeyId>, SignatureError> {
    let path = folder.join(SIGNATURES);
    let unreadable = |source| SignatureError::File { action: "reading", path: path.clone(), source };
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut found = Vec::new();
    for entry in entries.take(MOST_LISTED) {
        let name = entry.map_err(unreadable)?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse::<KeyId>().ok()));
    }
    found.sort();
    found.truncate(MOST_NAMED);
    Ok(found)
}

/// Puts a signature by the key `id` beside the `release.json` in `folder`.
pub fn write(folder: &Path, id: KeyId, signature: &[u8]) -> Result<(), SignatureError> {
    let signatures = folder.join(SIGNATURES);
    let path = signatures.join(id.to_string());
    fs::create_dir_all(&signatures).and_then(|()| fs::write(&path, signature)).map_err(|source| SignatureError::File {
        action: "writing",
        path,
        source,
    })
}

/// The bytes of a signature. `None`: there is no such file. One that is too long comes back cut, and fits nothing.
fn read_signature(path: &Path) -> Result<Option<Vec<u8>>, SignatureError> {
    let unreadable = |source| SignatureError::File { action: "reading", path: path.to_owned(), source };
    match read_bounded(path, MAX_SIGNATURE_BYTES + 1) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(error)),
    }
}

/// At most `limit` bytes of a plain file. Anything else, such as a pipe, which would block, is an error.
fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("this is not a plain file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// PEM with lines of 64 characters (RFC 7468).
fn to_pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: String = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line) + "\n").collect();
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}

/// Key ids in one line.
fn list(ids: &[KeyId]) -> String {
    let ids: Vec<String> = ids.iter().map(KeyId::to_string).collect();
    if ids.is_empty() { "no key".to_owned() } else { ids.join(", ") }
}

#[cfg(test)]
mod tests;
