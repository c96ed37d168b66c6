//! Asks for a report to the operator before its timer does. A file asks, which `ros-report.path` watches: systemd looks for it again
//! when a report has ended. So what changed while a report was under way, which may tell what was true before, is told at once.

use crate::path_error::PathError;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

const DUE: &str = "run/ros/report-due";

/// Asks for a report of what is true now.
pub fn ask(root: &Path) -> Result<(), PathError> {
    let path = root.join(DUE);
    let folder = path.parent().unwrap_or(root);
    fs::create_dir_all(folder).map_err(PathError::of("creating", folder))?;
    fs::write(&path, "").map_err(PathError::of("writing", &path))
}

/// A report begins. What changes from now on needs another one.
pub fn begin(root: &Path) -> Result<(), PathError> {
    let path = root.join(DUE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(PathError::of("removing", &path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_answers_what_asked_before_it_began() {
        let root = tempfile::tempdir().unwrap();
        begin(root.path()).unwrap();
        ask(root.path()).unwrap();
        ask(root.path()).unwrap();
        begin(root.path()).unwrap();
        assert!(!root.path().join(DUE).exists());
        ask(root.path()).unwrap();
        assert!(root.path().join(DUE).exists(), "while it was under way");
    }
}
