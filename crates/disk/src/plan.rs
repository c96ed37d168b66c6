//! Decides from values alone what an installation does. [`crate::execute`] decides nothing.

mod display;
mod request;
mod select;
mod steps;

use crate::DiskDescription;
use crate::description::BootPartition;
use crate::gpt::partition_path;
use crate::layout::{Layout, LayoutError, Requirements, Role, Size};
use release::ReleaseManifest;
pub use request::{Choice, DeviceSelector, DiskImage, Host, Request};
use select::Unsuitable;
use serde::Serialize;
use std::path::PathBuf;
pub use steps::{BootFile, ConfigFile, Content, Step};
use uuid::Uuid;

/// Everything that an installation does, in order. `Display` is what `--dry-run` prints. Neither it nor the serialized
/// form holds a secret.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InstallPlan {
    /// Path of the disk or the disk image.
    pub target: PathBuf,
    /// The disk for a person: size, model, serial.
    pub description: String,
    pub release: ReleaseManifest,
    pub layout: Layout,
    pub steps: Vec<Step>,
    /// What may differ from what somebody expects, such as keys of the cloud-config that are not applied.
    pub warnings: Vec<String>,
    /// Whether the machine powers off after a success instead of rebooting.
    pub power_off: bool,
    /// Name of the machine that the installation is for, as its marker will hold it.
    #[serde(skip)]
    pub identity: Option<String>,
    /// If the target is a disk image.
    #[serde(skip)]
    pub image: Option<DiskImage>,
}

/// Why nothing is installed. Each message says what is wrong, with which object, and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("this machine has no disk: attach one, or use a medium with the driver of its controller")]
    NoDisk,
    #[error(
        "no disk is suitable for the installation:\n{listing}\nIf one of them is the right one, name it with `device`"
    )]
    NoEligibleDisk { listing: String },
    #[error("several disks are suitable for the installation:\n{listing}\nName one with `device` or `deviceSelector`")]
    SeveralDisks { listing: String },
    #[error("there is no disk {device} ({origin}); this machine has:\n{listing}")]
    DiskNotFound { device: String, origin: String, listing: String },
    #[error("no disk matches deviceSelector ({origin}); this machine has:\n{listing}")]
    SelectorMatchesNothing { origin: String, listing: String },
    #[error("{disk} is the medium that this system was started from ({origin}): name another disk with `device`")]
    DiskIsBootMedium { disk: String, origin: String },
    #[error("{disk} cannot be used: {cause}")]
    DiskUnusable { disk: String, cause: String },
    #[error("{disk} holds {content}: set `wipe: true` to erase it, or name another disk with `device`")]
    DiskHasContent { disk: String, content: String },
    #[error(
        "{disk} holds this machine's installed system, which `wipe` does not erase: start that system, or choose on \
         the console to install again"
    )]
    DiskHoldsThisMachine { disk: String },
    #[error("{disk} is too small: {cause}")]
    DiskTooSmall { disk: String, cause: LayoutError },
    #[error(
        "{disk} has sectors of {bytes} bytes, and a machine started by BIOS cannot start from them: switch the \
         firmware to UEFI, or name another disk with `device`"
    )]
    DiskNotBootable { disk: String, bytes: u32 },
    #[error(
        "{disk} needs the driver {driver}, which the initrd of this release does not have, so the installed system \
         would not find its disk: use a medium with the kernel for real hardware (`make hardware-image`) or a newer \
         release, or name another disk with `device`"
    )]
    DriverMissing { disk: String, driver: String },
    #[error(
        "`forceEFI` ({origin}) asks for a system that only UEFI starts, and this machine was started by BIOS: switch \
         the firmware to UEFI, or remove `forceEFI`"
    )]
    ForceEfiOnBios { origin: String },
    #[error("the release is for {release}; this machine is {machine}: use the medium for {machine}")]
    WrongArchitecture { release: String, machine: String },
    #[error("`noFormat` ({origin}) asks to keep the partitions, which this installer cannot do: remove it")]
    NoFormatUnsupported { origin: String },
}

impl PlanError {
    /// Whether the cause may be only that a disk has not appeared yet.
    pub fn may_be_a_late_disk(&self) -> bool {
        matches!(
            self,
            Self::NoDisk
                | Self::NoEligibleDisk { .. }
                | Self::DiskNotFound { .. }
                | Self::SelectorMatchesNothing { .. }
        )
    }

    /// The reason of a `Failure` and of a condition. CamelCase and stable.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoDisk => "NoDisk",
            Self::NoEligibleDisk { .. } => "NoEligibleDisk",
            Self::SeveralDisks { .. } => "SeveralDisks",
            Self::DiskNotFound { .. } => "DiskNotFound",
            Self::SelectorMatchesNothing { .. } => "SelectorMatchesNothing",
            Self::DiskIsBootMedium { .. } => "DiskIsBootMedium",
            Self::DiskUnusable { .. } => "DiskUnusable",
            Self::DiskHasContent { .. } => "DiskHasContent",
            Self::DiskHoldsThisMachine { .. } => "DiskHoldsThisMachine",
            Self::DiskTooSmall { .. } => "DiskTooSmall",
            Self::DiskNotBootable { .. } => "DiskNotBootable",
            Self::DriverMissing { .. } => "DriverMissing",
            Self::ForceEfiOnBios { .. } => "ForceEfiOnBios",
            Self::WrongArchitecture { .. } => "WrongArchitecture",
            Self::NoFormatUnsupported { .. } => "NoFormatUnsupported",
        }
    }
}

/// Plans the installation of `release` on one of the machine's disks. GUIDs of disk, partitions and file systems come
/// from `ids`.
pub fn plan(
    request: &Request,
    host: Host<'_>,
    release: &ReleaseManifest,
    mut ids: impl FnMut() -> Uuid,
) -> Result<InstallPlan, PlanError> {
    if !host.architecture.is_empty() && host.architecture != release.architecture {
        let (release, machine) = (release.architecture.clone(), host.architecture.to_owned());
        return Err(PlanError::WrongArchitecture { release, machine });
    }
    if *request.keep_partitions {
        return Err(PlanError::NoFormatUnsupported { origin: format!("from {}", request.keep_partitions.origin) });
    }
    if *request.uefi_only && host.is_bios {
        return Err(PlanError::ForceEfiOnBios { origin: format!("from {}", request.uefi_only.origin) });
    }
    let requirements = |disk: &DiskDescription| Requirements {
        disk_bytes: disk.size_bytes,
        sector_bytes: disk.logical_sector_bytes,
        root_bytes: release.root.size,
        minimum_slot_bytes: release.minimum_slot_bytes,
    };
    let suits = |disk: &DiskDescription| {
        requirements(disk).check().map_err(Unsuitable::Size)?;
        if host.is_bios && disk.logical_sector_bytes != 512 {
            return Err(Unsuitable::Sectors(disk.logical_sector_bytes));
        }
        missing_driver(disk, release).map_or(Ok(()), |driver| Err(Unsuitable::Driver(driver.to_owned())))
    };
    let disk = select::select(request, host, suits)?;
    let layout = requirements(disk)
        .layout(&mut ids)
        .map_err(|cause| PlanError::DiskTooSmall { disk: select::name(disk), cause })?;
    let steps = steps::steps(request, release, &layout, &mut ids);
    Ok(InstallPlan {
        target: PathBuf::from(&disk.path),
        description: format!("{} {}", Size(disk.size_bytes), select::model_and_serial(disk)).trim().to_owned(),
        release: release.clone(),
        layout,
        steps,
        warnings: request.warnings.clone(),
        power_off: request.power_off,
        identity: host.identities.first().cloned(),
        image: request.image,
    })
}

impl InstallPlan {
    /// The partition COS_BOOT as it will be on the disk.
    pub fn boot_partition(&self) -> BootPartition {
        let sector = u64::from(self.layout.sector_bytes);
        let partition = self.layout.partition(Role::Boot);
        let number = Role::Boot.number();
        BootPartition {
            path: partition_path(&self.target.display().to_string(), number),
            number,
            first_sector: partition.offset / sector,
            sectors: partition.length / sector,
            guid: partition.guid,
        }
    }
}

/// The first module on the way to the disk that the release's initrd cannot load. A release that lists no modules is
/// assumed to have all.
fn missing_driver<'a>(disk: &'a DiskDescription, release: &ReleaseManifest) -> Option<&'a str> {
    let loadable = release.initrd_modules.as_ref()?;
    disk.modules.iter().find(|module| !loadable.contains(module)).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{blank_disk, plan_for, plan_on, tiny_release};
    use crate::gpt::{boot_partition, tables};
    use release::ReleaseSource;

    fn manifest() -> ReleaseManifest {
        let folder = tiny_release(&[5; 8192]);
        ReleaseSource::open(folder.path()).unwrap().manifest().clone()
    }

    #[test]
    fn a_disk_that_the_installed_system_would_not_find_is_refused_by_its_driver() {
        let behind = |modules: &[&str]| DiskDescription {
            modules: modules.iter().map(|module| (*module).to_owned()).collect(),
            ..blank_disk("/dev/vda")
        };
        let planned = |disk: DiskDescription| plan_for(disk, &Request::default());
        assert!(planned(behind(&["virtio_blk", "virtio_pci"])).is_ok());
        let error = planned(behind(&["mptsas", "virtio_pci"])).unwrap_err();
        assert_eq!(error.reason(), "DriverMissing");
        assert!(error.to_string().contains("driver mptsas"), "{error}");

        let older = ReleaseManifest { initrd_modules: None, ..manifest() };
        assert_eq!(missing_driver(&behind(&["mptsas"]), &older), None);
    }

    #[test]
    fn bios_starts_neither_large_sectors_nor_what_is_for_uefi_alone() {
        let large = || DiskDescription { logical_sector_bytes: 4096, ..blank_disk("/dev/nvme0n1") };
        let on = |is_bios, disk, uefi_only| {
            let request = Request { uefi_only: Choice::new(uefi_only, "the operator"), ..Request::default() };
            plan_on(is_bios, disk, &request).map(|_| ()).map_err(|error| error.reason())
        };
        assert_eq!(on(true, large(), false), Err("DiskNotBootable"));
        assert_eq!(on(false, large(), false), Ok(()));
        assert_eq!(on(true, blank_disk("/dev/vda"), true), Err("ForceEfiOnBios"));
        assert_eq!(on(true, blank_disk("/dev/vda"), false), Ok(()));
    }

    #[test]
    fn a_plan_shows_what_matters_and_hides_secrets() {
        let request = Request {
            configuration: vec![ConfigFile::new("cloud-config.yaml", "password: topsecret")],
            warnings: vec!["packages: not applied".to_owned()],
            ..Request::default()
        };
        let plan = plan_for(blank_disk("/dev/vda"), &request).unwrap();
        let shown = plan.to_string();
        let expected =
            ["/dev/vda", "2.0 GiB", "0.1.0", "COS_PERSISTENT", "cloud-config.yaml", "packages", "partition table"];
        for expected in expected {
            assert!(shown.contains(expected), "{expected} is missing from\n{shown}");
        }
        let serialized = serde_json::to_string(&plan).unwrap();
        for text in [&shown, &serialized, &format!("{plan:?}")] {
            assert!(!text.contains("topsecret"), "{text}");
        }
    }

    #[test]
    fn the_medium_for_another_machine_is_refused() {
        let disks = [blank_disk("/dev/vda")];
        let host = Host { architecture: "aarch64", is_bios: false, disks: &disks, identities: &[] };
        let refused = plan(&Request::default(), host, &manifest(), Uuid::new_v4);
        assert_eq!(refused.unwrap_err().reason(), "WrongArchitecture");
    }

    #[test]
    fn a_request_to_keep_partitions_is_refused() {
        let request = Request { keep_partitions: Choice::new(true, "the command line"), ..Request::default() };
        let error = plan_for(blank_disk("/dev/vda"), &request).unwrap_err();
        assert!(error.to_string().contains("from the command line"), "{error}");
    }

    #[test]
    fn the_partition_of_a_plan_is_the_one_that_is_found_on_the_disk() {
        let plan = plan_for(blank_disk("/dev/vda"), &Request::default()).unwrap();
        let found = boot_partition(&tables(&plan.layout).primary, 512, "/dev/vda");
        assert_eq!(found, Some(plan.boot_partition()));
    }
}
