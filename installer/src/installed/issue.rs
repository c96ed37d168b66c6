//! The text above the login prompt of an installed system (issue(5)), on its screen and its serial ports.

use crate::console::{self, ERRORS_ONLY, LOG_LEVELS};
use crate::installed::status::Status;
use crate::path_error::PathError;
use command::Command;
use machine::addresses::addresses;
use protocol::error_chain;
use protocol::hardware::Address;
use protocol::message::Slot;
use std::fs;
use std::path::Path;

/// A folder that agetty reads after /etc/issue (agetty(8)). `/run` is empty at each boot.
const FOLDER: &str = "run/issue.d";
/// Limit for a node of a cluster, which has an address for each of its bridges. Addresses of network cards sort before
/// most of them.
const MOST_ADDRESSES: usize = 6;

/// Writes the text. If it changed, unused login prompts are redrawn.
pub fn write(root: &Path) -> Result<(), PathError> {
    // Kernel messages that are no errors must not scroll the login away. If the level cannot be changed, they do.
    let _ = fs::write(root.join(LOG_LEVELS), ERRORS_ONLY);
    let text = match Status::read() {
        Ok(status) => text(&status, &addresses()),
        Err(error) => unknown(&error_chain(&error), &addresses()),
    };
    if replace(&root.join(FOLDER), &text)? {
        // agetty fails if no login was ever started. Such a login reads the new text when it starts.
        let _ = Command::new("agetty").arg("--reload").run();
    }
    Ok(())
}

/// Writes the text after another action. A failure is only printed, because it must not undo that action.
pub fn refresh(root: &Path) {
    if let Err(error) = write(root) {
        console::note(error_chain(&error));
    }
}

/// Replaces the text. Returns whether it has changed.
fn replace(folder: &Path, text: &str) -> Result<bool, PathError> {
    let path = folder.join("ros.issue");
    if fs::read_to_string(&path).is_ok_and(|before| before == text) {
        return Ok(false);
    }
    let write = || {
        fs::create_dir_all(folder)?;
        // agetty shows only files whose names end with `.issue`.
        let new = folder.join("ros.new");
        fs::write(&new, text)?;
        fs::rename(new, &path)
    };
    write().map_err(PathError::of("writing", &path))?;
    Ok(true)
}

fn text(status: &Status, addresses: &[Address]) -> String {
    let system = match status.slot {
        Slot::Recovery => "the recovery system".to_owned(),
        slot => format!("slot {slot}"),
    };
    let known = status.to_string();
    // The line of the release is left out, because its digest fills more than a row.
    let rest = known.lines().filter(|line| !line.starts_with("Release:") && !line.starts_with("Slot:"));
    let rest: String = rest.map(|line| escaped(line) + "\n").collect();
    format!("Name:        \\n\n{}Release:     {}, {system}\n{rest}\n", shown(addresses), escaped(&status.version))
}

fn unknown(error: &str, addresses: &[Address]) -> String {
    format!("Name:        \\n\n{}State:       unknown: {}\n\n", shown(addresses), escaped(error))
}

fn shown(addresses: &[Address]) -> String {
    if addresses.is_empty() {
        return "Address:     none; check the cable, the switch port and the DHCP server\n".to_owned();
    }
    let line = |address: &Address| format!("Address:     {} ({})\n", address.address, escaped(&address.interface));
    addresses.iter().take(MOST_ADDRESSES).map(line).collect()
}

/// The text with backslashes doubled: a single one starts an escape of agetty (agetty(8), "ISSUE FILES").
fn escaped(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect::<String>().replace('\\', "\\\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_above_the_login_fits_a_terminal() {
        let status = Status { boot: None, operator: Some("rancher.example.org".into()), ..Status::of_slot(Slot::A) };
        let address = |number: usize| Address { interface: format!("eth\\{number}"), address: "10.0.2.15".into() };
        let shown = text(&status, &(0..9).map(address).collect::<Vec<_>>());
        assert!(shown.starts_with("Name:        \\n\nAddress:     10.0.2.15 (eth\\\\0)\n"), "{shown}");
        assert!(shown.contains("\nRelease:     0.1.0, slot A\nOperator:    rancher.example.org\n"), "{shown}");
        assert_eq!(shown.matches("Address:").count(), MOST_ADDRESSES);
        assert!(shown.lines().all(|line| line.len() < 80), "{shown}");
        assert!(text(&status, &[]).contains("Address:     none; "));
        assert!(unknown("no\nslot", &[]).contains("State:       unknown: noslot\n"));
    }

    #[test]
    fn only_a_change_is_written() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("run/issue.d");
        assert!(replace(&folder, "a").unwrap() && !replace(&folder, "a").unwrap() && replace(&folder, "b").unwrap());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }
}
