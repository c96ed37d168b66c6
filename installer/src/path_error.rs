//! An operation on a file, a folder or a device that failed, with its path.

use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
#[error("{operation} {}", .path.display())]
pub struct PathError {
    /// Such as "reading".
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl PathError {
    /// Makes the error from its cause, for `map_err`.
    pub fn of<E: Into<io::Error>>(operation: &'static str, path: &(impl AsRef<Path> + ?Sized)) -> impl Fn(E) -> Self {
        move |cause| Self { operation, path: path.as_ref().to_owned(), source: cause.into() }
    }
}
