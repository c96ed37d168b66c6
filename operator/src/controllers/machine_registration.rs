//! The controller of MachineRegistration: creates its token and URL, and sets conditions that say whether machines can
//! use them.
//!
//! A deleted registration admits no machine from then on; the machines that registered through it stay.

mod fetch;
mod status;

use super::status::write_status;
use super::{DEBOUNCE, ReconcileError, drain, on_error};
use crate::context::Context;
use crate::kube::clock::clock_jumps;
use crate::kube::watch::keep_watching;
use crate::registration::{self, Registration};
use api::{MachineRegistration, Problem, reason};
use fetch::{Found, fetch};
use futures::{Stream, StreamExt, stream};
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::{ObjectRef, store};
use kube::runtime::{WatchStreamExt, watcher};
use protocol::RegistrationToken;
use status::build;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often `status.machines` follows the inventory, at most.
const COUNT_EVERY: Duration = Duration::from_secs(2);
/// How often a Secret of trusted authorities is read again.
const AUTHORITIES_EVERY: Duration = Duration::from_secs(300);
const AUTHORITIES_MISSING: Duration = Duration::from_secs(15);

pub(super) async fn run(context: Arc<Context>, stop: impl Future<Output = ()> + Send + Sync + 'static) {
    let (reader, writer) = store();
    let index = context.clone();
    let all = Api::<MachineRegistration>::all(context.client.clone());
    let objects = keep_watching(all, watcher::Config::default(), "MachineRegistration")
        .inspect(move |event| {
            if let Ok(event) = event {
                index.registrations.apply(event);
            }
        })
        .reflect(writer)
        .applied_objects();
    let controller = Controller::for_stream(objects, reader)
        .with_config(Config::default().debounce(Duration::from_millis(50)))
        .reconcile_on(changed_counts(context.clone()))
        .reconcile_all_on(context.leadership.begins())
        // The status of each registration contains the URL and the media, and its answers contain the authorities.
        .reconcile_all_on(changes(context.endpoint.clone()))
        .reconcile_all_on(changes(context.media.watch()))
        // The requeue for `expiresAt` is computed in monotonic time.
        .reconcile_all_on(clock_jumps(context.clock))
        .graceful_shutdown_on(stop);
    drain(controller.run(timed, on_error, context)).await;
}

/// Registrations whose number of machines has changed.
fn changed_counts(context: Arc<Context>) -> impl Stream<Item = ObjectRef<MachineRegistration>> + Send {
    stream::unfold(context, |context| async {
        tokio::time::sleep(COUNT_EVERY).await;
        let changed = context.inventory.index.take_changed();
        let changed = changed.into_iter().map(|(namespace, name)| ObjectRef::new(&name).within(&namespace));
        Some((stream::iter(changed.collect::<Vec<_>>()), context))
    })
    .flatten()
}

fn changes<T: Send + Sync>(told: watch::Receiver<T>) -> impl Stream<Item = ()> + Send {
    stream::unfold(told, |mut told| async {
        told.changed().await.ok()?;
        Some(((), told))
    })
}

async fn timed(object: Arc<MachineRegistration>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    context.metrics.time_reconciliation("MachineRegistration", reconcile(object, &context)).await
}

async fn reconcile(object: Arc<MachineRegistration>, context: &Context) -> Result<Action, ReconcileError> {
    if object.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let found = fetch(&object, context).await?;
    let problem = validate(&object, &found);
    let status = build(&object, &found, problem.as_ref(), new_token);
    // Every replica uses the authorities; only the leader writes the status.
    open(&object, context, &found);
    let write = write_status(&*object, context, &status, |status| &status.conditions);
    context.leadership.act(write).await.transpose()?;
    Ok(requeue_after(&object, &found))
}

fn validate(object: &MachineRegistration, found: &Found) -> Option<Problem> {
    let registration = Registration::of(object);
    if let Err(problem) = &registration.templates {
        return Some(problem.clone());
    }
    if let Err(problem) = registration::check_size(&registration, &found.endpoint) {
        return Some(problem);
    }
    if let Some(Err(problem)) = &found.authorities {
        return Some(problem.clone());
    }
    if let Some(problem) = registration::without_authority(&object.spec, &found.vendors) {
        return Some(problem);
    }
    if let Some(refusal) = crate::registration::decide::expired(&registration, found.now.0) {
        return Some(Problem { reason: reason::EXPIRED, message: refusal.message });
    }
    if let Some(most) = found.most.filter(|most| found.machines.is_some_and(|machines| machines >= *most)) {
        let message = format!("the limit of {most} machines is reached; raise spec.maxMachines to admit more");
        return Some(Problem { reason: reason::FULL, message });
    }
    None
}

/// Makes the authorities known to the server.
fn open(object: &MachineRegistration, context: &Context, found: &Found) {
    let authorities = found.authorities.as_ref().and_then(|read| read.as_ref().ok()).cloned();
    context.registrations.set_authorities(&object.namespace().unwrap_or_default(), &object.name_any(), authorities);
}

/// When to reconcile without an event.
fn requeue_after(object: &MachineRegistration, found: &Found) -> Action {
    let expires = object.spec.expires_at.as_ref().map(|time| time.0.as_second() - found.now.0.as_second());
    let expires = expires.and_then(|seconds| u64::try_from(seconds).ok()).map(|left| Duration::from_secs(left + 1));
    let authorities = found.authorities.as_ref().map(|read| match read {
        Ok(_) => AUTHORITIES_EVERY,
        Err(_) => AUTHORITIES_MISSING,
    });
    let count = found.machines.is_none().then_some(COUNT_EVERY);
    match [expires, authorities, count].into_iter().flatten().min() {
        Some(after) => Action::requeue(after.max(DEBOUNCE)),
        None => Action::await_change(),
    }
}

fn new_token() -> RegistrationToken {
    RegistrationToken::generate(|| {
        let mut byte = [0];
        // The operating system's generator does not fail once it is seeded; a failure here must not weaken a token.
        aws_lc_rs::rand::fill(&mut byte).expect("the operating system gives random bytes");
        byte[0]
    })
}

#[cfg(test)]
mod tests;
