//! Discovers which engines a cluster has, and its default registry. Both are polled, because there is no event for a
//! change.

use crate::kube::absence::is_absent;
use crate::kube::rancher_setting::rancher_setting;
use crate::rollout::engine::GONE_AFTER;
use crate::rollout::engine::fleet::BUNDLE_API;
use crate::rollout::objects::PLAN_API;
use crate::rollout::{DefaultRegistry, Presence, STANDALONE_NAMESPACE, ServedKinds};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Time between two checks, shortest and longest: it grows while nothing changes.
const FIRST: Duration = Duration::from_secs(5);
const SELDOM: Duration = Duration::from_secs(60);

/// The result of a discovery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Discovered {
    pub(super) served: ServedKinds,
    /// The registry of images that name none.
    pub(super) registry: DefaultRegistry,
}

/// Updates the channel as long as it has receivers. `registry`: the operator's option.
pub(super) async fn run(client: Client, registry: DefaultRegistry, found: watch::Sender<Option<Discovered>>) {
    let mut pause = FIRST;
    let mut absences = [Absence::default(), Absence::default()];
    while !found.is_closed() {
        match discover(&client, &registry, &mut absences, Instant::now()).await {
            Ok(discovered) => {
                let served = discovered.served;
                let changed = found.send_if_modified(|known| {
                    let changed = known.as_ref() != Some(&discovered);
                    *known = Some(discovered);
                    changed
                });
                if changed {
                    tracing::info!(fleet = ?served.bundles, plans = ?served.plans, "found the upgrade engines");
                }
                pause = if changed { FIRST } else { (pause * 2).min(SELDOM) };
            }
            Err(error) => {
                tracing::warn!(%error, "finding the upgrade engines");
                // While the API server restarts, it is not known whether a kind is absent.
                absences = Default::default();
                pause = (pause * 2).min(SELDOM);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// Since when a kind has not been served. An operator that has just started counts from its first discovery.
#[derive(Debug, Default)]
struct Absence(Option<Instant>);

impl Absence {
    fn seen(&mut self, served: bool, now: Instant) -> Presence {
        if served {
            self.0 = None;
            return Presence::Served;
        }
        let since = *self.0.get_or_insert(now);
        if now - since < GONE_AFTER { Presence::Missing } else { Presence::Gone }
    }
}

async fn discover(
    client: &Client,
    given: &DefaultRegistry,
    [no_bundles, no_plans]: &mut [Absence; 2],
    now: Instant,
) -> kube::Result<Discovered> {
    let bundles = no_bundles.seen(serves(client, BUNDLE_API, "bundles").await?, now);
    let plans = no_plans.seen(serves(client, PLAN_API, "plans").await?, now);
    let standalone = plans.is_served() && has_namespace(client, STANDALONE_NAMESPACE).await?;
    let registry = DefaultRegistry::new(&rancher_setting(client, "system-default-registry").await?).or(given);
    Ok(Discovered { served: ServedKinds { bundles, plans, standalone }, registry })
}

async fn serves(client: &Client, api_version: &str, plural: &str) -> kube::Result<bool> {
    match client.list_api_group_resources(api_version).await {
        Ok(list) => Ok(list.resources.iter().any(|resource| resource.name == plural)),
        Err(kube::Error::Api(status)) if is_absent(&status) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a namespace exists. Without the right to read it the operator could not write there either.
async fn has_namespace(client: &Client, name: &str) -> kube::Result<bool> {
    match Api::<Namespace>::all(client.clone()).get_metadata_opt(name).await {
        Ok(namespace) => Ok(namespace.is_some()),
        Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_gone_when_it_was_absent_all_the_time() {
        let (mut absence, start, moment) = (Absence::default(), Instant::now(), Duration::from_secs(1));
        assert_eq!(absence.seen(false, start), Presence::Missing);
        assert_eq!(absence.seen(false, start + GONE_AFTER - moment), Presence::Missing);
        assert_eq!(absence.seen(true, start + GONE_AFTER), Presence::Served);
        assert_eq!(absence.seen(false, start + GONE_AFTER + moment), Presence::Missing);
        assert_eq!(absence.seen(false, start + 2 * GONE_AFTER + moment), Presence::Gone);
    }
}
