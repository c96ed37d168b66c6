//! Releases, disks and plans for the tests of this crate and of the crates that use it.

use crate::DiskDescription;
use crate::plan::{Host, InstallPlan, PlanError, Request, plan};
use release::ReleaseSource;
use release::fixtures::write_tiny_release;
use tempfile::TempDir;
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
