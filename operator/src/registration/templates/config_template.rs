//! The templates in a registration's cloud-config: `${machineName}` and `${Section/Field}` stand for the name of one
//! machine and for a field of its SMBIOS.
//!
//! A cloud-config is full of shell scripts, and these are full of `${…}`. So only the name and the fields of the
//! sections below are templates. Everything else stays as it is, byte for byte; `$${` is a literal `${`.

use protocol::SmbiosDocument;

/// The text between the braces of `${machineName}`.
const MACHINE_NAME: &str = "machineName";
/// Sections whose fields are templates, with the fields that SMBIOS defines for them, as `dmidecode` prints both.
///
/// Source: DMTF DSP0134 3.7, sections 7.1 to 7.5 (types 0 to 4), and `dmidecode.c` of dmidecode 3.6 for the names.
const SECTIONS: &[(&str, &[&str])] = &[
    (
        "BIOS Information",
        &[
            "Vendor",
            "Version",
            "Release Date",
            "Address",
            "Runtime Size",
            "ROM Size",
            "Characteristics",
            "BIOS Revision",
            "Firmware Revision",
        ],
    ),
    (
        "System Information",
        &["Manufacturer", "Product Name", "Version", "Serial Number", "UUID", "Wake-up Type", "SKU Number", "Family"],
    ),
    (
        "Base Board Information",
        &[
            "Manufacturer",
            "Product Name",
            "Version",
            "Serial Number",
            "Asset Tag",
            "Features",
            "Location In Chassis",
            "Chassis Handle",
            "Type",
            "Contained Object Handles",
        ],
    ),
    (
        "Chassis Information",
        &[
            "Manufacturer",
            "Type",
            "Lock",
            "Version",
            "Serial Number",
            "Asset Tag",
            "Boot-up State",
            "Power Supply State",
            "Thermal State",
            "Security Status",
            "OEM Information",
            "Height",
            "Number Of Power Cords",
            "Contained Elements",
            "SKU Number",
        ],
    ),
    (
        "Processor Information",
        &[
            "Socket Designation",
            "Type",
            "Family",
            "Manufacturer",
            "ID",
            "Signature",
            "Flags",
            "Version",
            "Voltage",
            "External Clock",
            "Max Speed",
            "Current Speed",
            "Status",
            "Upgrade",
            "L1 Cache Handle",
            "L2 Cache Handle",
            "L3 Cache Handle",
            "Serial Number",
            "Asset Tag",
            "Part Number",
            "Core Count",
            "Core Enabled",
            "Thread Count",
            "Characteristics",
        ],
    ),
];
/// The values that `dmidecode`, and so a client of the first release, writes for a field that the firmware leaves
/// empty.
const LEFT_EMPTY: &[&str] = &["", "Not Specified", "<BAD INDEX>"];

/// A text with at least one template or `$${` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigTemplate(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    MachineName,
    /// Path of a field, such as `System Information/Serial Number`.
    Field(String),
}

/// A path whose section is known and whose field SMBIOS does not define there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`${{{path}}}` is not a field: SMBIOS defines {fields} in {section}; write $${{ for a literal ${{")]
pub struct UndefinedField {
    path: String,
    section: &'static str,
    fields: String,
}

/// The path of a field that a machine leaves empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("SMBIOS field `{0}` is empty")]
pub struct EmptyField(pub String);

impl ConfigTemplate {
    /// Reads a text. `None`: there is nothing to fill in.
    pub fn parse(text: &str) -> Result<Option<Self>, UndefinedField> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, from) = rest.split_at(at);
            if let Some(before) = before.strip_suffix('$') {
                plain += before;
                parts.push(Part::Text(std::mem::take(&mut plain) + "${"));
                rest = &from[2..];
                continue;
            }
            plain += before;
            match template(&from[2..])? {
                Some((part, after)) => {
                    parts.push(Part::Text(std::mem::take(&mut plain)));
                    parts.push(part);
                    rest = after;
                }
                None => {
                    plain += "${";
                    rest = &from[2..];
                }
            }
        }
        if parts.is_empty() {
            return Ok(None);
        }
        parts.push(Part::Text(plain + rest));
        parts.retain(|part| *part != Part::Text(String::new()));
        Ok(Some(Self(parts)))
    }

    /// The text for one machine. Control characters of a value, line breaks among them, become spaces: a value stays
    /// within the line that it stands in.
    pub fn render(&self, machine_name: &str, document: &SmbiosDocument) -> Result<String, EmptyField> {
        let mut rendered = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => rendered += text,
                Part::MachineName => rendered += machine_name,
                Part::Field(path) => {
                    let value = document.get(path).map(str::trim).unwrap_or_default();
                    if LEFT_EMPTY.contains(&value) {
                        return Err(EmptyField(path.clone()));
                    }
                    rendered.extend(value.chars().map(|c| if c.is_control() { ' ' } else { c }));
                }
            }
        }
        Ok(rendered)
    }
}

/// The template at the beginning of a text, behind its `${`, and the text behind it.
fn template(text: &str) -> Result<Option<(Part, &str)>, UndefinedField> {
    // With another opening brace inside, such as a shell's, this is no template. The inner part may be one.
    let Some(end) = text.find(['}', '{']).filter(|end| text[*end..].starts_with('}')) else { return Ok(None) };
    let (path, after) = (&text[..end], &text[end + 1..]);
    if path == MACHINE_NAME {
        return Ok(Some((Part::MachineName, after)));
    }
    let Some((section, field)) = path.split_once('/') else { return Ok(None) };
    let Some((section, fields)) = SECTIONS.iter().find(|(name, _)| *name == section) else { return Ok(None) };
    if !fields.contains(&field) {
        return Err(UndefinedField { path: path.to_owned(), section, fields: fields.join(", ") });
    }
    Ok(Some((Part::Field(path.to_owned()), after)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn document(serial: &str) -> SmbiosDocument {
        serde_json::from_value(json!({"System Information": {"Serial Number": serial, "Family": "Not Specified"}}))
            .unwrap()
    }
    /// A text that stands for `text`, whatever is in it.
    fn literal(text: &str) -> String {
        text.replace("${", "$${")
    }
    fn rendered(text: &str) -> String {
        let template = ConfigTemplate::parse(text).unwrap();
        template.map_or_else(|| text.to_owned(), |template| template.render("edge-x", &document(" S-1 ")).unwrap())
    }

    #[test]
    fn the_name_and_known_fields_are_filled_in_and_nothing_else() {
        for (text, expected) in [
            ("${machineName}", "edge-x"),
            ("shop-${System Information/Serial Number}.example", "shop-S-1.example"),
            ("${HOSTNAME:-${machineName}}", "${HOSTNAME:-edge-x}"),
            ("echo ${HOME} ${x/a/b} ${#x} ${} ${ $1 ${", "echo ${HOME} ${x/a/b} ${#x} ${} ${ $1 ${"),
            (
                "${System Slot Information/ID} ${System Information}",
                "${System Slot Information/ID} ${System Information}",
            ),
            ("${MachineName} ${ machineName}", "${MachineName} ${ machineName}"),
            ("$${machineName} $${HOME}", "${machineName} ${HOME}"),
            ("$$${machineName} $$ $$x", "$${machineName} $$ $$x"),
            ("${machineName", "${machineName"),
        ] {
            assert_eq!(rendered(text), expected, "{text}");
        }
        assert_eq!(ConfigTemplate::parse("echo ${HOME}").unwrap(), None);
    }

    #[test]
    fn a_field_that_is_not_defined_is_named() {
        let error = ConfigTemplate::parse("a ${System Information/Seral Number}").unwrap_err().to_string();
        assert!(error.contains("`${System Information/Seral Number}`") && error.contains("Serial Number"), "{error}");
    }

    #[test]
    fn a_field_that_a_machine_leaves_empty_is_named() {
        for field in ["SKU Number", "Family"] {
            let text = format!("${{System Information/{field}}}");
            let empty = ConfigTemplate::parse(&text).unwrap().unwrap().render("m", &document("1")).unwrap_err();
            assert_eq!(empty, EmptyField(format!("System Information/{field}")));
        }
    }

    #[test]
    fn a_value_stays_in_its_line() {
        let template = ConfigTemplate::parse("sn: ${System Information/Serial Number}").unwrap().unwrap();
        assert_eq!(template.render("m", &document("1\nroot:\u{0}\"x\"")).unwrap(), "sn: 1 root: \"x\"");
    }

    proptest! {
        #[test]
        fn any_text_can_be_written_literally(text in "([a-z $}{/]|\\$\\{machineName\\}|\\$\\{System Information/X\\}){0,40}") {
            let template = ConfigTemplate::parse(&literal(&text)).unwrap();
            let filled_in = template.map_or_else(|| literal(&text), |t| t.render("m", &document("1")).unwrap());
            prop_assert_eq!(filled_in, text);
        }
    }
}
