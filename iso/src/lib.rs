//! Installation media: `build` makes a release, `format` an ISO of it, `customize` puts registration settings into one,
//! `show` and `verify` tell what is in one. The operator's container image and chart are packed here as well.

pub mod build;
pub mod cache;
pub mod chart;
pub mod cli;
pub mod customize;
pub mod format;
pub mod oci;
pub mod operator_image;
pub mod progress;
pub mod show;
pub mod verify;
