//! What `/metrics` shows. No label names a machine: cardinality does not grow with the fleet.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use protocol::{Refusal, RefusalCode};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    /// What was asked: `register`, `report`, `firstRelease`, or `open` for what ended before it asked.
    request: &'static str,
    /// `ok` or `refused`.
    result: &'static str,
    /// A refusal code, or empty.
    code: String,
}

pub struct Metrics {
    registry: Registry,
    outcomes: Family<Outcome, Counter>,
    pub in_flight: Gauge,
    pub installing: Gauge,
    pub connections: Gauge,
    pub seconds: Histogram,
    pub writes: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("rancheros");
        let outcomes = Family::<Outcome, Counter>::default();
        let (in_flight, installing, connections) = (Gauge::default(), Gauge::default(), Gauge::default());
        // 1 ms to 32 s: a deadline is 60 s.
        let seconds = Histogram::new(exponential_buckets(0.001, 2.0, 16));
        let writes = Counter::default();
        registry.register("exchanges", "Exchanges that ended, by what was asked and what came of it", outcomes.clone());
        registry.register("exchanges_in_flight", "Admitted exchanges before their answer", in_flight.clone());
        registry.register("machines_installing", "Machines that report progress now", installing.clone());
        registry.register("connections", "Open connections", connections.clone());
        registry.register("exchange_seconds", "From the first message to the answer", seconds.clone());
        registry.register("inventory_writes", "Requests that changed a MachineInventory", writes.clone());
        Self { registry, outcomes, in_flight, installing, connections, seconds, writes }
    }
}

impl Metrics {
    /// Counts the end of an exchange.
    pub fn count(&self, request: &'static str, refusal: Option<&Refusal>) {
        let code = refusal.map(|refusal| refusal.code.to_string()).unwrap_or_default();
        let result = if refusal.is_some() { "refused" } else { "ok" };
        self.outcomes.get_or_create(&Outcome { request, result, code }).inc();
    }

    /// In the text format of OpenMetrics.
    pub fn text(&self) -> Result<String, Refusal> {
        let mut text = String::new();
        encode(&mut text, &self.registry)
            .map_err(|error| Refusal::new(RefusalCode::Internal, format!("writing metrics: {error}")))?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_counted_by_code() {
        let metrics = Metrics::default();
        metrics.count("register", None);
        metrics.count("register", Some(&Refusal::new(RefusalCode::Busy, "")));
        let text = metrics.text().unwrap();
        assert!(text.contains(r#"rancheros_exchanges_total{request="register",result="ok",code=""} 1"#), "{text}");
        assert!(text.contains(r#"result="refused",code="Busy"} 1"#), "{text}");
    }
}
