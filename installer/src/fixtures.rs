//! For tests: a release of a few bytes in a folder of its own.

pub fn tiny_release(root: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    release::fixtures::write_tiny_release(folder.path(), root);
    folder
}
