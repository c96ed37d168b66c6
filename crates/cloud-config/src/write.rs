//! Writes values as YAML that readers of YAML 1.1 and 1.2 understand alike.
//!
//! This is our own code because serializers write YAML 1.2: they write the text `no` without quotes, and cloud-init's
//! PyYAML reads it as false. YAML 1.1 types: yaml.org/type.

use serde_json::{Map, Number, Value};
use std::fmt::Write;

/// A simple key may have 1024 characters (YAML 1.2.2, 8.2.2); longer ones need the explicit form.
const LONGEST_SIMPLE_KEY: usize = 512;

pub(crate) fn document(map: &Map<String, Value>) -> String {
    let mut out = String::new();
    if map.is_empty() {
        out.push_str("{}\n");
    }
    mapping(&mut out, map, 0);
    out
}

fn mapping(out: &mut String, map: &Map<String, Value>, depth: usize) {
    for (position, (key, value)) in map.iter().enumerate() {
        if position > 0 || depth == 0 {
            indent(out, depth);
        }
        let key = scalar(key);
        if key.len() > LONGEST_SIMPLE_KEY {
            writeln!(out, "? {key}").expect("a String takes every write");
            indent(out, depth);
        } else {
            out.push_str(&key);
        }
        out.push(':');
        below(out, value, depth);
    }
}

/// A value below a key. A collection begins on a line of its own.
fn below(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            indent(out, depth + 1);
            mapping(out, map, depth + 1);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            list(out, items, depth + 1);
        }
        leaf => leaf_line(out, leaf, depth + 1),
    }
}

fn list(out: &mut String, items: &[Value], depth: usize) {
    for item in items {
        indent(out, depth);
        out.push('-');
        match item {
            Value::Object(map) if !map.is_empty() => {
                out.push(' ');
                mapping(out, map, depth + 1);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                list(out, items, depth + 1);
            }
            leaf => leaf_line(out, leaf, depth + 1),
        }
    }
}

fn leaf_line(out: &mut String, value: &Value, depth: usize) {
    out.push(' ');
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(value) => out.push_str(&number(value)),
        Value::String(text) if fits_block(text) => return block(out, text, depth),
        Value::String(text) => out.push_str(&scalar(text)),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
    out.push('\n');
}

/// In YAML 1.1 a float has a point and its exponent a sign.
pub(crate) fn number(value: &Number) -> String {
    let text = value.to_string();
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let point = if mantissa.contains('.') { "" } else { ".0" };
    let sign = if exponent.starts_with(['-', '+']) { "" } else { "+" };
    format!("{mantissa}{point}e{sign}{exponent}")
}

/// Text of several lines that a literal block keeps as it is.
fn fits_block(text: &str) -> bool {
    text.contains('\n')
        && !text.starts_with([' ', '\t', '\n'])
        && !text.ends_with("\n\n")
        && text.chars().all(|c| c == '\n' || c == '\t' || is_printable(c))
}

fn block(out: &mut String, text: &str, depth: usize) {
    out.push_str(if text.ends_with('\n') { "|\n" } else { "|-\n" });
    for line in text.lines() {
        if !line.is_empty() {
            indent(out, depth);
            out.push_str(line);
        }
        out.push('\n');
    }
}

fn scalar(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { quoted(text) }
}

/// Whether text may be written without quotes. The rule is narrow on purpose: it begins with a letter or a slash (so it
/// is no number, date or indicator), and no word that YAML 1.1 takes for a boolean or null is written so.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let ends = text.ends_with(|c: char| c.is_ascii_alphanumeric() || "/_.-=".contains(c));
    let plain = |c: char| c.is_ascii_alphanumeric() || " /_.-+=@%,()".contains(c);
    // A colon ends a key only before a space.
    let colons = text.split(':').skip(1).all(|rest| rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/'));
    begins
        && ends
        && colons
        && text.chars().all(|c| c == ':' || plain(c))
        && !WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
}

fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if is_printable(c) => out.push(c),
            c => write!(out, "\\U{:08X}", u32::from(c)).expect("a String takes every write"),
        }
    }
    out.push('"');
    out
}

/// Characters that both versions of YAML allow unescaped, without those that either takes for the end of a line.
fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}')
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n("  ", depth));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CloudConfig;
    use proptest::prelude::*;
    use serde_json::json;

    fn config(value: Value) -> CloudConfig {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_document_reads_like_one_written_by_hand() {
        let document = config(json!({
            "hostname": "node-1",
            "users": [{"name": "core", "ssh_authorized_keys": ["ssh-ed25519 AAAA core@example"], "groups": []}],
            "write_files": [{"path": "/etc/motd", "content": "hello\n\n  there\n", "permissions": "0644"}],
            "runcmd": [["echo", "a b"], "true"],
            "rancheros": {"install": {"automatic": true, "registrationURL": "https://h:8443/v1/x"}},
        }));
        let expected = r#"#cloud-config
hostname: node-1
rancheros:
  install:
    automatic: true
    registrationURL: https://h:8443/v1/x
runcmd:
  -
    - echo
    - a b
  - "true"
users:
  - groups: []
    name: core
    ssh_authorized_keys:
      - ssh-ed25519 AAAA core@example
write_files:
  - content: |
      hello

        there
    path: /etc/motd
    permissions: "0644"
"#;
        assert_eq!(document.to_yaml(), expected);
        assert_eq!(CloudConfig::default().to_yaml(), "#cloud-config\n{}\n");
    }

    /// Texts that PyYAML, which cloud-init uses, does not read as text if they have no quotes.
    #[test]
    fn text_that_yaml_1_1_would_resolve_is_quoted() {
        let texts = [
            "yes",
            "No",
            "ON",
            "off",
            "y",
            "N",
            "true",
            "False",
            "null",
            "~",
            "",
            "12:30",
            "190:20:30",
            "2026-11-22",
            "2026-11-22T10:00:00Z",
            "1_000",
            "0644",
            "0o17",
            "0x1F",
            "0b1",
            "1e3",
            "1.5",
            ".5",
            ".inf",
            "-.INF",
            ".nan",
            "+1",
            "-1",
            "<<",
            "=",
            "- a",
            "? a",
            "a: b",
            "a #b",
            "# a",
            "a:",
            "&a",
            "*a",
            "!a",
            "|",
            ">",
            "%a",
            "@a",
            "`a",
            "'a",
            "\"a",
            "[a",
            "{a",
            " a",
            "a ",
            "a\tb",
            "---",
            "...",
            "\u{feff}a",
            "a\u{85}b",
            "a\u{2028}b",
        ];
        for text in texts {
            assert_eq!(scalar(text), quoted(text), "{text:?}");
            // As a key, `<<` merges, quoted or not.
            let key = if text == "<<" { "key" } else { text };
            let document = config(json!({ key: text, "list": [text] }));
            assert_eq!(CloudConfig::parse(&document.to_yaml()).unwrap(), document, "{text:?}");
        }
    }

    #[test]
    fn ordinary_text_is_not_quoted() {
        for text in ["node-1", "/dev/vda", "https://a.b:80/c", "a b", "ssh-rsa AAAAB3+/x== me@host", "tpm://", "nobody"]
        {
            assert_eq!(scalar(text), text);
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let text = prop_oneof![any::<String>(), "[a-z:# -]{0,12}", "[ a\\n\\t]{0,12}", "(yes|No|~|0x1|1:2|<<)"];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 48, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map(text.clone(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().filter(|(key, _)| key != "<<").collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(map in proptest::collection::btree_map("[^<]{0,20}", values(), 0..6), long in "[a-z ]{500,1100}") {
            let mut document = CloudConfig(map.into_iter().collect());
            document.0.insert(long, Value::Null);
            let yaml = document.to_yaml();
            prop_assert_eq!(CloudConfig::parse(&yaml).unwrap(), document, "{}", yaml);
        }
    }
}
