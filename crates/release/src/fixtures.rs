//! A complete release of a few bytes, for tests.

use crate::{BootFiles, MANIFEST, ReleaseFile, ReleaseManifest, Verity, architecture, digest};
use std::fs;
use std::path::Path;

/// Writes a release into `folder`: `root` is the root image, of at least two blocks of 4096 bytes. All other files have
/// a few bytes.
///
/// # Panics
/// If a file cannot be written.
pub fn write_tiny_release(folder: &Path, root: &[u8]) {
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("it lies in the folder")).expect("making the folder");
        fs::write(path, bytes).expect("writing a file of the release");
        ReleaseFile { name: name.into(), size: bytes.len() as u64, sha256: digest::of_bytes(bytes) }
    };
    let manifest = ReleaseManifest {
        schema: ReleaseManifest::SCHEMA,
        version: "0.1.0".into(),
        minimum_version: None,
        architecture: architecture::X86_64.into(),
        root: file("root.erofs", root),
        verity: Verity { data_blocks: 1, hash_start: 1, root_hash: "ab".repeat(32), salt: "-".into() },
        kernel: file("vmlinuz", &[b'k'; 70_000]),
        initrd: file("initrd", b"initrd"),
        boot: BootFiles {
            shim: file("boot/shimx64.efi", b"shim"),
            grub: file("boot/grubx64.efi", b"grub"),
            mok_manager: file("boot/mmx64.efi", b"mok"),
            grub_config: file("boot/grub.cfg", b"# menu"),
            menu: None,
            bios_boot: file("boot/boot.img", &[1; 512]),
            bios_core: file("boot/core.img", &[2; 5000]),
        },
        minimum_slot_bytes: 16 << 20,
        kernel_arguments: "console=tty0".into(),
        initrd_modules: Some(vec!["virtio_blk".into(), "virtio_pci".into()]),
        recovery_resets: true,
    };
    let text = serde_json::to_vec_pretty(&manifest).expect("a manifest is JSON");
    fs::write(folder.join(MANIFEST), text).expect("writing the manifest");
}
