//! A release as a folder: `release.json` and the files it names, checked before anything is done with them.

use aws_lc_rs::digest::{SHA256, digest};
use protocol::release::{ReleaseFile, ReleaseManifest};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Where the live system's medium keeps its release.
pub const MEDIUM_RELEASE: &str = "/run/ros/medium/release";
/// Kernel and initrd pass through memory, and nothing beside the root image is larger.
const LARGEST_SMALL_FILE: u64 = 128 << 20;

/// An opened release. Every file but the root image had the right digest when it was opened; the root image has the
/// right size, and whoever copies it checks its digest on the way.
#[derive(Clone, Debug)]
pub struct ReleaseSource {
    folder: PathBuf,
    manifest: ReleaseManifest,
    manifest_bytes: Vec<u8>,
}

/// What is wrong with a release; each names the file.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    #[error("reading {path}", path = .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not a release manifest", path = .path.display())]
    Manifest { path: PathBuf, source: serde_json::Error },
    #[error("release.json: {field} must be {rule}, and is {value:?}")]
    Field { field: &'static str, rule: &'static str, value: String },
    #[error("{path} has {actual} bytes; release.json says {expected}", path = .path.display())]
    Size { path: PathBuf, expected: u64, actual: u64 },
    #[error("{path} has SHA-256 {actual}; release.json says {expected}: the medium is damaged, make a new one", path = .path.display())]
    Digest { path: PathBuf, expected: String, actual: String },
}

impl ReleaseSource {
    /// Opens a folder with `release.json`, and checks everything that is small.
    pub fn open(folder: &Path) -> Result<Self, ReleaseError> {
        let path = folder.join("release.json");
        let manifest_bytes = fs::read(&path).map_err(|source| ReleaseError::Read { path: path.clone(), source })?;
        let manifest: ReleaseManifest =
            serde_json::from_slice(&manifest_bytes).map_err(|source| ReleaseError::Manifest { path, source })?;
        check(&manifest)?;
        let source = Self { folder: folder.to_owned(), manifest, manifest_bytes };
        source.open_root()?;
        for file in small_files(&source.manifest) {
            source.read(file)?;
        }
        Ok(source)
    }

    pub fn manifest(&self) -> &ReleaseManifest {
        &self.manifest
    }

    /// `release.json` as it stands, byte for byte.
    pub fn manifest_bytes(&self) -> &[u8] {
        &self.manifest_bytes
    }

    /// `sha256:` and the digest of `release.json`: the release's identity.
    pub fn identity(&self) -> String {
        identity(&self.manifest_bytes)
    }

    /// The root image, whose size is right and whose digest is not known yet.
    pub fn open_root(&self) -> Result<File, ReleaseError> {
        self.open_file(&self.manifest.root)
    }

    /// A file other than the root image, with the right digest.
    pub fn read(&self, file: &ReleaseFile) -> Result<Vec<u8>, ReleaseError> {
        let path = self.folder.join(&file.name);
        let mut bytes = Vec::with_capacity(usize::try_from(file.size).unwrap_or_default());
        self.open_file(file)?
            .take(file.size)
            .read_to_end(&mut bytes)
            .map_err(|source| ReleaseError::Read { path: path.clone(), source })?;
        let actual = hex::encode(digest(&SHA256, &bytes));
        if actual != file.sha256 {
            return Err(ReleaseError::Digest { path, expected: file.sha256.clone(), actual });
        }
        Ok(bytes)
    }

    fn open_file(&self, file: &ReleaseFile) -> Result<File, ReleaseError> {
        let path = self.folder.join(&file.name);
        let unreadable = |source| ReleaseError::Read { path: path.clone(), source };
        let opened = File::open(&path).map_err(unreadable)?;
        let actual = opened.metadata().map_err(unreadable)?.len();
        if actual != file.size {
            return Err(ReleaseError::Size { path, expected: file.size, actual });
        }
        Ok(opened)
    }
}

/// `sha256:` and the digest of the bytes of a `release.json`.
pub fn identity(manifest_bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(digest(&SHA256, manifest_bytes)))
}

fn small_files(manifest: &ReleaseManifest) -> [&ReleaseFile; 8] {
    let boot = &manifest.boot;
    [
        &manifest.kernel,
        &manifest.initrd,
        &boot.shim,
        &boot.grub,
        &boot.mok_manager,
        &boot.grub_config,
        &boot.bios_boot,
        &boot.bios_core,
    ]
}

/// What is checked here is written into file names, GRUB's configuration and the kernel command line later.
fn check(manifest: &ReleaseManifest) -> Result<(), ReleaseError> {
    let field = |field, rule, value: &str, holds: bool| {
        if holds { Ok(()) } else { Err(ReleaseError::Field { field, rule, value: value.to_owned() }) }
    };
    let word = |s: &str| s.len() <= 128 && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-~".contains(&b));
    let hex = |s: &str| s.bytes().all(|b| b.is_ascii_hexdigit());
    field("version", "a short word", &manifest.version, !manifest.version.is_empty() && word(&manifest.version))?;
    for file in small_files(manifest).into_iter().chain([&manifest.root]) {
        let inside = !file.name.is_empty() && file.name.split('/').all(|p| !p.is_empty() && p != ".." && p != ".");
        field("a file's name", "relative, without `.` and `..`", &file.name, inside)?;
        field("a file's sha256", "64 hex digits", &file.sha256, file.sha256.len() == 64 && hex(&file.sha256))?;
    }
    for file in small_files(manifest) {
        field("a file's size", "at most 128 MiB", &file.name, file.size <= LARGEST_SMALL_FILE)?;
    }
    let verity = &manifest.verity;
    field(
        "verity.rootHash",
        "64 hex digits",
        &verity.root_hash,
        verity.root_hash.len() == 64 && hex(&verity.root_hash),
    )?;
    field("verity.salt", "hex digits or `-`", &verity.salt, verity.salt == "-" || hex(&verity.salt))?;
    let plain = |s: &str| s.bytes().all(|b| b.is_ascii_graphic() && !b"\"'`$\\;&|<>{}".contains(&b) || b == b' ');
    field(
        "kernelArguments",
        "without quotes and signs that GRUB reads",
        &manifest.kernel_arguments,
        plain(&manifest.kernel_arguments),
    )
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use protocol::release::{BootFiles, Verity};

    /// A folder with a tiny release: `root` as the root image, and a few bytes for everything else.
    pub fn tiny_release(root: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
            ReleaseFile { name: name.into(), size: bytes.len() as u64, sha256: hex::encode(digest(&SHA256, bytes)) }
        };
        let manifest = ReleaseManifest {
            version: "0.1.0".into(),
            architecture: "x86_64".into(),
            root: file("root.erofs", root),
            verity: Verity { data_blocks: 2, hash_start: 2, root_hash: "ab".repeat(32), salt: "-".into() },
            kernel: file("vmlinuz", &[b'k'; 70_000]),
            initrd: file("initrd", b"initrd"),
            boot: BootFiles {
                shim: file("boot/shimx64.efi", b"shim"),
                grub: file("boot/grubx64.efi", b"grub"),
                mok_manager: file("boot/mmx64.efi", b"mok"),
                grub_config: file("boot/grub.cfg", b"# menu"),
                bios_boot: file("boot/boot.img", &[1; 512]),
                bios_core: file("boot/core.img", &[2; 5000]),
            },
            minimum_slot_bytes: 16 << 20,
            kernel_arguments: "console=tty0".into(),
        };
        fs::write(folder.path().join("release.json"), serde_json::to_vec_pretty(&manifest).unwrap()).unwrap();
        folder
    }

    #[test]
    fn a_whole_release_opens() {
        let folder = tiny_release(b"root");
        let release = ReleaseSource::open(folder.path()).unwrap();
        assert_eq!(release.read(&release.manifest().boot.shim).unwrap(), b"shim");
        assert!(release.identity().starts_with("sha256:"));
    }

    #[test]
    fn a_damaged_or_cut_file_is_named() {
        let folder = tiny_release(b"root");
        fs::write(folder.path().join("initrd"), b"INITRD").unwrap();
        let error = ReleaseSource::open(folder.path()).unwrap_err();
        assert!(matches!(&error, ReleaseError::Digest { path, .. } if path.ends_with("initrd")), "{error}");
        fs::write(folder.path().join("root.erofs"), b"roo").unwrap();
        let error = ReleaseSource::open(folder.path()).unwrap_err();
        assert!(matches!(&error, ReleaseError::Size { expected: 4, actual: 3, .. }), "{error}");
    }

    #[test]
    fn a_manifest_cannot_reach_outside_or_into_grub() {
        let folder = tiny_release(b"root");
        let path = folder.path().join("release.json");
        let text = fs::read_to_string(&path).unwrap();
        for (from, to) in [("\"initrd\"", "\"../initrd\""), ("console=tty0", "a; boot"), ("\"0.1.0\"", "\"0 1\"")] {
            fs::write(&path, text.replace(from, to)).unwrap();
            let error = ReleaseSource::open(folder.path()).unwrap_err();
            assert!(matches!(error, ReleaseError::Field { .. } | ReleaseError::Manifest { .. }), "{error}");
        }
    }
}
