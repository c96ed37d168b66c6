//! The files of a network boot, in a folder: parts of an ISO, and scripts for iPXE and GRUB.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use media::composed::Composed;
use media::iso9660::Volume;
use media::network_set::{
    GRUB_FOLDER, GRUB_SCRIPT, GRUB_START, IPXE_SCRIPT, NetworkSet, REGISTRATION_ARCHIVE, grub_script, grub_start,
    ipxe_script, registration_archive,
};

use crate::output;

/// Writes the set of the ISO into `folder`. Its archive of the registration is empty.
pub fn write(iso: &Path, folder: &Path) -> Result<()> {
    let source = File::open(iso).with_context(|| format!("opening {}", iso.display()))?;
    let set = Volume::open(&source).map_err(Into::into).and_then(|mut volume| NetworkSet::of_iso(&mut volume));
    let set = set.with_context(|| format!("reading {}", iso.display()))?;
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    for name in NetworkSet::FILES {
        let content = set.file(name).with_context(|| format!("{} has no {name}", iso.display()))?;
        let path = folder.join(name);
        output::replace(&path, |file| copy(&source, content, file))?;
    }
    let put = |name: &str, content: &[u8]| output::replace(&folder.join(name), |mut file| Ok(file.write_all(content)?));
    put(IPXE_SCRIPT, ipxe_script("", &set.arguments).as_bytes())?;
    put(GRUB_SCRIPT, grub_script(GRUB_FOLDER, &set.arguments).as_bytes())?;
    let start = folder.join(GRUB_START);
    let below = start.parent().unwrap_or(folder);
    fs::create_dir_all(below).with_context(|| format!("creating {}", below.display()))?;
    put(GRUB_START, grub_start().as_bytes())?;
    put(REGISTRATION_ARCHIVE, &registration_archive(&[]).context("archiving no registration")?)
}

fn copy(source: &File, content: &Composed, output: &File) -> Result<()> {
    let mut output = BufWriter::new(output);
    content.write(source, &mut output)?;
    Ok(output.flush()?)
}
