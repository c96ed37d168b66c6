//! Durations as users write them: `5m` as in the reference, or an integer of seconds.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A Go duration of hours, minutes and seconds (`1h30m`, `1.5h`, `300s`), or an integer of seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SecondsOrDuration {
    Seconds(i64),
    Duration(String),
}

impl SecondsOrDuration {
    /// The duration in seconds. A fraction is rounded up, so that a short duration does not become zero.
    pub fn seconds(&self) -> Result<u64, MalformedDuration> {
        match self {
            Self::Seconds(seconds) => u64::try_from(*seconds).map_err(|_| MalformedDuration(seconds.to_string())),
            Self::Duration(text) => parse(text).ok_or_else(|| MalformedDuration(text.clone())),
        }
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration; write seconds as an integer, or hours, minutes and seconds as in \"1h30m\"")]
pub struct MalformedDuration(String);

/// Shorter units are accepted because Go prints them.
const PATTERN: &str = r"^([0-9]+(\.[0-9]+)?(h|m|s|ms|us|ns))+$";
/// Nanoseconds have no more digits than that after the point of an hour.
const FRACTION_DIGITS: usize = 13;

fn parse(text: &str) -> Option<u64> {
    let mut nanoseconds = 0u128;
    let mut rest = text;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number = &rest[..number_end];
        rest = &rest[number_end..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..unit_end] {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" => 1000,
            "ns" => 1,
            _ => return None,
        };
        nanoseconds = nanoseconds.checked_add(times(number, unit)?)?;
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then(|| u64::try_from(nanoseconds.div_ceil(1_000_000_000)).ok()).flatten()
}

/// A decimal number of units, rounded up.
fn times(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u128>().ok()).flatten();
    if fraction.len() > FRACTION_DIGITS {
        return None;
    }
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    digits(whole)?.checked_mul(unit)?.checked_add((digits(fraction)? * unit).div_ceil(scale))
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
        schema(0)
    }
}

fn schema(minimum: i64) -> Schema {
    schemars::json_schema!({"x-kubernetes-int-or-string": true, "pattern": PATTERN, "minimum": minimum})
}

/// The schema of a grace period, of which -1 is each pod's own.
pub(crate) fn grace_period(_: &mut SchemaGenerator) -> Schema {
    schema(-1)
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
        assert_eq!((seconds("1.5h"), seconds("0.25m0.5s"), seconds("1.000000001s")), (Some(5400), Some(16), Some(2)));
    }

    #[test]
    fn nonsense_is_named() {
        for bad in [
            "",
            "5",
            "m",
            "5 m",
            "5d",
            "-5m",
            "99999999999999999999h",
            "18446744073709551615h",
            ".5h",
            "1.h",
            "1..5h",
            "1.5",
            "-1s",
        ] {
            assert_eq!(seconds(bad), None, "{bad:?}");
        }
        assert!(SecondsOrDuration::Seconds(-1).seconds().is_err());
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
