//! The hybrid ISO. It boots as a CD and as a USB disk, by BIOS, UEFI and Secure Boot, from one kernel and one menu.

mod efi_image;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use media::reserved_space;
use release::{MANIFEST, ReleaseManifest, digest};

use crate::build::boot_files::BootFiles;
use crate::build::tools::Tools;

const MENU: &str = include_str!("iso/live.cfg");

/// The volume id of a release's medium, by which ros-init finds the medium. Media of different releases have different
/// ids.
pub fn volume_id(release: &Path) -> Result<String> {
    let manifest = release.join(MANIFEST);
    let (digest, _) = digest::of_file(&manifest).with_context(|| format!("reading {}", manifest.display()))?;
    Ok(boot_contract::volume_id::of_release(&digest))
}

/// Writes the ISO of the release in the folder `release`.
pub fn write(
    release: &Path,
    manifest: &ReleaseManifest,
    boot: &BootFiles,
    tools: &Tools,
    epoch: u32,
    output: &Path,
) -> Result<()> {
    let parts = tempfile::tempdir().context("creating a folder for the parts of the ISO")?;
    let part = |name: &str| parts.path().join(name);
    let volume = volume_id(release)?;
    let text =
        |name: &str, content: &str| fs::write(part(name), content).with_context(|| format!("writing the ISO's {name}"));
    text("grub.cfg", &MENU.replace("@VOLUME@", &volume).replace("@ARGUMENTS@", &manifest.kernel_arguments))?;
    text("info", &format!("ros {} {volume}\n", manifest.version))?;
    text("registration.yaml", &reserved_space::empty())?;
    boot.write_medium_image(tools, &part("eltorito.img"))?;
    let places = efi_image::write(boot, &part("efi.img"))?;
    text("efi.json", &serde_json::to_string(&places).context("describing the EFI image")?)?;
    text("start.cfg", efi_image::START)?;

    let unfinished = output.with_extension("iso.unfinished");
    let _ = fs::remove_file(&unfinished);
    let graft = |name: &str, source: &Path| format!("{name}={}", source.display());
    tools
        .command("xorriso", "xorriso")
        .env("SOURCE_DATE_EPOCH", epoch.to_string())
        // -r: all files belong to root and are readable, whatever the umask of the build is.
        .args(["-as", "mkisofs", "-quiet", "-V", &volume, "-r", "-J", "-joliet-long", "-iso-level", "3"])
        .args(["--set_all_file_dates", &format!("={epoch}")])
        .args(["-b", "boot/grub/eltorito.img", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"])
        .arg("--grub2-boot-info")
        .arg("--grub2-mbr")
        .arg(boot.hybrid_boot_record())
        .args(["--efi-boot", "boot/efi.img", "-efi-boot-part", "--efi-boot-image", "--protective-msdos-label"])
        .arg("-o")
        .arg(&unfinished)
        .arg("-graft-points")
        .args([
            graft("release", release),
            graft("boot/grub/grub.cfg", &part("grub.cfg")),
            graft("boot/grub/eltorito.img", &part("eltorito.img")),
            graft(efi_image::START_PATH, &part("start.cfg")),
            graft("boot/efi.img", &part("efi.img")),
            graft("boot/efi.json", &part("efi.json")),
            graft(".disk/info", &part("info")),
            graft("registration.yaml", &part("registration.yaml")),
        ])
        .run()?;
    fs::rename(&unfinished, output).with_context(|| format!("renaming the ISO to {}", output.display()))
}
