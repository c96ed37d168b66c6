//! The entries of a folder: short names, long names, files and folders.

pub const ENTRY_BYTES: usize = 32;
pub const ATTRIBUTE_LABEL: u8 = 0x08;
pub const ATTRIBUTE_FOLDER: u8 = 0x10;
pub const ATTRIBUTE_FILE: u8 = 0x20;
const ATTRIBUTE_LONG_NAME: u8 = 0x0F;
/// Flag in the sequence number of the entry that holds the end of a long name.
const LAST_LONG_NAME: u8 = 0x40;
/// 1 January 1980. The clock of a machine that is being installed may be wrong.
const DATE: u16 = 0x0021;
/// UTF-16 units in one entry of a long name.
const LONG_NAME_UNITS: usize = 13;

/// Section "FAT Directory Structure".
pub fn entry(short: &[u8; 11], attribute: u8, cluster: u32, length: u32) -> [u8; ENTRY_BYTES] {
    let mut entry = [0; ENTRY_BYTES];
    entry[..11].copy_from_slice(short);
    entry[11] = attribute;
    for date in [16, 18, 24] {
        entry[date..date + 2].copy_from_slice(&DATE.to_le_bytes());
    }
    entry[20..22].copy_from_slice(&((cluster >> 16) as u16).to_le_bytes());
    entry[26..28].copy_from_slice(&(cluster as u16).to_le_bytes());
    entry[28..32].copy_from_slice(&length.to_le_bytes());
    entry
}

/// The short name of each name: the name itself in capitals if it fits, otherwise six letters, `~` and a number.
pub fn short_names<'a>(names: impl Iterator<Item = &'a str>) -> Vec<(&'a str, [u8; 11])> {
    let mut taken: Vec<(&str, [u8; 11])> = Vec::new();
    for name in names {
        let (base, extension) = name.rsplit_once('.').unwrap_or((name, ""));
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        let fits = (1..=8).contains(&base.len()) && extension.len() <= 3 && plain(base) && plain(extension);
        let letters = |text: &str, most: usize| -> String {
            text.chars().filter(char::is_ascii_alphanumeric).take(most).collect()
        };
        let numbered = (1..).map(|n| padded(&format!("{}~{n}", letters(base, 6)), &letters(extension, 3)));
        let whole = fits.then(|| padded(base, extension));
        let free = |short: &[u8; 11]| taken.iter().all(|(_, other)| other != short);
        let short = whole.into_iter().chain(numbered).find(free);
        taken.push((name, short.expect("there are more numbers than files")));
    }
    taken
}

/// Base and extension in capitals, padded with blanks.
pub fn padded(base: &str, extension: &str) -> [u8; 11] {
    let mut short = [b' '; 11];
    for (place, byte) in short[..8].iter_mut().zip(base.bytes()) {
        *place = byte.to_ascii_uppercase();
    }
    // A label continues where a name has its extension.
    let rest = if base.len() > 8 { &base[8..] } else { extension };
    for (place, byte) in short[8..].iter_mut().zip(rest.bytes()) {
        *place = byte.to_ascii_uppercase();
    }
    short
}

/// Number of entries that the long name takes. 0 if the short name is enough.
pub fn long_name_entries(name: &str, short: &[u8; 11]) -> usize {
    let base = String::from_utf8_lossy(&short[..8]).trim_end().to_owned();
    let extension = String::from_utf8_lossy(&short[8..]).trim_end().to_owned();
    let shown = if extension.is_empty() { base } else { format!("{base}.{extension}") };
    if shown == name { 0 } else { name.encode_utf16().count().div_ceil(LONG_NAME_UNITS) }
}

/// Section "FAT Long Directory Entries": the last part of the name is the first entry.
pub fn long_name(name: &str, short: &[u8; 11]) -> Vec<u8> {
    let count = long_name_entries(name, short);
    let checksum = short.iter().fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let mut units: Vec<u16> = name.encode_utf16().collect();
    if !units.len().is_multiple_of(LONG_NAME_UNITS) {
        units.push(0);
    }
    units.resize(count * LONG_NAME_UNITS, 0xFFFF);
    let mut bytes = Vec::new();
    for (index, part) in units.chunks(LONG_NAME_UNITS).enumerate().take(count).rev() {
        let mut entry = [0; ENTRY_BYTES];
        let last = if index + 1 == count { LAST_LONG_NAME } else { 0 };
        entry[0] = (index as u8 + 1) | last;
        entry[11] = ATTRIBUTE_LONG_NAME;
        entry[13] = checksum;
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
        for (place, unit) in places.zip(part) {
            entry[place..place + 2].copy_from_slice(&unit.to_le_bytes());
        }
        bytes.extend(entry);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_unique() {
        let names = short_names(["release.json", "release.jsonx", "GRUB.CFG", "grub.cfg"].into_iter());
        let shown: Vec<_> = names.iter().map(|(_, short)| String::from_utf8_lossy(short)).collect();
        assert_eq!(shown, ["RELEAS~1JSO", "RELEAS~2JSO", "GRUB    CFG", "GRUB~1  CFG"]);
    }
}
