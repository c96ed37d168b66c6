//! How many write requests the API server got, from its metrics.

use anyhow::{Context, Result};
use std::collections::BTreeMap;

/// Requests per resource, verb and code, since the API server started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ApiWrites(BTreeMap<String, f64>);

const COUNTER: &str = "apiserver_request_total{";
const VERBS: &[&str] = &["POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"];
/// Requests for authentication and authorisation. The API server does not store them.
const QUESTIONS: &[&str] = &["tokenreviews", "subjectaccessreviews", "selfsubjectaccessreviews"];

impl ApiWrites {
    pub async fn so_far(client: &kube::Client) -> Result<Self> {
        let request = http::Request::get("/metrics").body(Vec::new()).context("creating a request for /metrics")?;
        let text = client.request_text(request).await.context("reading the API server's metrics")?;
        Ok(Self::parse(&text))
    }

    /// Parses the Prometheus text format.
    fn parse(text: &str) -> Self {
        let mut counts = BTreeMap::new();
        for (labels, count) in text.lines().filter_map(|line| line.strip_prefix(COUNTER)?.split_once("} ")) {
            let label = |name: &str| {
                let rest = labels.split_once(&format!("{name}=\""))?.1;
                Some(rest.split_once('"')?.0)
            };
            let (verb, resource) = (label("verb").unwrap_or_default(), label("resource").unwrap_or_default());
            if !VERBS.contains(&verb) || QUESTIONS.contains(&resource) {
                continue;
            }
            let slash = if label("subresource").is_some_and(|name| !name.is_empty()) { "/" } else { "" };
            let subresource = label("subresource").unwrap_or_default();
            let name = format!("{verb} {resource}{slash}{subresource} {}", label("code").unwrap_or_default());
            *counts.entry(name).or_default() += count.parse::<f64>().unwrap_or_default();
        }
        Self(counts)
    }

    /// The writes after `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let added = self.0.iter().map(|(name, count)| (name.clone(), count - earlier.0.get(name).unwrap_or(&0.0)));
        Self(added.filter(|(_, count)| *count > 0.0).collect())
    }

    /// The writes of one resource, its subresources included.
    pub fn of(&self, resource: &str) -> f64 {
        let ours = |name: &str| {
            let mut words = name.split([' ', '/']);
            words.nth(1) == Some(resource)
        };
        self.0.iter().filter(|(name, _)| ours(name)).fold(0.0, |sum, (_, count)| sum + count)
    }

    pub fn total(&self) -> f64 {
        self.0.values().sum()
    }
}

impl std::fmt::Display for ApiWrites {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(name, count)| format!("{count} × {name}")).collect();
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_told_from_reads_and_questions() {
        let earlier = ApiWrites::parse(
            "# HELP apiserver_request_total x\n\
             apiserver_request_total{code=\"201\",resource=\"events\",subresource=\"\",verb=\"POST\"} 3\n",
        );
        let now = ApiWrites::parse(
            "apiserver_request_total{code=\"201\",resource=\"events\",subresource=\"\",verb=\"POST\"} 5\n\
             apiserver_request_total{code=\"200\",resource=\"machineinventories\",subresource=\"status\",verb=\"APPLY\"} 2\n\
             apiserver_request_total{code=\"200\",resource=\"machineinventories\",subresource=\"\",verb=\"LIST\"} 9\n\
             apiserver_request_total{code=\"201\",resource=\"tokenreviews\",subresource=\"\",verb=\"POST\"} 9\n",
        );
        let added = now.since(&earlier);
        assert_eq!(added.to_string(), "2 × APPLY machineinventories/status 200, 2 × POST events 201");
        assert_eq!((added.of("machineinventories"), added.of("events"), added.total()), (2.0, 2.0, 4.0));
    }
}
