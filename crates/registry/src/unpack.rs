//! Unpacks a release from the layers of an image: regular files below `release/`, and nothing else.

use crate::error::quoted;
use crate::manifest::{MAX_IMAGE_BYTES, too_large};
use crate::{Reference, RegistryError};
use flate2::read::MultiGzDecoder;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::Path;
use tar::{Archive, Entry, EntryType, PaxExtensions};

/// Where the release is in the image, without the leading slash.
const PREFIX: &str = "release/";
const MAX_FILES: usize = 64;
/// Entries of a layer, those outside the release included.
const MAX_ENTRIES: usize = 100_000;
/// The largest header extension that is read.
const MAX_EXTENSION_BYTES: u64 = 64 * 1024;

/// Unpacks into a folder that holds no file of the release yet.
pub(crate) struct Unpacker<'a> {
    reference: &'a Reference,
    folder: &'a Path,
    files: BTreeSet<String>,
    bytes: u64,
}

impl<'a> Unpacker<'a> {
    pub(crate) fn new(reference: &'a Reference, folder: &'a Path) -> Self {
        Self { reference, folder, files: BTreeSet::new(), bytes: 0 }
    }

    /// Unpacks a layer, whose digest has been checked.
    pub(crate) fn layer(&mut self, blob: &Path, is_gzip: bool) -> Result<(), RegistryError> {
        let file = File::open(blob).map_err(RegistryError::storage(blob))?;
        // A layer that unpacks to more than an image may have is cut off, and then reads as one that is damaged.
        let reader: Box<dyn Read> = match is_gzip {
            false => Box::new(BufReader::new(file)),
            true => Box::new(BufReader::new(MultiGzDecoder::new(BufReader::new(file)).take(MAX_IMAGE_BYTES))),
        };
        let mut archive = Archive::new(reader);
        // The reader's message may quote the layer.
        let why = |error: io::Error| format!("a layer is no tar archive: {}", quoted(&error.to_string()));
        // Raw: the reader would take header extensions of any size into memory.
        let entries = archive.entries().map_err(|error| self.not_a_release(why(error)))?.raw(true);
        let (mut count, mut has_long_name) = (0, false);
        for entry in entries {
            let mut entry = entry.map_err(|error| self.not_a_release(why(error)))?;
            count += 1;
            if count > MAX_ENTRIES {
                return Err(too_large(self.reference, "a layer has too many entries", MAX_ENTRIES as u64));
            }
            match entry.header().entry_type() {
                EntryType::GNULongName | EntryType::GNULongLink => has_long_name = true,
                EntryType::XHeader => has_long_name |= self.renames(&mut entry)?,
                EntryType::XGlobalHeader => (),
                _ => {
                    self.entry(&mut entry, has_long_name)?;
                    has_long_name = false;
                }
            }
        }
        Ok(())
    }

    /// After the last layer.
    pub(crate) fn finish(self) -> Result<(), RegistryError> {
        if self.files.contains(release::MANIFEST) {
            return Ok(());
        }
        Err(self.not_a_release(format!("it has no {PREFIX}{}", release::MANIFEST)))
    }

    fn entry(&mut self, entry: &mut Entry<'_, impl Read>, has_long_name: bool) -> Result<(), RegistryError> {
        let name = entry.path_bytes().into_owned();
        let name = std::str::from_utf8(&name).map_err(|_| self.not_a_release("a name is not UTF-8".into()))?;
        let name = name.strip_prefix("./").unwrap_or(name).trim_start_matches('/');
        let refused = |why: &str| self.not_a_release(format!("{:?} {why}", quoted(name)));
        if name.split('/').any(|part| part == "..") {
            return Err(refused("leads out of the image"));
        }
        let Some(inside) = name.strip_prefix(PREFIX).filter(|inside| !inside.is_empty()) else {
            return Ok(());
        };
        if has_long_name {
            return Err(refused("has a name that is too long"));
        }
        match entry.header().entry_type() {
            EntryType::Directory => return Ok(()),
            EntryType::Regular => (),
            EntryType::Link | EntryType::Symlink => return Err(refused("is a link; a release has only files")),
            _ => return Err(refused("is not a file")),
        }
        if !release::is_inside(inside) {
            return Err(refused("is no path of a release's file"));
        }
        // A layer above would remove a file with it (image-spec, `layer.md`, "Whiteouts").
        if inside.split('/').any(|part| part.starts_with(".wh.") || part == ".blobs") {
            return Err(refused("is a name with a special meaning"));
        }
        let is_folder_of_another = |file: &String| {
            let below = |path: &str, folder: &str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
            below(file, inside) || below(inside, file)
        };
        if self.files.iter().any(is_folder_of_another) {
            return Err(refused("is a file and a folder"));
        }
        let size = entry.size();
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > MAX_IMAGE_BYTES {
            return Err(too_large(self.reference, "its files have too many bytes", MAX_IMAGE_BYTES));
        }
        self.files.insert(inside.to_owned());
        if self.files.len() > MAX_FILES {
            return Err(too_large(self.reference, "it has too many files", MAX_FILES as u64));
        }
        self.write(entry, inside, size)
    }

    fn write(&self, entry: &mut impl Read, name: &str, size: u64) -> Result<(), RegistryError> {
        let path = self.folder.join(name);
        let failed = || RegistryError::storage(&path);
        fs::create_dir_all(path.parent().unwrap_or(self.folder)).map_err(failed())?;
        // A layer may replace a file of a lower one.
        let mut file = File::create(&path).map_err(failed())?;
        let copied = io::copy(entry, &mut file).map_err(failed())?;
        if copied != size {
            return Err(self.not_a_release(format!("a layer ends within {name}")));
        }
        Ok(())
    }

    /// Whether an extended header changes the name of the entry that follows.
    fn renames(&self, entry: &mut Entry<'_, impl Read>) -> Result<bool, RegistryError> {
        let damaged = |_| self.not_a_release("a layer has a damaged extended header".into());
        if entry.size() > MAX_EXTENSION_BYTES {
            return Err(too_large(self.reference, "a layer has a large extended header", MAX_EXTENSION_BYTES));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(damaged)?;
        let mut renames = false;
        for extension in PaxExtensions::new(&bytes) {
            match extension.map_err(damaged)?.key_bytes() {
                b"path" | b"linkpath" => renames = true,
                // The size in the plain header is not the entry's, and neither is the place of the next header.
                b"size" => return Err(self.not_a_release("a layer has a file of more than 8 GiB".into())),
                _ => (),
            }
        }
        Ok(renames)
    }

    fn not_a_release(&self, why: String) -> RegistryError {
        RegistryError::not_a_release(self.reference, why)
    }
}

#[cfg(test)]
mod tests;
