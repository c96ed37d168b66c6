//! Reads the entries of a tar archive: ustar, GNU and POSIX, sparse files included. `tar-core` parses the headers, bounded;
//! contents stay in the archive.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use tar_core::EntryType;
use tar_core::parse::{Limits, ParseEvent, ParsedEntry, Parser};

use super::stored::Part;
use super::{Kind, Node, Stored};

/// A tar archive is made of blocks of so many bytes.
const BLOCK: u64 = 512;

/// What the archives of a tree may hold, all of them together. A bomb is larger; a system is not.
#[derive(Debug)]
pub struct Budget {
    pub entries: u64,
    /// Of all files as they would be written out: the holes of sparse files count.
    pub bytes: u64,
}

impl Budget {
    pub fn of_a_system() -> Self {
        Self { entries: 2_000_000, bytes: 64 << 30 }
    }

    fn take(&mut self, bytes: u64) -> Result<()> {
        self.entries = self.entries.checked_sub(1).context("it has more files than a system: 2 000 000")?;
        self.bytes = self.bytes.checked_sub(bytes).context("its files have more bytes than a system: 64 GiB")?;
        Ok(())
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// As the archive has it. Not checked.
    pub(super) path: String,
    pub(super) what: What,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    Node(Node),
    /// One more name of the file at this path.
    HardLink(String),
}

/// Reads the archive at `path`, which is not compressed.
pub(super) fn read(path: &Path, budget: &mut Budget) -> Result<Vec<Entry>> {
    let mut headers = Headers::open(path)?;
    // For one entry: 1 MiB of names and attributes, 10 000 parts of a sparse file.
    let mut parser = Parser::new(Limits { max_path_len: Some(4096), ..Limits::default() });
    parser.set_allow_empty_path(true);
    let archive: Arc<Path> = path.into();
    let mut entries = Vec::new();
    loop {
        let at = headers.position;
        let (consumed, entry, parts) = match parser.parse(&headers.buffer).map_err(|e| anyhow!("at byte {at}: {e}"))? {
            ParseEvent::NeedData { min_bytes } => {
                if headers.fill(min_bytes)? {
                    continue;
                }
                // Every tar ends with two blocks of zeros.
                bail!("it was cut off: it ends at byte {} without an end mark", headers.length);
            }
            ParseEvent::End { .. } => return Ok(entries),
            ParseEvent::GlobalExtensions { consumed, .. } => {
                headers.go_to(at + consumed as u64)?;
                continue;
            }
            ParseEvent::Entry { consumed, entry } => {
                let whole = Part { at: 0, from: 0, length: entry.size };
                (consumed, entry, (whole.length, vec![whole]))
            }
            ParseEvent::SparseEntry { consumed, entry, sparse_map, real_size } => {
                let parts = sparse_map.iter().map(|part| Part { at: part.offset, from: 0, length: part.length });
                (consumed, entry, (real_size, parts.collect()))
            }
        };
        let content = at + consumed as u64;
        let name = String::from_utf8_lossy(&entry.path).into_owned();
        let end = content.checked_add(entry.size).filter(|end| *end <= headers.length);
        let end = end.with_context(|| format!("it ends within {name:?}"))?;
        let what = what(&entry, &archive, content, parts, budget).with_context(|| format!("{name:?}"))?;
        let path = String::from_utf8(entry.path.into_owned())
            .ok()
            .with_context(|| format!("the name {name:?} is not UTF-8; rename or remove it"))?;
        entries.push(Entry { path, what });
        headers.go_to(end.next_multiple_of(BLOCK))?;
    }
}

fn what(
    entry: &ParsedEntry<'_>,
    archive: &Arc<Path>,
    content: u64,
    (size, parts): (u64, Vec<Part>),
    budget: &mut Budget,
) -> Result<What> {
    let target = || -> Result<String> {
        let target = entry.link_target.as_ref().context("a link has no target")?;
        String::from_utf8(target.to_vec()).context("the target of a link is not UTF-8")
    };
    let is_folder = entry.entry_type == EntryType::Directory
        // Archives from before POSIX have no type for folders.
        || (entry.entry_type == EntryType::Regular && entry.path.ends_with(b"/"));
    let kind = match entry.entry_type {
        _ if is_folder => Kind::Folder,
        EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse => stored(archive, content, size, parts)?,
        EntryType::Symlink => Kind::Link(target()?),
        EntryType::Char | EntryType::Block => Kind::Device {
            is_block: entry.entry_type == EntryType::Block,
            major: entry.dev_major.unwrap_or_default(),
            minor: entry.dev_minor.unwrap_or_default(),
        },
        EntryType::Fifo => Kind::Pipe,
        EntryType::Link => {
            budget.take(0)?;
            return Ok(What::HardLink(target()?));
        }
        other => bail!("it has the type {other:?}, which no system needs"),
    };
    budget.take(if matches!(kind, Kind::Stored(_)) { size } else { 0 })?;
    let mut attributes = std::collections::BTreeMap::new();
    for (name, value) in &entry.xattrs {
        let name = String::from_utf8(name.to_vec()).context("the name of an attribute is not UTF-8")?;
        if is_kept(&name) {
            attributes.insert(name, value.to_vec());
        }
    }
    Ok(What::Node(Node { mode: entry.mode & 0o7777, user: entry.uid, group: entry.gid, attributes, kind }))
}

/// The parts lie one behind the other, from the byte `content` of the archive on; each begins a block.
fn stored(archive: &Arc<Path>, content: u64, size: u64, mut parts: Vec<Part>) -> Result<Kind> {
    if size == 0 {
        return Ok(Kind::File(Vec::new()));
    }
    let mut from = content;
    for part in &mut parts {
        part.from = from;
        from = from.checked_add(part.length).context("its parts have too many bytes")?;
    }
    let stored = Stored::new(archive, size, parts).context("the parts of a sparse file contradict each other")?;
    Ok(Kind::Stored(Arc::new(stored)))
}

/// Whether a system needs the extended attribute: the capabilities of programs, access control lists, and users' own. Labels
/// of SELinux are those of the machine that made the archive, and `trusted.` is of overlayfs.
pub(super) fn is_kept(name: &str) -> bool {
    matches!(name, "security.capability" | "system.posix_acl_access" | "system.posix_acl_default")
        || (name.starts_with("user.") && !name.starts_with("user.overlay."))
}

/// The headers of an archive, one after the other.
struct Headers {
    file: BufReader<File>,
    /// Of the archive, in bytes.
    length: u64,
    /// Where `buffer` begins in the archive.
    position: u64,
    buffer: Vec<u8>,
}

impl Headers {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let length = file.metadata().with_context(|| format!("inspecting {}", path.display()))?.len();
        Ok(Self { file: BufReader::new(file), length, position: 0, buffer: Vec::new() })
    }

    /// Reads until the buffer has so many bytes. False if the archive ends before.
    fn fill(&mut self, bytes: usize) -> Result<bool> {
        let missing = bytes.saturating_sub(self.buffer.len()) as u64;
        let read = (&mut self.file).take(missing).read_to_end(&mut self.buffer).context("reading the archive")?;
        Ok(read as u64 == missing)
    }

    fn go_to(&mut self, position: u64) -> Result<()> {
        let here = self.position + self.buffer.len() as u64;
        match i64::try_from(i128::from(position) - i128::from(here)) {
            Ok(distance) => self.file.seek_relative(distance).context("reading the archive")?,
            Err(_) => self.file.seek(SeekFrom::Start(position)).map(drop).context("reading the archive")?,
        }
        (self.position, self.buffer) = (position, Vec::new());
        Ok(())
    }
}
