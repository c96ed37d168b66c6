//! The texts of conditions. Constants are not copied.

use super::{condition_type, message, reason};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::ops::Deref;
use std::sync::LazyLock;

/// A type, reason or message. What the code says in a constant is that constant and no copy: a fleet's index holds
/// a dozen of them for each machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct Text(Cow<'static, str>);

static CONSTANTS: LazyLock<HashSet<&'static str>> = LazyLock::new(|| {
    let all = [&[""], condition_type::ALL, reason::ALL, message::ALL];
    all.into_iter().flatten().copied().collect()
});

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        let constant = CONSTANTS.get(text).copied().map(Cow::Borrowed);
        Self(constant.unwrap_or_else(|| Cow::Owned(text.to_owned())))
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(text.into())
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        **self == *other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        **self == **other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_code_says_is_not_copied() {
        let read = |json: &str| serde_json::from_str::<Text>(json).unwrap();
        let is_constant = |text: Text| matches!(text.0, Cow::Borrowed(_));
        assert!(is_constant(read(r#""Ready""#)) && is_constant(read(r#""""#)) && is_constant(reason::ATTESTED.into()));
        let own = read(r#""a \"quoted\" word""#);
        assert_eq!((own.to_string(), is_constant(own)), (r#"a "quoted" word"#.to_owned(), false));
    }
}
