//! Names of the files in a slot's folder on the boot partition. `grub.cfg`, which an installation writes and nothing changes
//! later, has the same ones.

pub const KERNEL: &str = "vmlinuz";
pub const INITRD: &str = "initrd";
/// The kernel's arguments, as one line that `grub.cfg` sources.
pub const ARGUMENTS: &str = "args.cfg";
