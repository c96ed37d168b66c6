//! Which engines the cluster has: asked for now and then, as they are installed and removed without telling us.

use crate::upgrade::bundle::BUNDLE_API;
use crate::upgrade::objects::PLAN_API;
use crate::upgrade::{STANDALONE_NAMESPACE, Served};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use std::time::Duration;
use tokio::sync::watch;

/// While something may be about to be installed, and when it has not been for a while.
const FIRST: Duration = Duration::from_secs(5);
const SELDOM: Duration = Duration::from_secs(60);

/// Keeps the channel up to date for as long as anybody listens.
pub(super) async fn keep(client: Client, found: watch::Sender<Option<Served>>) {
    let mut pause = FIRST;
    while !found.is_closed() {
        match look(&client).await {
            Ok(served) => {
                let changed = found.send_if_modified(|known| known.replace(served) != Some(served));
                if changed {
                    tracing::info!(fleet = served.bundles, plans = served.plans, "engines for upgrades");
                }
                pause = if changed { FIRST } else { (pause * 2).min(SELDOM) };
            }
            Err(error) => {
                tracing::warn!(%error, "asking which engines for upgrades there are");
                pause = (pause * 2).min(SELDOM);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

async fn look(client: &Client) -> kube::Result<Served> {
    let bundles = serves(client, BUNDLE_API, "bundles").await?;
    let plans = serves(client, PLAN_API, "plans").await?;
    let standalone = plans && has_namespace(client, STANDALONE_NAMESPACE).await?;
    Ok(Served { bundles, plans, standalone })
}

async fn serves(client: &Client, api_version: &str, plural: &str) -> kube::Result<bool> {
    match client.list_api_group_resources(api_version).await {
        Ok(list) => Ok(list.resources.iter().any(|resource| resource.name == plural)),
        // Of a group that it does not know the API server says so in plain text, without the reason NotFound.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
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
