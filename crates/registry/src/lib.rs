//! Container registries: pulls the image of a release into a folder, pushes one from an archive, and pulls any image as an OCI
//! image layout.

mod archive;
mod connection;
mod digest;
mod download;
mod endpoint;
mod error;
mod folder;
mod layout;
mod manifest;
mod patience;
mod proxy;
mod pull;
mod push;
mod reference;
mod registries_file;
#[cfg(test)]
mod tests;
mod unpack;

pub use error::RegistryError;
pub use layout::pull_layout;
pub use manifest::{CONTENT_ANNOTATION, CONTENT_INSTALLER, CONTENT_RELEASE, RELEASE_ANNOTATION};
pub use patience::{Patience, PullStep};
pub use proxy::Proxy;
pub use pull::{Inspected, Pulled, inspect, pull};
pub use push::{PushProgress, Pushed, push};
pub use reference::Reference;
pub use registries_file::RegistriesFile;
