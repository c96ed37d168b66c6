//! The `uevent` file that sysfs shows for every block device.

/// What we use of a block device's `uevent`: `KEY=value` lines, unknown keys ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uevent {
    /// `DEVNAME`, relative to /dev.
    pub name: Option<String>,
    /// `PARTUUID`: the unique GUID of a GPT partition, lower case.
    pub partition_uuid: Option<String>,
    /// `PARTNAME`: the label of a GPT partition.
    pub partition_label: Option<String>,
}

impl Uevent {
    pub fn parse(text: &str) -> Self {
        let mut uevent = Self::default();
        for line in text.lines() {
            match line.split_once('=') {
                Some(("DEVNAME", value)) if is_device_name(value) => uevent.name = Some(value.to_owned()),
                Some(("PARTUUID", value)) => uevent.partition_uuid = Some(value.to_ascii_lowercase()),
                Some(("PARTNAME", value)) => uevent.partition_label = Some(value.to_owned()),
                _ => {}
            }
        }
        uevent
    }

    /// The label, if it may stand as a file name in /run/ros/dev: whoever wrote the disk's table chose it.
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
    fn a_partition_says_name_uuid_and_label() {
        let text = "MAJOR=254\nMINOR=3\nDEVNAME=vda3\nDEVTYPE=partition\nDISKSEQ=1\nPARTN=3\n\
                    PARTUUID=0FC63DAF-8483-4772-8E79-3D69D8477DE4\nPARTNAME=COS_STATE_A\n";
        let uevent = Uevent::parse(text);
        assert_eq!(uevent.name.as_deref(), Some("vda3"));
        assert_eq!(uevent.partition_uuid.as_deref(), Some("0fc63daf-8483-4772-8e79-3d69d8477de4"));
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
        fn any_text_is_answered(text in any::<String>()) {
            if let Some(label) = Uevent::parse(&text).safe_label() {
                prop_assert!(!label.contains('/') && !label.contains('.'));
            }
        }
    }
}
