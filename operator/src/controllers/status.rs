//! Writes the status of an object whose kind has one controller and no other writer.

use super::ReconcileError;
use crate::context::Context;
use crate::kube::status_writer::StatusPatch;
use api::{Condition, Conditions, condition_type};
use k8s_openapi::NamespaceResourceScope;
use kube::api::Api;
use kube::core::object::HasStatus;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Writes a status that has changed. If the reason of `Ready` has changed, it becomes an event, which is a warning if
/// the object is `Stalled`.
///
/// The status is for the version of the object that was read: if the spec is newer, or another replica has written a
/// token, the write fails as a conflict.
pub(super) async fn write_status<K>(
    object: &K,
    context: &Context,
    status: &K::Status,
    conditions: impl Fn(&K::Status) -> &Vec<Condition>,
) -> Result<(), ReconcileError>
where
    K: HasStatus<Status: Serialize + PartialEq + Clone + Default>
        + Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned,
{
    let before = object.status().cloned().unwrap_or_default();
    let Some(patch) = StatusPatch::between(&before, status, object.resource_version()) else { return Ok(()) };
    let api = Api::<K>::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    patch
        .write(&api, &object.name_any())
        .await
        .map_err(|source| ReconcileError::Writing { what: ObjectRef::from_obj(object).to_string(), source })?;
    let (before, after) = (conditions(&before), conditions(status));
    if let Some(ready) = after.find(condition_type::READY)
        && before.find(condition_type::READY).is_none_or(|before| before.reason != ready.reason)
    {
        let warning = after.holds(condition_type::STALLED);
        context.events.publish(object.object_ref(&()), warning, &ready.reason, &ready.message);
    }
    Ok(())
}
