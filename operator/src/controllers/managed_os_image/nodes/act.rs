//! Carries out what was decided for a node. Everything may be done twice.

use super::super::IN_FLIGHT_EVERY;
use super::{Context, ReconcileError};
use crate::kube::absence::is_absent;
use crate::kube::client::{patching, writing};
use crate::rollout::nodes::NodeRollout;
use crate::rollout::nodes::drain::quoted;
use crate::rollout::nodes::job;
use crate::rollout::nodes::memory::UPGRADE_ANNOTATION;
use crate::rollout::nodes::node::{Node, Pod};
use crate::rollout::nodes::step::Action;
use futures::{StreamExt, stream};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1;
use kube::api::{Api, DeleteParams, Patch, Preconditions};
use serde_json::{Value, json};

/// Evictions of one node that run at once.
const EVICTIONS: usize = 8;

#[derive(Debug)]
pub(super) enum Answer {
    Taken,
    /// The Node has changed since it was read.
    Conflict,
    /// It was not done; what the API server says. It is tried again.
    Says(String),
    Forbidden(String),
}

pub(super) async fn act(
    context: &Context,
    rollout: &NodeRollout,
    node: &Node,
    action: &Action,
) -> Result<Answer, ReconcileError> {
    match action {
        Action::Write { .. } => write(context, node, action).await,
        Action::Evict(pods) => {
            let options = rollout.drain.as_ref().map(|drain| &drain.options);
            let delete = options.is_some_and(|options| options.disable_eviction);
            let grace = options.and_then(|options| options.grace_period).and_then(|grace| u32::try_from(grace).ok());
            evict(context, pods, delete, grace).await
        }
        Action::CreateJob => create_job(context, rollout, node).await,
        Action::DeleteJob => {
            delete_jobs(context, vec![job::name(rollout, node)]).await?;
            Ok(Answer::Taken)
        }
    }
}

/// Writes what is left to write when a roll-out ends before its time.
pub(super) async fn write_back(context: &Context, node: &Node, action: &Action) -> Result<(), ReconcileError> {
    match write(context, node, action).await? {
        Answer::Taken => Ok(()),
        answer => {
            tracing::warn!(node = node.name, ?answer, "a node was not given back");
            let status = kube::core::Status { code: 409, reason: "Conflict".to_owned(), ..Default::default() };
            let source = kube::Error::Api(Box::new(status));
            Err(ReconcileError::Changing { what: format!("Node {}", node.name), source })
        }
    }
}

/// One write, and only on the Node that was read.
async fn write(context: &Context, node: &Node, action: &Action) -> Result<Answer, ReconcileError> {
    let Action::Write { memory, unschedulable } = action else { return Ok(Answer::Taken) };
    let mut patch = json!({"metadata": {
        "uid": node.uid,
        "resourceVersion": node.resource_version,
        "annotations": {UPGRADE_ANNOTATION: memory.as_ref().map(|memory| memory.text())},
    }});
    if let Some(unschedulable) = unschedulable {
        // As kubectl uncordon does it: the field is absent.
        patch["spec"] = json!({"unschedulable": unschedulable.then_some(true)});
    }
    let api = Api::<v1::Node>::all(context.client.clone());
    match api.patch_metadata(&node.name, &patching(), &Patch::Merge(&patch)).await {
        Ok(_) => Ok(Answer::Taken),
        Err(kube::Error::Api(status)) if status.is_conflict() || is_absent(&status) => Ok(Answer::Conflict),
        Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(Answer::Forbidden(status.message.clone())),
        Err(source) => Err(ReconcileError::Changing { what: format!("Node {}", node.name), source }),
    }
}

async fn create_job(context: &Context, rollout: &NodeRollout, node: &Node) -> Result<Answer, ReconcileError> {
    let api = Api::<Job>::namespaced(context.client.clone(), &context.namespace);
    let rendered = job::job(rollout, node, &context.namespace);
    let name = job::name(rollout, node);
    let job: Job = match serde_json::from_value(rendered) {
        Ok(job) => job,
        Err(error) => return Ok(Answer::Says(format!("its Job cannot be made: {error}"))),
    };
    match api.create(&writing(), &job).await {
        Ok(_) => Ok(Answer::Taken),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(Answer::Taken),
        Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(Answer::Forbidden(status.message.clone())),
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => {
            Ok(Answer::Says(format!("its Job is refused: {}", status.message)))
        }
        Err(source) => Err(ReconcileError::Changing { what: format!("Job {name}"), source }),
    }
}

pub(super) async fn delete_jobs(context: &Context, names: Vec<String>) -> Result<(), ReconcileError> {
    let api = Api::<Job>::namespaced(context.client.clone(), &context.namespace);
    for name in names {
        match api.delete(&name, &DeleteParams::background()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if is_absent(&status) => {}
            Err(source) => return Err(ReconcileError::Changing { what: format!("Job {name}"), source }),
        }
    }
    Ok(())
}

/// Asks for the eviction of all of them. A refusal by a budget is no error: the next reconciliation asks again.
async fn evict(context: &Context, pods: &[Pod], delete: bool, grace: Option<u32>) -> Result<Answer, ReconcileError> {
    let requests: Vec<_> = pods.iter().map(|pod| evict_one(context, pod, delete, grace)).collect();
    let answers: Vec<kube::Result<Option<String>>> = stream::iter(requests).buffer_unordered(EVICTIONS).collect().await;
    let mut said = None;
    for answer in answers {
        match answer {
            Ok(None) => {}
            Ok(Some(text)) => said = Some(text),
            Err(kube::Error::Api(status)) if status.is_forbidden() => {
                return Ok(Answer::Forbidden(status.message.clone()));
            }
            Err(source) => return Err(ReconcileError::Changing { what: "pods of a drained node".to_owned(), source }),
        }
    }
    Ok(said.map_or(Answer::Taken, Answer::Says))
}

/// What the API server says if it does not do it.
async fn evict_one(context: &Context, pod: &Pod, delete: bool, grace: Option<u32>) -> kube::Result<Option<String>> {
    let api = Api::<v1::Pod>::namespaced(context.evictions.clone(), &pod.namespace);
    // Not another pod that has taken the name.
    let preconditions = Some(Preconditions { uid: Some(pod.uid.clone()), resource_version: None });
    let options = DeleteParams { grace_period_seconds: grace, preconditions, ..DeleteParams::default() };
    let answer = if delete {
        api.delete(&pod.name, &options).await.map(drop)
    } else {
        // Not `Api::evict`: kube 5.0 calls the options `delete_options`, which the API server ignores.
        let eviction = json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod.name, "namespace": pod.namespace},
            "deleteOptions": options,
        });
        api.create_subresource("eviction", &pod.name, &writing(), &eviction).await.map(|_: Value| ())
    };
    match answer {
        Ok(()) => Ok(None),
        Err(kube::Error::Api(status)) if is_absent(&status) || status.code == 409 => Ok(None),
        // The budget does not allow it now; or several cover the pod; or its namespace is being deleted.
        Err(kube::Error::Api(status)) if matches!(status.code, 429 | 500) || is_terminating(&status) => {
            let what = if delete { "deleting" } else { "evicting" };
            let retry = IN_FLIGHT_EVERY.as_secs();
            let message = status.message.lines().next().unwrap_or_default();
            Ok(Some(format!("error when {what} {} (will retry after {retry}s): {message}", quoted(pod))))
        }
        Err(error) => Err(error),
    }
}

fn is_terminating(status: &kube::core::Status) -> bool {
    let mut causes = status.details.iter().flat_map(|details| &details.causes);
    status.is_forbidden() && causes.any(|cause| cause.reason == "NamespaceTerminating")
}
