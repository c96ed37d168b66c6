//! Limits of a machine's report about itself. They apply when it is deserialized. The report is kept in an object of
//! the cluster and in the operator's memory, and everybody who has a medium has the token to send one.
//!
//! Most texts are cut, not refused: a disk with an endless serial number must not keep its machine from being installed,
//! and an object that was stored before there were bounds must still be read. Texts that are compared with others are
//! refused, because a part of one could pass for another ([`word`]).
//!
//! Lengths are in bytes. Schemas give the same number in characters. A text never has more characters than bytes.

use serde::de::{Error, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// Reads one line of at most `MAX` bytes and drops the rest. Characters that a terminal would obey become blanks:
/// control characters, line separators, and characters that change the direction of writing.
pub fn line<'de, const MAX: usize, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    struct Line<const MAX: usize>;
    impl<const MAX: usize> Visitor<'_> for Line<MAX> {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
            Ok(cut(text, MAX))
        }
    }
    deserializer.deserialize_str(Line::<MAX>)
}

/// Like [`line`], for a text that may be absent.
pub fn optional_line<'de, const MAX: usize, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    struct Kept<const MAX: usize>(#[serde(deserialize_with = "line::<MAX, _>")] String);
    Ok(Option::<Kept<MAX>>::deserialize(deserializer)?.map(|line| line.0))
}

/// Reads printable ASCII without blanks, of at most `MAX` bytes. Anything else is an error. May be empty.
pub fn word<'de, const MAX: usize, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = Cow::<str>::deserialize(deserializer)?;
    if text.len() > MAX {
        return Err(D::Error::custom(format!("a text of {} bytes; the limit is {MAX}", text.len())));
    }
    match text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(text.into_owned()),
        false => Err(D::Error::custom("a text with characters other than printable ASCII without blanks")),
    }
}

/// Reads the first `MAX` items of a list and drops the rest.
pub fn list<'de, const MAX: usize, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct List<const MAX: usize, T>(PhantomData<T>);
    impl<'de, const MAX: usize, T: Deserialize<'de>> Visitor<'de> for List<MAX, T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut kept = Vec::new();
            while kept.len() < MAX {
                let Some(item) = items.next_element()? else { return Ok(kept) };
                kept.push(item);
            }
            while items.next_element::<IgnoredAny>()?.is_some() {}
            Ok(kept)
        }
    }
    deserializer.deserialize_seq(List::<MAX, T>(PhantomData))
}

/// Like [`list`], for a list that may be absent.
pub fn optional_list<'de, const MAX: usize, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(bound = "T: Deserialize<'de>")]
    struct Kept<const MAX: usize, T>(#[serde(deserialize_with = "list::<MAX, T, _>")] Vec<T>);
    Ok(Option::<Kept<MAX, T>>::deserialize(deserializer)?.map(|list| list.0))
}

/// A text as [`line`] reads it.
pub fn cut(text: &str, most: usize) -> String {
    let text = &text[..text.floor_char_boundary(most)];
    text.chars().map(|c| if is_obeyed(c) { ' ' } else { c }).collect()
}

fn is_obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{FromMachine, MAX_FRAME, MachineReport, OsReport, decode};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// Most bytes of a machine's hardware and addresses as JSON in an object.
    const MOST_HARDWARE: usize = 32 * 1024;

    fn report(message: Value) -> MachineReport {
        match decode(&message.to_string()).unwrap() {
            FromMachine::Machine(report) => *report,
            other => panic!("{other:?}"),
        }
    }

    fn size(value: &impl serde::Serialize) -> usize {
        serde_json::to_vec(value).unwrap().len()
    }

    #[test]
    fn a_report_that_fills_the_frame_is_cut_to_what_an_object_may_hold() {
        let long = "\u{1b}[2J\n".repeat(2_000);
        let address = json!({"interface": long[..200], "address": long[..200]});
        let disk = json!({"path": long, "model": "m", "serial": "s"});
        let nic = json!({"name": "n", "mac": "m", "driver": "d"});
        let hostile = [
            json!({"addresses": vec![address.clone(); 250]}),
            json!({"hardware": {"disks": vec![disk; 10]}}),
            json!({"hardware": {"disks": vec![json!({"path": "/dev/x", "model": "y".repeat(300)}); 500]}}),
            json!({"hardware": {"nics": vec![nic; 5_000]}}),
            json!({"hardware": {"cpu": {"model": long}, "firmware": {"vendor": long, "version": long}, "tpm": {"firmware": long}}}),
            json!({"smbios": (0..64).map(|n| (format!("S{n}"), json!({"F": "x".repeat(1000), "\n": "\u{202e}"}))).collect::<serde_json::Map<_, _>>()}),
        ];
        for part in hostile {
            let mut message = json!({"type": "machine", "smbios": {}, "hardware": {}});
            message.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
            let given = size(&message);
            assert!(given <= MAX_FRAME, "{given}");
            let report = report(message);
            assert!(size(&report.hardware) + size(&report.addresses) <= MOST_HARDWARE, "{given}");
            assert!(size(&report.smbios) <= crate::SmbiosDocument::MAX_BYTES + 2, "{given}");
            let text = serde_json::to_string(&report).unwrap();
            assert!(!text.contains("\\u00") && !text.contains("\\n") && !text.contains('\u{202e}'), "{text}");
        }
    }

    #[test]
    fn texts_that_are_compared_are_refused_and_not_cut() {
        let report = |field: &str, value: &str| {
            let mut message = json!({"type": "report", "version": "1", "release": "sha256:a", "slot": "A", "healthy": true, "bootId": "b"});
            message[field] = value.into();
            decode::<FromMachine>(&message.to_string()).map_err(|refusal| refusal.message)
        };
        for field in ["version", "release", "bootId"] {
            assert!(report(field, &"x".repeat(129)).unwrap_err().contains("the limit is"), "{field}");
            assert!(report(field, "1\u{1b}[0m").unwrap_err().contains("printable"), "{field}");
        }
        let Ok(FromMachine::Report(cut)) = report("hostname", &"h\n".repeat(200)) else { panic!("it is cut") };
        assert_eq!(cut.hostname.map(|name| name.len()), Some(253));
    }

    proptest! {
        #[test]
        fn a_line_is_a_prefix_without_control_characters(text in any::<String>()) {
            let cut = cut(&text, 20);
            prop_assert!(!cut.chars().any(is_obeyed) && cut.chars().count() <= 20);
            prop_assert!(cut.chars().zip(text.chars()).all(|(a, b)| a == b || (a == ' ' && is_obeyed(b))));
        }

        #[test]
        fn every_report_is_within_its_limits(text: String, count in 0..200usize) {
            let address = json!({"interface": text, "address": text});
            let message = json!({"type": "booted", "version": text, "release": "r", "slot": "A", "healthy": true,
                "bootId": "b", "hostname": text, "addresses": vec![address; count]});
            if let Ok(FromMachine::Booted(report)) = decode(&message.to_string()) {
                let OsReport { addresses, hostname, .. } = *report;
                prop_assert!(addresses.len() == count.min(32) && hostname.is_some_and(|name| name.len() <= 253));
            }
        }
    }
}
