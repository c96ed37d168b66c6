//! The change from one engine to another: ending the objects of the former one deletes its Jobs, so that they are waited
//! for. Meanwhile the former engine begins no further node.

use super::apply::is_own;
use super::fetch::{plan_jobs, running_until};
use super::{Context, ManagedOSImage, ReconcileError, nodes};
use crate::inventory::upgrade::DEADLINE;
use crate::kube::absence::is_absent;
use crate::kube::apply;
use crate::kube::client::patching;
use crate::rollout::engine::fleet::BUNDLE_API;
use crate::rollout::objects::PLAN_API;
use crate::rollout::{self, LOCAL_NAMESPACE, PLAN_NAMESPACE, Presence};
use api::{Conditions, Engine, condition_type, reason};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{DynamicObject, Patch};
use serde_json::{Value, json};

/// What a change of the engine waits for.
#[derive(Clone)]
pub(super) struct Wait {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Holds the former engine, and says what is to be waited for. `None`: its objects may be deleted.
pub(super) async fn waits_for(
    object: &ManagedOSImage,
    context: &Context,
    (former, presence): (Engine, Presence),
) -> Result<Option<Wait>, ReconcileError> {
    let wait = |message: String| Some(Wait { reason: reason::JOBS_RUNNING, message });
    if former == Engine::Operator {
        let held = nodes::end(object, context, true).await?;
        let nodes = if held == 1 { "node" } else { "nodes" };
        return Ok((held > 0).then(|| format!("upgrade Jobs on {held} {nodes} are waited for")).and_then(wait));
    }
    if presence == Presence::Missing {
        return Ok(Some(absent(former)));
    }
    let held = match former {
        Engine::Fleet if presence.is_served() => hold_bundle(object, context).await?,
        _ => hold_plan(object, context).await?,
    };
    if object.namespace().as_deref() != Some(LOCAL_NAMESPACE) {
        // Of other clusters nobody sees the Jobs.
        return Ok(downstream(object, context.now().0.as_second()).and_then(wait));
    }
    if held {
        return Ok(wait(format!("{former:?} begins no further node; its Jobs are waited for")));
    }
    let name = rollout::name(&object.name_any());
    let jobs = plan_jobs(context, &plan_namespace(object), &name, None).await?;
    let now = context.now().0.as_second();
    let running: Vec<(String, i64)> = jobs.iter().filter_map(running_until).filter(|(_, until)| *until > now).collect();
    let Some((node, until)) = running.iter().max_by_key(|(_, until)| *until) else { return Ok(None) };
    let until = Timestamp::from_second(*until).unwrap_or(Timestamp::MAX);
    Ok(wait(format!(
        "{} of {former:?} run, such as that of {node}; they are waited for until {until}",
        count(&running)
    )))
}

pub(super) fn absent(engine: Engine) -> Wait {
    let message = format!(
        "the kinds of {engine:?} are not served at the moment; it stays the engine until they have been absent for ten \
         minutes, and nothing is applied or deleted until then"
    );
    Wait { reason: reason::ENGINE_ABSENT, message }
}

fn count(running: &[(String, i64)]) -> String {
    format!("{} {}", running.len(), if running.len() == 1 { "Job" } else { "Jobs" })
}

/// Waits as long as a Job may take since the former engine was held, unless everything is done.
fn downstream(object: &ManagedOSImage, now: i64) -> Option<String> {
    let status = object.status.as_ref()?;
    let counts = status.counts.clone().unwrap_or_default();
    if counts.desired > 0 && counts.desired == counts.done {
        return None;
    }
    let held = status.conditions.find(condition_type::ENGINE_CHANGE).filter(|held| held.reason == reason::JOBS_RUNNING);
    let since = held.and_then(|held| held.last_transition_time.as_ref()).map_or(now, |time| time.0.as_second());
    let until = since + DEADLINE;
    let time = Timestamp::from_second(until).unwrap_or(Timestamp::MAX);
    (now < until).then(|| format!("Jobs may run in the clusters; they are waited for until {time}"))
}

/// Sets the Plan's concurrency to 0. Returns whether it was not.
async fn hold_plan(object: &ManagedOSImage, context: &Context) -> Result<bool, ReconcileError> {
    let Some(plan) = get(object, context, PLAN_API, "Plan", &plan_namespace(object)).await? else { return Ok(false) };
    if plan.data.pointer("/spec/concurrency") == Some(&json!(0)) {
        return Ok(false);
    }
    patch(context, PLAN_API, "Plan", &plan, json!({"spec": {"concurrency": 0}})).await
}

/// The same in the Bundle: for every cluster.
async fn hold_bundle(object: &ManagedOSImage, context: &Context) -> Result<bool, ReconcileError> {
    let namespace = object.namespace().unwrap_or_default();
    let Some(bundle) = get(object, context, BUNDLE_API, "Bundle", &namespace).await? else { return Ok(false) };
    let resources = bundle.data.pointer("/spec/resources").and_then(Value::as_array).cloned().unwrap_or_default();
    let held: Vec<Value> = resources.iter().map(held).collect();
    if held == resources {
        return Ok(false);
    }
    patch(context, BUNDLE_API, "Bundle", &bundle, json!({"spec": {"resources": held}})).await
}

/// A Bundle's resource, with concurrency 0 if it is a Plan.
fn held(resource: &Value) -> Value {
    let content = resource["content"].as_str().unwrap_or_default();
    let plan = serde_json::from_str::<Value>(content).ok().filter(|content| content["kind"] == "Plan");
    let Some(mut plan) = plan.filter(|plan| plan["spec"]["concurrency"] != json!(0)) else { return resource.clone() };
    plan["spec"]["concurrency"] = json!(0);
    let mut resource = resource.clone();
    resource["content"] = json!(format!("{plan:#}\n"));
    resource
}

fn plan_namespace(object: &ManagedOSImage) -> String {
    let plan = object.status.as_ref().and_then(|status| status.plan.as_deref());
    plan.and_then(|plan| plan.split_once('/')).map_or(PLAN_NAMESPACE, |(namespace, _)| namespace).to_owned()
}

/// The former engine's object, if it is there and ours.
async fn get(
    object: &ManagedOSImage,
    context: &Context,
    api_version: &str,
    kind: &str,
    namespace: &str,
) -> Result<Option<DynamicObject>, ReconcileError> {
    let api = apply::api(&context.client, &apply::resource(api_version, kind), Some(namespace));
    let name = rollout::name(&object.name_any());
    let found = match api.get_opt(&name).await {
        // Its kind is not served.
        Err(kube::Error::Api(status)) if is_absent(&status) => None,
        found => {
            found.map_err(|source| ReconcileError::Reading { what: format!("{kind} {namespace}/{name}"), source })?
        }
    };
    Ok(found.filter(|found| is_own(object, &found.metadata)))
}

async fn patch(
    context: &Context,
    api_version: &str,
    kind: &str,
    object: &DynamicObject,
    patch: Value,
) -> Result<bool, ReconcileError> {
    let namespace = object.namespace().unwrap_or_default();
    let api = apply::api(&context.client, &apply::resource(api_version, kind), Some(&namespace));
    let (name, patch) = (object.name_any(), Patch::Merge(&patch));
    let patched = api.patch(&name, &patching(), &patch).await;
    match patched {
        Ok(_) => Ok(true),
        // Where the operator may not write, it does not wait for its own writes.
        Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(false),
        Err(source) => Err(ReconcileError::Writing { what: format!("{kind} {namespace}/{name}"), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{ManagedOSImageStatus, NodeCounts};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn a_held_bundle_has_plans_that_begin_nothing() {
        let resource = |object: Value| json!({"name": "x.yaml", "content": object.to_string()});
        let account = resource(json!({"kind": "ServiceAccount"}));
        assert_eq!(held(&account), account);
        let plan = held(&resource(json!({"kind": "Plan", "spec": {"concurrency": 2, "version": "v"}})));
        let content: Value = serde_json::from_str(plan["content"].as_str().unwrap()).unwrap();
        assert_eq!(content["spec"], json!({"concurrency": 0, "version": "v"}));
        assert_eq!(held(&plan), plan);
    }

    #[test]
    fn jobs_of_other_clusters_have_their_time() {
        let at = |second| Time(Timestamp::from_second(second).unwrap());
        let mut object = ManagedOSImage::new("x", api::ManagedOSImageSpec::default());
        let mut status = ManagedOSImageStatus { engine: Some(Engine::Fleet), ..ManagedOSImageStatus::default() };
        object.status = Some(status.clone());
        assert!(downstream(&object, 1000).is_some());
        let put = (condition_type::ENGINE_CHANGE, reason::JOBS_RUNNING);
        status.conditions.put(put.0, true, put.1, "", None, &at(1000));
        object.status = Some(status.clone());
        assert!(downstream(&object, 1000 + DEADLINE - 1).is_some());
        assert_eq!(downstream(&object, 1000 + DEADLINE), None);
        status.counts = Some(NodeCounts { desired: 2, done: 2, ..NodeCounts::default() });
        object.status = Some(status);
        assert_eq!(downstream(&object, 1000), None, "everything is done");
    }
}
