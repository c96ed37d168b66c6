//! The processor architecture of a release, as `uname -m` prints it.

/// The one architecture that releases are built for. Debian's signed boot loaders and the packages follow from it.
pub const X86_64: &str = "x86_64";
