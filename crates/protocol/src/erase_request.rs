//! Requests that erase data of a machine, `reinstall` and `reset`, and the machine's report about them.

use crate::bounded::{list, optional_line};
use crate::reset::ResetRequest;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The most requests of one kind that a machine remembers. If there are more, it forgets the oldest.
pub const MAX_HONOURED: usize = 64;

/// Adds a text to those that were honoured, the oldest first. One that is among them becomes the newest.
pub fn remember<T: PartialEq>(honoured: &mut Vec<T>, text: T) {
    honoured.retain(|earlier| *earlier != text);
    honoured.push(text);
    let too_many = honoured.len().saturating_sub(MAX_HONOURED);
    honoured.drain(..too_many);
}

/// What a machine is asked to do. Both erase data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EraseRequest {
    /// To install its release again.
    Reinstall(RequestText),
    /// To forget data and perhaps settings.
    Reset(ResetRequest),
}

/// The free text that names a request: 1 to [`RequestText::MAX`] characters, none of them a control character. A machine
/// honours each text of a kind of request once.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RequestText(String);

/// A text that cannot be a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the text of a request must have 1 to {} characters, none of them a control character", RequestText::MAX)]
pub struct UnfitText;

impl RequestText {
    /// The most characters.
    pub const MAX: usize = 256;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RequestText {
    type Error = UnfitText;

    fn try_from(text: String) -> Result<Self, UnfitText> {
        let fits = !text.is_empty() && text.chars().count() <= Self::MAX && !text.chars().any(char::is_control);
        if fits { Ok(Self(text)) } else { Err(UnfitText) }
    }
}

impl FromStr for RequestText {
    type Err = UnfitText;

    fn from_str(text: &str) -> Result<Self, UnfitText> {
        text.to_owned().try_into()
    }
}

impl From<RequestText> for String {
    fn from(request: RequestText) -> Self {
        request.0
    }
}

impl fmt::Display for RequestText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an installed machine reports about one kind of request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestReport {
    /// The texts that it has honoured and remembers, the oldest first; at most [`MAX_HONOURED`].
    #[serde(default, deserialize_with = "list::<MAX_HONOURED, _, _>")]
    pub honoured: Vec<RequestText>,
    /// Why the last request cannot be honoured, in words. Absent where nothing is in its way.
    #[serde(default, deserialize_with = "optional_line::<500, _>", skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_is_a_short_text() {
        for fits in ["2026-11-29 ä", &"ä".repeat(RequestText::MAX)] {
            assert_eq!(fits.parse::<RequestText>().map(String::from).as_deref(), Ok(fits));
        }
        for unfit in ["", "a\nb", &"ä".repeat(RequestText::MAX + 1)] {
            assert_eq!(unfit.parse::<RequestText>(), Err(UnfitText), "{unfit:?}");
        }
    }

    #[test]
    fn only_the_first_honoured_texts_are_read() {
        let report = serde_json::json!({"honoured": vec!["x"; 1000], "failure": "y\n".repeat(1000)});
        let report: RequestReport = serde_json::from_value(report).unwrap();
        assert_eq!(report.honoured.len(), MAX_HONOURED);
        assert_eq!(report.failure.map(|text| text.len()), Some(500));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(texts in proptest::collection::vec("\\PC{1,256}", 0..8)) {
            let honoured = texts.into_iter().filter_map(|text| text.try_into().ok()).collect();
            let report = RequestReport { honoured, failure: None };
            let text = serde_json::to_string(&report).unwrap();
            prop_assert_eq!(serde_json::from_str::<RequestReport>(&text).unwrap(), report);
        }
    }
}
