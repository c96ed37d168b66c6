//! `args.cfg` in a slot's folder on the boot partition: the kernel's arguments, as one line that `grub.cfg` sources.

const START: &str = "set slot_args=\"";

/// The content of the file for these arguments.
pub fn write(arguments: &str) -> String {
    format!("{START}{arguments}\"\n")
}

/// The arguments in a file. `None` if it sets none.
pub fn read(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix(START)?.strip_suffix('"')).filter(|arguments| !arguments.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(write("ros.slot=A console=tty0"), "set slot_args=\"ros.slot=A console=tty0\"\n");
        assert_eq!(read(&write("ros.slot=A console=tty0")), Some("ros.slot=A console=tty0"));
        for text in ["", "set slot_args=\"\"\n", "set slot_args=\"cut off"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
