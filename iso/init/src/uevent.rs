//! The `uevent` file that sysfs shows for every block device.

/// The fields of a block device's `uevent` that we use. The file has `KEY=value` lines. Unknown keys are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uevent {
    /// `DEVNAME`, relative to /dev.
    pub name: Option<String>,
    /// `PARTN`: the number of a partition in its table, from 1.
    pub partition_number: Option<u32>,
    /// `PARTNAME`: the label of a GPT partition.
    pub partition_label: Option<String>,
}

impl Uevent {
    pub fn parse(text: &str) -> Self {
        let mut uevent = Self::default();
        for line in text.lines() {
            match line.split_once('=') {
                Some(("DEVNAME", value)) if is_device_name(value) => uevent.name = Some(value.to_owned()),
                Some(("PARTN", value)) => uevent.partition_number = value.parse().ok(),
                Some(("PARTNAME", value)) => uevent.partition_label = Some(value.to_owned()),
                _ => {}
            }
        }
        uevent
    }

    /// The label, if it is a safe file name for /run/ros/dev. It comes from the partition table and may be anything.
    pub fn safe_label(&self) -> Option<&str> {
        let label = self.partition_label.as_deref()?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        (!label.is_empty() && label.bytes().all(plain)).then_some(label)
    }
}

fn is_device_name(name: &str) -> bool {
    !name.is_empty()
        && !name.contains(char::is_whitespace)
        && name.split('/').all(|part| !part.is_empty() && part != "..")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_partition_says_name_number_and_label() {
        let text = "MAJOR=254\nMINOR=3\nDEVNAME=vda3\nDEVTYPE=partition\nDISKSEQ=1\nPARTN=3\nPARTNAME=COS_STATE_A\n";
        let uevent = Uevent::parse(text);
        assert_eq!(uevent.name.as_deref(), Some("vda3"));
        assert_eq!(uevent.partition_number, Some(3));
        assert_eq!(uevent.safe_label(), Some("COS_STATE_A"));
    }

    #[test]
    fn labels_and_names_cannot_leave_their_folder() {
        for bad in ["", "..", "a/b", "../../etc/passwd", "a b"] {
            assert_eq!(Uevent::parse(&format!("PARTNAME={bad}")).safe_label(), None, "{bad}");
        }
        assert_eq!(Uevent::parse("DEVNAME=../sda").name, None);
        assert_eq!(Uevent::parse("DEVNAME=cciss/c0d0p1").name.as_deref(), Some("cciss/c0d0p1"));
    }

    proptest! {
        #[test]
        fn no_label_leaves_its_folder(text in any::<String>()) {
            if let Some(label) = Uevent::parse(&text).safe_label() {
                prop_assert!(!label.contains('/') && !label.contains('.'));
            }
        }
    }
}
