//! Values of a cloud-config with their paths. A value that cannot be used is reported with its path, and only this
//! value is skipped.

use super::{TEMPLATE, tag};
use crate::keys::Unapplied;
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// The log of reading a document.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) unapplied: RefCell<Vec<Unapplied>>,
    /// Every key that was looked up, as `keys::KEYS` spells it.
    pub(crate) asked: RefCell<BTreeSet<String>>,
}

impl Log {
    pub(crate) fn name(&self, path: &str, why: Option<&'static str>) {
        self.unapplied.borrow_mut().push(Unapplied { path: path.to_owned(), why });
    }
}

/// A value and its path. The value is never null.
#[derive(Clone)]
pub(crate) struct Node<'a> {
    pub(crate) value: &'a Value,
    /// Such as `users[1].shell`.
    pub(crate) path: String,
    /// The same with `[]` for an index and `*` for a name, such as `users[].shell`.
    pattern: String,
    log: &'a Log,
}

impl<'a> Node<'a> {
    pub(crate) fn refuse(&self, why: &'static str) {
        let why = match tag(self.value) {
            Some(TEMPLATE) => "templates are not supported",
            Some(_) => "its YAML tag is not supported",
            None => why,
        };
        self.log.name(&self.path, Some(why));
    }

    fn or_refuse<T>(&self, read: Option<T>, why: &'static str) -> Option<T> {
        if read.is_none() {
            self.refuse(why);
        }
        read
    }

    /// Text; a number or a boolean is text as it is written.
    pub(crate) fn text(&self) -> Option<String> {
        let text = match self.value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(flag) => Some(flag.to_string()),
            _ => None,
        };
        self.or_refuse(text, "it must be text")
    }

    /// Text for which a rule holds.
    pub(crate) fn text_that(&self, holds: impl Fn(&str) -> bool, why: &'static str) -> Option<String> {
        let text = self.text()?;
        self.or_refuse(Some(text).filter(|text| holds(text)), why)
    }

    /// One line, without the line breaks at its end.
    pub(crate) fn line(&self) -> Option<String> {
        let text = self.text()?.trim_end_matches(['\n', '\r']).to_owned();
        self.or_refuse(Some(text).filter(|text| !text.contains(char::is_control)), "it must be one line of text")
    }

    /// True or false, also in the words of YAML 1.1.
    pub(crate) fn flag(&self) -> Option<bool> {
        let word = match self.value {
            Value::Bool(flag) => return Some(*flag),
            Value::String(word) => word.to_ascii_lowercase(),
            Value::Number(number) => number.to_string(),
            _ => String::new(),
        };
        let flag = match word.trim() {
            "true" | "yes" | "on" | "y" | "1" => Some(true),
            "false" | "no" | "off" | "n" | "0" => Some(false),
            _ => None,
        };
        self.or_refuse(flag, "it must be true or false")
    }

    pub(crate) fn number(&self) -> Option<u32> {
        let number = match self.value {
            Value::Number(number) => number.as_u64().and_then(|number| number.try_into().ok()),
            Value::String(digits) => digits.trim().parse().ok(),
            _ => None,
        };
        self.or_refuse(number, "it must be a number")
    }

    /// The items of a list that are not null.
    pub(crate) fn items(&self) -> Vec<Node<'a>> {
        let Value::Array(items) = self.value else {
            self.refuse("it must be a list");
            return Vec::new();
        };
        let node = |(index, value): (usize, &'a Value)| Node {
            value,
            path: format!("{}[{index}]", self.path),
            pattern: format!("{}[]", self.pattern),
            log: self.log,
        };
        items.iter().enumerate().filter(|(_, value)| !value.is_null()).map(node).collect()
    }

    /// The items of a list. A single value counts as a list of one.
    pub(crate) fn one_or_more(&self) -> Vec<Node<'a>> {
        if self.value.is_array() { self.items() } else { vec![self.clone()] }
    }

    /// A list of words, one text with commas or blanks between them, or the keys of a mapping.
    pub(crate) fn words(&self) -> Vec<String> {
        if let (Value::Object(map), None) = (self.value, tag(self.value)) {
            return map.keys().cloned().collect();
        }
        let texts: Vec<String> = self.one_or_more().iter().filter_map(Node::text).collect();
        let words = texts.iter().flat_map(|text| text.split([',', ' ', '\n']));
        words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    /// Lines of one text, or of each text in a list, without blank ones.
    pub(crate) fn lines(&self) -> Vec<String> {
        let texts: Vec<String> = self.one_or_more().iter().filter_map(Node::text).collect();
        let lines = texts.iter().flat_map(|text| text.lines()).map(str::trim);
        lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// The keys of a mapping. Dropping the result reports those that were not looked up.
    pub(crate) fn fields(&self) -> Option<Fields<'a>> {
        let map = self.value.as_object().filter(|_| tag(self.value).is_none());
        let map = self.or_refuse(map, "it must be a mapping")?;
        Some(Fields { map, path: self.path.clone(), pattern: self.pattern.clone(), asked: Vec::new(), log: self.log })
    }

    /// The entries of a mapping whose keys are names.
    pub(crate) fn named(&self) -> Vec<(&'a str, Node<'a>)> {
        let map = self.value.as_object().filter(|_| tag(self.value).is_none());
        let Some(map) = self.or_refuse(map, "it must be a mapping") else { return Vec::new() };
        let node = |(name, value): (&'a String, &'a Value)| {
            let path = format!("{}.{name}", self.path);
            (name.as_str(), Node { value, path, pattern: format!("{}.*", self.pattern), log: self.log })
        };
        map.iter().map(node).collect()
    }

    /// The same value, looked up elsewhere in the table of keys.
    pub(crate) fn like(mut self, pattern: &str) -> Self {
        pattern.clone_into(&mut self.pattern);
        self
    }
}

/// The keys of a mapping. Dropping it reports those that were not looked up.
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: String,
    pattern: String,
    asked: Vec<&'a str>,
    log: &'a Log,
}

impl<'a> Fields<'a> {
    pub(crate) fn of_document(map: &'a Map<String, Value>, log: &'a Log) -> Self {
        Self { map, path: String::new(), pattern: String::new(), asked: Vec::new(), log }
    }

    /// The value of a key, if it is there and not null. `key` is spelled as in the table of keys. A key of the document
    /// with hyphens for underscores, or the other way round, is the same key.
    pub(crate) fn get(&mut self, key: &str) -> Option<Node<'a>> {
        let below = |path: &str, key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        let pattern = below(&self.pattern, key);
        self.log.asked.borrow_mut().insert(pattern.clone());
        // Of the keys at the top, cloud-init knows both spellings only of this one.
        let is_exact = self.path.is_empty() && key != "ca_certs";
        let is_same = |other: &str| other == key || !is_exact && other.replace('-', "_") == key.replace('-', "_");
        let (name, value) = self.map.iter().find(|(other, value)| is_same(other) && !value.is_null())?;
        self.asked.push(name);
        Some(Node { value, path: below(&self.path, name), pattern, log: self.log })
    }

    /// The keys that are looked up from now on are described elsewhere in the table of keys.
    pub(crate) fn like(&mut self, pattern: &str) {
        pattern.clone_into(&mut self.pattern);
    }

    /// The mapping as a whole is not applied.
    pub(crate) fn refuse(&mut self, why: &'static str) {
        self.leave();
        self.log.name(&self.path, Some(why));
    }

    /// Reports no key: the mapping as a whole was reported.
    pub(crate) fn leave(&mut self) {
        self.asked = self.map.keys().map(String::as_str).collect();
    }
}

impl Drop for Fields<'_> {
    fn drop(&mut self) {
        for key in self.map.iter().filter(|(_, value)| !value.is_null()).map(|(key, _)| key.as_str()) {
            if !self.asked.contains(&key) {
                let dot = if self.path.is_empty() { "" } else { "." };
                self.log.name(&format!("{}{dot}{key}", self.path), None);
            }
        }
    }
}
