//! The formats of an installation medium. There is one today: the hybrid ISO.

pub mod iso;
