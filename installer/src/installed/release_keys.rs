//! The keys by which this machine takes releases: those of its image, and those of its cloud-config.

use crate::settings::document;
use boot_contract::paths::{OEM_CLOUD_CONFIG, RELEASE_KEYS, below};
use protocol::error_chain;
use release::signature::{SignatureError, TrustedKeys};
use std::error::Error;
use std::path::Path;

/// The keys of the system below `root`. One that cannot be used, or a cloud-config that cannot be read, is an error:
/// without it, the machine could have no key and take every release.
pub fn trusted(root: &Path) -> Result<TrustedKeys, SignatureError> {
    let mut keys = TrustedKeys::default();
    keys.add_folder(&below(root, RELEASE_KEYS))?;
    let of_config = |error: &dyn Error| SignatureError::KeyUnusable {
        file: OEM_CLOUD_CONFIG.to_owned(),
        reason: error_chain(error),
    };
    if let Some(config) = document::read(&below(root, OEM_CLOUD_CONFIG)).map_err(|error| of_config(&error))? {
        let texts = cloud_config::release_keys(&config).map_err(|error| of_config(&error))?;
        for (index, pem) in texts.into_iter().enumerate() {
            keys.add_pem(&format!("rancheros.release.keys[{index}] of {OEM_CLOUD_CONFIG}"), pem.as_bytes())?;
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use release::signature::PrivateKey;
    use std::fs;

    #[test]
    fn keys_are_of_the_image_and_of_the_cloud_config() {
        let root = tempfile::tempdir().unwrap();
        assert!(trusted(root.path()).unwrap().is_empty());
        let [of_image, of_config] = [PrivateKey::generate(), PrivateKey::generate()];
        let folder = below(root.path(), RELEASE_KEYS);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("a.pem"), of_image.public_key().to_pem()).unwrap();
        let file = below(root.path(), OEM_CLOUD_CONFIG);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let config = |pem: &str| format!("rancheros:\n  release:\n    keys: [{}]\n", serde_json::json!(pem));
        fs::write(&file, config(&of_config.public_key().to_pem())).unwrap();
        let ids: Vec<_> = trusted(root.path()).unwrap().iter().map(|key| key.id()).collect();
        assert_eq!(ids, [of_image.public_key().id(), of_config.public_key().id()]);

        for bad in ["s3cr3t", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"] {
            fs::write(&file, config(bad)).unwrap();
            let error = trusted(root.path()).unwrap_err();
            assert_eq!(error.reason(), "KeyUnusable");
            let error = error.to_string();
            assert!(error.contains("rancheros.release.keys[0]") && !error.contains("s3cr3t"), "{error}");
        }
    }
}
