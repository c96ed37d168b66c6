//! Decides which disk is installed to and whether it may be wiped. If there is any doubt, no disk is chosen.

use super::{DeviceSelector, Host, PlanError, Request};
use crate::DiskDescription;
use crate::layout::{LayoutError, Size};

/// Why a disk cannot hold this machine's system, whatever is on it.
#[derive(Debug, Clone)]
pub enum Unsuitable {
    Size(LayoutError),
    /// A machine started by BIOS cannot start from a disk with sectors of this many bytes.
    Sectors(u32),
    /// The release's initrd does not have this kernel module.
    Driver(String),
}

/// Selects the only eligible disk. `suits` checks whether a system on a disk could be started.
///
/// A machine that holds its own complete system is not installed on any disk, unless a person at the console chose the
/// disk and typed its name.
pub fn select<'a>(
    request: &Request,
    host: Host<'a>,
    suits: impl Fn(&DiskDescription) -> Result<(), Unsuitable>,
) -> Result<&'a DiskDescription, PlanError> {
    if !request.erase_own_system
        && let Some((disk, _)) = host.own_systems().next()
    {
        return Err(PlanError::DiskHoldsThisMachine { disk: name(disk) });
    }
    let disks = host.disks;
    if disks.is_empty() {
        return Err(PlanError::NoDisk);
    }
    let ineligible = |disk: &DiskDescription| ineligible(disk, request.wipe, &suits);
    if let Some(device) = &*request.device {
        let origin = format!("from {}", request.device.origin);
        let disk = disks.iter().find(|disk| disk.path == *device || disk.links.contains(device)).ok_or_else(|| {
            PlanError::DiskNotFound {
                device: device.clone(),
                origin: origin.clone(),
                listing: listing(disks, |disk| ineligible(disk).map(|o| o.to_string())),
            }
        })?;
        return ineligible(disk).map_or(Ok(disk), |ineligible| Err(ineligible.into_error(disk, origin)));
    }

    let selector = &*request.selector;
    let origin = format!("from {}", request.selector.origin);
    let matching: Vec<&DiskDescription> = disks.iter().filter(|disk| matches(selector, disk)).collect();
    if matching.is_empty() {
        let listing = listing(disks, |disk| ineligible(disk).map(|o| o.to_string()));
        return Err(PlanError::SelectorMatchesNothing { origin, listing });
    }
    let eligible: Vec<&DiskDescription> = matching
        .iter()
        .copied()
        // A USB stick that was left in the machine is not chosen unless the selector asks for it.
        .filter(|disk| ineligible(disk).is_none() && (!disk.usb || !selector.is_empty()))
        .collect();
    let reasons = |disk: &DiskDescription| {
        if !matches(selector, disk) {
            return Some("does not match deviceSelector".into());
        }
        let usb = disk.usb && selector.is_empty();
        ineligible(disk).map(|o| o.to_string()).or(usb.then(|| "is attached by USB".into()))
    };
    match eligible[..] {
        [disk] => Ok(disk),
        [] => match matching[..] {
            [disk] if !(disk.usb && selector.is_empty()) => match ineligible(disk) {
                Some(ineligible) => Err(ineligible.into_error(disk, origin)),
                None => Ok(disk),
            },
            _ => Err(PlanError::NoEligibleDisk { listing: listing(disks, reasons) }),
        },
        _ => Err(PlanError::SeveralDisks { listing: listing(disks, reasons) }),
    }
}

/// Path, size, model and serial number, for messages: `/dev/vda (8.0 GiB, QEMU HARDDISK, serial S1)`.
pub fn name(disk: &DiskDescription) -> String {
    let model_and_serial = model_and_serial(disk);
    let comma = if model_and_serial.is_empty() { "" } else { ", " };
    format!("{} ({}{comma}{model_and_serial})", disk.path, Size(disk.size_bytes))
}

/// Model and serial number, if the disk reports them.
pub fn model_and_serial(disk: &DiskDescription) -> String {
    let serial = if disk.serial.is_empty() { String::new() } else { format!("serial {}", disk.serial) };
    let parts = [disk.model.trim().to_owned(), serial];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

/// Why a disk is not eligible.
enum Ineligible {
    BootMedium,
    ReadOnly,
    Mounted(String),
    Held(String),
    Unsuitable(Unsuitable),
    Content(String),
}

fn ineligible(
    disk: &DiskDescription,
    wipe: bool,
    suits: impl Fn(&DiskDescription) -> Result<(), Unsuitable>,
) -> Option<Ineligible> {
    if disk.is_boot_medium {
        return Some(Ineligible::BootMedium);
    }
    if disk.read_only {
        return Some(Ineligible::ReadOnly);
    }
    if !disk.mounted.is_empty() {
        return Some(Ineligible::Mounted(disk.mounted.join(", ")));
    }
    if !disk.holders.is_empty() {
        return Some(Ineligible::Held(disk.holders.join(", ")));
    }
    if let Err(cause) = suits(disk) {
        return Some(Ineligible::Unsuitable(cause));
    }
    let disposable = disk.content.is_empty() || wipe;
    (!disposable).then(|| Ineligible::Content(disk.content.join("; ")))
}

impl Ineligible {
    fn into_error(self, disk: &DiskDescription, origin: String) -> PlanError {
        let disk = name(disk);
        match self {
            Self::BootMedium => PlanError::DiskIsBootMedium { disk, origin },
            Self::Unsuitable(Unsuitable::Size(cause @ LayoutError::TooSmall { .. })) => {
                PlanError::DiskTooSmall { disk, cause }
            }
            Self::Unsuitable(Unsuitable::Size(source)) => PlanError::DiskUnusable { disk, cause: source.to_string() },
            Self::Unsuitable(Unsuitable::Sectors(bytes)) => PlanError::DiskNotBootable { disk, bytes },
            Self::Unsuitable(Unsuitable::Driver(driver)) => PlanError::DriverMissing { disk, driver },
            Self::Content(content) => PlanError::DiskHasContent { disk, content },
            Self::ReadOnly => PlanError::DiskUnusable { disk, cause: "it is read-only".into() },
            Self::Mounted(at) => {
                PlanError::DiskUnusable { disk, cause: format!("it is mounted at {at}; unmount it first") }
            }
            Self::Held(by) => PlanError::DiskUnusable { disk, cause: format!("{by} uses it; stop {by} first") },
        }
    }
}

impl std::fmt::Display for Ineligible {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BootMedium => f.write_str("is the medium that this system was started from"),
            Self::ReadOnly => f.write_str("is read-only"),
            Self::Mounted(at) => write!(f, "is mounted at {at}"),
            Self::Held(by) => write!(f, "is used by {by}"),
            Self::Unsuitable(Unsuitable::Size(error)) => write!(f, "cannot be partitioned: {error}"),
            Self::Unsuitable(Unsuitable::Sectors(bytes)) => {
                write!(f, "has sectors of {bytes} bytes, from which a BIOS cannot start")
            }
            Self::Unsuitable(Unsuitable::Driver(driver)) => {
                write!(f, "needs the driver {driver}, which the release's initrd does not have")
            }
            Self::Content(content) => write!(f, "holds {content}; `wipe: true` erases it"),
        }
    }
}

fn matches(selector: &DeviceSelector, disk: &DiskDescription) -> bool {
    let by_id = |wanted: &String| disk.links.iter().any(|link| link.strip_prefix("/dev/disk/by-id/") == Some(wanted));
    let model = |wanted: &String| disk.model.to_lowercase().contains(&wanted.to_lowercase());
    selector.by_id.as_ref().is_none_or(by_id)
        && selector.serial.as_ref().is_none_or(|serial| *serial == disk.serial)
        && selector.model.as_ref().is_none_or(model)
        && selector.min_size.is_none_or(|least| disk.size_bytes >= least)
        && selector.max_size.is_none_or(|most| disk.size_bytes <= most)
}

/// One line for each disk. If the disk is not eligible, the line names the reason.
fn listing(disks: &[DiskDescription], reason: impl Fn(&DiskDescription) -> Option<String>) -> String {
    let line = |disk: &DiskDescription| {
        format!("  {}: {}", name(disk), reason(disk).unwrap_or_else(|| "could be used".into()))
    };
    disks.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::InstalledSystem;
    use crate::fixtures::blank_disk;
    use crate::plan::Choice;

    fn refuse_small(disk: &DiskDescription) -> Result<(), Unsuitable> {
        let needed = 1 << 30;
        if disk.size_bytes < needed {
            return Err(Unsuitable::Size(LayoutError::TooSmall { actual: disk.size_bytes, needed }));
        }
        Ok(())
    }

    fn chosen(request: &Request, disks: &[DiskDescription]) -> Result<String, PlanError> {
        let host = Host { architecture: "", is_bios: false, disks, identities: &[] };
        select(request, host, refuse_small).map(|disk| disk.path.clone())
    }

    fn device(path: &str) -> Request {
        Request { device: Choice::new(Some(path.into()), "the kernel command line"), ..Request::default() }
    }

    fn wiping(request: Request) -> Request {
        Request { wipe: true, ..request }
    }

    fn used(path: &str) -> DiskDescription {
        DiskDescription { content: vec!["a GPT with NTFS \"Photos\"".into()], ..blank_disk(path) }
    }

    #[test]
    fn one_blank_disk_beside_the_medium_is_taken() {
        let medium = DiskDescription { is_boot_medium: true, ..blank_disk("/dev/sda") };
        let disks = [medium, used("/dev/sdb"), blank_disk("/dev/vda")];
        assert_eq!(chosen(&Request::default(), &disks).unwrap(), "/dev/vda");
    }

    #[test]
    fn two_blank_disks_need_a_choice_and_are_listed() {
        let disks = [blank_disk("/dev/vda"), blank_disk("/dev/vdb")];
        let error = chosen(&Request::default(), &disks).unwrap_err();
        assert_eq!(error.reason(), "SeveralDisks");
        let text = error.to_string();
        assert!(
            text.contains("/dev/vda (2.0 GiB, Test, serial S1): could be used") && text.contains("/dev/vdb"),
            "{text}"
        );
        assert_eq!(chosen(&device("/dev/vdb"), &disks).unwrap(), "/dev/vdb");
    }

    #[test]
    fn existing_data_needs_permission() {
        let error = chosen(&Request::default(), &[used("/dev/vda")]).unwrap_err();
        assert_eq!(error.reason(), "DiskHasContent");
        let text = error.to_string();
        assert!(text.contains("Photos") && text.contains("wipe: true"), "{text}");
        assert_eq!(chosen(&device("/dev/vda"), &[used("/dev/vda")]).unwrap_err().reason(), "DiskHasContent");
        assert_eq!(chosen(&wiping(Request::default()), &[used("/dev/vda")]).unwrap(), "/dev/vda");
    }

    #[test]
    fn the_machines_own_system_is_erased_for_a_person_and_never_for_a_setting() {
        let own = DiskDescription { installed: Some(InstalledSystem::default()), ..used("/dev/vda") };
        let reason = |request: &Request, disks: &[DiskDescription]| chosen(request, disks).unwrap_err().reason();
        for request in [Request::default(), wiping(Request::default()), wiping(device("/dev/vda"))] {
            assert_eq!(reason(&request, std::slice::from_ref(&own)), "DiskHoldsThisMachine");
        }
        let beside = [own.clone(), blank_disk("/dev/vdb")];
        assert_eq!(reason(&Request::default(), &beside), "DiskHoldsThisMachine", "an empty disk beside it");
        let answered = Request { erase_own_system: true, ..wiping(device("/dev/vda")) };
        assert_eq!(chosen(&answered, &[own]).unwrap(), "/dev/vda");
    }

    #[test]
    fn an_unfinished_installation_of_ours_does_not_cover_what_somebody_put_there_later() {
        let disk = DiskDescription { unfinished: true, ..blank_disk("/dev/vda") };
        assert_eq!(chosen(&Request::default(), &[disk]).unwrap(), "/dev/vda");
        let disk = DiskDescription { unfinished: true, ..used("/dev/vda") };
        assert_eq!(chosen(&Request::default(), &[disk]).unwrap_err().reason(), "DiskHasContent");
    }

    #[test]
    fn a_disk_that_something_is_built_on_is_refused_even_with_wipe() {
        let disk = DiskDescription { holders: vec!["md127".into()], ..blank_disk("/dev/sda") };
        let error = chosen(&wiping(device("/dev/sda")), &[disk]).unwrap_err();
        assert_eq!(error.reason(), "DiskUnusable");
        assert!(error.to_string().contains("md127"), "{error}");
    }

    #[test]
    fn the_medium_is_never_the_target() {
        let disk = DiskDescription { is_boot_medium: true, ..blank_disk("/dev/sda") };
        let error = chosen(&wiping(device("/dev/sda")), &[disk]).unwrap_err();
        assert_eq!(error.reason(), "DiskIsBootMedium");
        assert!(error.to_string().contains("from the kernel command line"), "{error}");
    }

    #[test]
    fn the_refusal_of_a_small_disk_names_the_required_size() {
        let disk = DiskDescription { size_bytes: 100 << 20, ..blank_disk("/dev/vda") };
        let error = chosen(&Request::default(), &[disk]).unwrap_err();
        assert_eq!(error.reason(), "DiskTooSmall");
        assert!(error.to_string().contains("needs at least 1.0 GiB"), "{error}");
    }

    #[test]
    fn a_usb_disk_is_taken_only_when_asked_for() {
        let disk = DiskDescription { usb: true, ..blank_disk("/dev/sdc") };
        let error = chosen(&Request::default(), std::slice::from_ref(&disk)).unwrap_err();
        assert_eq!(error.reason(), "NoEligibleDisk");
        assert!(error.to_string().contains("is attached by USB"), "{error}");
        assert_eq!(chosen(&device("/dev/sdc"), &[disk]).unwrap(), "/dev/sdc");
    }

    #[test]
    fn a_link_or_a_selector_names_a_disk() {
        let link = "/dev/disk/by-id/virtio-S2";
        let second = DiskDescription { serial: "S2".into(), links: vec![link.into()], ..blank_disk("/dev/vdb") };
        let disks = [blank_disk("/dev/vda"), second];
        assert_eq!(chosen(&device(link), &disks).unwrap(), "/dev/vdb");
        let with = |selector| Request { selector: Choice::new(selector, "the medium"), ..Request::default() };
        let serial = |serial: &str| DeviceSelector { serial: Some(serial.into()), ..DeviceSelector::default() };
        assert_eq!(chosen(&with(serial("S2")), &disks).unwrap(), "/dev/vdb");
        assert_eq!(chosen(&with(serial("S3")), &disks).unwrap_err().reason(), "SelectorMatchesNothing");
        let by_id = DeviceSelector { by_id: Some("virtio-S2".into()), ..DeviceSelector::default() };
        assert_eq!(chosen(&with(by_id), &disks).unwrap(), "/dev/vdb");
        let model = DeviceSelector { model: Some("tEsT".into()), ..DeviceSelector::default() };
        assert_eq!(chosen(&with(model), &disks).unwrap_err().reason(), "SeveralDisks");
    }

    #[test]
    fn no_disk_and_an_unknown_disk_are_different_errors() {
        assert_eq!(chosen(&Request::default(), &[]).unwrap_err().reason(), "NoDisk");
        let error = chosen(&device("/dev/sdz"), &[blank_disk("/dev/vda")]).unwrap_err();
        assert_eq!(error.reason(), "DiskNotFound");
        assert!(error.to_string().contains("/dev/vda"), "{error}");
    }
}
