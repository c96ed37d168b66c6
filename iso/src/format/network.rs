//! The files of a network boot, in a folder: parts of an ISO, and scripts for iPXE and GRUB.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context, Result};
use media::composed::Composed;
use media::iso9660::Volume;
use media::network_set::{
    GRUB_FOLDER, GRUB_SCRIPT, GRUB_START, IPXE_SCRIPT, NetworkSet, REGISTRATION_ARCHIVE, grub_script, grub_start,
    ipxe_script, registration_archive,
};

/// Writes the set of the ISO to `output`, a folder. Its archive of the registration is empty.
pub fn write(iso: &Path, output: &Path) -> Result<()> {
    let source = File::open(iso).with_context(|| format!("opening {}", iso.display()))?;
    let set = Volume::open(&source).map_err(Into::into).and_then(|mut volume| NetworkSet::of_iso(&mut volume));
    let set = set.with_context(|| format!("reading {}", iso.display()))?;
    fs::create_dir_all(output).with_context(|| format!("creating {}", output.display()))?;
    for name in NetworkSet::FILES {
        let content = set.file(name).with_context(|| format!("{} has no {name}", iso.display()))?;
        let path = output.join(name);
        copy(&source, content, &path).with_context(|| format!("writing {}", path.display()))?;
    }
    let put =
        |name: &str, content: &[u8]| fs::write(output.join(name), content).with_context(|| format!("writing {name}"));
    put(IPXE_SCRIPT, ipxe_script("", &set.arguments).as_bytes())?;
    put(GRUB_SCRIPT, grub_script(GRUB_FOLDER, &set.arguments).as_bytes())?;
    let start = output.join(GRUB_START);
    let folder = start.parent().unwrap_or(output);
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    put(GRUB_START, grub_start().as_bytes())?;
    put(REGISTRATION_ARCHIVE, &registration_archive(&[]).context("archiving no registration")?)
}

fn copy(source: &File, content: &Composed, output: &Path) -> Result<()> {
    let mut output = BufWriter::new(File::create(output).context("creating it")?);
    content.write(source, &mut output)?;
    output.into_inner().context("writing its end")?.sync_all().context("writing it to the disk")
}
