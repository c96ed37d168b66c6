//! A release in a folder, on its way to a slot. Its checks come in a fixed order: signature, manifest, the digests of the
//! small files, the oldest release that is taken, and the digest of the root image, which takes longest.

use super::attempt::Record;
use super::error::UpgradeError;
use super::plan::{Decision, ReleaseName, Slots};
use super::write::{check_release, choose, write};
use crate::console::{self, with_progress};
use crate::installed::release_keys;
use boot_contract::Milestone;
use protocol::RequestText;
use release::signature::{self, Trust};
use release::{ReleaseSource, manifest_digest, read_manifest_bytes};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A release that this machine may take, as far as can be told without its root image.
#[derive(Debug)]
pub struct Candidate {
    folder: PathBuf,
    source: ReleaseSource,
    trust: Trust,
    name: ReleaseName,
}

impl Candidate {
    /// Reads everything but the root image.
    pub fn open(folder: &Path) -> Result<Self, UpgradeError> {
        let root = Path::new("/");
        let trust = signature::verify(folder, &read_manifest_bytes(folder)?, &release_keys::trusted(root)?)?;
        let source = ReleaseSource::open(folder)?;
        let digest = manifest_digest(source.manifest_bytes());
        let name = ReleaseName { version: source.manifest().version.clone(), digest };
        if let Some(minimum) = Record::read(root)?.minimum_version {
            minimum.admits(&name.version)?;
        }
        Ok(Self { folder: folder.to_owned(), source, trust, name })
    }

    pub fn name(&self) -> &ReleaseName {
        &self.name
    }

    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Says so on the console if this machine takes unsigned releases.
    pub fn note_trust(&self) {
        if let Trust::UnsignedAllowed = self.trust {
            console::note("this machine has no keys for releases, so that it takes unsigned ones");
        }
    }

    /// Checks that the release is for this machine, and the digest of its root image.
    pub fn check(&self) -> Result<(), UpgradeError> {
        check_release(&self.source, &self.folder)
    }

    /// Does what was decided, and shows the progress on `output`. [`Self::check`] comes before. `retry`: the text that asks
    /// for this attempt. `tell` gets the milestones.
    pub fn carry_out(
        &self,
        slots: &Slots,
        decision: Decision,
        retry: Option<RequestText>,
        output: (Box<dyn Write>, bool),
        tell: impl Fn(Milestone, String),
    ) -> Result<(), UpgradeError> {
        let Decision::Write(slot) = decision else { return choose(slots, decision) };
        let version = &self.name.version;
        tell(Milestone::Planned, format!("release {version} in slot {slot}"));
        let (source, folder) = (&self.source, &self.folder);
        let written = with_progress(output, |show| write(slots, slot, source, folder, &self.trust, retry, show))?;
        tell(Milestone::Verified, format!("release {version}: {written}"));
        Ok(())
    }
}
