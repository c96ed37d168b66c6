//! SMBIOS as a document of sections and fields.

use crate::refusal::{Refusal, RefusalCode};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Section name (as `dmidecode` prints it, such as `System Information`) to field name (`Serial Number`) to value.
///
/// Reading one from the wire keeps it within [`SmbiosDocument::MAX_SECTIONS`], [`SmbiosDocument::MAX_FIELDS`],
/// [`SmbiosDocument::MAX_TEXT`] and [`SmbiosDocument::MAX_BYTES`], and without control characters, because the document
/// is kept in an object of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct SmbiosDocument(pub BTreeMap<String, BTreeMap<String, String>>);

impl SmbiosDocument {
    pub const MAX_SECTIONS: usize = 64;
    /// Fields of one section.
    pub const MAX_FIELDS: usize = 128;
    /// Bytes of a section's name, of a field's name and of a value.
    pub const MAX_TEXT: usize = 1024;
    /// Bytes of the whole document as JSON. The document of our installer has 1.5 KiB, the whole output of `dmidecode`
    /// on a large server some 10 KiB. The API server keeps another copy of the names in `managedFields`.
    pub const MAX_BYTES: usize = 12 * 1024;
    /// The sections that identify and name machines. They are kept before all others.
    const FIRST: [&str; 4] =
        ["System Information", "Base Board Information", "Chassis Information", "BIOS Information"];

    /// Looks a value up by its path, such as `System Information/Serial Number`.
    pub fn get(&self, path: &str) -> Option<&str> {
        let (section, field) = path.split_once('/')?;
        self.0.get(section)?.get(field).map(String::as_str)
    }

    /// Reads the document that the first release's clients make of `dmidecode`'s output. The fields of its sections are
    /// texts, lists of texts (joined by `, ` here) or sections again (left out here, as is text outside of a section).
    /// A document out of bounds is cut, because those clients know no bounds.
    pub fn from_dmidecode_json(document: &Value) -> Result<Self, Refusal> {
        let sections = document.as_object().ok_or_else(|| {
            Refusal::new(RefusalCode::MalformedMessage, "the SMBIOS document is not an object of sections")
        })?;
        let mut result = BTreeMap::new();
        for (section, fields) in sections {
            let fields = fields.as_object().into_iter().flatten();
            result.insert(section.clone(), fields.filter_map(|(name, v)| Some((name.clone(), text(v)?))).collect());
        }
        Ok(Self(result).cut_to_bounds())
    }

    /// Leaves out sections and fields over the limit, the ends of long texts, and what the whole has no room for.
    pub fn cut_to_bounds(self) -> Self {
        let cut = |text: String| crate::bounded::cut(&text, Self::MAX_TEXT);
        let fields = |fields: BTreeMap<String, String>| {
            fields.into_iter().take(Self::MAX_FIELDS).map(|(name, value)| (cut(name), cut(value))).collect()
        };
        let sections = self.0.into_iter().take(Self::MAX_SECTIONS);
        Self(sections.map(|(name, section)| (cut(name), fields(section))).collect()).cut_to_bytes()
    }

    fn cut_to_bytes(mut self) -> Self {
        let mut left = Self::MAX_BYTES;
        let mut has_room = |bytes: usize| {
            let fits = bytes <= left;
            left -= if fits { bytes } else { 0 };
            fits
        };
        let mut kept = BTreeMap::new();
        let first = Self::FIRST.iter().filter_map(|name| self.0.remove_entry(*name)).collect::<Vec<_>>();
        for (name, mut fields) in first.into_iter().chain(self.0) {
            // Quotes, colon, braces and comma.
            if has_room(json_length(&name) + 4) {
                fields.retain(|name, value| has_room(json_length(name) + json_length(value) + 2));
                kept.insert(name, fields);
            }
        }
        Self(kept)
    }

    fn within_bounds(self) -> Result<Self, String> {
        if self.0.len() > Self::MAX_SECTIONS {
            return Err(format!(
                "the SMBIOS document has {} sections; the limit is {}",
                self.0.len(),
                Self::MAX_SECTIONS
            ));
        }
        for (section, fields) in &self.0 {
            if fields.len() > Self::MAX_FIELDS {
                let (count, limit) = (fields.len(), Self::MAX_FIELDS);
                return Err(format!("a section of the SMBIOS document has {count} fields; the limit is {limit}"));
            }
            let texts = fields.iter().flat_map(|(name, value)| [name, value]).chain([section]);
            if let Some(text) = texts.into_iter().find(|text| text.len() > Self::MAX_TEXT) {
                let (length, limit) = (text.len(), Self::MAX_TEXT);
                return Err(format!("a text of the SMBIOS document has {length} bytes; the limit is {limit}"));
            }
        }
        Ok(self)
    }
}

impl<'de> Deserialize<'de> for SmbiosDocument {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        // The size of the whole is a later limit than the others: installers that do not know it must not be refused.
        Ok(Self(BTreeMap::deserialize(d)?).within_bounds().map_err(serde::de::Error::custom)?.cut_to_bounds())
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => Some(items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Object(_) => None,
    }
}

/// Bytes of a text as JSON, with its quotes. The text has no control characters.
fn json_length(text: &str) -> usize {
    text.len() + text.bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count() + 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn values_are_found_by_path() {
        let document: SmbiosDocument =
            serde_json::from_value(json!({"System Information": {"Serial Number": "S1", "A/B": "odd"}})).unwrap();
        assert_eq!(document.get("System Information/Serial Number"), Some("S1"));
        assert_eq!(document.get("System Information/A/B"), Some("odd"));
        for absent in ["", "System Information", "System Information/", "Chassis/Serial Number"] {
            assert_eq!(document.get(absent), None, "{absent:?}");
        }
    }

    #[test]
    fn a_document_of_the_first_release_is_flattened() {
        let document = SmbiosDocument::from_dmidecode_json(&json!({
            "BIOS Information": {"Vendor": "SeaBIOS", "Characteristics": ["PCI is supported", "EDD is supported"]},
            "Memory Device": {"Set": {"deeper": "dropped"}, "Size": 16},
            "Table at 0x000F5A80.": "",
        }))
        .unwrap();
        assert_eq!(document.get("BIOS Information/Characteristics"), Some("PCI is supported, EDD is supported"));
        assert_eq!(document.get("Memory Device/Size"), Some("16"));
        assert_eq!(document.get("Memory Device/Set"), None);
        assert!(SmbiosDocument::from_dmidecode_json(&json!([])).is_err());
    }

    #[test]
    fn a_document_out_of_bounds_is_refused() {
        let sections: BTreeMap<String, BTreeMap<String, String>> =
            (0..=SmbiosDocument::MAX_SECTIONS).map(|i| (i.to_string(), BTreeMap::new())).collect();
        let long = json!({"S": {"F": "x".repeat(SmbiosDocument::MAX_TEXT + 1)}});
        let wide: BTreeMap<_, _> = (0..=SmbiosDocument::MAX_FIELDS).map(|i| (i.to_string(), String::new())).collect();
        for document in [json!(sections), long, json!({"S": wide})] {
            let error = serde_json::from_value::<SmbiosDocument>(document.clone()).unwrap_err().to_string();
            assert!(error.contains("the limit is"), "{error}");
            let cut = SmbiosDocument::from_dmidecode_json(&document).unwrap();
            assert_eq!(serde_json::from_value(json!(cut)).ok(), Some(cut));
        }
    }

    #[test]
    fn identifying_sections_are_kept_before_all_others() {
        let fields = |n: usize| (0..n).map(|i| (format!("F{i}"), "x".repeat(500))).collect::<BTreeMap<_, _>>();
        let mut sections: BTreeMap<_, _> = (0..40).map(|i| (format!("A{i}"), fields(9))).collect();
        sections.insert("System Information".to_owned(), [("Serial Number".to_owned(), "S1".to_owned())].into());
        let document: SmbiosDocument = serde_json::from_value(json!(sections)).unwrap();
        assert_eq!(document.get("System Information/Serial Number"), Some("S1"));
        let size = serde_json::to_vec(&document).unwrap().len();
        assert!((SmbiosDocument::MAX_BYTES - 1024..=SmbiosDocument::MAX_BYTES).contains(&size), "{size}");
    }

    proptest! {
        #[test]
        fn any_document_is_cut_to_its_size(sections in proptest::collection::btree_map(
            ".{0,90}", proptest::collection::btree_map(".{0,90}", ".{0,2000}", 0..20), 0..20)
        ) {
            let cut = SmbiosDocument(sections).cut_to_bounds();
            prop_assert!(serde_json::to_vec(&cut).unwrap().len() <= SmbiosDocument::MAX_BYTES + 2);
            prop_assert_eq!(cut.clone().cut_to_bounds(), cut);
        }

        #[test]
        fn a_bounded_document_survives_the_wire(document in proptest::collection::btree_map(
            "[ -~]{0,20}", proptest::collection::btree_map("[ -~é]{0,20}", "[ -~é]{0,40}", 0..8), 0..8)
        ) {
            let document = SmbiosDocument(document);
            let json = serde_json::to_value(&document).unwrap();
            prop_assert_eq!(&serde_json::from_value::<SmbiosDocument>(json.clone()).unwrap(), &document);
            prop_assert_eq!(SmbiosDocument::from_dmidecode_json(&json).unwrap(), document);
        }
    }
}
