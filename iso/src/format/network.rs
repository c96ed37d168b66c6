//! The files of a network boot, in a folder: kernel, initrd, the medium as an archive, and a script for iPXE.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use media::initrd_archive::Archive;
use media::network_set::{
    INITRD, IPXE_SCRIPT, KERNEL, MEDIUM, MEDIUM_ARCHIVE, REGISTRATION_ARCHIVE, RELEASE, ipxe_script,
    registration_archive,
};
use release::ReleaseManifest;

/// Writes the set of the release in the folder `release` to `output`, a folder. Its archive of the registration is empty.
pub fn write(release: &Path, manifest: &ReleaseManifest, epoch: u32, output: &Path) -> Result<()> {
    fs::create_dir_all(output).with_context(|| format!("creating {}", output.display()))?;
    for (from, name) in [(&manifest.kernel, KERNEL), (&manifest.initrd, INITRD)] {
        let copy = output.join(name);
        fs::copy(release.join(&from.name), &copy).with_context(|| format!("writing {}", copy.display()))?;
    }
    let archive = output.join(MEDIUM_ARCHIVE);
    write_medium(release, epoch, &archive).with_context(|| format!("writing {}", archive.display()))?;
    let put =
        |name: &str, content: &[u8]| fs::write(output.join(name), content).with_context(|| format!("writing {name}"));
    put(IPXE_SCRIPT, ipxe_script(&manifest.kernel_arguments).as_bytes())?;
    put(REGISTRATION_ARCHIVE, &registration_archive(&[]).context("archiving no registration")?)
}

fn write_medium(release: &Path, epoch: u32, output: &Path) -> Result<()> {
    let file = File::create(output).context("creating it")?;
    let mut archive = Archive::new(BufWriter::new(file), epoch);
    archive.folder(MEDIUM)?;
    add_folder(&mut archive, release, RELEASE)?;
    archive.finish()?.into_inner().context("writing its end")?.sync_all().context("writing it to the disk")
}

/// Adds a folder and what is in it, in the order of the names: the same release gives the same bytes.
fn add_folder(archive: &mut Archive<BufWriter<File>>, folder: &Path, name: &str) -> Result<()> {
    archive.folder(name)?;
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<PathBuf>>>()?;
    paths.sort();
    for path in paths {
        let name = format!("{name}/{}", path.file_name().unwrap_or_default().to_string_lossy());
        if path.is_dir() {
            add_folder(archive, &path, &name)?;
        } else {
            let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
            let size = file.metadata().with_context(|| format!("inspecting {}", path.display()))?.len();
            archive.file(&name, 0o644, size, file).with_context(|| format!("archiving {}", path.display()))?;
        }
    }
    Ok(())
}
