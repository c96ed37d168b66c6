//! Decides what an installation does, from values alone; [`crate::execute`] has nothing left to decide.

pub mod config;
mod display;
pub mod layout;
mod select;
mod steps;

use crate::machine::{DiskDetail, Machine};
use crate::settings::Settings;
use cloud_config::CloudConfig;
use layout::{Demand, Layout, LayoutError, Size};
use protocol::hardware::FirmwareKind;
use release::ReleaseManifest;
use select::Unsuitable;
use serde::Serialize;
use std::path::PathBuf;
pub use steps::{BootFile, ConfigFile, Content, Step};
use uuid::Uuid;

/// Everything an installation does, in order. `Display` is what `--dry-run` prints; neither it nor the serialized form
/// holds a secret.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InstallPlan {
    /// The disk, or the disk image.
    pub target: PathBuf,
    /// The disk in words: size, model, serial.
    pub description: String,
    pub release: ReleaseManifest,
    pub layout: Layout,
    pub steps: Vec<Step>,
    /// What will not be as somebody may expect, such as keys of the cloud-config that are not applied.
    pub warnings: Vec<String>,
    /// What follows a success: off instead of a reboot.
    pub power_off: bool,
    /// The machine that the installation is for, as its marker will say.
    #[serde(skip)]
    pub identity: Option<String>,
}

/// Why nothing is installed. Each message says what, which and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("this machine has no disk: attach one, or load the driver of its controller")]
    NoDisk,
    #[error("no disk can be installed to:\n{listing}\nName one with `device` if the choice is yours to make")]
    NoEligibleDisk { listing: String },
    #[error("several disks can be installed to:\n{listing}\nName one with `device` or `deviceSelector`")]
    SeveralDisks { listing: String },
    #[error("there is no disk {device} ({origin}); this machine has:\n{listing}")]
    DiskNotFound { device: String, origin: String, listing: String },
    #[error("no disk matches deviceSelector ({origin}); this machine has:\n{listing}")]
    SelectorMatchesNothing { origin: String, listing: String },
    #[error("{disk} is the medium that this system was started from ({origin}): name another disk with `device`")]
    DiskIsBootMedium { disk: String, origin: String },
    #[error("{disk} cannot be used: {cause}")]
    DiskUnusable { disk: String, cause: String },
    #[error("{disk} holds {content}: set `wipe: true` to destroy it, or name another disk with `device`")]
    DiskHasContent { disk: String, content: String },
    #[error(
        "{disk} holds this machine's own system, which `wipe` does not cover: it is started; to install again, choose \
         that at the console"
    )]
    DiskHoldsThisMachine { disk: String },
    #[error("{disk} is too small: {source}")]
    DiskTooSmall { disk: String, source: LayoutError },
    #[error(
        "{disk} has sectors of {bytes} bytes, and a machine started by BIOS cannot start from them: switch the \
         firmware to UEFI, or name another disk with `device`"
    )]
    DiskNotBootable { disk: String, bytes: u32 },
    #[error(
        "{disk} needs the driver {driver}, which the initrd of this release does not have, so that the installed \
         system would not find its disk: use a medium with the kernel for real hardware (`make hardware-image`) or a \
         newer release, or name another disk with `device`"
    )]
    DriverMissing { disk: String, driver: String },
    #[error(
        "`forceEFI` ({origin}) asks for a system that only UEFI starts, and this machine was started by BIOS: switch \
         the firmware to UEFI, or remove it"
    )]
    ForceEfiOnBios { origin: String },
    #[error("the release is for {release}; this machine is {machine}: use the medium for {machine}")]
    WrongArchitecture { release: String, machine: String },
    #[error("`noFormat` ({origin}) asks to keep the partitions, and this installer always writes them: remove it")]
    NoFormatUnsupported { origin: String },
}

impl PlanError {
    /// Whether a disk that is still to appear may be all that is missing.
    pub fn may_be_a_late_disk(&self) -> bool {
        matches!(
            self,
            Self::NoDisk
                | Self::NoEligibleDisk { .. }
                | Self::DiskNotFound { .. }
                | Self::SelectorMatchesNothing { .. }
        )
    }

    /// CamelCase and stable: a `Failure`'s reason, and so a condition's.
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

/// Plans the installation of `release` with `cloud_config` (as merged from all its sources) on one of the machine's
/// disks. GUIDs of disk, partitions and file systems come from `ids`.
pub fn plan(
    settings: &Settings,
    machine: &Machine,
    cloud_config: &CloudConfig,
    release: &ReleaseManifest,
    mut ids: impl FnMut() -> Uuid,
) -> Result<InstallPlan, PlanError> {
    let architecture = &machine.hardware.cpu.architecture;
    if !architecture.is_empty() && *architecture != release.architecture {
        let (release, machine) = (release.architecture.clone(), architecture.clone());
        return Err(PlanError::WrongArchitecture { release, machine });
    }
    if *settings.no_format {
        return Err(PlanError::NoFormatUnsupported { origin: format!("from {}", settings.no_format.source) });
    }
    let is_bios = machine.hardware.firmware.kind == FirmwareKind::Bios;
    if *settings.force_efi && is_bios {
        return Err(PlanError::ForceEfiOnBios { origin: format!("from {}", settings.force_efi.source) });
    }
    let demand = |disk: &DiskDetail| Demand {
        disk_bytes: disk.size_bytes,
        sector_bytes: disk.logical_sector_bytes,
        root_bytes: release.root.size,
        minimum_slot_bytes: release.minimum_slot_bytes,
    };
    let suits = |disk: &DiskDetail| {
        demand(disk).check().map_err(Unsuitable::Size)?;
        if is_bios && disk.logical_sector_bytes != 512 {
            return Err(Unsuitable::Sectors(disk.logical_sector_bytes));
        }
        missing_driver(disk, release).map_or(Ok(()), |driver| Err(Unsuitable::Driver(driver.to_owned())))
    };
    let disk = select::select(settings, machine, suits)?;
    let layout =
        demand(disk).layout(&mut ids).map_err(|source| PlanError::DiskTooSmall { disk: select::name(disk), source })?;
    let files = config::files(settings, cloud_config);
    let steps = steps::steps(settings, release, &layout, files, &mut ids);
    Ok(InstallPlan {
        target: PathBuf::from(&disk.path),
        description: format!("{} {}", Size(disk.size_bytes), select::nature(disk)).trim().to_owned(),
        release: release.clone(),
        layout,
        steps,
        warnings: cloud_config::keys::unapplied(cloud_config).iter().map(ToString::to_string).collect(),
        power_off: *settings.power_off,
        identity: machine.identities.first().cloned(),
    })
}

/// The first module on the way to the disk that the release's initrd cannot load. A release that does not list its
/// modules is believed to have all.
fn missing_driver<'a>(disk: &'a DiskDetail, release: &ReleaseManifest) -> Option<&'a str> {
    let loadable = release.initrd_modules.as_ref()?;
    disk.modules.iter().find(|module| !loadable.contains(module)).map(String::as_str)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::fixtures::tiny_release;
    use crate::settings::{Setting, Source};
    use release::ReleaseSource;

    /// A blank disk of 2 GiB.
    pub fn blank_disk(path: &str) -> DiskDetail {
        DiskDetail {
            path: path.into(),
            size_bytes: 2 << 30,
            logical_sector_bytes: 512,
            model: "Test".into(),
            serial: "S1".into(),
            ..DiskDetail::default()
        }
    }

    /// A plan for a disk in a machine that was started by UEFI.
    pub fn plan_for(
        disk: DiskDetail,
        settings: &Settings,
        cloud_config: &CloudConfig,
    ) -> Result<InstallPlan, PlanError> {
        plan_on(FirmwareKind::Uefi, disk, settings, cloud_config)
    }

    fn plan_on(
        firmware: FirmwareKind,
        disk: DiskDetail,
        settings: &Settings,
        cloud_config: &CloudConfig,
    ) -> Result<InstallPlan, PlanError> {
        let folder = tiny_release(&[5; 12288]);
        let release = ReleaseSource::open(folder.path()).unwrap();
        let mut machine = Machine { disks: vec![disk], ..Machine::default() };
        machine.hardware.firmware.kind = firmware;
        plan(settings, &machine, cloud_config, release.manifest(), Uuid::new_v4)
    }

    #[test]
    fn a_disk_that_the_installed_system_would_not_find_is_refused_by_its_driver() {
        let behind = |modules: &[&str]| DiskDetail {
            modules: modules.iter().map(|module| (*module).to_owned()).collect(),
            ..blank_disk("/dev/vda")
        };
        let planned = |disk: DiskDetail| plan_for(disk, &Settings::default(), &CloudConfig::default());
        assert!(planned(behind(&["virtio_blk", "virtio_pci"])).is_ok());
        let error = planned(behind(&["mptsas", "virtio_pci"])).unwrap_err();
        assert_eq!(error.reason(), "DriverMissing");
        assert!(error.to_string().contains("driver mptsas"), "{error}");

        let folder = tiny_release(&[5; 8192]);
        let mut older = ReleaseSource::open(folder.path()).unwrap().manifest().clone();
        older.initrd_modules = None;
        assert_eq!(missing_driver(&behind(&["mptsas"]), &older), None);
    }

    #[test]
    fn bios_starts_neither_large_sectors_nor_what_is_for_uefi_alone() {
        let large = || DiskDetail { logical_sector_bytes: 4096, ..blank_disk("/dev/nvme0n1") };
        let on = |firmware, disk, force_efi| {
            let settings = Settings { force_efi: Setting::new(force_efi, Source::Operator), ..Settings::default() };
            plan_on(firmware, disk, &settings, &CloudConfig::default()).map(|_| ()).map_err(|error| error.reason())
        };
        assert_eq!(on(FirmwareKind::Bios, large(), false), Err("DiskNotBootable"));
        assert_eq!(on(FirmwareKind::Uefi, large(), false), Ok(()));
        assert_eq!(on(FirmwareKind::Bios, blank_disk("/dev/vda"), true), Err("ForceEfiOnBios"));
        assert_eq!(on(FirmwareKind::Bios, blank_disk("/dev/vda"), false), Ok(()));
    }

    fn cloud_config() -> CloudConfig {
        CloudConfig::parse("hostname: demo\npassword: topsecret\npackages: [vim]").unwrap()
    }

    #[test]
    fn a_plan_shows_what_matters_and_hides_secrets() {
        let settings = Settings {
            registration_url: Setting::new(Some("https://h/v1-rancheros/registration/token".into()), Source::Medium),
            registration_secret: Setting::new(Some(crate::settings::Secret::new("s3cret")), Source::Medium),
            ..Settings::default()
        };
        let plan = plan_for(blank_disk("/dev/vda"), &settings, &cloud_config()).unwrap();
        let shown = plan.to_string();
        for expected in ["/dev/vda", "2.0 GiB", "0.1.0", "COS_PERSISTENT", "packages", "partition table"] {
            assert!(shown.contains(expected), "{expected} is missing from\n{shown}");
        }
        let serialized = serde_json::to_string(&plan).unwrap();
        for text in [&shown, &serialized, &format!("{plan:?}")] {
            for secret in ["topsecret", "registration/token", "s3cret"] {
                assert!(!text.contains(secret), "{text}");
            }
        }
    }

    #[test]
    fn the_medium_for_another_machine_is_refused() {
        let mut machine = Machine { disks: vec![blank_disk("/dev/vda")], ..Machine::default() };
        machine.hardware.cpu.architecture = "aarch64".into();
        let folder = tiny_release(&[5; 8192]);
        let release = ReleaseSource::open(folder.path()).unwrap();
        let refused = plan(&Settings::default(), &machine, &CloudConfig::default(), release.manifest(), Uuid::new_v4);
        assert_eq!(refused.unwrap_err().reason(), "WrongArchitecture");
    }

    #[test]
    fn a_request_to_keep_partitions_is_refused() {
        let settings = Settings { no_format: Setting::new(true, Source::Flag), ..Settings::default() };
        let error = plan_for(blank_disk("/dev/vda"), &settings, &CloudConfig::default()).unwrap_err();
        assert!(error.to_string().contains("from the command line"), "{error}");
    }
}
