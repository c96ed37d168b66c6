//! Checks an ISO or a disk image against its own manifest: every digest, and the root image's verity tree. With keys,
//! checks also that one of them signed the manifest of an ISO.

mod disk_image;

use std::fs::{self, File};
use std::io::{BufReader, Read, Seek};

use anyhow::{Context, Result, bail, ensure};
use media::disk_image::DiskImage;
use media::iso9660::Volume;
use release::signature::{KeyId, MAX_SIGNATURE_BYTES, TrustedKeys};
use release::{ReleaseFile, digest, verity};
use serde::Serialize;

use crate::build::signed_by;
use crate::cli::VerifyOptions;
use crate::{progress, show};

/// The result of a check without errors.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Verified {
    /// `None`: the medium is no ISO.
    #[serde(skip_serializing_if = "Option::is_none")]
    volume_id: Option<String>,
    version: String,
    root_hash: String,
    /// The key whose signature was checked.
    signed_by: Option<KeyId>,
    files: Vec<ReleaseFile>,
}

pub fn run(options: &VerifyOptions) -> Result<()> {
    let path = options.medium.display();
    let mut keys = TrustedKeys::default();
    for file in &options.release_key {
        let pem = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        keys.add_pem(&file.display().to_string(), &pem)?;
    }
    let open = || File::open(&options.medium).with_context(|| format!("opening {path}"));
    let image = DiskImage::open(&mut open()?).with_context(|| format!("reading {path}"))?;
    ensure!(
        image.is_none() || keys.is_empty(),
        "{path} is a disk image, which holds no signatures; omit --release-key, or check the ISO of the release"
    );
    let mut verified = progress::stage(&format!("checking {path}"), || {
        let verified = if image.is_some() { disk_image::verify(open()?) } else { verify_iso(open()?) };
        verified.with_context(|| format!("{path} is damaged or was changed; download or build it again"))
    })?;
    if !keys.is_empty() {
        verified.signed_by = Some(signer(open()?, &keys).with_context(|| format!("checking who signed {path}"))?);
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&verified)?);
    } else {
        let (version, files) = (&verified.version, verified.files.len());
        println!("{path}: release {version}, {files} files and the root hash {} are correct", verified.root_hash);
        if let Some(key) = verified.signed_by {
            println!("signed by {key}");
        }
    }
    Ok(())
}

fn verify_iso(iso: impl Read + Seek) -> Result<Verified> {
    let mut volume = Volume::open(iso)?;
    let (manifest, _) = media::manifest::read(&mut volume)?;
    let files: Vec<ReleaseFile> = manifest.files().map(|(_, file)| file.clone()).collect();
    for file in &files {
        check(&file.name, volume.reader(&on_medium(file))?, file)?;
    }
    let root = BufReader::with_capacity(1 << 20, volume.reader(&on_medium(&manifest.root))?);
    verity::check(root, &manifest.verity).context("checking the root image's verity tree")?;
    let (version, root_hash) = (manifest.version, manifest.verity.root_hash);
    Ok(Verified { volume_id: Some(volume.id), version, root_hash, signed_by: None, files })
}

/// Fails unless `reader` gives the bytes of the file. `name`: where it is read from.
fn check(name: &str, reader: impl Read, file: &ReleaseFile) -> Result<()> {
    let (sha256, size) = digest::of_reader(reader).with_context(|| format!("reading {name}"))?;
    ensure!(size == file.size, "{name} has {size} bytes instead of {}", file.size);
    ensure!(sha256 == file.sha256, "{name} has the digest {sha256} instead of {}", file.sha256);
    Ok(())
}

/// The first of `keys` that signed the release on the medium.
fn signer(iso: impl Read + Seek, keys: &TrustedKeys) -> Result<KeyId> {
    let mut volume = Volume::open(iso)?;
    let (_, manifest) = media::manifest::read(&mut volume)?;
    let found = show::signers(&mut volume)?;
    for key in keys.iter().filter(|key| found.contains(&key.id())) {
        let path = format!("{}/{}", show::SIGNATURES, key.id());
        if key.verifies(&manifest, &volume.read(&path, MAX_SIGNATURE_BYTES)?) {
            return Ok(key.id());
        }
    }
    ensure!(!found.is_empty(), "its release is not signed");
    bail!("its release is {}, and by no key of --release-key in a way that is valid", signed_by(&found))
}

fn on_medium(file: &ReleaseFile) -> String {
    format!("{}/{}", media::manifest::RELEASE, file.name)
}
