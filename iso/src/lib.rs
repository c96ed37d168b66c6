//! Builds installation media. `build` makes a release, `format` writes its ISO, `customize` puts registration settings
//! into an ISO, `show` and `verify` read one, `keygen` makes a key that signs releases. `upgrade_image` puts a release into
//! a container image, `push` an image into a registry, `serve` starts machines from the network. The operator's container image and Helm chart are built here as well.

pub mod build;
pub mod cache;
pub mod chart;
pub mod cli;
pub mod customize;
pub mod format;
pub mod keygen;
pub mod oci;
pub mod operator_image;
pub mod output;
pub mod progress;
pub mod push;
pub mod serve;
pub mod show;
pub mod upgrade_image;
pub mod verify;
