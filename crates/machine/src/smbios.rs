//! The firmware's description of the machine, with the section and field names that `dmidecode` prints.

use crate::sysfs;
use protocol::SmbiosDocument;
use smbioslib::{
    SMBiosBaseboardInformation, SMBiosData, SMBiosInformation, SMBiosProcessorInformation, SMBiosString,
    SMBiosSystemChassisInformation, SMBiosSystemInformation, SystemUuidData,
};
use std::collections::BTreeMap;
use std::path::Path;

/// Largest table that is read, in bytes. The biggest servers have some 100 KiB.
const TABLE: u64 = 512 * 1024;
/// The structure table alone, without entry point.
const TABLE_PATH: &str = "sys/firmware/dmi/tables/DMI";

/// Reads the structure table, or, if that is not readable, the few fields that the kernel copies to
/// `/sys/class/dmi/id`. The document is empty on a machine without either.
pub fn probe(root: &Path) -> SmbiosDocument {
    let document = parse(sysfs::bytes(&root.join(TABLE_PATH), TABLE));
    if document.0.contains_key("System Information") { document } else { from_kernel(root) }
}

/// Parses a structure table. Fields that are absent, empty or not text are left out. If there are several structures of
/// one type, the first one is used. An invalid table gives an empty document.
pub fn parse(table: Vec<u8>) -> SmbiosDocument {
    let data = SMBiosData::from_vec_and_version(table, None);
    let mut document = Document::default();
    if let Some(bios) = data.first::<SMBiosInformation>() {
        document.section(
            "BIOS Information",
            [("Vendor", bios.vendor()), ("Version", bios.version()), ("Release Date", bios.release_date())],
        );
    }
    if let Some(system) = data.first::<SMBiosSystemInformation>() {
        document.section(
            "System Information",
            [
                ("Manufacturer", system.manufacturer()),
                ("Product Name", system.product_name()),
                ("Version", system.version()),
                ("Serial Number", system.serial_number()),
                ("SKU Number", system.sku_number()),
                ("Family", system.family()),
            ],
        );
        if let Some(SystemUuidData::Uuid(uuid)) = system.uuid() {
            document.field("System Information", "UUID", &uuid.to_string());
        }
    }
    if let Some(board) = data.first::<SMBiosBaseboardInformation>() {
        document.section(
            "Base Board Information",
            [
                ("Manufacturer", board.manufacturer()),
                ("Product Name", board.product()),
                ("Version", board.version()),
                ("Serial Number", board.serial_number()),
                ("Asset Tag", board.asset_tag()),
            ],
        );
    }
    if let Some(chassis) = data.first::<SMBiosSystemChassisInformation>() {
        document.section(
            "Chassis Information",
            [
                ("Manufacturer", chassis.manufacturer()),
                ("Version", chassis.version()),
                ("Serial Number", chassis.serial_number()),
                ("Asset Tag", chassis.asset_tag_number()),
                ("SKU Number", chassis.sku_number()),
            ],
        );
    }
    if let Some(processor) = data.first::<SMBiosProcessorInformation>() {
        document.section(
            "Processor Information",
            [
                ("Socket Designation", processor.socket_designation()),
                ("Manufacturer", processor.processor_manufacturer()),
                ("Version", processor.processor_version()),
                ("Serial Number", processor.serial_number()),
                ("Asset Tag", processor.asset_tag()),
                ("Part Number", processor.part_number()),
            ],
        );
    }
    SmbiosDocument(document.0)
}

/// The files of `/sys/class/dmi/id`, each with the section and the field that it holds.
const KERNEL_FILES: &[(&str, &str, &str)] = &[
    ("bios_vendor", "BIOS Information", "Vendor"),
    ("bios_version", "BIOS Information", "Version"),
    ("bios_date", "BIOS Information", "Release Date"),
    ("sys_vendor", "System Information", "Manufacturer"),
    ("product_name", "System Information", "Product Name"),
    ("product_version", "System Information", "Version"),
    ("product_serial", "System Information", "Serial Number"),
    ("product_uuid", "System Information", "UUID"),
    ("product_sku", "System Information", "SKU Number"),
    ("product_family", "System Information", "Family"),
    ("board_vendor", "Base Board Information", "Manufacturer"),
    ("board_name", "Base Board Information", "Product Name"),
    ("board_version", "Base Board Information", "Version"),
    ("board_serial", "Base Board Information", "Serial Number"),
    ("board_asset_tag", "Base Board Information", "Asset Tag"),
    ("chassis_vendor", "Chassis Information", "Manufacturer"),
    ("chassis_version", "Chassis Information", "Version"),
    ("chassis_serial", "Chassis Information", "Serial Number"),
    ("chassis_asset_tag", "Chassis Information", "Asset Tag"),
];

fn from_kernel(root: &Path) -> SmbiosDocument {
    let mut document = Document::default();
    for (file, section, field) in KERNEL_FILES {
        document.field(section, field, &sysfs::text(&root.join("sys/class/dmi/id").join(file), sysfs::LINE));
    }
    SmbiosDocument(document.0)
}

#[derive(Default)]
struct Document(BTreeMap<String, BTreeMap<String, String>>);

impl Document {
    fn section<const N: usize>(&mut self, section: &str, fields: [(&str, SMBiosString); N]) {
        for (field, value) in fields {
            if let Some(value) = value.to_utf8_lossy() {
                self.field(section, field, &value);
            }
        }
    }
    fn field(&mut self, section: &str, field: &str, value: &str) {
        let value = sysfs::tidy(value);
        if !value.is_empty() {
            self.0.entry(section.to_owned()).or_default().insert(field.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A structure of the SMBIOS specification: type, formatted area behind the header, strings.
    fn structure(kind: u8, formatted: &[u8], strings: &[&str]) -> Vec<u8> {
        let mut bytes = vec![kind, u8::try_from(formatted.len() + 4).unwrap(), kind, 0];
        bytes.extend(formatted);
        for string in strings {
            bytes.extend(string.as_bytes());
            bytes.push(0);
        }
        bytes.extend(if strings.is_empty() { &[0, 0][..] } else { &[0] });
        bytes
    }

    fn table() -> Vec<u8> {
        let mut system = vec![1, 2, 0, 3];
        system.extend([0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 8, 9, 10, 11, 12, 13, 14, 15]);
        system.extend([6, 4, 0]);
        let mut bytes =
            structure(0, &[1, 2, 0, 0xe8, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0], &["EDK II", "2025.02", "02/02/2022"]);
        bytes.extend(structure(1, &system, &["Acme", "Anvil\t 9", "S-1", "SKU"]));
        bytes.extend(structure(127, &[], &[]));
        bytes
    }

    #[test]
    fn names_are_those_of_dmidecode() {
        let document = parse(table());
        let system = &document.0["System Information"];
        let expected = [
            ("Manufacturer", "Acme"),
            ("Product Name", "Anvil 9"),
            ("SKU Number", "SKU"),
            ("Serial Number", "S-1"),
            ("UUID", "00112233-4455-6677-0809-0a0b0c0d0e0f"),
        ];
        assert_eq!(system.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(), expected);
        assert_eq!(document.0["BIOS Information"]["Release Date"], "02/02/2022");
    }

    #[test]
    fn without_a_table_the_kernels_own_fields_are_used() {
        let root = tempfile::tempdir().unwrap();
        let id = root.path().join("sys/class/dmi/id");
        std::fs::create_dir_all(&id).unwrap();
        std::fs::write(id.join("product_serial"), "S-2\n").unwrap();
        std::fs::write(id.join("product_sku"), "\n").unwrap();
        let document = probe(root.path());
        assert_eq!(document.0["System Information"].len(), 1);
        assert_eq!(document.0["System Information"]["Serial Number"], "S-2");
    }

    proptest! {
        #[test]
        fn junk_is_never_fatal(table in proptest::collection::vec(any::<u8>(), 0..600)) {
            parse(table);
        }

        #[test]
        fn a_damaged_table_gives_tidy_fields_or_none(at in 0..table().len(), byte: u8, cut in 0..table().len()) {
            let mut damaged = table();
            damaged[at] = byte;
            for bytes in [damaged.clone(), damaged[..cut].to_vec()] {
                for section in parse(bytes).0.values() {
                    for value in section.values() {
                        prop_assert!(value.chars().count() <= 128 && !value.chars().any(char::is_control));
                    }
                }
            }
        }
    }
}
