//! Releases that differ from the one of `make image` by name, by single boot files and by who signed them. Making one takes
//! a second, in place of the minutes of a build.

use anyhow::{Context, Result};
use qemu::paths;
use release::signature::{self, PrivateKey};
use release::{MANIFEST, ReleaseFile, ReleaseManifest, digest};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The folder of the release that `make image` left.
pub fn original() -> PathBuf {
    paths::output().join("image/release")
}

/// A release that differs from the one in `of`.
pub struct OtherRelease<'a> {
    /// The folder of the release that it is made of.
    pub of: &'a Path,
    pub version: &'a str,
    /// In place of the initrd.
    pub initrd: Option<&'a [u8]>,
    /// In place of MokManager, the part of the boot code that nothing starts by itself.
    pub mok_manager: Option<&'a [u8]>,
    pub signed_by: Option<&'a PrivateKey>,
}

impl OtherRelease<'_> {
    /// Makes its upgrade image in `folder`, and gives the archive.
    pub fn image(&self, folder: &Path) -> Result<PathBuf> {
        let release = folder.join(format!("release-{}", self.version));
        let (manifest, _) = release::read_manifest(self.of)?;
        let mut manifest = ReleaseManifest { version: self.version.to_owned(), ..manifest };
        let put = |name: &str, bytes: &[u8]| {
            let path = release.join(name);
            fs::create_dir_all(path.parent().unwrap_or(&release))?;
            fs::write(path, bytes)
        };
        let replaced = [
            ("initrd", self.initrd, &mut manifest.initrd),
            ("boot/mmx64.efi", self.mok_manager, &mut manifest.boot.mok_manager),
        ];
        for (name, bytes, file) in replaced {
            let Some(bytes) = bytes else { continue };
            let name = format!("{name}-{}", self.version);
            put(&name, bytes).with_context(|| format!("writing {name}"))?;
            *file = ReleaseFile { size: bytes.len() as u64, sha256: digest::of_bytes(bytes), name };
        }
        for (_, file) in manifest.files() {
            let (path, of) = (release.join(&file.name), self.of.join(&file.name));
            if path.exists() {
                continue;
            }
            fs::create_dir_all(path.parent().unwrap_or(&release))
                .and_then(|()| symlink(&of, &path))
                .with_context(|| format!("linking {}", path.display()))?;
        }
        let text = serde_json::to_vec_pretty(&manifest).context("writing the manifest")?;
        put(MANIFEST, &text).context("writing the manifest")?;
        if let Some(key) = self.signed_by {
            signature::write(&release, key.public_key().id(), &key.sign(&text))?;
        }
        let program = paths::program("container-installer")?;
        Ok(iso::upgrade_image::write(&release, &manifest, &program, 0, folder)?.image)
    }
}

/// The version after this one: its last number is one higher. `None` where there is none.
pub fn next_version(version: &str) -> Option<String> {
    let (rest, last) = version.rsplit_once('.')?;
    Some(format!("{rest}.{}", last.parse::<u64>().ok()?.checked_add(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use release::signature::{Trust, TrustedKeys};

    #[test]
    fn another_release_is_complete_and_signed() {
        let [of, folder] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        release::fixtures::write_tiny_release(of.path(), &[5; 8192]);
        let key = PrivateKey::generate();
        let (initrd, mok_manager) = (Some(&b"none"[..]), Some(&b"other"[..]));
        let other = OtherRelease { of: of.path(), version: "0.2.0", initrd, mok_manager, signed_by: Some(&key) };
        assert!(other.image(folder.path()).unwrap().ends_with("ros-0.2.0.oci.tar"));
        let source = release::ReleaseSource::open(&folder.path().join("release-0.2.0")).unwrap();
        assert_eq!(source.read(&source.manifest().initrd).unwrap(), b"none");
        assert_eq!(source.read(&source.manifest().boot.mok_manager).unwrap(), b"other");
        let mut keys = TrustedKeys::default();
        keys.add_pem("key", key.public_key().to_pem().as_bytes()).unwrap();
        let trust = signature::verify(&folder.path().join("release-0.2.0"), source.manifest_bytes(), &keys).unwrap();
        assert_eq!(trust, Trust::Signed { key_id: key.public_key().id() });
    }

    #[test]
    fn versions_are_counted_on() {
        assert_eq!(next_version("0.1.9").as_deref(), Some("0.1.10"));
        assert!([next_version("1"), next_version("0.1.0-rc"), next_version("")].iter().all(Option::is_none));
    }
}
