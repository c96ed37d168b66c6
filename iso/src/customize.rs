//! Puts registration settings into an existing ISO, disk image or network set, in place or in a copy, or removes them.

mod network;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use command::Command;
use media::changes::Places;
use media::iso9660::Extent;
use media::reserved_space;
use serde::Serialize;

use crate::cli::CustomizeOptions;

/// As the name of the output.
const STANDARD_OUTPUT: &str = "-";

/// The result of a change, printed with `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Customized<'a> {
    medium: &'a Path,
    /// `None`: the medium is no ISO.
    #[serde(skip_serializing_if = "Option::is_none")]
    volume_id: Option<String>,
    /// Offset of the reserved space in the file, in bytes.
    offset: u64,
    reserved_bytes: u64,
    settings: bool,
}

pub fn run(options: &CustomizeOptions) -> Result<()> {
    let settings = options.registration.as_deref().map(settings).transpose()?;
    if options.medium.is_dir() {
        return network::run(options, settings.as_ref());
    }
    let content = settings.map_or_else(|| reserved_space::empty().into_bytes(), |settings| settings.reserved);
    let places = open(&options.medium)?;
    let volume_id = places.id_with(&content);
    if options.output.as_deref() == Some(Path::new(STANDARD_OUTPUT)) {
        return write_to(&mut std::io::stdout().lock(), &options.medium, &places, content);
    }
    let parts = places.changes(content);
    let changed = match &options.output {
        Some(output) => {
            write_copy(&options.medium, output, &parts)?;
            output
        }
        None => {
            let medium = OpenOptions::new().write(true).open(&options.medium);
            let medium = medium.with_context(|| format!("opening {} for writing", options.medium.display()))?;
            let locked = medium.try_lock();
            locked.with_context(|| format!("{} is being changed by another program", options.medium.display()))?;
            write_parts(medium, &options.medium, &parts)?;
            &options.medium
        }
    };
    report(
        options.json,
        &Customized {
            medium: changed,
            volume_id,
            offset: places.settings.offset,
            reserved_bytes: places.settings.size,
            settings: options.registration.is_some(),
        },
    )
}

/// Settings that a medium can hold.
pub(crate) struct Settings {
    pub(crate) text: String,
    /// The content of the reserved space.
    reserved: Vec<u8>,
}

pub(crate) fn settings(path: &Path) -> Result<Settings> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let reserved = reserved_space::filled(&text).with_context(|| format!("checking {}", path.display()))?;
    Ok(Settings { text, reserved })
}

/// Whether both paths lead to the same file or folder.
fn is_same(one: &Path, other: &Path) -> bool {
    one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

fn open(path: &Path) -> Result<Places> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    Places::find(file).with_context(|| format!("putting settings into {}", path.display()))
}

/// Writes a changed copy to a pipe.
fn write_to(output: &mut impl Write, source: &Path, places: &Places, content: Vec<u8>) -> Result<()> {
    let medium = File::open(source).with_context(|| format!("opening {}", source.display()))?;
    let size = medium.metadata().with_context(|| format!("inspecting {}", source.display()))?.len();
    let written = places.composed(size, content).write(medium, output);
    written.with_context(|| format!("writing {} to standard output", source.display()))?;
    output.flush().context("writing to standard output")
}

/// Places in a medium, and what is to be there.
type Parts = [(Extent, Vec<u8>)];

/// Copies to a temporary file first, so that `output` is complete or unchanged.
fn write_copy(source: &Path, output: &Path, parts: &Parts) -> Result<()> {
    ensure!(
        !is_same(source, output),
        "--output {} is the medium itself; omit --output to change it in place",
        output.display()
    );
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).map_or(PathBuf::from("."), Into::into);
    let copy =
        tempfile::NamedTempFile::new_in(&folder).with_context(|| format!("creating a file in {}", folder.display()))?;
    // A disk image is mostly holes.
    Command::new("cp").args(["--reflink=auto", "--sparse=always", "--"]).arg(source).arg(copy.path()).run()?;
    write_parts(copy.as_file().try_clone().context("duplicating the file handle of the copy")?, output, parts)?;
    let permissions = source.metadata().with_context(|| format!("inspecting {}", source.display()))?.permissions();
    copy.as_file().set_permissions(permissions).with_context(|| format!("setting the mode of {}", output.display()))?;
    copy.persist(output).with_context(|| format!("renaming the copy to {}", output.display()))?;
    Ok(())
}

fn write_parts(medium: File, path: &Path, parts: &Parts) -> Result<()> {
    let write = |(extent, content): &(Extent, Vec<u8>)| {
        medium.write_all_at(content, extent.offset).and_then(|()| medium.sync_all())
    };
    let written = parts.iter().try_for_each(write);
    written.with_context(|| format!("writing the settings into {}", path.display()))
}

fn report(json: bool, customized: &Customized) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(customized)?);
    } else {
        let id = customized.volume_id.as_ref().map(|id| format!(" ({id})")).unwrap_or_default();
        println!("{}{id} {}", customized.medium.display(), change(customized.settings));
    }
    Ok(())
}

fn change(has_settings: bool) -> &'static str {
    if has_settings { "contains the settings" } else { "contains no settings any more" }
}
