//! Requests a report to the operator before its timer is due. The request is a file in /run. The path unit `ros-report.path` starts
//! the report while the file exists, and checks again when a report has ended. So a change during a report is reported at once,
//! although that report may have read the state before it.

use crate::installed::files::remove_if_present;
use crate::path_error::PathError;
use std::fs;
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
    remove_if_present(&path).map_err(PathError::of("removing", &path))
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
