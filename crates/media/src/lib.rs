//! What must be known of a bootable medium to put a registration into it: where its files are, and the space that it
//! reserves for settings. `ros-image` and the operator agree on it here, so that the operator links nothing that builds
//! images. Reads what it is given, and opens nothing itself.

pub mod iso9660;
pub mod reserved_space;
