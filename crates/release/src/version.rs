//! Versions in the order of Semantic Versioning 2.0.0: a pre-release is older than its release, and build metadata does
//! not count.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// Characters of the longest version.
const MOST_CHARACTERS: usize = 64;

/// A version such as `1.4.0` or `2.0.0-rc.1`.
#[derive(Clone, Debug)]
pub struct SemanticVersion(semver::Version);

/// Why a text is no version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a semantic version such as 1.4.0 or 2.0.0-rc.1: {reason}")]
pub struct NotSemantic {
    text: String,
    reason: String,
}

/// Why a release is refused for its version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooOld {
    #[error("version {version} is older than {minimum}, the oldest that is taken here: choose a newer release")]
    Older { version: SemanticVersion, minimum: SemanticVersion },
    #[error("whether this release is older than {minimum}, the oldest that is taken here, cannot be told")]
    NoOrder { minimum: SemanticVersion, source: NotSemantic },
}

impl SemanticVersion {
    /// Whether a release of the version `version` may follow where this one is the oldest that is taken. A version that
    /// is not semantic has no place in the order and may not.
    pub fn admits(&self, version: &str) -> Result<(), TooOld> {
        match version.parse::<Self>() {
            Ok(version) if version < *self => Err(TooOld::Older { version, minimum: self.clone() }),
            Ok(_) => Ok(()),
            Err(source) => Err(TooOld::NoOrder { minimum: self.clone(), source }),
        }
    }
}

impl FromStr for SemanticVersion {
    type Err = NotSemantic;

    fn from_str(text: &str) -> Result<Self, NotSemantic> {
        let refused = |reason| NotSemantic { text: text.chars().take(MOST_CHARACTERS).collect(), reason };
        if text.len() > MOST_CHARACTERS {
            return Err(refused(format!("it is longer than {MOST_CHARACTERS} characters")));
        }
        semver::Version::parse(text).map(Self).map_err(|error| refused(error.to_string()))
    }
}

impl fmt::Display for SemanticVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Ord for SemanticVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp_precedence(&other.0)
    }
}

impl PartialOrd for SemanticVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for SemanticVersion {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for SemanticVersion {}

impl Serialize for SemanticVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SemanticVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn version(text: &str) -> SemanticVersion {
        text.parse().unwrap()
    }

    /// The example of section 11 of Semantic Versioning 2.0.0.
    #[test]
    fn the_order_is_that_of_the_standard() {
        let order = [
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0.0",
            "1.0.1",
            "1.2.0",
            "1.10.0",
            "2.0.0",
        ];
        for pair in order.windows(2) {
            assert!(version(pair[0]) < version(pair[1]), "{pair:?}");
            assert!(version(pair[1]).admits(pair[0]).is_err() && version(pair[0]).admits(pair[1]).is_ok(), "{pair:?}");
        }
        assert_eq!(version("1.0.0+a"), version("1.0.0+b"));
        version("1.0.0+z").admits("1.0.0+a").unwrap();
    }

    #[test]
    fn a_version_without_an_order_is_not_admitted() {
        for text in ["1.0", "v1.0.0", "2026-11-30", "1.0.0~rc1", ""] {
            let error = version("0.0.1").admits(text).unwrap_err();
            assert!(matches!(error, TooOld::NoOrder { .. }), "{text}: {error}");
        }
        let long = format!("1.0.0-{}", "a".repeat(100));
        assert!(long.parse::<SemanticVersion>().unwrap_err().to_string().len() < 200);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,80}") {
            if let Ok(version) = text.parse::<SemanticVersion>() {
                prop_assert_eq!(version.to_string(), text);
            }
        }
    }
}
