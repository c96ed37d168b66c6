//! Files that a cloud-config writes.

use crate::node::Node;
use crate::{BINARY, tag};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// A file with its content. `Debug` shows the path only.
#[derive(Clone)]
pub struct WriteFile {
    /// Its path in the document, such as `write_files[0]`.
    pub at: String,
    pub path: String,
    pub content: Vec<u8>,
    /// Whether the content is to be unpacked.
    pub gzip: bool,
    pub mode: u32,
    /// User and group by name; an empty group is the user's own.
    pub owner: (String, String),
    pub append: bool,
    pub defer: bool,
    /// The number of entries before it that have the same path.
    pub earlier: usize,
}

impl std::fmt::Debug for WriteFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteFile").field("path", &self.path).finish_non_exhaustive()
    }
}

pub(super) fn write_files(node: &Node) -> Vec<WriteFile> {
    let mut files: Vec<WriteFile> = Vec::new();
    for node in node.items() {
        if let Some(mut file) = write_file(&node) {
            file.earlier = files.iter().filter(|other| other.path == file.path).count();
            files.push(file);
        }
    }
    files
}

/// A file with a key other than `defer` that cannot be used is not written, because it would be another file.
fn write_file(node: &Node) -> Option<WriteFile> {
    let mut fields = node.fields()?;
    let path = fields.get("path");
    let content = fields.get("content");
    let encoding = fields.get("encoding");
    let permissions = fields.get("permissions");
    let owner = fields.get("owner");
    let append = fields.get("append");
    let defer = fields.get("defer").and_then(|node| node.flag()).unwrap_or_default();
    let source = fields.get("source");
    drop(fields);
    if let Some(source) = source {
        source.refuse("the source is not downloaded, and the file stays unchanged");
        return None;
    }
    let Some(path) = path else {
        node.refuse("it has no path");
        return None;
    };
    let is_path = |path: &str| path.starts_with('/') && !path.contains('\0');
    let path = path.text_that(is_path, "the path must be absolute")?;
    let encoding = match encoding {
        Some(node) => Some((node.text()?, node)),
        None => None,
    };
    let (content, gzip) = decode(content.as_ref(), encoding.as_ref())?;
    let owner = match owner {
        Some(node) => node.line()?,
        None => "root:root".into(),
    };
    let (user, group) = owner.split_once(':').unwrap_or((&owner, ""));
    let user = if user.trim().is_empty() { "root" } else { user.trim() };
    Some(WriteFile {
        at: node.path.clone(),
        path,
        content,
        gzip,
        mode: match permissions {
            Some(node) => mode(&node)?,
            None => 0o644,
        },
        owner: (user.to_owned(), group.trim().to_owned()),
        append: match append {
            Some(node) => node.flag()?,
            None => false,
        },
        defer,
        earlier: 0,
    })
}

/// Encodings and their spellings as in cloud-init's `cc_write_files`. The code that writes the file unpacks gzip.
fn decode(content: Option<&Node>, encoding: Option<&(String, Node)>) -> Option<(Vec<u8>, bool)> {
    let bytes = match content {
        None => Vec::new(),
        Some(node) => match node.value.get(BINARY).and_then(Value::as_str) {
            Some(base64) if tag(node.value) == Some(BINARY) => from_base64(base64, node)?,
            _ => node.text()?.into_bytes(),
        },
    };
    let unpacked = |bytes: Vec<u8>| match content {
        Some(node) => from_base64(&String::from_utf8_lossy(&bytes), node),
        None => Some(bytes),
    };
    match encoding.map(|(encoding, _)| encoding.trim().to_lowercase()).as_deref() {
        None | Some("" | "text/plain") => Some((bytes, false)),
        Some("b64" | "base64") => Some((unpacked(bytes)?, false)),
        Some("gz" | "gzip") => Some((bytes, true)),
        Some("gz+b64" | "gz+base64" | "gzip+b64" | "gzip+base64") => Some((unpacked(bytes)?, true)),
        Some(_) => {
            encoding?.1.refuse("the encoding is not supported");
            None
        }
    }
}

fn from_base64(text: &str, node: &Node) -> Option<Vec<u8>> {
    let compact: String = text.split_whitespace().collect();
    let decoded = STANDARD.decode(compact).ok();
    if decoded.is_none() {
        node.refuse("it is not base64");
    }
    decoded
}

/// Text is octal. A number is the mode itself, because a reader of YAML 1.1, such as kubectl, makes 420 of `0644`. If
/// only its digits, read as octal ones, are a usual mode, they are the mode: 644 would be `01204`.
fn mode(node: &Node) -> Option<u32> {
    let octal = |digits: &str| u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o7777);
    let mode = match node.value {
        Value::String(digits) => octal(digits.trim().trim_start_matches("0o")),
        Value::Number(number) => {
            let itself = number.as_u64().and_then(|mode| u32::try_from(mode).ok()).filter(|mode| *mode <= 0o7777);
            let written = octal(&number.to_string()).filter(|mode| is_usual(*mode));
            match (itself.filter(|mode| is_usual(*mode)), written) {
                // 511 is the value of 0777. The mode 0511 is never meant.
                (Some(0o777), _) => Some(0o777),
                (Some(mode), None) | (None, Some(mode)) => Some(mode),
                _ => None,
            }
        }
        _ => None,
    };
    if mode.is_none() {
        node.refuse("permissions must be octal digits in quotes, such as '0644'");
    }
    mode
}

/// Whether the owner may read, the group may do no more than the owner, and others no more than the group.
fn is_usual(mode: u32) -> bool {
    let (user, group, other) = ((mode >> 6) & 7, (mode >> 3) & 7, mode & 7);
    user & 4 != 0 && group & !user == 0 && other & !group == 0
}
