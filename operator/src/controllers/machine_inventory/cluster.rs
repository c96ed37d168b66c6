//! The cluster registration token for `spec.clusterName`: created, replaced and deleted.
//!
//! Each machine has its own token, in the namespace of the management cluster. The token is deleted when the machine is
//! assigned to another cluster or to none, when the cluster is deleted, and before the inventory, which has a
//! finalizer. If Rancher's kinds are no longer served, there is no token to delete, and the finalizer is removed.

use super::super::ReconcileError;
use super::enter_written;
use crate::cluster::rancher::ReadOutcome;
use crate::context::Context;
use crate::inventory::index::{Key, KnownMachine};
use crate::inventory::seen::SeenInventory;
use crate::kube::client::patching;
use api::{Conditions, MachineInventoryStatus, TOKEN_FINALIZER, condition_type, reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, Patch};
use serde_json::json;
use std::time::Duration;

/// How often a valid token is checked: it may be deleted, or its cluster.
const IN_ORDER: Duration = Duration::from_secs(15 * 60);
/// Shortest and longest time between two checks of something that is missing. The time grows while it is missing.
const MISSING: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));
/// Longest name of a token: the limit of a label value, as in the first release.
const LONGEST_NAME: usize = 63;

/// The state of a machine's token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Unassigned,
    RancherNotInstalled,
    NotPermitted,
    NoCluster,
    ClusterNotReady,
    /// A token of this name exists for another machine.
    NameTaken(Key),
    /// Created, but not issued by Rancher yet.
    NotIssued(Key),
    Issued(Key),
    /// Verified this long ago, and nothing has changed since.
    InOrder(Duration),
}

/// Creates, replaces or deletes the token of a machine, as its inventory says.
pub(super) async fn reconcile_token(machine: &KnownMachine, context: &Context) -> Result<State, ReconcileError> {
    if let Some(age) = context.rancher.verified(machine).filter(|age| *age < IN_ORDER)
        && machine.status.conditions.holds(condition_type::ASSIGNED)
    {
        return Ok(State::InOrder(age));
    }
    let found = find_cluster(machine, context).await?;
    let plan = plan(machine, &found);
    if let Some(obsolete) = &plan.obsolete {
        delete_token(machine, context, obsolete).await?;
    }
    let Some(key) = plan.wanted else {
        if plan.obsolete.is_some() || matches!(plan.state, State::Unassigned) {
            remove_finalizer(machine, context).await?;
        }
        return Ok(plan.state);
    };
    add_finalizer(machine, context).await?;
    let state = ensure_token(machine, context, key).await?;
    if matches!(state, State::Issued(_)) {
        context.rancher.note_verified(machine);
    }
    Ok(state)
}

/// Deletes the token of an inventory that is being deleted, then removes the finalizer.
pub(super) async fn delete_tokens(machine: &KnownMachine, context: &Context) -> Result<(), ReconcileError> {
    // A token may have been created and not recorded yet.
    let expected = match find_cluster(machine, context).await? {
        ReadOutcome::Found(Some(managed_as)) => Some(token_key(machine, managed_as)),
        _ => None,
    };
    let noted = noted(machine);
    for key in noted.iter().chain(expected.iter().filter(|key| Some(*key) != noted.as_ref())) {
        delete_token(machine, context, key).await?;
    }
    context.rancher.forget(&machine.key());
    remove_finalizer(machine, context).await
}

/// Sets the condition `Assigned` and the name of the token in the status.
pub(super) fn set_condition(machine: &KnownMachine, state: &State, status: &mut MachineInventoryStatus, now: &Time) {
    let cluster = machine.cluster().unwrap_or_default();
    let (holds, reason, message) = match state {
        State::Unassigned => {
            status.conditions.remove_type(condition_type::ASSIGNED);
            note(status, None);
            return;
        }
        State::InOrder(_) => return,
        State::RancherNotInstalled => (
            false,
            reason::RANCHER_NOT_INSTALLED,
            format!(
                "cluster {cluster} cannot be found: this API server does not serve Clusters of provisioning.cattle.io; \
                 install Rancher, or remove spec.clusterName and set in spec.config how the machine joins"
            ),
        ),
        State::NotPermitted => (
            false,
            reason::NOT_PERMITTED,
            format!(
                "the operator may not read Clusters in namespace {} or create ClusterRegistrationTokens; add the \
                 namespace to the chart's registrationNamespaces",
                machine.namespace
            ),
        ),
        State::NoCluster => (
            false,
            reason::CLUSTER_NOT_FOUND,
            format!(
                "there is no Cluster {cluster} in namespace {}; create it, or correct spec.clusterName",
                machine.namespace
            ),
        ),
        State::ClusterNotReady => (
            false,
            reason::CLUSTER_NOT_READY,
            format!("Cluster {cluster} has no status.clusterName yet; Rancher sets it when it manages the cluster"),
        ),
        State::NameTaken((namespace, name)) => (
            false,
            reason::TOKEN_NAME_TAKEN,
            format!("ClusterRegistrationToken {namespace}/{name} was created for another machine; delete it"),
        ),
        State::NotIssued((namespace, name)) => (
            false,
            reason::TOKEN_NOT_ISSUED,
            format!(
                "ClusterRegistrationToken {namespace}/{name} was created; Rancher has not set its status.token yet"
            ),
        ),
        State::Issued(_) => (true, reason::TOKEN_ISSUED, format!("the machine can join cluster {cluster}")),
    };
    status.conditions.put(condition_type::ASSIGNED, holds, reason, &message, machine.generation, now);
    match state {
        State::NotIssued(key) | State::Issued(key) => note(status, Some(key)),
        // The token may still exist.
        State::RancherNotInstalled | State::NotPermitted | State::NameTaken(_) => {}
        _ => note(status, None),
    }
}

/// When to reconcile without an event. `status`: with the condition of this state.
pub(super) fn requeue_after(state: &State, status: &MachineInventoryStatus, now: &Time) -> Option<Duration> {
    match state {
        State::Unassigned => None,
        State::Issued(_) => Some(IN_ORDER),
        State::InOrder(age) => Some(IN_ORDER.saturating_sub(*age)),
        _ => {
            let since = status.conditions.find(condition_type::ASSIGNED)?.last_transition_time.as_ref();
            let age = since.map_or(0, |since| now.0.as_second().saturating_sub(since.0.as_second()));
            let quarter = Duration::from_secs(u64::try_from(age).unwrap_or(0) / 4);
            Some(quarter.clamp(MISSING.0, MISSING.1))
        }
    }
}

struct Plan {
    /// The token that the machine should have.
    wanted: Option<Key>,
    /// The token to delete.
    obsolete: Option<Key>,
    /// The state, if no token is wanted.
    state: State,
}

fn plan(machine: &KnownMachine, found: &ReadOutcome<Option<String>>) -> Plan {
    let noted = noted(machine);
    let without = |state, obsolete| Plan { wanted: None, obsolete, state };
    if machine.cluster().is_none() {
        return without(State::Unassigned, noted);
    }
    match found {
        ReadOutcome::NotServed => without(State::RancherNotInstalled, None),
        ReadOutcome::Forbidden => without(State::NotPermitted, None),
        ReadOutcome::Missing => without(State::NoCluster, noted),
        ReadOutcome::Found(None) => without(State::ClusterNotReady, noted),
        ReadOutcome::Found(Some(managed_as)) => {
            // The first release, or another version, may have used another name.
            let kept = noted.clone().filter(|(namespace, _)| namespace == managed_as);
            let wanted = kept.unwrap_or_else(|| token_key(machine, managed_as.clone()));
            let obsolete = noted.filter(|noted| *noted != wanted);
            Plan { obsolete, state: State::NotIssued(wanted.clone()), wanted: Some(wanted) }
        }
    }
}

/// The token in the status.
fn noted(machine: &KnownMachine) -> Option<Key> {
    let status = &machine.status;
    let namespace = status.cluster_registration_token_namespace.clone().filter(|text| !text.is_empty())?;
    Some((namespace, status.cluster_registration_token_name.clone().filter(|text| !text.is_empty())?))
}

fn note(status: &mut MachineInventoryStatus, key: Option<&Key>) {
    status.cluster_registration_token_namespace = key.map(|(namespace, _)| namespace.clone());
    status.cluster_registration_token_name = key.map(|(_, name)| name.clone());
}

/// Namespace and name of a machine's token. Short names are those of the first release. The end of a long name is
/// replaced by a digest, so that names of two machines do not collide.
fn token_key(machine: &KnownMachine, managed_as: String) -> Key {
    let name = format!("{managed_as}-{}-token", machine.name);
    let name = if name.len() <= LONGEST_NAME {
        name
    } else {
        let digest = hex::encode(&crate::digest::sha256(name.as_bytes())[..8]);
        let start = name[..LONGEST_NAME - digest.len() - 1].trim_end_matches(['-', '.']);
        format!("{start}-{digest}")
    };
    (managed_as, name)
}

async fn find_cluster(
    machine: &KnownMachine,
    context: &Context,
) -> Result<ReadOutcome<Option<String>>, ReconcileError> {
    let Some(cluster) = machine.cluster() else { return Ok(ReadOutcome::Missing) };
    let found = context.rancher.management_cluster(&machine.namespace, cluster).await;
    found.map_err(|source| ReconcileError::Reading { what: format!("Cluster {}/{cluster}", machine.namespace), source })
}

async fn ensure_token(machine: &KnownMachine, context: &Context, key: Key) -> Result<State, ReconcileError> {
    let failed = |source| ReconcileError::Changing { what: token_name(&key), source };
    let mut found = context.rancher.token(&key).await.map_err(failed)?;
    if found == ReadOutcome::Missing {
        found = context.rancher.make_token(&key, machine).await.map_err(failed)?;
    }
    Ok(match found {
        ReadOutcome::Found(token) if !token.is_of(machine) => State::NameTaken(key),
        ReadOutcome::Found(token) if token.token.is_some() => State::Issued(key),
        ReadOutcome::Found(_) => State::NotIssued(key),
        // The namespace of the management cluster does not exist yet, or no longer.
        ReadOutcome::Missing => State::ClusterNotReady,
        ReadOutcome::NotServed => State::RancherNotInstalled,
        ReadOutcome::Forbidden => State::NotPermitted,
    })
}

async fn delete_token(machine: &KnownMachine, context: &Context, key: &Key) -> Result<(), ReconcileError> {
    let deleted = context.rancher.delete_token(key, machine).await;
    deleted.map_err(|source| ReconcileError::Changing { what: token_name(key), source })
}

fn token_name((namespace, name): &Key) -> String {
    format!("ClusterRegistrationToken {namespace}/{name}")
}

/// Adds the finalizer, so that a deletion of the inventory waits for the operator.
async fn add_finalizer(machine: &KnownMachine, context: &Context) -> Result<(), ReconcileError> {
    if machine.finalizers.iter().any(|finalizer| finalizer == TOKEN_FINALIZER) {
        return Ok(());
    }
    let mut finalizers = machine.finalizers.clone();
    finalizers.push(TOKEN_FINALIZER.to_owned());
    set_finalizers(machine, context, finalizers).await
}

async fn remove_finalizer(machine: &KnownMachine, context: &Context) -> Result<(), ReconcileError> {
    if !machine.finalizers.iter().any(|finalizer| finalizer == TOKEN_FINALIZER) {
        return Ok(());
    }
    let others = machine.finalizers.iter().filter(|finalizer| *finalizer != TOKEN_FINALIZER);
    set_finalizers(machine, context, others.cloned().collect()).await
}

async fn set_finalizers(
    machine: &KnownMachine,
    context: &Context,
    finalizers: Vec<String>,
) -> Result<(), ReconcileError> {
    // The list is replaced as a whole. With the resource version no finalizer of another controller is lost.
    let patch = json!({"metadata": {"resourceVersion": machine.resource_version(), "finalizers": finalizers}});
    let api = Api::<SeenInventory>::namespaced(context.client.clone(), &machine.namespace);
    let written = api.patch(&machine.name, &patching(), &Patch::Merge(&patch)).await;
    enter_written(machine, context, written)
}

#[cfg(test)]
mod tests;
