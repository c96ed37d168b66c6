//! Disk images: the layout of an installed disk, made by the code that installs, for machines that are never installed.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use boot_contract::disk_image::SETTINGS_OFFSET;
use command::Command;
use disk::disk_image::plan_image;
use disk::execute::execute;
use disk::plan::{DiskImage, InstallPlan};
use media::reserved_space;
use release::{ReleaseManifest, ReleaseSource, digest};
use tempfile::NamedTempFile;
use uuid::Uuid;

use crate::cli::{DiskSize, Format};
use crate::progress;

/// Converts between formats of disk images.
const QEMU_IMG: &str = "qemu-img";

/// Writes an image of the release in `folder` to each path.
pub fn write(folder: &Path, size: DiskSize, epoch: u32, images: &[(Format, PathBuf)]) -> Result<()> {
    let Some((_, first)) = images.first() else { return Ok(()) };
    let output = first.parent().unwrap_or(Path::new("."));
    let raw = NamedTempFile::new_in(output).with_context(|| format!("creating a file in {}", output.display()))?;
    progress::stage("writing the disk image", || write_raw(folder, size, epoch, &raw))?;
    for (format, path) in images.iter().filter(|(format, _)| *format != Format::Raw) {
        let what = format!("converting it to {}", format.disk_image().unwrap_or_default());
        progress::stage(&what, || convert(raw.path(), *format, path))?;
    }
    if let Some((_, path)) = images.iter().find(|(format, _)| *format == Format::Raw) {
        // Everybody may read it, as the other media. A temporary file is for its owner alone.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        raw.as_file().set_permissions(mode).with_context(|| format!("setting the mode of {}", path.display()))?;
        raw.persist(path).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

pub fn write_raw(folder: &Path, size: DiskSize, epoch: u32, image: &NamedTempFile) -> Result<()> {
    let release = ReleaseSource::open(folder)?;
    image.as_file().set_len(size.0).context("making room for the disk")?;
    let plan = plan(image.path(), size.0, release.manifest_bytes(), epoch)
        .with_context(|| format!("laying out a disk of {} bytes (--disk-size)", size.0))?;
    execute(&plan, &release, &mut |_| {})?;
    let settings = reserved_space::empty();
    image.as_file().write_all_at(settings.as_bytes(), SETTINGS_OFFSET).context("reserving the space for settings")
}

/// Everything that the image of a release holds, on a disk of so many bytes. The same manifest gives the same plan.
pub fn plan(image: &Path, disk_bytes: u64, manifest: &[u8], epoch: u32) -> Result<InstallPlan> {
    let release = ReleaseManifest::parse(manifest)?;
    Ok(plan_image(image, disk_bytes, &release, DiskImage { epoch }, identifiers(manifest))?)
}

/// The identifiers of the image of a release. The same release has the same ones. A machine makes its own at its first boot.
fn identifiers(manifest: &[u8]) -> impl FnMut() -> Uuid {
    let seed = digest::of_bytes(manifest);
    let mut number = 0;
    move || {
        number += 1;
        let digits = &digest::of_bytes(format!("{seed} {number}").as_bytes())[..32];
        let value = u128::from_str_radix(digits, 16).expect("a digest is hexadecimal");
        uuid::Builder::from_custom_bytes(value.to_be_bytes()).into_uuid()
    }
}

/// The target is complete or unchanged.
fn convert(raw: &Path, format: Format, output: &Path) -> Result<()> {
    let (kind, options) = match format {
        // Clusters of 64 KiB hold the reserved space in one piece.
        Format::Qcow2 => ("qcow2", Some("cluster_size=65536")),
        Format::Vmdk => ("vmdk", Some("subformat=streamOptimized")),
        _ => (format.disk_image().unwrap_or("raw"), None),
    };
    let partial = output.with_extension("partial");
    let command = Command::new(QEMU_IMG).args(["convert", "-f", "raw", "-O", kind]);
    let command = options.into_iter().fold(command, |command, options| command.args(["-o", options]));
    let converted = command.arg(raw).arg(&partial).run();
    let converted = converted.context("converting it; qemu-img is in Debian's package qemu-utils");
    let renamed = converted.and_then(|_| {
        fs::rename(&partial, output).with_context(|| format!("renaming {} to {}", partial.display(), output.display()))
    });
    if renamed.is_err() {
        let _ = fs::remove_file(&partial);
    }
    renamed
}

#[cfg(test)]
mod tests {
    use super::*;
    use media::disk_image;
    use release::fixtures::write_tiny_release;

    #[test]
    fn two_images_of_a_release_are_equal_and_hold_no_settings() {
        let folder = tempfile::tempdir().unwrap();
        write_tiny_release(folder.path(), &[5; 8192]);
        let path = |name: &str| folder.path().join(name);
        let write = |name: &str| write(folder.path(), DiskSize(2 << 30), 1_760_000_000, &[(Format::Raw, path(name))]);
        write("one").unwrap();
        write("two").unwrap();
        Command::new("cmp").arg(path("one")).arg(path("two")).run().unwrap();
        let mut one = fs::File::open(path("one")).unwrap();
        let image = disk_image::DiskImage::open(&mut one).unwrap().unwrap();
        assert_eq!((image.version.as_str(), image.disk_bytes), ("0.1.0", 2 << 30));
        let mut settings = vec![0; image.settings.size as usize];
        one.read_exact_at(&mut settings, image.settings.offset).unwrap();
        assert_eq!(reserved_space::read(&settings).unwrap(), None);
    }

    #[test]
    fn a_disk_that_is_too_small_is_refused_by_its_option() {
        let folder = tempfile::tempdir().unwrap();
        write_tiny_release(folder.path(), &[5; 8192]);
        let error =
            write(folder.path(), DiskSize(64 << 20), 0, &[(Format::Raw, folder.path().join("one"))]).unwrap_err();
        assert!(format!("{error:#}").contains("--disk-size"), "{error:#}");
        assert!(!folder.path().join("one").exists());
    }
}
