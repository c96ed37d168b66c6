//! Puts registration settings into an existing ISO or network set, in place or in a copy, or removes them.

mod network;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use media::iso9660::{Extent, Volume};
use media::reserved_space;
use serde::Serialize;

use crate::cli::CustomizeOptions;

/// The result of a change, printed with `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Customized<'a> {
    iso: &'a Path,
    volume_id: &'a str,
    /// Offset of the reserved space in the ISO, in bytes.
    offset: u64,
    reserved_bytes: u64,
    settings: bool,
}

pub fn run(options: &CustomizeOptions) -> Result<()> {
    let settings = options.registration.as_deref().map(settings).transpose()?;
    if options.iso.is_dir() {
        return network::run(options, settings.as_ref());
    }
    let content = settings.map_or_else(|| reserved_space::empty().into_bytes(), |settings| settings.reserved);
    let (volume_id, extent, id_extent) = open(&options.iso)?;
    let volume_id = reserved_space::volume_id(&volume_id, reserved_space::digest(&content).as_deref());
    // The id comes last: a medium whose change was interrupted is found by the old one.
    let parts = [(extent, content.as_slice()), (id_extent, &volume_id)];
    let changed = match &options.output {
        Some(output) => {
            write_copy(&options.iso, output, &parts)?;
            output
        }
        None => {
            let iso = OpenOptions::new().write(true).open(&options.iso);
            let iso = iso.with_context(|| format!("opening {} for writing", options.iso.display()))?;
            write_parts(iso, &options.iso, &parts)?;
            &options.iso
        }
    };
    report(
        options.json,
        &Customized {
            iso: changed,
            volume_id: String::from_utf8_lossy(&volume_id).trim_end(),
            offset: extent.offset,
            reserved_bytes: extent.size,
            settings: options.registration.is_some(),
        },
    )
}

/// Settings that a medium can hold.
struct Settings {
    text: String,
    /// The content of the reserved space.
    reserved: Vec<u8>,
}

fn settings(path: &Path) -> Result<Settings> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let reserved = reserved_space::filled(&text).with_context(|| format!("checking {}", path.display()))?;
    Ok(Settings { text, reserved })
}

/// Whether both paths lead to the same file or folder.
fn is_same(one: &Path, other: &Path) -> bool {
    one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

/// The volume id of the ISO at `path`, and the extents of its reserved space and of its id.
fn open(path: &Path) -> Result<(String, Extent, Extent)> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut volume = Volume::open(file).with_context(|| format!("reading {}", path.display()))?;
    let extent = reserved_space::find(&mut volume).with_context(|| format!("changing {}", path.display()))?;
    Ok((volume.id, extent, volume.id_extent))
}

/// Places in an ISO, and what is to be there.
type Parts<'a> = [(Extent, &'a [u8])];

/// Copies to a temporary file first, so that `output` is complete or unchanged.
fn write_copy(source: &Path, output: &Path, parts: &Parts) -> Result<()> {
    ensure!(
        !is_same(source, output),
        "--output {} is the ISO itself; omit --output to change the ISO in place",
        output.display()
    );
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).map_or(PathBuf::from("."), Into::into);
    let mut copy =
        tempfile::NamedTempFile::new_in(&folder).with_context(|| format!("creating a file in {}", folder.display()))?;
    let mut iso = File::open(source).with_context(|| format!("opening {}", source.display()))?;
    std::io::copy(&mut iso, &mut copy)
        .with_context(|| format!("copying {} to {}", source.display(), output.display()))?;
    write_parts(copy.as_file().try_clone().context("duplicating the file handle of the copy")?, output, parts)?;
    let permissions = iso.metadata().with_context(|| format!("inspecting {}", source.display()))?.permissions();
    copy.as_file().set_permissions(permissions).with_context(|| format!("setting the mode of {}", output.display()))?;
    copy.persist(output).with_context(|| format!("renaming the copy to {}", output.display()))?;
    Ok(())
}

fn write_parts(iso: File, path: &Path, parts: &Parts) -> Result<()> {
    let write =
        |(extent, content): &(Extent, &[u8])| iso.write_all_at(content, extent.offset).and_then(|()| iso.sync_all());
    let written = parts.iter().try_for_each(write);
    written.with_context(|| format!("writing the settings into {}", path.display()))
}

fn report(json: bool, customized: &Customized) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(customized)?);
    } else {
        println!("{} ({}) {}", customized.iso.display(), customized.volume_id, change(customized.settings));
    }
    Ok(())
}

fn change(has_settings: bool) -> &'static str {
    if has_settings { "contains the settings" } else { "contains no settings any more" }
}
