//! Windows of random tests.

use serde_json::{Value, json};

/// A window on each day, given by its beginning and its length in minutes; in UTC, so that this is all there is to it.
#[derive(Clone, Copy, Debug)]
pub struct Daily(pub i64, pub i64);

impl Daily {
    /// `spec.windows`.
    pub fn spec(self) -> Value {
        let at = |minute: i64| format!("{:02}:{:02}", minute / 60 % 24, minute % 60);
        json!([{"startTime": at(self.0), "endTime": at(self.0 + self.1)}])
    }

    /// `now`: seconds since 1970.
    pub fn is_open(self, now: i64) -> bool {
        (now - self.0 * 60).rem_euclid(86400) <= self.1 * 60
    }
}
