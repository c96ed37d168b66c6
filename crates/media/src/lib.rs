//! Where an installation medium keeps its registration settings: the position of its files, and the space that it
//! reserves; the same of disk images; and the files of a network boot, which are parts of an ISO. `ros-image` and the operator share it, so that
//! the operator links nothing that builds media. It opens no files.

pub mod changes;
pub mod composed;
pub mod disk_image;
pub mod efi_image;
pub mod initrd_archive;
pub mod iso9660;
pub mod manifest;
pub mod network_set;
pub mod qcow2;
pub mod reserved_space;
pub mod seek;
