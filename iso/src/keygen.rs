//! Makes a key for signing releases: the private key, which only its owner can read, and the public key for machines.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use release::signature::{KeyId, PrivateKey};
use serde::Serialize;

use crate::cli::KeygenOptions;

const PRIVATE: &str = "private.pem";
const PUBLIC: &str = "public.pem";

/// The result, printed with `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Generated {
    key_id: KeyId,
    private_key: PathBuf,
    public_key: PathBuf,
}

pub fn run(options: &KeygenOptions) -> Result<()> {
    let generated = generate(&options.output)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&generated)?);
    } else {
        let Generated { key_id, private_key, public_key } = &generated;
        println!("key {key_id}: keep {} secret, give {} to machines", private_key.display(), public_key.display());
    }
    Ok(())
}

fn generate(folder: &Path) -> Result<Generated> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("making {}", folder.display()))?;
    let [private_key, public_key] = [PRIVATE, PUBLIC].map(|name| folder.join(name));
    for path in [&private_key, &public_key] {
        ensure!(!path.exists(), "{} exists, and no key is overwritten; choose another folder", path.display());
    }
    let key = PrivateKey::generate();
    write(&private_key, 0o600, &key.to_pem())?;
    write(&public_key, 0o644, &key.public_key().to_pem())?;
    Ok(Generated { key_id: key.public_key().id(), private_key, public_key })
}

/// Writes a new file. Fails if there is one.
fn write(path: &Path, mode: u32, text: &str) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .with_context(|| format!("making {}", path.display()))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use release::signature::PublicKey;

    use super::*;

    #[test]
    fn a_key_is_written_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("keys");
        let generated = generate(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&generated.private_key).unwrap().permissions().mode() & 0o777, 0o600);
        let public = PublicKey::parse_pem("public", &fs::read(&generated.public_key).unwrap()).unwrap();
        let private = PrivateKey::parse_pem("private", &fs::read(&generated.private_key).unwrap()).unwrap();
        assert_eq!((public[0].id(), &public[0]), (generated.key_id, private.public_key()));

        let before = fs::read(&generated.private_key).unwrap();
        generate(&folder).unwrap_err();
        fs::remove_file(&generated.public_key).unwrap();
        let error = generate(&folder).unwrap_err().to_string();
        assert!(error.contains("private.pem exists"), "{error}");
        assert_eq!(fs::read(&generated.private_key).unwrap(), before);
        assert!(!generated.public_key.exists());
    }
}
