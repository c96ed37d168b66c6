//! The metrics of `/metrics`. No label names a machine, so the cardinality does not grow with the fleet.

use crate::inventory::index::InventoryIndex;
use crate::kube::request_times::{RequestTimes, histogram};
use api::{ManagedOSImage, Phase};
use kube::runtime::reflector::Store;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use protocol::{Refusal, RefusalCode};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    /// The request: `register`, `report`, `firstRelease`, `inventory`, `media`, or `open` if the exchange ended before
    /// it.
    request: &'static str,
    /// `ok` or `refused`.
    result: &'static str,
    /// A refusal code, or empty.
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ExchangeLabel {
    /// `challenge`: until the challenge is sent. `proof`: until the proof is accepted, mostly the machine's TPM.
    /// `config`: from the accepted proof until the configuration is sent, with the writes in between.
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabel {
    /// The result for the EK certificate, as in `status.attestation` of an inventory.
    certificate: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RevokedLabel {
    /// `silent`: before its first byte. `speaking`: before its first request, or while it read an answer.
    connection: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InventoryLabel {
    /// A phase of MachineInventory, or `None`.
    phase: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpgradeLabel {
    /// `waiting`, `updating`, `done` or `failed`, as a ManagedOSImage's `status.counts` has them.
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcileLabel {
    kind: &'static str,
    /// `ok` or `failed`.
    result: &'static str,
}

fn histograms<L: Clone + Eq + std::hash::Hash>() -> Family<L, Histogram, fn() -> Histogram> {
    Family::new_with_constructor(histogram)
}

pub struct Metrics {
    registry: Registry,
    phases: Family<ExchangeLabel, Histogram, fn() -> Histogram>,
    certificates: Family<CertificateLabel, Counter>,
    inventories: Family<InventoryLabel, Gauge>,
    upgrades: Family<UpgradeLabel, Gauge>,
    os_images: OsImages,
    reconciliations: Family<ReconcileLabel, Histogram, fn() -> Histogram>,
    pub requests: RequestTimes,
    pub leads: Gauge,
    outcomes: Family<Outcome, Counter>,
    pub in_flight: Gauge,
    pub installing: Gauge,
    pub connections: Gauge,
    pub downloads: Gauge,
    pub downloaded: Counter,
    revoked: Family<RevokedLabel, Counter>,
    pub seconds: Histogram,
    pub writes: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("rancheros");
        let outcomes = Family::<Outcome, Counter>::default();
        let (in_flight, installing, connections) = (Gauge::default(), Gauge::default(), Gauge::default());
        let (downloads, downloaded) = (Gauge::default(), Counter::default());
        let revoked = Family::<RevokedLabel, Counter>::default();
        let seconds = histogram();
        let writes = Counter::default();
        let (phases, reconciliations, requests) = (histograms(), histograms(), RequestTimes::default());
        let certificates = Family::<CertificateLabel, Counter>::default();
        let inventories = Family::<InventoryLabel, Gauge>::default();
        let upgrades = Family::<UpgradeLabel, Gauge>::default();
        let leads = Gauge::default();
        registry.register("exchanges", "Finished exchanges, by purpose and result", outcomes.clone());
        registry.register("exchanges_in_flight", "Admitted exchanges without an answer yet", in_flight.clone());
        registry.register("machines_installing", "Machines that are being installed", installing.clone());
        registry.register("connections", "Open connections", connections.clone());
        registry.register("downloads", "Downloads of media in progress", downloads.clone());
        registry.register("downloaded_bytes", "Bytes of media sent", downloaded.clone());
        registry.register("connections_made_room", "Connections closed to admit waiting ones", revoked.clone());
        registry.register(
            "exchange_seconds",
            "Time from the first message of an exchange to the answer",
            seconds.clone(),
        );
        registry.register("inventory_writes", "Requests that changed a MachineInventory", writes.clone());
        registry.register("exchange_phase_seconds", "Time of the phases of an exchange", phases.clone());
        registry.register(
            "attestations",
            "Proved identities, by result for the endorsement key certificate",
            certificates.clone(),
        );
        registry.register("machine_inventories", "MachineInventory objects, by phase", inventories.clone());
        let help = "Nodes of all ManagedOSImages, by state; only the leader reports them";
        registry.register("upgrade_nodes", help, upgrades.clone());
        registry.register("reconcile_seconds", "Time of reconciliations, by kind and result", reconciliations.clone());
        registry.register("api_request_seconds", "Time of requests to the API server", requests.family());
        registry.register("leader", "1 if this replica runs the controllers", leads.clone());
        Self {
            registry,
            phases,
            certificates,
            inventories,
            upgrades,
            os_images: OsImages::default(),
            reconciliations,
            requests,
            leads,
            outcomes,
            in_flight,
            installing,
            connections,
            downloads,
            downloaded,
            revoked,
            seconds,
            writes,
        }
    }
}

impl Metrics {
    /// Counts the end of an exchange.
    pub fn count(&self, request: &'static str, refusal: Option<&Refusal>) {
        let code = refusal.map(|refusal| refusal.code.to_string()).unwrap_or_default();
        let result = if refusal.is_some() { "refused" } else { "ok" };
        self.outcomes.get_or_create(&Outcome { request, result, code }).inc();
    }

    /// Counts a connection whose permit was revoked. `connection` as in the label.
    pub fn count_revoked(&self, connection: &'static str) {
        self.revoked.get_or_create(&RevokedLabel { connection }).inc();
    }

    /// `phase` as in the label.
    pub fn time_phase(&self, phase: &'static str, taken: Duration) {
        self.phases.get_or_create(&ExchangeLabel { phase }).observe(taken.as_secs_f64());
    }

    /// Counts a machine that has proved its identity. `certificate`: the result for its EK certificate.
    pub fn count_attestation(&self, certificate: Option<impl std::fmt::Debug>) {
        let certificate = certificate.map(|result| format!("{result:?}")).unwrap_or_default();
        self.certificates.get_or_create(&CertificateLabel { certificate }).inc();
    }

    /// Times a reconciliation of an object of this kind.
    pub async fn time_reconciliation<T, E>(
        &self,
        kind: &'static str,
        reconciliation: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let begun = Instant::now();
        let result = reconciliation.await;
        let label = ReconcileLabel { kind, result: if result.is_ok() { "ok" } else { "failed" } };
        self.reconciliations.get_or_create(&label).observe(begun.elapsed().as_secs_f64());
        result
    }

    /// Counts the nodes of these ManagedOSImages, for as long as the guard lives.
    pub fn follow(&self, images: Store<ManagedOSImage>) -> Following {
        *self.os_images.lock().unwrap_or_else(PoisonError::into_inner) = Some(images);
        Following(self.os_images.clone())
    }

    fn count_upgrades(&self) {
        self.upgrades.clear();
        let images = self.os_images.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(images) = images else { return };
        let mut nodes = [("waiting", 0), ("updating", 0), ("done", 0), ("failed", 0)];
        for image in images.state() {
            let Some(counts) = image.status.as_ref().and_then(|status| status.counts.as_ref()) else { continue };
            let moving = [counts.updating, counts.done, counts.failed];
            let waiting = counts.desired.saturating_sub(moving.iter().sum());
            for (sum, count) in nodes.iter_mut().zip([waiting].into_iter().chain(moving)) {
                sum.1 += i64::from(count);
            }
        }
        for (phase, count) in nodes {
            self.upgrades.get_or_create(&UpgradeLabel { phase }).set(count);
        }
    }

    /// The metrics in the text format of OpenMetrics. Inventories and roll-outs are counted now, because their changes
    /// are not followed one by one.
    pub fn text(&self, inventories: &InventoryIndex) -> Result<String, Refusal> {
        self.count_upgrades();
        self.inventories.clear();
        for (phase, count) in inventories.phases() {
            let phase = phase.map_or_else(|| "None".to_owned(), |phase: Phase| format!("{phase:?}"));
            self.inventories.get_or_create(&InventoryLabel { phase }).set(count.try_into().unwrap_or(i64::MAX));
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)
            .map_err(|error| Refusal::new(RefusalCode::Internal, format!("writing metrics: {error}")))?;
        Ok(text)
    }
}

/// The ManagedOSImages of the leader.
type OsImages = Arc<Mutex<Option<Store<ManagedOSImage>>>>;

/// Ends the counting of ManagedOSImages when it is dropped: only the leader knows them.
pub struct Following(OsImages);

impl Drop for Following {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::runtime::{reflector, watcher};
    use serde_json::json;

    fn os_image(name: &str, counts: serde_json::Value) -> ManagedOSImage {
        serde_json::from_value(json!({
            "apiVersion": "rancheros.cattle.io/v1", "kind": "ManagedOSImage",
            "metadata": {"namespace": "n", "name": name}, "spec": {}, "status": {"counts": counts},
        }))
        .unwrap()
    }

    #[test]
    fn nodes_of_all_roll_outs_are_counted_by_phase_while_this_replica_leads() {
        let metrics = Metrics::default();
        let upgrades = || {
            let text = metrics.text(&InventoryIndex::default()).unwrap();
            let lines = text.lines().filter_map(|line| line.strip_prefix("rancheros_upgrade_nodes{phase="));
            lines.map(str::to_owned).collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        };
        assert_eq!(upgrades(), [] as [String; 0]);
        let (images, mut writer) = reflector::store();
        let following = metrics.follow(images);
        for image in [
            os_image("a", json!({"desired": 7, "done": 2, "updating": 1, "failed": 1})),
            os_image("b", json!({"desired": 1, "done": 1})),
            os_image("new", json!(null)),
        ] {
            writer.apply_watcher_event(&watcher::Event::Apply(image));
        }
        assert_eq!(upgrades(), [r#""done"} 3"#, r#""failed"} 1"#, r#""updating"} 1"#, r#""waiting"} 3"#]);
        writer.apply_watcher_event(&watcher::Event::Delete(os_image("a", json!(null))));
        assert_eq!(upgrades(), [r#""done"} 1"#, r#""failed"} 0"#, r#""updating"} 0"#, r#""waiting"} 0"#]);
        drop(following);
        assert_eq!(upgrades(), [] as [String; 0]);
    }

    #[test]
    fn results_are_counted_by_code() {
        let metrics = Metrics::default();
        metrics.count("register", None);
        metrics.count("register", Some(&Refusal::new(RefusalCode::Busy, "")));
        let text = metrics.text(&InventoryIndex::default()).unwrap();
        assert!(text.contains(r#"rancheros_exchanges_total{request="register",result="ok",code=""} 1"#), "{text}");
        assert!(text.contains(r#"result="refused",code="Busy"} 1"#), "{text}");
    }

    #[tokio::test]
    async fn every_figure_is_shown() {
        let metrics = Metrics::default();
        metrics.time_phase("proof", Duration::from_millis(3));
        metrics.count_revoked("silent");
        metrics.count_attestation(Some(api::EkCertificateResult::Trusted));
        metrics.requests.observe("POST", "/api/v1/namespaces/n/secrets", Some(201), Duration::from_millis(1));
        metrics.time_reconciliation("K", async { Err::<(), _>(()) }).await.unwrap_err();
        let inventories = InventoryIndex::default();
        inventories.enter(crate::fixtures::inventory("a", serde_json::json!({})));
        let text = metrics.text(&inventories).unwrap();
        for line in [
            r#"rancheros_exchange_phase_seconds_count{phase="proof"} 1"#,
            r#"rancheros_connections_made_room_total{connection="silent"} 1"#,
            r#"rancheros_attestations_total{certificate="Trusted"} 1"#,
            r#"rancheros_api_request_seconds_count{method="POST",resource="secrets",status="201"} 1"#,
            r#"rancheros_reconcile_seconds_count{kind="K",result="failed"} 1"#,
            r#"rancheros_machine_inventories{phase="None"} 1"#,
            "rancheros_leader 0",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
