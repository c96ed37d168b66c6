//! The controllers. Their watches also fill the server's indexes.

mod machine_inventory;
mod machine_registration;
mod managed_os_image;
mod status;

use crate::context::Context;
use api::ManagedOSImage;
use futures::{StreamExt, future};
use kube::runtime::controller::Action;
use kube::runtime::reflector::store::Writer;
use std::sync::Arc;
use std::time::Duration;

/// Events of one object within this time cause one reconciliation: a registration writes object and status in
/// succession.
const DEBOUNCE: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error("reading {what}")]
    Reading { what: String, source: kube::Error },
    #[error("writing the status of {what}")]
    Writing { what: String, source: kube::Error },
    #[error("creating or deleting {what}")]
    Changing { what: String, source: kube::Error },
}

/// Runs until `stop`. `os_images` writes the context's store of ManagedOSImages.
pub async fn run(
    context: Arc<Context>,
    os_images: Writer<ManagedOSImage>,
    stop: impl Future<Output = ()> + Send + Sync + Clone + 'static,
) {
    // The server of every replica needs the watches of the first three.
    let carry_out = || managed_os_image::run(context.clone(), stop.clone());
    future::join4(
        machine_registration::run(context.clone(), stop.clone()),
        machine_inventory::run(context.clone(), stop.clone()),
        managed_os_image::follow(context.clone(), os_images, stop.clone()),
        context.leadership.whenever_held(stop.clone(), carry_out),
    )
    .await;
}

fn on_error<K>(_: Arc<K>, error: &ReconcileError, _: Arc<Context>) -> Action {
    use std::error::Error as _;
    // A conflict with another writer is not logged: the newer object triggers a reconciliation.
    if let ReconcileError::Writing { source: kube::Error::Api(status), .. }
    | ReconcileError::Changing { source: kube::Error::Api(status), .. } = error
        && (status.is_conflict() || status.is_not_found())
    {
        return Action::requeue(DEBOUNCE);
    }
    tracing::warn!(%error, cause = error.source().map(ToString::to_string), "reconciling");
    Action::requeue(RETRY)
}

async fn drain<T>(stream: impl futures::Stream<Item = T>) {
    stream.for_each(|_| future::ready(())).await;
}
