//! Applies the desired objects, and deletes them.

use super::{Context, ManagedOSImage, Problem, ReconcileError};
use crate::kube::apply::{self, apply};
use crate::kube::client::patching;
use crate::rollout;
use crate::rollout::desired::{DesiredObjects, everything, has_finalizer};
use api::{OS_IMAGE_FINALIZER, OS_IMAGE_LABEL, OS_IMAGE_NAMESPACE_LABEL, reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ObjectMeta, Patch};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The label with which Helm, and so Fleet, marks the objects that it applied.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Annotations of the first release on the Bundles that it made.
const FIRST_OWNER_KIND: &str = "objectset.rio.cattle.io/owner-gvk";
const FIRST_OWNER: &str = "objectset.rio.cattle.io/owner-name";
const FIRST_OWNER_NAMESPACE: &str = "objectset.rio.cattle.io/owner-namespace";

pub(super) enum Applied {
    /// The last object as stored, with its status.
    As(Value),
    /// The API server refuses an object; its message.
    Refused(Problem),
    /// Something is being deleted first.
    Waiting(String),
}

pub(super) async fn apply_all(
    object: &ManagedOSImage,
    context: &Context,
    built: &DesiredObjects,
) -> Result<Applied, ReconcileError> {
    let client = &context.client;
    delete(object, context, &built.delete).await?;
    if let Some(bundle) = &built.predecessor {
        match delete_own(object, client, bundle).await {
            Ok(true) => return Ok(Applied::Waiting(format!("{} is being deleted first", called(bundle)))),
            Ok(false) => {}
            Err(error) => return refused_or_failed("deleting", bundle, error),
        }
        if fleets_plan_is_there(object, context).await? {
            return Ok(Applied::Waiting("the Plan from Fleet is being deleted first".to_owned()));
        }
    }
    for one in &built.apply {
        match apply::metadata(client, one).await {
            Ok(Some(found)) if !is_own(object, &found) => return Ok(Applied::Refused(taken(one))),
            Ok(_) => {}
            Err(error) => return refused_or_failed("looking for", one, error),
        }
    }
    set_finalizer(object, context, built.finalizer).await?;
    let mut last = Value::Null;
    for object in &built.apply {
        match apply(client, object).await {
            Ok(applied) => last = applied,
            Err(error) => return refused_or_failed("applying", object, error),
        }
    }
    Ok(Applied::As(last))
}

/// Whether an object was made for this ManagedOSImage: it has our labels, or belongs to it, or the first release made it.
pub(super) fn is_own(object: &ManagedOSImage, found: &ObjectMeta) -> bool {
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    let text = |map: &Option<BTreeMap<String, String>>, key: &str| map.as_ref().and_then(|map| map.get(key).cloned());
    let says = |key: &str, value: &str| text(&found.labels, key).as_deref() == Some(value);
    let owned = |owner: &OwnerReference| Some(&owner.uid) == object.metadata.uid.as_ref();
    let by_first_release = || {
        let says = |key: &str, value: &str| text(&found.annotations, key).as_deref() == Some(value);
        says(FIRST_OWNER_KIND, "rancheros.cattle.io/v1, Kind=ManagedOSImage")
            && says(FIRST_OWNER, &name)
            && says(FIRST_OWNER_NAMESPACE, &namespace)
    };
    (says(OS_IMAGE_LABEL, &name) && says(OS_IMAGE_NAMESPACE_LABEL, &namespace))
        || found.owner_references.iter().flatten().any(owned)
        || by_first_release()
}

fn taken(object: &Value) -> Problem {
    let message = format!(
        "{} is there and was not made for this ManagedOSImage, so it is left alone; delete it, or give the \
         ManagedOSImage another name",
        called(object)
    );
    Problem { reason: reason::NAME_TAKEN, message }
}

/// Deletes an object if it was made for this ManagedOSImage. Returns whether it was there.
async fn delete_own(image: &ManagedOSImage, client: &Client, object: &Value) -> kube::Result<bool> {
    match apply::metadata(client, object).await? {
        Some(found) if is_own(image, &found) => apply::delete(client, object, &found).await,
        Some(_) => {
            tracing::info!(object = called(object), "not deleted: it belongs to somebody else");
            Ok(false)
        }
        None => Ok(false),
    }
}

/// Deletes the objects that owner references do not reach, then removes the finalizer.
pub(super) async fn delete_all(object: &ManagedOSImage, context: &Context) -> Result<(), ReconcileError> {
    if !has_finalizer(object) {
        return Ok(());
    }
    delete(object, context, &everything(&rollout::name(&object.name_any()))).await?;
    set_finalizer(object, context, false).await
}

/// Deletes objects. A forbidden deletion is only logged: where the operator may not delete, it could not have created
/// anything, unless its rights were reduced since.
async fn delete(image: &ManagedOSImage, context: &Context, objects: &[Value]) -> Result<(), ReconcileError> {
    for object in objects {
        match delete_own(image, &context.client, object).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 403 => {
                tracing::info!(object = called(object), message = status.message, "not deleted");
            }
            Err(source) => return Err(ReconcileError::Writing { what: called(object), source }),
        }
    }
    Ok(())
}

/// Whether the Plan of the deleted Bundle still exists: Fleet's agent deletes it.
async fn fleets_plan_is_there(object: &ManagedOSImage, context: &Context) -> Result<bool, ReconcileError> {
    let resource = apply::resource(rollout::objects::PLAN_API, "Plan");
    let name = rollout::name(&object.name_any());
    let api = apply::api(&context.client, &resource, Some(rollout::PLAN_NAMESPACE));
    let plan = api.get_metadata_opt(&name).await;
    let plan = plan.map_err(|source| ReconcileError::Reading { what: format!("Plan {name}"), source })?;
    Ok(plan.is_some_and(|plan| plan.labels().get(MANAGED_BY).is_some_and(|by| by == "Helm")))
}

async fn set_finalizer(object: &ManagedOSImage, context: &Context, desired: bool) -> Result<(), ReconcileError> {
    if has_finalizer(object) == desired {
        return Ok(());
    }
    let mut finalizers: Vec<String> = object.finalizers().to_vec();
    finalizers.retain(|finalizer| finalizer != OS_IMAGE_FINALIZER);
    if desired {
        finalizers.push(OS_IMAGE_FINALIZER.to_owned());
    }
    // With the resource version, so that no finalizer of another controller is lost.
    let patch = json!({"metadata": {"resourceVersion": object.resource_version(), "finalizers": finalizers}});
    let api = Api::<ManagedOSImage>::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    api.patch(&object.name_any(), &patching(), &Patch::Merge(&patch))
        .await
        .map(drop)
        .map_err(|source| ReconcileError::Writing { what: ObjectRef::from_obj(object).to_string(), source })
}

fn refused_or_failed(doing: &str, object: &Value, source: kube::Error) -> Result<Applied, ReconcileError> {
    refusal(doing, object, source).map(Applied::Refused)
}

/// A permanent refusal is for the status. Other errors are retried.
pub(super) fn refusal(doing: &str, object: &Value, source: kube::Error) -> Result<Problem, ReconcileError> {
    match source {
        kube::Error::Api(status) if is_refusal(&status) => {
            let message = format!("{doing} {}: {}", called(object), status.message);
            Ok(Problem { reason: reason::NOT_ACCEPTED, message })
        }
        source => Err(ReconcileError::Writing { what: called(object), source }),
    }
}

fn is_refusal(status: &kube::core::Status) -> bool {
    // Some versions answer an unknown field with an internal error.
    let unknown_field = status.message.contains("field not declared in schema");
    unknown_field || (matches!(status.code, 400..500) && !matches!(status.code, 408 | 409 | 429))
}

/// Such as `Plan cattle-system/mos-x`.
pub(super) fn called(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let (kind, name) = (text("/kind").unwrap_or_default(), text("/metadata/name").unwrap_or_default());
    match text("/metadata/namespace") {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::discovery::Discovered;
    use super::super::validate::validate;
    use super::*;
    use crate::fixtures::{self, FakeApi};
    use crate::rollout::{Presence, ServedKinds};
    use http::{Request, Response};
    use kube::client::Body;
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    /// A context whose API server answers as the function says, and the requests that it got.
    fn scripted(answer: fn(&str) -> (u16, Value)) -> (Context, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let log = asked.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let name = request.uri().path().rsplit('/').take(2).collect::<Vec<_>>();
            let what = format!("{} {}/{}", request.method(), name[1], name[0]);
            let (code, body) = answer(&what);
            log.lock().unwrap().push(what);
            let response = Response::builder().status(code).body(Body::from(body.to_string().into_bytes())).unwrap();
            async move { Ok::<_, Infallible>(response) }
        });
        let context = fixtures::context(&FakeApi::default());
        (Context { client: kube::Client::new(service, "default"), ..context }, asked)
    }
    fn failure(code: u16) -> (u16, Value) {
        let reason = if code == 404 { "NotFound" } else { "" };
        (code, json!({"kind": "Status", "status": "Failure", "code": code, "message": "no", "reason": reason}))
    }
    fn present(what: &str) -> (u16, Value) {
        let kind = if what.contains("managedosimages") { "ManagedOSImage" } else { "Plan" };
        let api_version =
            if what.contains("managedosimages") { "rancheros.cattle.io/v1" } else { "upgrade.cattle.io/v1" };
        let labels = json!({OS_IMAGE_LABEL: "x", OS_IMAGE_NAMESPACE_LABEL: "fleet-local"});
        let metadata = json!({"name": "mos-x", "labels": labels});
        (200, json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": {}}))
    }
    fn object() -> ManagedOSImage {
        let spec = json!({"osImage": "a:1", "engine": "Plan", "cordon": false});
        let mut object = ManagedOSImage::new("x", serde_json::from_value(spec).unwrap());
        object.metadata.namespace = Some("fleet-local".to_owned());
        object
    }
    fn built(object: &ManagedOSImage) -> DesiredObjects {
        let served = ServedKinds { bundles: Presence::Served, plans: Presence::Served, standalone: false };
        let discovered = Discovered { served, ..Discovered::default() };
        validate(object, &discovered).unwrap().objects(object).unwrap()
    }

    #[tokio::test]
    async fn a_bundle_is_deleted_before_anything_is_applied() {
        let (context, asked) = scripted(present);
        let outcome = apply_all(&object(), &context, &built(&object())).await.unwrap();
        assert!(matches!(outcome, Applied::Waiting(_)));
        assert_eq!(*asked.lock().unwrap(), ["PATCH bundles/mos-x", "DELETE bundles/mos-x"]);
    }

    #[tokio::test]
    async fn the_finalizer_is_added_before_the_objects_that_need_it() {
        let (context, asked) = scripted(|what| match what {
            "PATCH bundles/mos-x" | "GET plans/mos-x" => failure(404),
            what => present(what),
        });
        let outcome = apply_all(&object(), &context, &built(&object())).await.unwrap();
        assert!(matches!(outcome, Applied::As(_)));
        let applied = ["PATCH managedosimages/x", "PATCH serviceaccounts/mos-x", "PATCH plans/mos-x"];
        let asked = asked.lock().unwrap();
        assert_eq!(asked[asked.len() - 3..], applied);
    }

    #[tokio::test]
    async fn an_object_of_somebody_else_is_left_alone_and_named() {
        let foreign = |what: &str| match what {
            "PATCH bundles/mos-x" | "GET plans/mos-x" => failure(404),
            "PATCH serviceaccounts/mos-x" => {
                let metadata = json!({"name": "mos-x", "labels": {OS_IMAGE_LABEL: "x", OS_IMAGE_NAMESPACE_LABEL: "n"}});
                (200, json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}))
            }
            what => present(what),
        };
        let (context, asked) = scripted(foreign);
        let outcome = apply_all(&object(), &context, &built(&object())).await.unwrap();
        let Applied::Refused(problem) = outcome else { panic!("it was applied over it") };
        assert_eq!(problem.reason, reason::NAME_TAKEN);
        assert!(problem.message.starts_with("ServiceAccount cattle-system/mos-x"), "{}", problem.message);
        assert!(!asked.lock().unwrap().iter().any(|what| what.contains("managedosimages")), "and nothing is applied");

        let mut object = object();
        object.metadata.finalizers = Some(vec![OS_IMAGE_FINALIZER.to_owned()]);
        let (context, asked) = scripted(foreign);
        delete_all(&object, &context).await.unwrap();
        let asked = asked.lock().unwrap();
        assert!(asked.contains(&"DELETE plans/mos-x".to_owned()), "{asked:?}");
        assert!(!asked.contains(&"DELETE serviceaccounts/mos-x".to_owned()), "{asked:?}");
    }

    #[test]
    fn objects_are_known_by_labels_owner_and_the_first_releases_annotations() {
        let mut image = object();
        image.metadata.uid = Some("u".to_owned());
        let own = |metadata: Value| is_own(&image, &serde_json::from_value(metadata).unwrap());
        let owner = |uid: &str| json!([{"apiVersion": "v", "kind": "k", "name": "x", "uid": uid}]);
        assert!(own(json!({"labels": {OS_IMAGE_LABEL: "x", OS_IMAGE_NAMESPACE_LABEL: "fleet-local"}})));
        assert!(own(json!({"ownerReferences": owner("u")})) && !own(json!({"ownerReferences": owner("v")})));
        let first = |name: &str| {
            json!({"annotations": {FIRST_OWNER_KIND: "rancheros.cattle.io/v1, Kind=ManagedOSImage",
                FIRST_OWNER: name, FIRST_OWNER_NAMESPACE: "fleet-local"}})
        };
        assert!(own(first("x")) && !own(first("y")) && !own(json!({})));
    }

    #[tokio::test]
    async fn all_objects_are_deleted_and_missing_rights_do_not_block() {
        let mut object = object();
        object.metadata.finalizers = Some(vec!["other".to_owned(), OS_IMAGE_FINALIZER.to_owned()]);
        let (context, asked) = scripted(|what| match what {
            "PATCH secrets/mos-x" => failure(403),
            "DELETE plans/mos-x" => failure(404),
            what => present(what),
        });
        delete_all(&object, &context).await.unwrap();
        let asked = asked.lock().unwrap().clone();
        assert_eq!(asked.iter().filter(|what| what.starts_with("DELETE")).count(), 6);
        assert_eq!(asked.last().unwrap(), "PATCH managedosimages/x");

        let (context, asked) = scripted(|what| if what.contains("secrets") { failure(500) } else { present(what) });
        assert!(delete_all(&object, &context).await.is_err());
        assert!(!asked.lock().unwrap().iter().any(|what| what.contains("managedosimages")));
    }

    fn answer(code: u16, message: &str) -> kube::Error {
        let status = kube::core::Status { code, message: message.to_owned(), ..kube::core::Status::default() };
        kube::Error::Api(Box::new(status))
    }

    #[test]
    fn permanent_refusals_are_reported_and_others_are_retried() {
        let plan = json!({"kind": "Plan", "metadata": {"name": "mos-x", "namespace": "n"}});
        for (code, message) in
            [(403, "no"), (404, "namespaces \"n\" not found"), (500, "x: field not declared in schema")]
        {
            match refused_or_failed("applying", &plan, answer(code, message)) {
                Ok(Applied::Refused(problem)) => {
                    assert_eq!(problem.message, format!("applying Plan n/mos-x: {message}"))
                }
                _ => panic!("{code} is a refusal"),
            }
        }
        for code in [409, 429, 500, 503] {
            assert!(refused_or_failed("applying", &plan, answer(code, "later")).is_err(), "{code}");
        }
    }
}
