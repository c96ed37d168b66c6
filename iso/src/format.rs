//! The formats of an installation medium: the hybrid ISO, and the files of a network boot.

pub mod iso;
pub mod network;
