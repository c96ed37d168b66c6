//! The template language of names, labels and annotations: `${System Information/Serial Number}` stands for the value
//! at that path of a machine's SMBIOS document. As in the first release (rancher/os2 `pkg/server/register.go`,
//! `buildName`), a `${` without its `}` is plain text.

use protocol::SmbiosDocument;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

/// The template for machine names where a registration has none.
pub const DEFAULT_MACHINE_NAME: &str =
    "m-${System Information/Manufacturer}-${System Information/Product Name}-${System Information/Serial Number}-";
/// Longest name before its random suffix, in characters, as in the first release: with the five characters that the
/// API server appends it stays within the 63 of a label value.
pub const MAX_NAME: usize = 58;
/// Longest label value, in characters (Kubernetes "Labels and Selectors", syntax).
pub const MAX_LABEL_VALUE: usize = 63;
/// Longest rendered text in bytes; the rest is cut. A template can name a field many times.
pub const MAX_RENDERED: usize = 64 * 1024;

/// A parsed template. Every text is a valid template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(String),
}

/// A template with a machine's values in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    text: String,
    /// Paths that the document does not have. They leave nothing in the text.
    pub missing: Vec<String>,
}

impl Template {
    /// The paths that it asks for, in order.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Field(path) => Some(path.as_str()),
            Part::Text(_) => None,
        })
    }

    pub fn render(&self, document: &SmbiosDocument) -> Rendered {
        let mut rendered = Rendered::default();
        for part in &self.0 {
            match part {
                Part::Text(text) => rendered.text.push_str(text),
                Part::Field(path) => match document.get(path) {
                    Some(value) => rendered.text.push_str(value.trim()),
                    None => rendered.missing.push(path.clone()),
                },
            }
            if rendered.text.len() > MAX_RENDERED {
                rendered.text.truncate(rendered.text.floor_char_boundary(MAX_RENDERED));
                break;
            }
        }
        rendered
    }
}

impl FromStr for Template {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, path, after)) = next_field(rest) {
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Field(path.to_owned()));
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        parts.retain(|part| *part != Part::Text(String::new()));
        Ok(Self(parts))
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Field(path) => write!(f, "${{{path}}}"),
        })
    }
}

impl Rendered {
    /// The text as it is: for annotations.
    pub fn as_text(&self) -> &str {
        &self.text
    }

    /// The text as the start of an object's name, which a random suffix follows: lower case, anything but letters and
    /// digits as one dash, a letter first, at most [`MAX_NAME`] characters. Never empty.
    pub fn to_name(&self) -> String {
        let mut name = String::new();
        for character in self.text.chars() {
            if character.is_ascii_alphanumeric() {
                name.push(character.to_ascii_lowercase());
            } else if !name.ends_with('-') {
                name.push('-');
            }
        }
        if !name.starts_with(|first: char| first.is_ascii_lowercase()) {
            name.insert(0, 'm');
        }
        name.truncate(MAX_NAME);
        name
    }

    /// The text as a label's value: anything but letters, digits, `-`, `_` and `.` as one dash, a letter or digit at
    /// both ends, at most [`MAX_LABEL_VALUE`] characters. May be empty.
    pub fn to_label_value(&self) -> String {
        dashed(&self.text, &['-', '_', '.'], MAX_LABEL_VALUE)
    }
}

/// The text with anything but letters, digits and `kept` as one dash, a letter or digit at both ends, at most `most`
/// characters. May be empty.
pub fn dashed(text: &str, kept: &[char], most: usize) -> String {
    let mut value = String::new();
    for character in text.chars() {
        if character.is_ascii_alphanumeric() || kept.contains(&character) {
            value.push(character);
        } else if !value.ends_with('-') {
            value.push('-');
        }
    }
    let outside = |c: char| !c.is_ascii_alphanumeric();
    let mut value = value.trim_start_matches(outside).to_owned();
    value.truncate(most);
    value.truncate(value.trim_end_matches(outside).len());
    value
}

/// Text before the next field, the field's path, and the text behind it.
fn next_field(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once("${")?;
    let (path, after) = rest.split_once('}')?;
    Some((before, path, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn document() -> SmbiosDocument {
        let fields = [("Manufacturer", "ACME, Inc."), ("Product Name", "R2-D2 (rev. 3)"), ("Serial Number", " SN_1 ")];
        let system = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
        SmbiosDocument(BTreeMap::from([("System Information".to_owned(), BTreeMap::from(system))]))
    }
    fn render(template: &str) -> Rendered {
        template.parse::<Template>().unwrap().render(&document())
    }

    #[test]
    fn fields_stand_for_their_values() {
        assert_eq!(render("sn=${System Information/Serial Number}!").as_text(), "sn=SN_1!");
        assert_eq!(render(DEFAULT_MACHINE_NAME).to_name(), "m-acme-inc-r2-d2-rev-3-sn-1-");
    }

    #[test]
    fn a_missing_field_is_nothing_and_is_named() {
        let rendered = render("a${Chassis Information/Lock}${System Information}b");
        assert_eq!(rendered.as_text(), "ab");
        assert_eq!(rendered.missing, ["Chassis Information/Lock", "System Information"]);
    }

    /// The first release's own cases (`pkg/server/register_test.go`), as far as its documents are of two levels.
    #[test]
    fn names_are_those_of_the_first_release() {
        let cases = [
            ("${level1B", "m-level1b"),
            ("a${level1B", "a-level1b"),
            ("${}", "m"),
            ("${", "m-"),
            ("a${", "a-"),
            ("${level1A}", "m"),
            ("a${level1A}c", "ac"),
            ("${level1A}c", "c"),
            ("a${System Information/Serial Number}c", "asn-1c"),
            ("9${System Information/Serial Number}", "m9sn-1"),
        ];
        for (template, name) in cases {
            assert_eq!(render(template).to_name(), name, "{template}");
        }
    }

    #[test]
    fn label_values_keep_case_and_lose_their_ends() {
        assert_eq!(render("${System Information/Manufacturer}").to_label_value(), "ACME-Inc");
        assert_eq!(render("..${System Information/Serial Number}--").to_label_value(), "SN_1");
        assert_eq!(render(&format!("{}.b", "a".repeat(62))).to_label_value(), "a".repeat(62));
        assert_eq!(render("größe").to_label_value(), "gr-e");
        assert_eq!(render("…").to_label_value(), "");
    }

    #[test]
    fn a_long_text_is_cut() {
        let template = "${System Information/Manufacturer}€".repeat(MAX_RENDERED / 8);
        assert!(render(&template).as_text().len() <= MAX_RENDERED);
    }

    proptest! {
        #[test]
        fn a_template_shows_as_it_was_written(text in "([a-z/ $}{]|\\$\\{[A-Za-z /]*\\}){0,40}") {
            prop_assert_eq!(text.parse::<Template>().unwrap().to_string(), text);
        }

        #[test]
        fn names_and_labels_are_always_valid(text in any::<String>(), value in any::<String>()) {
            let section = BTreeMap::from([("F".to_owned(), value)]);
            let document = SmbiosDocument(BTreeMap::from([("S".to_owned(), section)]));
            let rendered = format!("{text}${{S/F}}").parse::<Template>().unwrap().render(&document);
            let name = rendered.to_name();
            prop_assert!(name.len() <= MAX_NAME && name.starts_with(|c: char| c.is_ascii_lowercase()), "{name:?}");
            prop_assert!(name.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-')) && !name.contains("--"));
            let label = rendered.to_label_value();
            prop_assert!(label.len() <= MAX_LABEL_VALUE, "{label:?}");
            prop_assert!(label.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)), "{label:?}");
            prop_assert!(!label.starts_with(['-', '_', '.']) && !label.ends_with(['-', '_', '.']), "{label:?}");
        }
    }
}
