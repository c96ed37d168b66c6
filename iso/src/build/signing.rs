//! The keys of a build: those that sign the release, and those by which machines that run it take the next ones.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use boot_contract::paths::RELEASE_KEYS;
use release::MANIFEST;
use release::signature::{self, KeyId, PrivateKey, PublicKey, SIGNATURES};

use super::tree::{Node, Tree};

pub struct Signing {
    private: Vec<PrivateKey>,
    trusted: Vec<PublicKey>,
}

impl Signing {
    /// Reads the keys of `--sign` and `--release-key`. Without the latter the image trusts the keys that sign it.
    pub fn read(private: &[PathBuf], public: &[PathBuf]) -> Result<Self> {
        let private: Vec<PrivateKey> = private
            .iter()
            .map(|path| Ok(PrivateKey::parse_pem(&path.display().to_string(), &read(path)?)?))
            .collect::<Result<_>>()?;
        let mut trusted: Vec<PublicKey> = Vec::new();
        for path in public {
            trusted.extend(PublicKey::parse_pem(&path.display().to_string(), &read(path)?)?);
        }
        if public.is_empty() {
            trusted.extend(private.iter().map(|key| key.public_key().clone()));
        }
        trusted.sort_by_key(PublicKey::id);
        trusted.dedup();
        Ok(Self { private, trusted })
    }

    pub fn trusted(&self) -> &[PublicKey] {
        &self.trusted
    }

    /// Signs the release in `folder` by each key. A signature that is valid stays, so that the same inputs give the same
    /// bytes; one of another key, of an earlier build, is removed.
    pub fn sign(&self, folder: &Path) -> Result<Vec<KeyId>> {
        let path = folder.join(MANIFEST);
        let manifest = read(&path)?;
        let signatures = folder.join(SIGNATURES);
        let mut kept = Vec::new();
        for key in &self.private {
            let file = signatures.join(key.public_key().id().to_string());
            kept.push(fs::read(file).ok().filter(|signature| key.public_key().verifies(&manifest, signature)));
        }
        match fs::remove_dir_all(&signatures) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", signatures.display()));
            }
            _ => {}
        }
        for (key, kept) in self.private.iter().zip(kept) {
            let signature = kept.unwrap_or_else(|| key.sign(&manifest));
            signature::write(folder, key.public_key().id(), &signature)?;
        }
        Ok(signature::signers(folder)?)
    }
}

/// Puts the trusted keys into the root image, each in a file that is called like its id.
pub fn add_keys(tree: &mut Tree, trusted: &[PublicKey]) -> Result<()> {
    for key in trusted {
        tree.insert(&format!("{RELEASE_KEYS}/{}.pem", key.id()), Node::file(0o644, key.to_pem()))?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use release::signature::{Trust, TrustedKeys};

    use super::*;

    struct Keys {
        folder: tempfile::TempDir,
        keys: [PrivateKey; 2],
    }

    impl Keys {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let keys = [PrivateKey::generate(), PrivateKey::generate()];
            for (number, key) in keys.iter().enumerate() {
                fs::write(folder.path().join(format!("{number}")), key.to_pem()).unwrap();
                fs::write(folder.path().join(format!("{number}.pub")), key.public_key().to_pem()).unwrap();
            }
            Self { folder, keys }
        }

        fn files(&self, names: &[&str]) -> Vec<PathBuf> {
            names.iter().map(|name| self.folder.path().join(name)).collect()
        }

        fn id(&self, number: usize) -> KeyId {
            self.keys[number].public_key().id()
        }
    }

    #[test]
    fn the_image_trusts_who_signs_it_unless_other_keys_are_named() {
        let keys = Keys::new();
        let trusted = |sign: &[&str], public: &[&str]| {
            let signing = Signing::read(&keys.files(sign), &keys.files(public)).unwrap();
            let mut tree = Tree::default();
            add_keys(&mut tree, signing.trusted()).unwrap();
            [0, 1].map(|number| tree.text(&format!("usr/lib/ros/release-keys.d/{}.pem", keys.id(number))).ok())
        };
        let [first, second] = [0, 1].map(|number| Some(keys.keys[number].public_key().to_pem()));
        assert_eq!(trusted(&["0"], &[]), [first.clone(), None]);
        assert_eq!(trusted(&["0"], &["1.pub"]), [None, second.clone()]);
        assert_eq!(trusted(&["0"], &["1.pub", "0.pub", "0.pub"]), [first, second]);
        assert_eq!(trusted(&[], &[]), [None, None]);
    }

    #[test]
    fn a_wrong_file_is_named() {
        let keys = Keys::new();
        for (sign, public, name) in
            [(vec!["0.pub"], vec![], "0.pub"), (vec![], vec!["1"], "/1"), (vec!["x"], vec![], "/x")]
        {
            let error = Signing::read(&keys.files(&sign), &keys.files(&public)).err().unwrap().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn signatures_are_of_the_keys_of_this_build() {
        let keys = Keys::new();
        let release = tempfile::tempdir().unwrap();
        release::fixtures::write_tiny_release(release.path(), &[5; 8192]);
        let sign = |names: &[&str]| Signing::read(&keys.files(names), &[]).unwrap().sign(release.path()).unwrap();
        let signature = || fs::read(release.path().join(SIGNATURES).join(keys.id(0).to_string())).unwrap();
        let mut both = vec![keys.id(0), keys.id(1)];
        both.sort();
        assert_eq!(sign(&["0", "1"]), both);
        let first = signature();
        assert_eq!(sign(&["0"]), [keys.id(0)]);
        assert_eq!(signature(), first);

        // Another release: the old signature does not fit it.
        let manifest = release.path().join(MANIFEST);
        let text = fs::read_to_string(&manifest).unwrap().replace("0.1.0", "0.2.0");
        fs::write(&manifest, &text).unwrap();
        assert_eq!(sign(&["0"]), [keys.id(0)]);
        let mut trusted = TrustedKeys::default();
        trusted.add_pem("0", keys.keys[0].public_key().to_pem().as_bytes()).unwrap();
        let trust = signature::verify(release.path(), text.as_bytes(), &trusted).unwrap();
        assert_eq!(trust, Trust::Signed { key_id: keys.id(0) });

        assert_eq!(sign(&[]), []);
        assert!(!release.path().join(SIGNATURES).exists());
    }
}
