//! Keeps our entry in the firmware's boot menu, so that a machine boots its disk first.
//!
//! Exactly one entry in the order is ours, recognised by its description. It is replaced and never added a second time. A
//! second one, outside the order, is for boot code that is to be started once. Section numbers are those of the UEFI
//! specification 2.10.

mod load_option;
mod order;
mod variables;

use disk::description::BootPartition;
use load_option::LoadOption;
pub use order::Position;
use order::{Menu, arrange};
use std::io;
use std::path::Path;
use uuid::Uuid;
use variables::{GLOBAL, Variables};

/// Description of our entry in the firmware's menu.
const DESCRIPTION: &str = "RancherOS";
/// Description of the entry for boot code on trial.
const TRIAL: &str = "RancherOS on trial";
/// Path of the boot loader on COS_BOOT as it was installed. It is the removable media path, which firmware starts even
/// without an entry.
pub const REMOVABLE_LOADER: &str = r"\EFI\BOOT\BOOTX64.EFI";
/// Variable with the GUID of COS_BOOT on the disk that the firmware was last asked to start. It is removed when the
/// disk has started. Its vendor is a GUID of ours.
const ATTEMPT: &str = "RancherOSAttempt";
const VENDOR: Uuid = Uuid::from_u128(0x8a6f2d0e_5b7c_4f0a_9d0e_2c1b7a4e9f31);

/// Whether the firmware was asked to boot this disk and booted something else.
pub fn has_led_elsewhere(root: &Path, boot: &BootPartition) -> bool {
    let attempt = Variables::below(root).read(ATTEMPT, VENDOR);
    attempt.ok().flatten().is_some_and(|disk| disk == boot.guid.to_bytes_le())
}

/// Makes the firmware start this disk at the next start, once, and keeps our entry in its menu.
pub fn start_next(root: &Path, boot: &BootPartition, position: Position) -> io::Result<()> {
    let variables = Variables::below(root);
    let option = entry(DESCRIPTION, boot, REMOVABLE_LOADER);
    let before = read_menu(&variables)?;
    let after = arrange(&before, position);
    // An entry is written before the order that refers to it.
    write_changed(&variables, &entry_name(after.number), &option)?;
    write_changed(&variables, "BootOrder", &numbers(&after.order))?;
    for number in after.surplus {
        variables.remove(&entry_name(number), GLOBAL)?;
    }
    // If the machine starts from the medium again, the variable is still there and the other way is tried.
    variables.write(ATTEMPT, VENDOR, &boot.guid.to_bytes_le())?;
    variables.write("BootNext", GLOBAL, &after.number.to_le_bytes())
}

/// Whether the firmware has variables.
pub fn is_there(root: &Path) -> bool {
    Variables::below(root).names(GLOBAL).is_ok_and(|names| !names.is_empty())
}

/// Whether our entry is for this loader, a path on COS_BOOT. Without an entry the firmware starts [`REMOVABLE_LOADER`].
pub fn uses_loader(root: &Path, boot: &BootPartition, loader: &str) -> io::Result<bool> {
    let variables = Variables::below(root);
    let Some(number) = read_menu(&variables)?.ours() else { return Ok(loader == REMOVABLE_LOADER) };
    Ok(variables.read(&entry_name(number), GLOBAL)?.as_deref() == Some(&entry(DESCRIPTION, boot, loader)))
}

/// Has the firmware start this loader at the next start, once. Our entry in the order stays as it is.
pub fn try_loader(root: &Path, boot: &BootPartition, loader: &str) -> io::Result<()> {
    let variables = Variables::below(root);
    let number = match described(&variables, TRIAL)? {
        Some(number) => number,
        None => read_menu(&variables)?.free(),
    };
    write_changed(&variables, &entry_name(number), &entry(TRIAL, boot, loader))?;
    variables.write("BootNext", GLOBAL, &number.to_le_bytes())
}

/// What became of boot code on trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    NothingOnTrial,
    /// This system was started by it, and it is the one of our entry now.
    Yes,
    /// This system was started by other boot code.
    NotStarted,
}

/// Makes the loader on trial that of our entry if this system was started by it. In any case the trial is over.
pub fn adopt_loader(root: &Path, boot: &BootPartition, loader: &str) -> io::Result<Adopted> {
    let variables = Variables::below(root);
    let Some(trial) = described(&variables, TRIAL)? else { return Ok(Adopted::NothingOnTrial) };
    let current = variables.read("BootCurrent", GLOBAL)?;
    let is_this = variables.read(&entry_name(trial), GLOBAL)?.as_deref() == Some(&entry(TRIAL, boot, loader));
    let adopted = is_this && current.as_deref() == Some(&trial.to_le_bytes());
    if adopted {
        let after = arrange(&read_menu(&variables)?, Position::Kept);
        write_changed(&variables, &entry_name(after.number), &entry(DESCRIPTION, boot, loader))?;
        write_changed(&variables, "BootOrder", &numbers(&after.order))?;
    }
    variables.remove(&entry_name(trial), GLOBAL)?;
    Ok(if adopted { Adopted::Yes } else { Adopted::NotStarted })
}

fn entry(description: &str, boot: &BootPartition, loader: &str) -> Vec<u8> {
    let (description, loader) = (description.to_owned(), loader.to_owned());
    LoadOption { description, partition: boot.clone(), loader }.to_bytes()
}

/// The number of the entry with this description.
fn described(variables: &Variables, description: &str) -> io::Result<Option<u16>> {
    for number in variables.names(GLOBAL)?.iter().filter_map(|name| entry_number(name)) {
        let option = variables.read(&entry_name(number), GLOBAL)?.unwrap_or_default();
        if load_option::description(&option).as_deref() == Some(description) {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// Records that the disk has started, so that the firmware may be asked again.
pub fn has_started(root: &Path) -> io::Result<()> {
    Variables::below(root).remove(ATTEMPT, VENDOR)
}

/// Writes only changed values, because the firmware's flash wears out.
fn write_changed(variables: &Variables, name: &str, value: &[u8]) -> io::Result<()> {
    if variables.read(name, GLOBAL)?.as_deref() == Some(value) {
        return Ok(());
    }
    variables.write(name, GLOBAL, value)
}

fn read_menu(variables: &Variables) -> io::Result<Menu> {
    let mut menu = Menu::default();
    let order = variables.read("BootOrder", GLOBAL)?.unwrap_or_default();
    menu.order = order.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    for number in variables.names(GLOBAL)?.iter().filter_map(|name| entry_number(name)) {
        let option = variables.read(&entry_name(number), GLOBAL)?.unwrap_or_default();
        let is_ours = load_option::description(&option).as_deref() == Some(DESCRIPTION);
        menu.entries.insert(number, is_ours);
    }
    Ok(menu)
}

fn numbers(order: &[u16]) -> Vec<u8> {
    order.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Name of an entry (section 3.3): `Boot` and four hexadecimal digits in upper case.
fn entry_name(number: u16) -> String {
    format!("Boot{number:04X}")
}

fn entry_number(name: &str) -> Option<u16> {
    let digits = name.strip_prefix("Boot")?;
    let number = u16::from_str_radix(digits, 16).ok()?;
    (entry_name(number) == name).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn boot(guid: u128) -> BootPartition {
        BootPartition {
            number: 2,
            first_sector: 4096,
            sectors: 8192,
            guid: Uuid::from_u128(guid),
            ..Default::default()
        }
    }

    /// The variables of a firmware as files, with one entry that is not ours.
    fn firmware() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("sys/firmware/efi/efivars")).unwrap();
        let variables = Variables::below(root.path());
        variables.write("Boot0000", GLOBAL, &[1, 0, 0, 0, 0, 0, b'C', 0, b'D', 0, 0, 0]).unwrap();
        variables.write("BootOrder", GLOBAL, &[0, 0]).unwrap();
        root
    }

    #[test]
    fn one_entry_of_ours_is_made_and_replaced() {
        let root = firmware();
        let variables = Variables::below(root.path());
        let read = |name: &str| variables.read(name, GLOBAL).unwrap();
        start_next(root.path(), &boot(1), Position::First).unwrap();
        assert_eq!((read("BootOrder"), read("BootNext")), (Some(vec![1, 0, 0, 0]), Some(vec![1, 0])));
        let first = read("Boot0001").unwrap();
        start_next(root.path(), &boot(2), Position::First).unwrap();
        assert_eq!((read("BootOrder"), read("Boot0002")), (Some(vec![1, 0, 0, 0]), None));
        assert_ne!(read("Boot0001").unwrap(), first);
        assert_eq!(load_option::description(&first).as_deref(), Some("RancherOS"));
    }

    #[test]
    fn boot_code_is_started_once_and_kept_if_it_has_started_this_system() {
        let root = firmware();
        let variables = Variables::below(root.path());
        let read = |name: &str| variables.read(name, GLOBAL).unwrap();
        let (disk, new) = (boot(1), r"\EFI\ros-1\shimx64.efi");
        assert!(uses_loader(root.path(), &disk, REMOVABLE_LOADER).unwrap(), "without an entry");
        start_next(root.path(), &disk, Position::First).unwrap();
        let before = read("Boot0001");
        assert_eq!(adopt_loader(root.path(), &disk, new).unwrap(), Adopted::NothingOnTrial);
        for started_by in [1u16, 2] {
            try_loader(root.path(), &disk, new).unwrap();
            assert_eq!((read("BootNext"), read("BootOrder")), (Some(vec![2, 0]), Some(vec![1, 0, 0, 0])));
            assert_eq!(read("Boot0001"), before, "power may be cut now");
            variables.write("BootCurrent", GLOBAL, &started_by.to_le_bytes()).unwrap();
            let adopted = adopt_loader(root.path(), &disk, new).unwrap();
            assert_eq!(adopted, if started_by == 2 { Adopted::Yes } else { Adopted::NotStarted });
            assert_eq!(uses_loader(root.path(), &disk, new).unwrap(), started_by == 2);
            assert_eq!(read("Boot0002"), None, "the trial is over");
        }
        assert_eq!(read("BootOrder"), Some(vec![1, 0, 0, 0]));
        assert!(!uses_loader(root.path(), &boot(2), new).unwrap(), "another disk");
        try_loader(root.path(), &disk, REMOVABLE_LOADER).unwrap();
        variables.write("BootCurrent", GLOBAL, &[2, 0]).unwrap();
        assert_eq!(adopt_loader(root.path(), &disk, new).unwrap(), Adopted::NotStarted, "that of another release");
    }

    #[test]
    fn a_firmware_that_led_elsewhere_is_remembered_until_the_disk_has_started() {
        let root = firmware();
        assert!(!has_led_elsewhere(root.path(), &boot(1)));
        start_next(root.path(), &boot(1), Position::Kept).unwrap();
        assert!(has_led_elsewhere(root.path(), &boot(1)) && !has_led_elsewhere(root.path(), &boot(2)));
        has_started(root.path()).unwrap();
        assert!(!has_led_elsewhere(root.path(), &boot(1)));
        has_started(root.path()).unwrap();
    }

    #[test]
    fn a_machine_without_variables_says_so() {
        let root = tempfile::tempdir().unwrap();
        assert!(start_next(root.path(), &boot(1), Position::First).is_err());
        assert!(!has_led_elsewhere(root.path(), &boot(1)) && has_started(root.path()).is_ok());
    }

    #[test]
    fn only_entries_are_entries() {
        assert_eq!(entry_number("Boot00AF"), Some(0xaf));
        for other in ["BootOrder", "Boot00af", "Boot1", "BootNext", "Boot+001"] {
            assert_eq!(entry_number(other), None, "{other}");
        }
    }
}
