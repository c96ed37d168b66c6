//! What upgrades go by in a cluster: which engines it has, and where its images come from. Asked for now and then, as it
//! changes without telling us.

use crate::cluster::rancher;
use crate::kube::absence::is_absent;
use crate::rollout::bundle::BUNDLE_API;
use crate::rollout::objects::PLAN_API;
use crate::rollout::{DefaultRegistry, STANDALONE_NAMESPACE, ServedKinds};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use std::time::Duration;
use tokio::sync::watch;

/// While something may be about to be installed, and when it has not been for a while.
const FIRST: Duration = Duration::from_secs(5);
const SELDOM: Duration = Duration::from_secs(60);

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Discovered {
    pub(super) served: ServedKinds,
    /// Of images that name none.
    pub(super) registry: DefaultRegistry,
}

/// Keeps the channel up to date for as long as anybody listens. `registry`: the one given to the operator.
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
                    tracing::info!(fleet = served.bundles, plans = served.plans, "what upgrades go by");
                }
                pause = if changed { FIRST } else { (pause * 2).min(SELDOM) };
            }
            Err(error) => {
                tracing::warn!(%error, "asking what upgrades go by");
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
    let registry = DefaultRegistry::new(&rancher::setting(client, "system-default-registry").await?).or(given);
    Ok(Discovered { served: ServedKinds { bundles, plans, standalone }, registry })
}

async fn serves(client: &Client, api_version: &str, plural: &str) -> kube::Result<bool> {
    match client.list_api_group_resources(api_version).await {
        Ok(list) => Ok(list.resources.iter().any(|resource| resource.name == plural)),
        Err(kube::Error::Api(status)) if is_absent(&status) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Who may not ask may not write there either.
async fn has_namespace(client: &Client, name: &str) -> kube::Result<bool> {
    match Api::<Namespace>::all(client.clone()).get_metadata_opt(name).await {
        Ok(namespace) => Ok(namespace.is_some()),
        Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(false),
        Err(error) => Err(error),
    }
}
