//! Bootable media: building a release and its live ISO, putting registration settings into an existing ISO, and
//! telling what is in one.

pub mod build;
pub mod cache;
pub mod cli;
pub mod command;
pub mod customize;
pub mod digest;
pub mod embed;
pub mod iso9660;
pub mod progress;
pub mod show;
pub mod verify;
