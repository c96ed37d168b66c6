//! A kernel that hangs before its init starts.
//!
//! Seen twice in several hundred starts under translation with two processors: the console ends for good within the
//! kernel's own initialisation (`Key type psk registered`), and no program of this project has started. Waiting longer
//! does not help. A machine that is merely slow is different: its kernel goes on printing.

use crate::console::Line;
use crate::qmp;
use anyhow::{Context, Result};
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use thiserror::Error;

/// Until its init starts, a kernel prints something every few seconds, on a busy host and under translation too.
pub const SILENCE: Duration = Duration::from_secs(120);

/// The error of a wait whose kernel hangs.
#[derive(Debug, Error)]
#[error(
    "the kernel has printed nothing for {} s and has not started init; the console ends with:\n{tail}",
    SILENCE.as_secs()
)]
pub struct Stall {
    /// The console's last lines.
    pub tail: String,
}

/// Whether a kernel has started, and no init since power-on. A kernel that hangs after a restart of the machine may
/// hang because of what was installed: that is never a stall, however long it takes.
pub fn before_init(lines: &[Line]) -> bool {
    let printed = |text: &str| lines.iter().any(|line| line.text.contains(text));
    printed("Linux version ") && !printed("ros-init: ")
}

/// Writes the state of a machine's processors into `log`, as QEMU prints it.
pub fn keep_evidence(control: &Path, log: &Path) -> Result<()> {
    let mut evidence = String::new();
    // Several times: the program counter of a processor that spins changes, that of one that sleeps does not.
    let registers = ["info registers -a"; 5];
    for command in [&["info status"][..], &registers, &["info lapic 0", "info lapic 1", "info pic"]].concat() {
        match qmp::execute(control, "human-monitor-command", json!({"command-line": command})) {
            Ok(said) => evidence += &format!("{command}\n{}\n", said.as_str().unwrap_or_default()),
            Err(error) => {
                evidence += &format!("{command}: {error:#}\n");
                break;
            }
        }
    }
    std::fs::write(log, evidence).with_context(|| format!("writing {}", log.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_alone_from_its_first_line_to_init() {
        let console = [
            ("BdsDxe: starting Boot0001", false),
            ("[    0.000000] Linux version 6.12.0", true),
            ("[    1.680000] Key type psk registered", true),
            ("[    3.100000] ros-init: starting", false),
            ("[   26.000000] reboot: machine restart", false),
            ("[    0.000000] Linux version 6.12.0", false),
        ];
        let mut lines = Vec::new();
        for (text, alone) in console {
            lines.push(Line { at: Duration::ZERO, text: text.to_owned() });
            assert_eq!(before_init(&lines), alone, "after {text:?}");
        }
        assert!(!before_init(&[]));
    }
}
