//! Parses YAML into JSON values, within limits of size and count.

use super::{CloudConfig, TEMPLATE, write};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;

/// A document that is not a cloud-config. The message never repeats a value, which may be a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloudConfigError {
    #[error("the cloud-config has {0} bytes; the limit is {max}", max = CloudConfig::MAX_DOCUMENT)]
    TooBig(usize),
    /// With line and column where they are known.
    #[error("the cloud-config is not valid YAML: {0}")]
    Unusable(String),
    #[error("a cloud-config must be a mapping (`key: value` lines); this document is {0}")]
    NotAMapping(&'static str),
}

pub(crate) fn parse(document: &str) -> Result<Map<String, Value>, CloudConfigError> {
    if document.len() > CloudConfig::MAX_DOCUMENT {
        return Err(CloudConfigError::TooBig(document.len()));
    }
    let tagged = show_tags(document);
    let lines_added = tagged.matches('\n').count() - document.matches('\n').count();
    let state = ParseState {
        values: Cell::new(0),
        numbers: RefCell::default(),
        has_written_numbers: Cell::new(false),
        is_template: is_template(document),
    };
    let unusable = |error: serde_yaml::Error| CloudConfigError::Unusable(message(&error, lines_added));
    let mut tree = ValueSeed(&state).deserialize(serde_yaml::Deserializer::from_str(&tagged)).map_err(unusable)?;
    if !state.numbers.borrow().is_empty() {
        // A second pass reads each number as text, now that it is known which values are numbers.
        state.values.set(0);
        state.has_written_numbers.set(true);
        tree = ValueSeed(&state).deserialize(serde_yaml::Deserializer::from_str(&tagged)).map_err(unusable)?;
    }
    match tree {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        Value::Array(_) => Err(CloudConfigError::NotAMapping("a list")),
        Value::String(_) => Err(CloudConfigError::NotAMapping("text")),
        Value::Bool(_) | Value::Number(_) => Err(CloudConfigError::NotAMapping("a single value")),
    }
}

/// Whether the document is a template. If the first line says so, cloud-init fills the document in before it parses it.
fn is_template(document: &str) -> bool {
    let first = document.trim_start_matches('\u{feff}').trim_start().lines().next().unwrap_or_default();
    first.strip_prefix("##").is_some_and(|rest| rest.trim_start().to_ascii_lowercase().starts_with("template:"))
}

/// The document with a line before it that makes tags such as `!!binary` local ones (YAML 1.2.2, 6.8.2). The YAML
/// library shows those and drops the others, and the base64 text would be taken for the value.
fn show_tags(document: &str) -> Cow<'_, str> {
    const SHOW: &str = "%TAG !! !\n";
    if !document.contains("!!") {
        return document.into();
    }
    let document = document.trim_start_matches('\u{feff}');
    let is_before = |line: &&str| line.trim().is_empty() || line.starts_with(['#', '%']);
    let begins = document.lines().find(|line| !is_before(line)).is_some_and(|line| line.starts_with("---"));
    if begins {
        format!("{SHOW}{document}").into()
    } else if document.starts_with('#') {
        format!("{SHOW}--- {document}").into()
    } else {
        format!("{SHOW}---\n{document}").into()
    }
}

/// The message of the YAML library, without values that serde would quote from the document.
fn message(error: &serde_yaml::Error, lines_added: usize) -> String {
    let text = error.to_string();
    if text.contains("invalid type: ") || text.contains("invalid value: ") {
        let place = error.location().map(|at| (at.line().saturating_sub(lines_added), at.column()));
        let place = place.map(|(line, column)| format!(" at line {line} column {column}")).unwrap_or_default();
        return format!("a key or a value does not have the form that its tag requires{place}");
    }
    if lines_added == 0 {
        return text;
    }
    let mut parts = text.split("line ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |message, part| {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        match part[..digits].parse::<usize>() {
            Ok(line) => format!("{message}line {}{}", line.saturating_sub(lines_added), &part[digits..]),
            Err(_) => format!("{message}line {part}"),
        }
    })
}

/// State of one parse.
struct ParseState {
    /// Number of values so far, with aliases expanded. The YAML library limits depth and the use of aliases, but not this:
    /// a small document whose aliases name a large list many times would fill the memory.
    values: Cell<usize>,
    /// Indexes of the values that are numbers, in the order of the document.
    numbers: RefCell<BTreeSet<usize>>,
    /// Whether `numbers` is complete.
    has_written_numbers: Cell<bool>,
    is_template: bool,
}

#[derive(Clone, Copy)]
struct ValueSeed<'a>(&'a ParseState);

impl ValueSeed<'_> {
    /// Notes a number. The second pass reads its digits.
    fn number<E: Error>(self) -> Result<Value, E> {
        self.0.numbers.borrow_mut().insert(self.0.values.get());
        Ok(Value::Null)
    }

    fn text(self, text: &str) -> Value {
        if self.0.is_template && ["{{", "{%", "{#"].iter().any(|sign| text.contains(sign)) {
            return Value::Object(Map::from_iter([(TEMPLATE.to_owned(), text.into())]));
        }
        text.into()
    }
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        let values = self.0.values.get() + 1;
        if values > CloudConfig::MAX_VALUES {
            return Err(D::Error::custom(format!("it expands to more than {} values", CloudConfig::MAX_VALUES)));
        }
        self.0.values.set(values);
        if self.0.has_written_numbers.get() && self.0.numbers.borrow().contains(&values) {
            d.deserialize_str(Text).map(|written| number(&written))
        } else {
            d.deserialize_any(self)
        }
    }
}

/// A number if it is written as the number would be printed. Otherwise the text as written, because it may be a
/// password.
fn number(written: &str) -> Value {
    let integer = || written.parse().map(|value: i64| Number::from(value)).ok();
    let natural = || written.parse().map(|value: u64| Number::from(value)).ok();
    let float = || written.parse().ok().and_then(Number::from_f64);
    let number: Option<Number> = integer().or_else(natural).or_else(float);
    match number.filter(|number| number.to_string() == written || write::number(number) == written) {
        Some(number) => Value::Number(number),
        None => written.into(),
    }
}

/// Deserializes a scalar as text, whatever its type.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = String;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<String, D::Error> {
        d.deserialize_str(self)
    }
}

impl Visitor<'_> for Text {
    type Value = String;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("text")
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<Value, E> {
        self.number()
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<Value, E> {
        self.number()
    }
    fn visit_i128<E: Error>(self, _: i128) -> Result<Value, E> {
        self.number()
    }
    fn visit_u128<E: Error>(self, _: u128) -> Result<Value, E> {
        self.number()
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<Value, E> {
        self.number()
    }
    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(self.text(value))
    }
    /// A value with a tag (yaml.org/type). An unknown tag becomes the only key of a mapping ([`super::tag`]), so that the
    /// value alone is not applied.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Value, A::Error> {
        let (tag, value) = tagged.variant_seed(Text)?;
        match tag.as_str() {
            "!" | "str" | "timestamp" => value.newtype_variant_seed(Text).map(|text| self.text(&text)),
            "binary" => value.newtype_variant_seed(Text).map(binary),
            "bool" | "float" | "int" | "map" | "null" | "omap" | "pairs" | "seq" | "set" => {
                value.newtype_variant_seed(self)
            }
            _ => {
                let value = value.newtype_variant_seed(self)?;
                Ok(Value::Object(Map::from_iter([(format!("!{tag}"), value)])))
            }
        }
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        let mut merged = Vec::new();
        while let Some(key) = entries.next_key_seed(Text)? {
            let value = entries.next_value_seed(self)?;
            if key == "<<" {
                merged.push(value);
            } else if map.contains_key(&key) {
                return Err(A::Error::custom(format!("the key `{key}` appears twice in one mapping")));
            } else {
                map.insert(key, value);
            }
        }
        for value in merged {
            lay_under(&mut map, value).map_err(A::Error::custom)?;
        }
        Ok(Value::Object(map))
    }
}

/// Bytes that are not UTF-8 stay in base64, below their tag.
fn binary(base64: String) -> Value {
    let compact: String = base64.split_whitespace().collect();
    match STANDARD.decode(compact).map(String::from_utf8) {
        Ok(Ok(text)) => text.into(),
        _ => Value::Object(Map::from_iter([(super::BINARY.to_owned(), base64.into())])),
    }
}

/// The merge key of YAML 1.1 (yaml.org/type/merge.html): existing keys stay, and an earlier mapping wins over a later
/// one.
fn lay_under(map: &mut Map<String, Value>, merged: Value) -> Result<(), &'static str> {
    match merged {
        Value::Object(below) => {
            for (key, value) in below {
                map.entry(key).or_insert(value);
            }
            Ok(())
        }
        Value::Array(mappings) if mappings.iter().all(Value::is_object) => {
            mappings.into_iter().try_for_each(|mapping| lay_under(map, mapping))
        }
        _ => Err("`<<` merges a mapping or a list of mappings"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn parsed(document: &str) -> Value {
        CloudConfig::parse(document).map(|config| Value::Object(config.0)).unwrap()
    }

    #[test]
    fn scalars_keep_what_their_writer_meant() {
        let document = "#cloud-config\nmode: 0644\ncountry: NO\non: [yes, off, y]\nport: 22\nlist: &a [x]\nagain: *a\n";
        let expected = json!({"mode": "0644", "country": "NO", "on": ["yes", "off", "y"], "port": 22, "list": ["x"], "again": ["x"]});
        assert_eq!(parsed(document), expected);
        assert_eq!(parsed("# nothing but comments\n"), json!({}));
        assert_eq!(parsed(""), json!({}));
    }

    #[test]
    fn merge_keys_merge() {
        let document = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc:\n  <<: [*a, *b]\n  x: 3\n";
        assert_eq!(parsed(document)["c"], json!({"x": 3, "y": 1, "z": 2}));
        assert!(CloudConfig::parse("<<: text\n").is_err());
    }

    #[test]
    fn an_error_names_its_line_and_no_value() {
        let error = CloudConfig::parse("a: 1\npassword: hunter2\nb: [\n").unwrap_err().to_string();
        assert!(error.contains("line"), "{error}");
        let error = CloudConfig::parse("users: 1\npassword: hunter2\nusers: 2\n").unwrap_err().to_string();
        assert!(error.contains("`users` appears twice"), "{error}");
        for wrong in ["a: 1\n---\nb: 2\n", "[hunter2]: a", "password: !<tag:yaml.org,2002:int> hunter2"] {
            let error = CloudConfig::parse(wrong).unwrap_err();
            assert!(matches!(error, CloudConfigError::Unusable(_)), "{wrong}: {error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_number_that_says_more_than_its_value_is_text_as_written() {
        for written in ["1.50", "0x1F", "+5", "-0", "1e3", "0o17", ".5", ".inf", "123456789012345678901234567890123"] {
            assert_eq!(parsed(&format!("a: {written}"))["a"], written);
        }
        assert_eq!(parsed("a: [1, -7, 1.5, 18446744073709551615]")["a"], json!([1, -7, 1.5, u64::MAX]));
        assert_eq!(parsed("a: &n 0x1\nb: [*n, 2]"), json!({"a": "0x1", "b": ["0x1", 2]}));
    }

    #[test]
    fn keys_are_text_as_written() {
        assert_eq!(parsed("1: a\ntrue: {0x1: b}\nnull: c"), json!({"1": "a", "true": {"0x1": "b"}, "null": "c"}));
    }

    #[test]
    fn tags_are_seen() {
        let document = "a: !!binary |\n  aGVs\n  bG8=\nb: !!str 5\nc: !!int 5\nd: !!set {x, y}\n";
        assert_eq!(parsed(document), json!({"a": "hello", "b": "5", "c": 5, "d": {"x": null, "y": null}}));
        for before in ["#cloud-config\n", "---\n", "# a\n%YAML 1.1\n--- # b\n", "\u{feff}#cloud-config\n", "\n"] {
            assert_eq!(parsed(&format!("{before}a: !!binary aGk=\n")), json!({"a": "hi"}), "{before:?}");
        }
        assert_eq!(
            parsed("a: !!binary /w==\nb: !vault {c: 1}"),
            json!({"a": {"!!binary": "/w=="}, "b": {"!vault": {"c": 1}}})
        );
        assert_eq!(parsed("a: '!!binary aGk='\nb: |\n  x: !!binary aGk=\n")["b"], "x: !!binary aGk=\n");
        let error = CloudConfig::parse("#cloud-config\na: !!str b\nc: [\n").unwrap_err().to_string();
        assert!(error.contains("line 4"), "{error}");
    }

    #[test]
    fn templates_of_other_programs_are_marked() {
        let document = "## template: jinja\n#cloud-config\na: 'x {{ v1.y }}'\nb: plain\n";
        assert_eq!(parsed(document), json!({"a": {"!template": "x {{ v1.y }}"}, "b": "plain"}));
        assert_eq!(parsed("#cloud-config\na: '{{ x }}'\n"), json!({"a": "{{ x }}"}));
    }

    #[test]
    fn only_a_mapping_is_a_cloud_config() {
        for (document, what) in [("- a", "a list"), ("just text", "text"), ("42", "a single value")] {
            assert_eq!(CloudConfig::parse(document), Err(CloudConfigError::NotAMapping(what)));
        }
    }

    #[test]
    fn small_documents_cannot_grow_large() {
        let big = "x".repeat(CloudConfig::MAX_DOCUMENT + 1);
        assert_eq!(CloudConfig::parse(&big), Err(CloudConfigError::TooBig(big.len())));

        let wide = format!("a: &a [{}]\nb: [{}]\n", "1,".repeat(5_000), "*a,".repeat(5_000));
        assert!(CloudConfig::parse(&wide).unwrap_err().to_string().contains("more than"));
        let deep = format!("a: {}", "[".repeat(20_000));
        assert!(CloudConfig::parse(&deep).is_err());
        let laughs: String = (1..9)
            .map(|i| format!("l{i}: &l{i} [{}]\n", format!("*l{},", i - 1).repeat(9)))
            .fold("l0: &l0 x\n".to_owned(), |document, line| document + &line);
        assert!(CloudConfig::parse(&laughs).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[-a-z0-9:#&*!|>%@{}\\[\\], \"'<\n\t]{0,200}") {
            let _ = CloudConfig::parse(&text);
        }
    }
}
