//! How an installed machine reaches its operator from now on. The operator sends it in every answer to a report.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Longest registration URL, in bytes.
pub const MAX_URL: usize = 2048;
/// Most authorities.
pub const MAX_AUTHORITIES: usize = 16;
/// Longest authority as PEM, in bytes.
pub const MAX_AUTHORITY: usize = 16 * 1024;

/// The URL holds the token of installed machines: `Debug` shows the revision only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperatorSettings {
    /// Names this content. The machine repeats it in its reports once it has kept the settings.
    pub revision: SettingsRevision,
    /// Where to report from now on, with the token that installed machines use; https.
    #[serde(rename = "registrationURL")]
    pub registration_url: String,
    /// Certificates of the authorities to trust there, one as PEM each; none: those that the system trusts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authorities: Vec<String>,
}

impl OperatorSettings {
    /// Whether a machine may keep these. The error says what is wrong and shows nothing of the content.
    pub fn check(&self) -> Result<(), &'static str> {
        let is_https = self.registration_url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"));
        if !is_https {
            return Err("registrationURL does not begin with https://");
        }
        if self.registration_url.len() > MAX_URL || self.registration_url.chars().any(char::is_control) {
            return Err("registrationURL is too long or contains control characters");
        }
        let too_large = self.authorities.iter().any(|pem| pem.len() > MAX_AUTHORITY);
        if too_large || self.authorities.len() > MAX_AUTHORITIES {
            return Err("there are too many authorities, or one is too large");
        }
        Ok(())
    }
}

impl fmt::Debug for OperatorSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperatorSettings({})", self.revision)
    }
}

/// Names the content of [`OperatorSettings`]: 1 to 64 lower-case letters and digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SettingsRevision(String);

/// A text that is no revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a revision has 1 to {} lower-case letters and digits", SettingsRevision::MAX_LENGTH)]
pub struct MalformedRevision;

impl SettingsRevision {
    pub const MAX_LENGTH: usize = 64;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SettingsRevision {
    type Err = MalformedRevision;
    fn from_str(text: &str) -> Result<Self, MalformedRevision> {
        Self::try_from(text.to_owned())
    }
}
impl TryFrom<String> for SettingsRevision {
    type Error = MalformedRevision;
    fn try_from(text: String) -> Result<Self, MalformedRevision> {
        let fits = (1..=Self::MAX_LENGTH).contains(&text.len());
        let plain = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if fits && plain { Ok(Self(text)) } else { Err(MalformedRevision) }
    }
}
impl From<SettingsRevision> for String {
    fn from(revision: SettingsRevision) -> String {
        revision.0
    }
}
impl fmt::Display for SettingsRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings(url: &str, authorities: Vec<String>) -> OperatorSettings {
        OperatorSettings { revision: "a1".parse().unwrap(), registration_url: url.into(), authorities }
    }

    #[test]
    fn unusable_settings_are_refused_and_never_shown() {
        let good = settings("https://ros.example.org/v1-rancheros/registration/t0ken", vec!["PEM".into()]);
        assert_eq!(good.check(), Ok(()));
        assert_eq!(format!("{good:?}"), "OperatorSettings(a1)");
        for url in ["http://a/t", "", "https://a/\n", &format!("https://{}", "a".repeat(MAX_URL))] {
            assert!(settings(url, Vec::new()).check().is_err(), "{url:?}");
        }
        for authorities in [vec!["x".repeat(MAX_AUTHORITY + 1)], vec![String::new(); MAX_AUTHORITIES + 1]] {
            assert!(settings("https://a/t", authorities).check().is_err());
        }
    }

    proptest! {
        #[test]
        fn a_revision_is_short_and_plain(text in any::<String>()) {
            let read = serde_json::from_value::<SettingsRevision>(text.clone().into());
            let plain = text.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9'));
            prop_assert_eq!(read.is_ok(), plain && (1..=64).contains(&text.len()));
        }
    }
}
