//! `EFI_LOAD_OPTION` (3.1.3): an entry of the firmware's boot menu, which names a file on a partition.

use disk::description::BootPartition;

/// `LOAD_OPTION_ACTIVE`.
const ACTIVE: u32 = 1;

/// An entry without options for the loader, because shim would take them for the name of another loader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadOption {
    /// Text in the firmware's menu.
    pub description: String,
    pub partition: BootPartition,
    /// Path from the partition's root, with backslashes.
    pub loader: String,
}

impl LoadOption {
    pub fn to_bytes(&self) -> Vec<u8> {
        let path = [hard_drive(&self.partition), file(&self.loader), node(0x7f, 0xff, &[])].concat();
        let mut bytes = ACTIVE.to_le_bytes().to_vec();
        bytes.extend((path.len() as u16).to_le_bytes());
        bytes.extend(text(&self.description));
        bytes.extend(path);
        bytes
    }
}

/// The description of any entry. `None` if the bytes are no entry.
pub fn description(option: &[u8]) -> Option<String> {
    let units = option.get(6..)?.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let units: Vec<u16> = units.collect();
    let end = units.iter().position(|unit| *unit == 0)?;
    String::from_utf16(&units[..end]).ok()
}

/// Device path node of a partition (10.3.5.1): number, position and GUID. Its format is GPT (2) and its signature a
/// GUID (2).
fn hard_drive(partition: &BootPartition) -> Vec<u8> {
    let mut data = partition.number.to_le_bytes().to_vec();
    data.extend(partition.first_sector.to_le_bytes());
    data.extend(partition.sectors.to_le_bytes());
    data.extend(partition.guid.to_bytes_le());
    data.extend([2, 2]);
    node(4, 1, &data)
}

/// Device path node of a file (10.3.5.4).
fn file(path: &str) -> Vec<u8> {
    node(4, 4, &text(path))
}

/// A device path node (10.3.1): type, subtype, length of the node, data.
fn node(kind: u8, subtype: u8, data: &[u8]) -> Vec<u8> {
    let mut node = vec![kind, subtype];
    node.extend((data.len() as u16 + 4).to_le_bytes());
    node.extend(data);
    node
}

fn text(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    #[test]
    fn an_entry_has_the_bytes_that_efibootmgr_writes() {
        let guid = Uuid::parse_str("12345678-9abc-def0-1122-334455667788").unwrap();
        let partition = BootPartition { number: 2, first_sector: 0x1000, sectors: 0x80000, guid, path: String::new() };
        let option = LoadOption { description: "A".into(), partition, loader: r"\B".into() };
        let expected = concat!(
            "01000000",
            "3800",
            "41000000",
            "04012a00",
            "02000000",
            "0010000000000000",
            "0000080000000000",
            "78563412bc9af0de1122334455667788",
            "0202",
            "04040a00",
            "5c0042000000",
            "7fff0400",
        );
        assert_eq!(hex::encode(option.to_bytes()), expected);
    }

    proptest! {
        #[test]
        fn a_description_is_read_back(text in "[^\0]{0,40}") {
            let option =
                LoadOption { description: text.clone(), partition: BootPartition::default(), loader: String::new() };
            prop_assert_eq!(description(&option.to_bytes()), Some(text));
        }

        #[test]
        fn any_bytes_have_a_description_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = description(&bytes);
        }
    }
}
