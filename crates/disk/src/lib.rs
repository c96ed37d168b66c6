//! Plans an installation for a disk or a disk image, and executes the plan.

pub mod args_cfg;
pub mod bios;
pub mod description;
pub mod disk_image;
pub mod execute;
mod ext4;
pub mod fat;
#[doc(hidden)]
pub mod fixtures;
pub mod gpt;
pub mod layout;
pub mod marker;
pub mod plan;
pub mod rewrite;
pub mod sums;
pub mod target;

pub use description::DiskDescription;
