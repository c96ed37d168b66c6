//! Bootable media: building a release and its live ISO, putting registration settings into an existing ISO, and
//! telling what is in one. And the operator's container image.

pub mod build;
pub mod cache;
pub mod chart;
pub mod cli;
pub mod command;
pub mod customize;
pub mod oci;
pub mod operator_image;
pub mod progress;
pub mod show;
pub mod verify;
