//! Durations as users write them: `5m` as in the reference, or an integer of seconds.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A Go duration of hours, minutes and seconds (`1h30m`, `300s`), or an integer of seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SecondsOrDuration {
    Seconds(u32),
    Duration(String),
}

impl SecondsOrDuration {
    /// The duration in seconds. A fraction is rounded up, so that a short duration does not become zero.
    pub fn seconds(&self) -> Result<u64, MalformedDuration> {
        match self {
            Self::Seconds(seconds) => Ok(u64::from(*seconds)),
            Self::Duration(text) => parse(text).ok_or_else(|| MalformedDuration(text.clone())),
        }
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration; write seconds as an integer, or hours, minutes and seconds as in \"1h30m\"")]
pub struct MalformedDuration(String);

/// Milliseconds are accepted because Go prints them.
const PATTERN: &str = r"^([0-9]+(h|m|s|ms))+$";

fn parse(text: &str) -> Option<u64> {
    let mut milliseconds = 0u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let factor = match &rest[..unit_end] {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return None,
        };
        milliseconds = milliseconds.checked_add(number.checked_mul(factor)?)?;
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then(|| milliseconds.div_ceil(1000))
}

impl JsonSchema for SecondsOrDuration {
    fn schema_name() -> Cow<'static, str> {
        "SecondsOrDuration".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // A pattern says nothing of integers, a minimum nothing of strings.
        schemars::json_schema!({"x-kubernetes-int-or-string": true, "pattern": PATTERN, "minimum": 0})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(text: &str) -> Option<u64> {
        SecondsOrDuration::Duration(text.into()).seconds().ok()
    }

    #[test]
    fn both_spellings_mean_seconds() {
        assert_eq!(serde_json::from_str::<SecondsOrDuration>("300").unwrap().seconds(), Ok(300));
        assert_eq!(serde_json::from_str::<SecondsOrDuration>("\"5m\"").unwrap().seconds(), Ok(300));
        assert_eq!(seconds("1h30m1s"), Some(5401));
        assert_eq!(seconds("1ms"), Some(1));
    }

    #[test]
    fn nonsense_is_named() {
        for bad in ["", "5", "m", "5 m", "5d", "-5m", "99999999999999999999h", "18446744073709551615h"] {
            assert_eq!(seconds(bad), None, "{bad:?}");
        }
        let error = SecondsOrDuration::Duration("soon".into()).seconds().unwrap_err();
        assert!(error.to_string().contains("\"soon\""));
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in ".{0,40}") {
            let _ = seconds(&text);
        }
        #[test]
        fn whole_seconds_are_exact(hours in 0u64..1000, minutes in 0u64..1000, rest in 0u64..1000) {
            prop_assert_eq!(seconds(&format!("{hours}h{minutes}m{rest}s")), Some(hours * 3600 + minutes * 60 + rest));
        }
    }
}
