//! The terminals that a person may use: the screen and the serial ports that exist.

use crate::sysfs;
use std::path::Path;

/// Names below /dev, the screen first: the first virtual terminal, the serial ports that exist, the consoles that the
/// kernel uses, and the console of a hypervisor.
pub fn names(root: &Path) -> Vec<String> {
    let folder = root.join("sys/class/tty");
    let is_console = |name: &String| match name.as_str() {
        "tty1" | "hvc0" => true,
        // A serial port without hardware behind it has the type PORT_UNKNOWN (linux/serial.h).
        name if name.starts_with("ttyS") => sysfs::flag(&folder.join(name).join("type")),
        _ => false,
    };
    let mut names: Vec<String> = sysfs::names(&folder).into_iter().filter(is_console).collect();
    names.sort_by_key(|name| name != "tty1");
    let more: Vec<String> = kernel_consoles(root).into_iter().filter(|name| !names.contains(name)).collect();
    names.extend(more);
    names
}

/// The consoles that the kernel writes to. `tty0` is the virtual terminal that is shown. On our systems that is the
/// first one.
pub fn kernel_consoles(root: &Path) -> Vec<String> {
    let active = sysfs::text(&root.join("sys/class/tty/console/active"), sysfs::LINE);
    active.split_whitespace().filter(|name| *name != "tty0").map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, write};

    #[test]
    fn consoles_are_the_screen_and_the_ports_that_are_there() {
        let root = tempfile::tempdir().unwrap();
        let class = root.path().join("sys/class/tty");
        for (name, kind) in [("ttyS0", "4"), ("ttyS1", "0"), ("ttyS2", "4"), ("tty1", ""), ("tty2", ""), ("ptmx", "")] {
            create_dir_all(class.join(name)).unwrap();
            write(class.join(name).join("type"), kind).unwrap();
        }
        create_dir_all(class.join("console")).unwrap();
        write(class.join("console/active"), "tty0 ttyS0 ttyAMA0\n").unwrap();
        assert_eq!(names(root.path()), ["tty1", "ttyS0", "ttyS2", "ttyAMA0"]);
    }
}
