//! Reads an OCI image layout in a tar archive: one image, as `ros-image build` writes it (image-spec, `image-layout.md`).

use crate::RegistryError;
use crate::digest::Digest;
use crate::error::quoted;
use crate::manifest::Descriptor;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use tar::{Archive, EntryType};

const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
const MAX_ENTRIES: usize = 1000;

/// An image in an archive. The blobs stay in the file.
#[derive(Debug)]
pub(crate) struct ImageArchive {
    path: PathBuf,
    pub(crate) manifest: Vec<u8>,
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    /// The configuration and the layers, each once.
    pub(crate) blobs: Vec<Blob>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// Where it begins in the archive.
    pub(crate) offset: u64,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

impl ImageArchive {
    pub(crate) fn open(path: &Path) -> Result<Self, RegistryError> {
        let invalid = |why: String| RegistryError::ArchiveInvalid { path: path.to_owned(), why };
        let mut file = File::open(path).map_err(RegistryError::storage(path))?;
        let places = places(&file).map_err(|error| invalid(quoted(&error.to_string())))?;
        let mut document = |name: &str| {
            let (offset, size) = *places.get(name).ok_or_else(|| invalid(format!("it has no {name}")))?;
            if size > MAX_DOCUMENT_BYTES {
                return Err(invalid(format!("{name} has {size} bytes")));
            }
            let mut bytes = Vec::new();
            let read = file.seek(SeekFrom::Start(offset)).and_then(|_| (&file).take(size).read_to_end(&mut bytes));
            read.map_err(RegistryError::storage(path))?;
            Ok(bytes)
        };
        let malformed = |name: &str, error: serde_json::Error| invalid(format!("{name}: {error}"));
        let index: Index =
            serde_json::from_slice(&document("index.json")?).map_err(|error| malformed("index.json", error))?;
        let [named] = index.manifests.as_slice() else {
            return Err(invalid(format!("it has {} images; one is pushed", index.manifests.len())));
        };
        let digest = |text: &str| text.parse::<Digest>().map_err(|()| invalid("a digest is not SHA-256".into()));
        let manifest_digest = digest(&named.digest)?;
        let manifest = document(&blob_name(&manifest_digest))?;
        if Digest::of(&manifest) != manifest_digest {
            return Err(invalid("its manifest does not have the digest that index.json says".into()));
        }
        let parsed: Manifest = serde_json::from_slice(&manifest).map_err(|error| malformed("the manifest", error))?;
        let mut blobs: Vec<Blob> = Vec::new();
        for descriptor in std::iter::once(&parsed.config).chain(&parsed.layers) {
            let digest = digest(&descriptor.digest)?;
            match places.get(&blob_name(&digest)) {
                Some((offset, size)) if *size == descriptor.size => {
                    if blobs.iter().all(|blob| blob.digest != digest) {
                        blobs.push(Blob { digest, size: *size, offset: *offset });
                    }
                }
                Some((_, size)) => {
                    return Err(invalid(format!("{digest} has {size} bytes, its manifest says {}", descriptor.size)));
                }
                None => return Err(invalid(format!("it has no {}", blob_name(&digest)))),
            }
        }
        Ok(Self {
            path: path.to_owned(),
            manifest,
            media_type: named.media_type.clone(),
            digest: manifest_digest,
            blobs,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Files of the archive: where each begins, and how many bytes it has.
fn places(file: &File) -> std::io::Result<BTreeMap<String, (u64, u64)>> {
    let mut places = BTreeMap::new();
    for entry in Archive::new(file).entries_with_seek()?.take(MAX_ENTRIES) {
        let entry = entry?;
        if entry.header().entry_type() == EntryType::Regular {
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
            places.insert(name, (entry.raw_file_position(), entry.size()));
        }
    }
    Ok(places)
}
