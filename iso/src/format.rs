//! The formats of media: the hybrid ISO, the files of a network boot, and disk images.

pub mod disk;
pub mod iso;
pub mod network;
