//! Discovers which engines a cluster has, and its default registry. Both are polled, because there is no event for a
//! change.

use crate::kube::absence::is_absent;
use crate::kube::rancher_setting::rancher_setting;
use crate::rollout::engine::fleet::BUNDLE_API;
use crate::rollout::objects::PLAN_API;
use crate::rollout::{DefaultRegistry, STANDALONE_NAMESPACE, ServedKinds};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use std::time::Duration;
use tokio::sync::watch;

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
    while !found.is_closed() {
        match discover(&client, &registry).await {
            Ok(discovered) => {
                let served = discovered.served;
                let changed = found.send_if_modified(|known| {
                    let changed = known.as_ref() != Some(&discovered);
                    *known = Some(discovered);
                    changed
                });
                if changed {
                    tracing::info!(fleet = served.bundles, plans = served.plans, "found the upgrade engines");
                }
                pause = if changed { FIRST } else { (pause * 2).min(SELDOM) };
            }
            Err(error) => {
                tracing::warn!(%error, "finding the upgrade engines");
                pause = (pause * 2).min(SELDOM);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

async fn discover(client: &Client, given: &DefaultRegistry) -> kube::Result<Discovered> {
    let bundles = serves(client, BUNDLE_API, "bundles").await?;
    let plans = serves(client, PLAN_API, "plans").await?;
    let standalone = plans && has_namespace(client, STANDALONE_NAMESPACE).await?;
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
