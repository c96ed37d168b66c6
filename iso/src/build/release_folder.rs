//! The release folder: the files of a slot, of a medium and of a network boot, and their manifest.

use std::fs;
use std::path::Path;

use crate::cli::KernelArgument;
use anyhow::{Context, Result};
use release::{BootFiles, MANIFEST, ReleaseFile, ReleaseManifest, SemanticVersion, Verity, architecture};

/// The consoles of a release that names none: the screen and the first serial line.
const CONSOLES: [&str; 2] = ["tty0", "ttyS0,115200"];

/// Kernel arguments of every boot of a release, beside its consoles. `loglevel=6` shows the lines of ros-init, which have
/// level 5. systemd prints only failures and long waits. BPF is the only security module that is left out: systemd would
/// load BPF programs that none of our units uses, which costs a second under emulation.
const KERNEL_ARGUMENTS: &str =
    "loglevel=6 panic=10 systemd.show_status=auto audit=0 lsm=landlock,lockdown,yama,integrity,apparmor";

/// The kernel arguments of a release. Of two values of an argument the kernel takes the last one, so that `more` counts
/// before ours.
pub fn kernel_arguments(consoles: &[KernelArgument], more: &[KernelArgument]) -> String {
    let given = consoles.iter().map(KernelArgument::as_str);
    let consoles: Vec<&str> = if consoles.is_empty() { CONSOLES.to_vec() } else { given.collect() };
    let mut words: Vec<String> = consoles.iter().map(|console| format!("console={console}")).collect();
    words.push(KERNEL_ARGUMENTS.to_owned());
    words.extend(more.iter().map(|argument| argument.as_str().to_owned()));
    words.join(" ")
}

/// The least value of `minimum_slot_bytes`. For a large root image it is twice the size of that image.
const SMALLEST_SLOT: u64 = 256 << 20;
const SLOT_STEP: u64 = 64 << 20;

/// The parts of a release beside its boot files.
pub struct Parts<'a> {
    pub version: &'a str,
    pub minimum_version: Option<SemanticVersion>,
    pub root: &'a Path,
    pub verity: Verity,
    pub kernel: &'a Path,
    pub initrd: &'a Path,
    /// Names of the modules in the initrd.
    pub initrd_modules: Vec<String>,
    pub kernel_arguments: String,
    /// The menu that the release brings to machines that are upgraded to it.
    pub menu: Option<&'a Path>,
}

/// Copies the parts into `folder`, where the boot files already are in `boot/`, and writes the manifest.
pub fn write(folder: &Path, parts: Parts) -> Result<ReleaseManifest> {
    for (source, name) in [(parts.root, "root.erofs"), (parts.kernel, "vmlinuz"), (parts.initrd, "initrd")] {
        let target = folder.join(name);
        // The copy is a new file, because another process may still read the old one.
        let _ = fs::remove_file(&target);
        fs::copy(source, &target).with_context(|| format!("copying {} to {}", source.display(), target.display()))?;
    }
    let file = |name: &str| ReleaseFile::describe(&folder.join(name), name);
    let root = file("root.erofs")?;
    let manifest = ReleaseManifest {
        schema: ReleaseManifest::SCHEMA,
        version: parts.version.to_owned(),
        minimum_version: parts.minimum_version,
        architecture: architecture::X86_64.to_owned(),
        minimum_slot_bytes: minimum_slot_bytes(root.size),
        root,
        verity: parts.verity,
        kernel: file("vmlinuz")?,
        initrd: file("initrd")?,
        boot: BootFiles {
            shim: file("boot/shimx64.efi")?,
            grub: file("boot/grubx64.efi")?,
            mok_manager: file("boot/mmx64.efi")?,
            grub_config: file("boot/grub.cfg")?,
            menu: parts.menu.map(|menu| add_menu(menu, folder)).transpose()?,
            bios_boot: file("boot/boot.img")?,
            bios_core: file("boot/core.img")?,
        },
        kernel_arguments: parts.kernel_arguments,
        initrd_modules: Some(parts.initrd_modules),
        recovery_resets: true,
    };
    let path = folder.join(MANIFEST);
    let text = serde_json::to_string_pretty(&manifest)? + "\n";
    // What no machine could read is not released.
    ReleaseManifest::parse(text.as_bytes()).context("describing the release")?;
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(manifest)
}

fn add_menu(menu: &Path, folder: &Path) -> Result<ReleaseFile> {
    const NAME: &str = "boot/menu.cfg";
    fs::copy(menu, folder.join(NAME)).with_context(|| format!("copying {}", menu.display()))?;
    Ok(ReleaseFile::describe(&folder.join(NAME), NAME)?)
}

fn minimum_slot_bytes(root: u64) -> u64 {
    (2 * root).next_multiple_of(SLOT_STEP).max(SMALLEST_SLOT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_consoles_replace_ours_and_arguments_come_last() {
        let words = |words: &[&str]| words.iter().map(|word| word.parse().unwrap()).collect::<Vec<KernelArgument>>();
        let plain = kernel_arguments(&[], &[]);
        assert!(plain.starts_with("console=tty0 console=ttyS0,115200 loglevel=6 panic=10 "), "{plain}");
        let own = kernel_arguments(&words(&["ttyS1,9600"]), &words(&["panic=60", "nomodeset"]));
        assert!(own.starts_with("console=ttyS1,9600 loglevel=6 ") && own.ends_with(" panic=60 nomodeset"), "{own}");
    }

    #[test]
    fn slots_leave_room_to_grow() {
        assert_eq!(minimum_slot_bytes(60 << 20), 256 << 20);
        assert_eq!(minimum_slot_bytes((150 << 20) + 1), 320 << 20);
    }
}
