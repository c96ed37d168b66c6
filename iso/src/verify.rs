//! Checks an ISO against its own manifest: every digest, and the root image's verity tree.

use std::fs::File;
use std::io::{BufReader, Read, Seek};

use anyhow::{Context, Result, ensure};
use media::iso9660::Volume;
use release::{ReleaseFile, digest, verity};
use serde::Serialize;

use crate::cli::VerifyOptions;
use crate::{progress, show};

/// The result of a check without errors.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Verified {
    volume_id: String,
    version: String,
    root_hash: String,
    files: Vec<ReleaseFile>,
}

pub fn run(options: &VerifyOptions) -> Result<()> {
    let path = options.iso.display();
    let iso = File::open(&options.iso).with_context(|| format!("opening {path}"))?;
    let verified = progress::stage(&format!("checking {path}"), || {
        verify(iso).with_context(|| format!("{path} is damaged or was changed; fetch or build it again"))
    })?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&verified)?);
    } else {
        let (version, files) = (&verified.version, verified.files.len());
        println!("{path}: release {version}, {files} files and the root hash {} are right", verified.root_hash);
    }
    Ok(())
}

fn verify(iso: impl Read + Seek) -> Result<Verified> {
    let mut volume = Volume::open(iso)?;
    let manifest = show::manifest(&mut volume)?;
    let files: Vec<ReleaseFile> = manifest.files().into_iter().map(|(_, file)| file.clone()).collect();
    for file in &files {
        let reader = volume.reader(&on_medium(file))?;
        let (sha256, size) = digest::of_reader(reader).with_context(|| format!("reading {}", file.name))?;
        ensure!(size == file.size, "{} has {size} bytes instead of {}", file.name, file.size);
        ensure!(sha256 == file.sha256, "{} has the digest {sha256} instead of {}", file.name, file.sha256);
    }
    let root = BufReader::with_capacity(1 << 20, volume.reader(&on_medium(&manifest.root))?);
    verity::check(root, &manifest.verity).context("checking the root image's verity tree")?;
    Ok(Verified { volume_id: volume.id, version: manifest.version, root_hash: manifest.verity.root_hash, files })
}

fn on_medium(file: &ReleaseFile) -> String {
    format!("/release/{}", file.name)
}
