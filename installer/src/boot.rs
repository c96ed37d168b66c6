//! Decides what is started next and starts it: the firmware's boot menu, the boot state on COS_BOOT, and kexec.

pub mod efi;
pub mod kexec;
pub mod partition;
pub mod start;
pub mod state_file;
