//! Takes part in the election: reads and writes the Lease, and tells whether this replica leads.

use super::lease::{self, Decision, GIVE_UP, NAME, POLL_EVERY, RENEW_EVERY, Seen};
use crate::kube::client::writing;
use aws_lc_rs::error::Unspecified;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use kube::{Client, Error};
use prometheus_client::metrics::gauge::Gauge;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// Deadline of one request to the API server. Several fit into [`GIVE_UP`].
const REQUEST: Duration = Duration::from_secs(3);
/// Pause after a failed renewal.
const RETRY: Duration = Duration::from_secs(1);

pub struct Election {
    leases: Api<Lease>,
    /// Unique to this process; a restarted replica has another one.
    identity: String,
    told: watch::Sender<bool>,
    /// The metric: 1 or 0.
    shown: Gauge,
}

/// The Lease while this replica holds it.
struct Held {
    lease: Lease,
    /// When the last successful renewal began.
    renewed: Instant,
}

#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error("no answer within {} s", REQUEST.as_secs())]
    NoAnswer,
    #[error(transparent)]
    Refused(#[from] Error),
}

impl Election {
    /// `name`: the replica's, such as the name of its pod. `told` is sent whether this replica leads. An error if there
    /// are no random bytes to tell replicas apart.
    pub fn new(
        client: Client,
        namespace: &str,
        name: &str,
        told: watch::Sender<bool>,
        shown: Gauge,
    ) -> Result<Self, Unspecified> {
        let mut random = [0; 4];
        aws_lc_rs::rand::fill(&mut random)?;
        let identity = format!("{name}-{}", hex::encode(random));
        Ok(Self { leases: Api::namespaced(client, namespace), identity, told, shown })
    }

    /// Runs until `stop`, then releases the Lease if this replica holds it.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        let mut held = None;
        let mut seen = None;
        loop {
            let pause = match held.take() {
                None => {
                    (held, seen) = self.try_to_take(seen).await;
                    if held.is_some() { RENEW_EVERY } else { POLL_EVERY }
                }
                Some(lead) => {
                    held = self.keep(lead).await;
                    match &held {
                        Some(lead) if lead.renewed.elapsed() >= RENEW_EVERY => RETRY,
                        Some(_) => RENEW_EVERY,
                        None => POLL_EVERY,
                    }
                }
            };
            self.set_leading(held.is_some());
            // The pause before a retry ends when the leadership ends.
            let pause = held.as_ref().map_or(pause, |held| pause.min(GIVE_UP.saturating_sub(held.renewed.elapsed())));
            tokio::select! {
                () = sleep(pause) => {}
                () = &mut stop => break,
            }
        }
        self.set_leading(false);
        if let Some(held) = held {
            self.release(held).await;
        }
    }

    fn set_leading(&self, leads: bool) {
        let changed = self.told.send_if_modified(|told| std::mem::replace(told, leads) != leads);
        self.shown.set(leads.into());
        if changed && leads {
            tracing::info!(identity = self.identity, "this replica is the leader");
        } else if changed {
            tracing::info!(identity = self.identity, "this replica is no longer the leader");
        }
    }

    async fn try_to_take(&self, seen: Option<Seen>) -> (Option<Held>, Option<Seen>) {
        let begun = Instant::now();
        let found = match request(self.leases.get_opt(NAME)).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "reading Lease {NAME}");
                // The Lease was not read, so its age is not known.
                return (None, None);
            }
        };
        if let Some(lease) = &found
            && let Decision::Wait(seen) = lease::decide(lease, seen, &self.identity, begun)
        {
            return (None, Some(seen));
        }
        let exists = found.is_some();
        let lease = lease::taken(found, &self.identity, Timestamp::now());
        let written = if exists {
            request(self.leases.replace(NAME, &writing(), &lease)).await
        } else {
            request(self.leases.create(&writing(), &lease)).await
        };
        match written {
            Ok(lease) => (Some(Held { lease, renewed: begun }), None),
            Err(RequestError::Refused(Error::Api(status))) if status.is_conflict() || status.is_already_exists() => {
                (None, None)
            }
            Err(error) => {
                tracing::warn!(%error, "acquiring Lease {NAME}");
                (None, None)
            }
        }
    }

    /// Renews. `None`: another replica holds the Lease, or it could not be renewed for [`GIVE_UP`].
    async fn keep(&self, held: Held) -> Option<Held> {
        let begun = Instant::now();
        let left = GIVE_UP.saturating_sub(held.renewed.elapsed());
        let renewal = async {
            let lease = lease::taken(Some(held.lease.clone()), &self.identity, Timestamp::now());
            match request(self.leases.replace(NAME, &writing(), &lease)).await {
                // This replica's own renewal may have caused the conflict, if its answer was lost.
                Err(RequestError::Refused(Error::Api(status))) if status.is_conflict() => {
                    request(self.leases.get(NAME)).await
                }
                answer => answer,
            }
        };
        match timeout(left, renewal).await {
            Ok(Ok(lease)) if lease::holder(&lease) == self.identity => Some(Held { lease, renewed: begun }),
            Ok(Ok(lease)) => {
                tracing::warn!(holder = lease::holder(&lease), "another replica acquired Lease {NAME}");
                None
            }
            Ok(Err(RequestError::Refused(Error::Api(status)))) if status.is_not_found() => None,
            Ok(Err(error)) => {
                tracing::warn!(%error, "renewing Lease {NAME}");
                (held.renewed.elapsed() < GIVE_UP).then_some(held)
            }
            Err(_) => None,
        }
    }

    async fn release(&self, held: Held) {
        let lease = lease::released(held.lease);
        if let Err(error) = request(self.leases.replace(NAME, &writing(), &lease)).await {
            tracing::info!(%error, "releasing Lease {NAME}; it expires by itself");
        }
    }
}

async fn request<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, RequestError> {
    Ok(timeout(REQUEST, request).await.map_err(|_| RequestError::NoAnswer)??)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::FakeApi;
    use crate::kube::leadership::Leadership;
    use futures::StreamExt;
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/n/leases/ros-operator";

    struct Replica {
        leadership: Leadership,
        stop: oneshot::Sender<()>,
        task: JoinHandle<()>,
    }

    fn replica(api: &FakeApi, name: &str) -> Replica {
        let (leadership, told) = Leadership::new();
        let (stop, stopped) = oneshot::channel();
        let election = Election::new(api.client(), "n", name, told, Gauge::default()).unwrap();
        let task = tokio::spawn(election.run(async {
            let _ = stopped.await;
        }));
        Replica { leadership, stop, task }
    }

    async fn leads(replica: &Replica) {
        let begins = replica.leadership.begins();
        tokio::pin!(begins);
        begins.next().await;
    }

    #[tokio::test(start_paused = true)]
    async fn another_replica_takes_over_when_the_leader_stops() {
        let api = FakeApi::default();
        let first = replica(&api, "first");
        leads(&first).await;
        let second = replica(&api, "second");
        sleep(Duration::from_secs(60)).await;
        assert!(first.leadership.is_held() && !second.leadership.is_held());
        first.stop.send(()).unwrap();
        first.task.await.unwrap();
        let begun = Instant::now();
        leads(&second).await;
        assert!(begun.elapsed() <= POLL_EVERY, "a lease given back is not waited for");
    }

    #[tokio::test(start_paused = true)]
    async fn another_replica_takes_over_within_fifteen_seconds_of_a_kill() {
        let api = FakeApi::default();
        let first = replica(&api, "first");
        leads(&first).await;
        let second = replica(&api, "second");
        sleep(Duration::from_secs(30)).await;
        first.task.abort();
        let begun = Instant::now();
        leads(&second).await;
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_without_the_api_server_steps_down_and_one_leads_afterwards() {
        let api = FakeApi::default();
        let (first, second) = (replica(&api, "first"), replica(&api, "second"));
        sleep(Duration::from_secs(30)).await;
        assert!(first.leadership.is_held() != second.leadership.is_held());
        api.set_away(true);
        sleep(GIVE_UP).await;
        assert!(!first.leadership.is_held() && !second.leadership.is_held());
        api.set_away(false);
        sleep(Duration::from_secs(15)).await;
        assert!(first.leadership.is_held() != second.leadership.is_held());
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_steps_down_when_another_holds_the_lease() {
        let api = FakeApi::default();
        let first = replica(&api, "first");
        leads(&first).await;
        api.change(PATH, serde_json::json!({"spec": {"holderIdentity": "a stranger"}}));
        sleep(RENEW_EVERY * 2).await;
        assert!(!first.leadership.is_held());
    }
}
