//! YAML into values, within bounds.

use super::CloudConfig;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::Cell;
use std::fmt;

/// A document that is not a cloud-config. The message never repeats a value, which may be a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloudConfigError {
    #[error("the cloud-config has {0} bytes; the limit is {max}", max = CloudConfig::MAX_DOCUMENT)]
    TooBig(usize),
    /// With line and column where they are known.
    #[error("the cloud-config is not YAML that can be used: {0}")]
    Unusable(String),
    #[error("a cloud-config is a mapping (`key: value` lines), and this document is {0}")]
    NotAMapping(&'static str),
}

pub(super) fn parse(document: &str) -> Result<Map<String, Value>, CloudConfigError> {
    if document.len() > CloudConfig::MAX_DOCUMENT {
        return Err(CloudConfigError::TooBig(document.len()));
    }
    let values_left = Cell::new(CloudConfig::MAX_VALUES);
    let tree = Tree { values_left: &values_left }
        .deserialize(serde_yaml::Deserializer::from_str(document))
        .map_err(|e| CloudConfigError::Unusable(e.to_string()))?;
    match tree {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        Value::Array(_) => Err(CloudConfigError::NotAMapping("a list")),
        Value::String(_) => Err(CloudConfigError::NotAMapping("text")),
        Value::Bool(_) | Value::Number(_) => Err(CloudConfigError::NotAMapping("a single value")),
    }
}

/// Builds a value while it counts down: a small document whose aliases name a large list many times would otherwise
/// fill the memory, which the YAML library's own limits (of depth and of alias use) do not prevent.
#[derive(Clone, Copy)]
struct Tree<'a> {
    values_left: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        let left =
            self.values_left.get().checked_sub(1).ok_or_else(|| {
                D::Error::custom(format!("it stands for more than {} values", CloudConfig::MAX_VALUES))
            })?;
        self.values_left.set(left);
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value without a YAML tag")
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
    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }
    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
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
        while let Some(key) = entries.next_key_seed(self)? {
            let Value::String(key) = key else {
                return Err(A::Error::custom("a key that is not text; quote it"));
            };
            let value = entries.next_value_seed(self)?;
            if key == "<<" {
                merged.push(value);
            } else if map.contains_key(&key) {
                return Err(A::Error::custom(format!("the key `{key}` stands twice in one mapping")));
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

/// The merge key of YAML 1.1 (yaml.org/type/merge.html): keys that are there already stay, and of several mappings an
/// earlier one wins.
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
        assert!(error.contains("`users` stands twice"), "{error}");
        for wrong in ["a: .nan", "1: a", "a: !binary x", "a: {b: {true: 1}}", "a: 1\n---\nb: 2\n"] {
            let error = CloudConfig::parse(wrong).unwrap_err();
            assert!(matches!(error, CloudConfigError::Unusable(_)), "{wrong}: {error}");
        }
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
