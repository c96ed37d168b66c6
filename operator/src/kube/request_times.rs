//! How long requests to the API server take.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use std::time::Duration;

/// Buckets from 1 ms to 32 s. The deadline of a request is 60 s.
pub fn histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabel {
    method: String,
    /// The kind's plural.
    resource: String,
    /// The HTTP status, or `none` if there was no answer.
    status: String,
}

/// Requests to the API server, by the time until the headers of their answer. A watch is answered when it begins.
#[derive(Clone)]
pub struct RequestTimes(Family<RequestLabel, Histogram, fn() -> Histogram>);

impl Default for RequestTimes {
    fn default() -> Self {
        Self(Family::new_with_constructor(histogram))
    }
}

impl RequestTimes {
    /// The metric, for the registry.
    pub fn family(&self) -> Family<RequestLabel, Histogram, fn() -> Histogram> {
        self.0.clone()
    }

    /// Records a request. `path`: of the API server. `status`: `None` if there was no answer.
    pub fn observe(&self, method: &str, path: &str, status: Option<u16>, taken: Duration) {
        let label = RequestLabel {
            method: method.to_owned(),
            resource: resource_of(path).to_owned(),
            status: status.map_or_else(|| "none".to_owned(), |status| status.to_string()),
        };
        self.0.get_or_create(&label).observe(taken.as_secs_f64());
    }
}

/// The plural in `/api/v1[/namespaces/<n>]/<plural>…` or `/apis/<group>/<version>[/namespaces/<n>]/<plural>…`.
fn resource_of(path: &str) -> &str {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let rest = match parts.first() {
        Some(&"api") => parts.get(2..),
        Some(&"apis") => parts.get(3..),
        _ => None,
    };
    match rest.unwrap_or_default() {
        ["namespaces", _, plural, ..] | [plural, ..] => plural,
        [] => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_labelled_by_kind_and_never_by_object() {
        for (path, resource) in [
            ("/api/v1/namespaces/n/secrets/s", "secrets"),
            ("/apis/rancheros.cattle.io/v1/namespaces/n/machineinventories/m/status", "machineinventories"),
            ("/apis/rancheros.cattle.io/v1/machineinventories", "machineinventories"),
            ("/api/v1/namespaces", "namespaces"),
            ("/version", "other"),
            ("", "other"),
        ] {
            assert_eq!(resource_of(path), resource, "{path}");
        }
    }
}
