//! A disk image: the layout of an installed disk, made once and started by many machines.
//!
//! At its first boot a machine makes the identifiers of its disk, takes the settings, and registers. Until then COS_OEM holds
//! the file [`boot_contract::paths::OEM_FIRST_BOOT`].

use crate::DiskDescription;
use crate::plan::{DiskImage, Host, InstallPlan, PlanError, Request, plan};
use release::ReleaseManifest;
use std::path::Path;
use uuid::Uuid;

/// Plans the installation of a release to the image file at `path`, which has `bytes` bytes.
pub fn plan_image(
    path: &Path,
    bytes: u64,
    release: &ReleaseManifest,
    image: DiskImage,
    ids: impl FnMut() -> Uuid,
) -> Result<InstallPlan, PlanError> {
    let path = path.to_string_lossy().into_owned();
    let target = DiskDescription {
        path: path.clone(),
        size_bytes: bytes,
        logical_sector_bytes: 512,
        ..DiskDescription::default()
    };
    let mut request = Request { image: Some(image), ..Request::default() };
    request.device.value = Some(path);
    plan(&request, Host { architecture: "", is_bios: false, disks: &[target], identities: &[] }, release, ids)
}
