//! `args.cfg` in a slot's folder on the boot partition: the kernel's arguments, as one line that `grub.cfg` sources.

use boot_contract::kernel_arguments::{MODE, ROOT, SLOT, VERITY};
use boot_contract::{BootMode, Slot};
use release::ReleaseManifest;
use uuid::Uuid;

const START: &str = "set slot_args=\"";
/// GRUB's variable with the GUID of the slot's partition, in the file of a disk image.
const GRUB_ROOT: &str = "$ros_root";

/// The content of the file for these arguments.
pub fn write(arguments: &str) -> String {
    format!("{START}{arguments}\"\n")
}

/// The same for a slot of a disk image, whose partition has the number `partition`. GRUB looks up the GUID of that partition,
/// because each machine makes its own at its first boot. `ros_boot` is the variable of the menu that names COS_BOOT.
pub fn write_for_image(arguments: &str, partition: u32) -> String {
    let look_up = format!(
        "regexp --set=1:ros_disk \"([^,]*),\" \"$ros_boot\"\nprobe --set=ros_root --part-uuid ($ros_disk,gpt{partition})\n"
    );
    look_up + &write(arguments)
}

/// The arguments in a file. `None` if it sets none.
pub fn read(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix(START)?.strip_suffix('"')).filter(|arguments| !arguments.is_empty())
}

/// The arguments of a slot whose root partition has the GUID `root`. `added` comes last, so that it is stronger than the
/// arguments of the release.
pub fn of_slot(slot: Slot, root: Uuid, release: &ReleaseManifest, added: &str) -> String {
    with_root(slot, &root.to_string(), release, added)
}

/// The arguments of a slot of a disk image.
pub fn of_image_slot(slot: Slot, release: &ReleaseManifest, added: &str) -> String {
    with_root(slot, GRUB_ROOT, release, added)
}

/// Whether GRUB looks up the GUID of the slot's partition: [`resolved`] does the same.
pub fn is_of_image(arguments: &str) -> bool {
    arguments.contains(GRUB_ROOT)
}

/// The arguments of a slot that came with a disk image, as GRUB passes them on: with the GUID of its partition.
pub fn resolved(arguments: &str, root: Uuid) -> String {
    arguments.replace(GRUB_ROOT, &root.to_string())
}

fn with_root(slot: Slot, root: &str, release: &ReleaseManifest, added: &str) -> String {
    let mode = if slot == Slot::Recovery { BootMode::Recovery } else { BootMode::System };
    let verity = release.verity.argument();
    let own = format!("{MODE}={mode} {SLOT}={} {ROOT}={root} {VERITY}={verity}", slot.letter());
    [&own, &release.kernel_arguments, added]
        .map(str::trim)
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The arguments of a slot that are neither ours nor those of its release. An installation or a person added them, and
/// they hold for the next release as well.
pub fn added(arguments: &str, release: &ReleaseManifest) -> String {
    let is_own = |word: &&str| word.split_once('=').is_some_and(|(name, _)| [MODE, SLOT, ROOT, VERITY].contains(&name));
    let words: Vec<&str> = arguments.split_ascii_whitespace().filter(|word| !is_own(word)).collect();
    let released: Vec<&str> = release.kernel_arguments.split_ascii_whitespace().collect();
    match words.strip_prefix(&released[..]) {
        Some(added) => added.join(" "),
        // Somebody changed the line. A word of the release may have been removed on purpose, so only its words are dropped.
        None => words.into_iter().filter(|word| !released.contains(word)).collect::<Vec<_>>().join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::tiny_release;
    use release::ReleaseSource;

    #[test]
    fn what_was_added_to_a_slot_is_found_again() {
        let folder = tiny_release(&[5; 8192]);
        let release = ReleaseSource::open(folder.path()).unwrap().manifest().clone();
        let root = Uuid::from_u128(7);
        for extra in ["", "console=ttyS0,115200", "console=tty0 quiet"] {
            let arguments = of_slot(Slot::B, root, &release, extra);
            assert!(arguments.starts_with(&format!("ros.mode=system ros.slot=B ros.root={root} ros.verity=1:1:")));
            assert_eq!(added(&arguments, &release), extra, "{arguments}");
        }
        assert!(of_slot(Slot::Recovery, root, &release, "").starts_with("ros.mode=recovery ros.slot=R "));
        let mut other = release.clone();
        other.kernel_arguments = "console=tty0 panic=10".into();
        assert_eq!(added("ros.slot=A panic=10 x=1", &other), "x=1", "a person removed a word");
    }

    #[test]
    fn grub_looks_up_the_partition_of_a_slot_that_came_with_an_image() {
        let folder = tiny_release(&[5; 8192]);
        let release = ReleaseSource::open(folder.path()).unwrap().manifest().clone();
        let file = write_for_image(&of_image_slot(Slot::A, &release, "quiet"), 3);
        assert!(file.contains("probe --set=ros_root --part-uuid ($ros_disk,gpt3)\nset slot_args="), "{file}");
        let arguments = read(&file).unwrap();
        assert_eq!((added(arguments, &release).as_str(), is_of_image(arguments)), ("quiet", true));
        let root = Uuid::from_u128(7);
        let resolved = resolved(arguments, root);
        assert_eq!(resolved, of_slot(Slot::A, root, &release, "quiet"));
        assert!(!is_of_image(&resolved));
    }

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(write("ros.slot=A console=tty0"), "set slot_args=\"ros.slot=A console=tty0\"\n");
        assert_eq!(read(&write("ros.slot=A console=tty0")), Some("ros.slot=A console=tty0"));
        for text in ["", "set slot_args=\"\"\n", "set slot_args=\"cut off"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
