//! Releases, disks and plans for the tests of this crate and of the crates that use it.

use crate::DiskDescription;
use crate::plan::{Host, InstallPlan, PlanError, Request, plan};
use release::ReleaseSource;
use release::fixtures::write_tiny_release;
use tempfile::{NamedTempFile, TempDir};
use uuid::Uuid;

/// A folder with a release of a few bytes, whose root image is `root`.
pub fn tiny_release(root: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_tiny_release(folder.path(), root);
    folder
}

/// A blank disk of 2 GiB.
pub fn blank_disk(path: &str) -> DiskDescription {
    DiskDescription {
        path: path.into(),
        size_bytes: 2 << 30,
        logical_sector_bytes: 512,
        model: "Test".into(),
        serial: "S1".into(),
        ..DiskDescription::default()
    }
}

/// A release, a blank disk image, and the plan that installs the release to the image.
pub struct Fixture {
    pub release: ReleaseSource,
    pub disk: NamedTempFile,
    pub plan: InstallPlan,
    /// The bytes of the root image, 9 MiB.
    pub root: Vec<u8>,
    /// Holds the files of the release.
    pub folder: TempDir,
}

impl Fixture {
    pub fn new(request: &Request) -> Self {
        let root: Vec<u8> = (0..9 << 20).map(|i| (i % 253) as u8).collect();
        let folder = tiny_release(&root);
        let release = ReleaseSource::open(folder.path()).expect("the fixture is a release");
        let disk = NamedTempFile::new().expect("a temporary file");
        let blank = blank_disk(&disk.path().to_string_lossy());
        disk.as_file().set_len(blank.size_bytes).expect("a sparse file");
        let host = Host { architecture: "", is_bios: false, disks: &[blank], identities: &[] };
        let plan = plan(request, host, release.manifest(), Uuid::new_v4).expect("the disk can be installed to");
        Self { release, disk, plan, root, folder }
    }
}

/// A plan of a tiny release for a disk in a machine that was started by UEFI.
pub fn plan_for(disk: DiskDescription, request: &Request) -> Result<InstallPlan, PlanError> {
    plan_on(false, disk, request)
}

/// The same for a machine that was started by BIOS or by UEFI.
pub fn plan_on(is_bios: bool, disk: DiskDescription, request: &Request) -> Result<InstallPlan, PlanError> {
    let folder = tiny_release(&[5; 12288]);
    let release = ReleaseSource::open(folder.path()).expect("the fixture is a release");
    let host = Host { architecture: "", is_bios, disks: &[disk], identities: &[] };
    plan(request, host, release.manifest(), Uuid::new_v4)
}
