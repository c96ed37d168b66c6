//! When a boot reached which milestone.

use crate::console::Line;
use boot_contract::Milestone;
use std::time::Duration;

/// One row of a timeline: a name, and seconds since power-on.
pub type Row = (&'static str, Duration);

/// The rows from power-on to the first boot from disk. What was not on the console has no row.
pub fn timeline(lines: &[Line]) -> Vec<Row> {
    let first = |fits: &dyn Fn(&str) -> bool| lines.iter().find(|line| fits(&line.text)).map(|line| line.at);
    let reached = |milestone: Milestone| first(&|text| milestone.text_in(text).is_some());
    // The old kernel still prints for a while.
    let rebooting = reached(Milestone::Rebooting).unwrap_or(Duration::MAX);
    let after_reboot = lines.iter().filter_map(kernel_start).find(|&start| start > rebooting);
    [
        ("firmware", lines.iter().find_map(kernel_start)),
        ("kernel", first(&|text| text.contains("ros-init: "))),
        ("network", reached(Milestone::Network)),
        ("attested", reached(Milestone::Attested)),
        ("registered", reached(Milestone::Registered)),
        ("written", reached(Milestone::Written)),
        ("rebooted", after_reboot),
        ("booted", reached(Milestone::Booted)),
    ]
    .into_iter()
    .filter_map(|(name, at)| Some((name, at?)))
    .collect()
}

/// When the kernel began, from a line with its own clock: `[    1.234567] text`.
fn kernel_start(line: &Line) -> Option<Duration> {
    let clock = line.text.strip_prefix('[')?.split_once(']')?.0.trim();
    let seconds: f64 = clock.parse().ok()?;
    line.at.checked_sub(Duration::try_from_secs_f64(seconds).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seconds: u64, text: &str) -> Line {
        Line { at: Duration::from_secs(seconds), text: text.to_owned() }
    }

    #[test]
    fn a_timeline_is_read_from_the_console() {
        let lines = [
            line(3, "BdsDxe: starting Boot0001"),
            line(9, "[    2.000000] ros-init: mounting the medium"),
            line(14, "ros-installer: network: eth0 has 10.0.2.15"),
            line(30, "ros-installer: written: 60 MB"),
            line(31, "ros-installer: rebooting: into the installed system"),
            line(33, "[   26.000000] reboot: machine restart"),
            line(40, "[    3.000000] ros-init: slot A"),
            line(50, "ros-installer: booted: fleet-default/m-1"),
        ];
        let seconds: Vec<(&str, u64)> = timeline(&lines).into_iter().map(|(name, at)| (name, at.as_secs())).collect();
        assert_eq!(
            seconds,
            [("firmware", 7), ("kernel", 9), ("network", 14), ("written", 30), ("rebooted", 37), ("booted", 50)]
        );
    }
}
