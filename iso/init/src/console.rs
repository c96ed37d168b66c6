//! Messages of the initrd. They go to the kernel log, which prints them on every console.

use std::fs::OpenOptions;
use std::io::Write;

/// Writes one line, `ros-init: …`, with the priority "notice", which the kernel arguments of a release let through.
pub fn say(message: &str) {
    // Without a kernel log there is no other place for messages.
    if let Ok(mut log) = OpenOptions::new().write(true).open("/dev/kmsg") {
        let _ = log.write_all(format!("<5>ros-init: {message}\n").as_bytes());
    }
}
