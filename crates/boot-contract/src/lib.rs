//! Names and formats that the boot menu, the initrd, the units and the installer agree on. An installed disk keeps its
//! boot menu for ever: nothing here may change its meaning.

pub mod boot_stage;
pub mod boot_state;
pub mod disk_image;
pub mod kernel_arguments;
pub mod milestone;
pub mod partition_label;
pub mod paths;
pub mod slot;
pub mod slot_files;
pub mod verity;
pub mod volume_id;

pub use boot_state::BootState;
pub use kernel_arguments::{BootMode, KernelArguments};
pub use milestone::Milestone;
pub use slot::Slot;
pub use verity::VerityArgument;
