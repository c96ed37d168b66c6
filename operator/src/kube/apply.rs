//! Server-side apply of objects whose kinds are known by name only.

use crate::kube::absence::is_absent;
use crate::kube::client::patching;
use kube::Client;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ObjectMeta, Patch, PatchParams, Preconditions,
    ValidationDirective,
};
use serde_json::{Value, json};

/// The resource of an `apiVersion` and a kind. The plural is derived by Kubernetes' rule, which all kinds used here
/// follow.
pub fn resource(api_version: &str, kind: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// An `Api` for objects of a kind. Without a namespace: for all namespaces, or for a cluster-scoped kind.
pub fn api(client: &Client, resource: &ApiResource, namespace: Option<&str>) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
        None => Api::all_with(client.clone(), resource),
    }
}

/// Applies an object with the operator as field manager and returns the stored object with its status. A field that the
/// kind does not have is an error. The API server does not write an object that has not changed.
pub async fn apply(client: &Client, object: &Value) -> kube::Result<Value> {
    let target = Target::of(object);
    let parameters = PatchParams { field_validation: Some(ValidationDirective::Strict), force: true, ..patching() };
    let applied = target.api(client).patch(target.name, &parameters, &Patch::Apply(object)).await?;
    serde_json::to_value(applied).map_err(kube::Error::SerdeError)
}

/// The metadata of the object with this kind, name and namespace. It needs the right to patch the kind and no other: the
/// answer to a patch without content is the object as it is.
pub async fn metadata(client: &Client, object: &Value) -> kube::Result<Option<ObjectMeta>> {
    let target = Target::of(object);
    let parameters = PatchParams { dry_run: true, ..patching() };
    match target.api(client).patch_metadata(target.name, &parameters, &Patch::Merge(json!({}))).await {
        Ok(found) => Ok(Some(found.metadata)),
        Err(kube::Error::Api(status)) if is_absent(&status) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Deletes the object with this kind, name and namespace if it is still the one that was `found`. Returns whether it was.
pub async fn delete(client: &Client, object: &Value, found: &ObjectMeta) -> kube::Result<bool> {
    let target = Target::of(object);
    let preconditions = Preconditions { uid: found.uid.clone(), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
    match target.api(client).delete(target.name, &parameters).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if is_absent(&status) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The object that a manifest names.
struct Target<'a> {
    resource: ApiResource,
    namespace: Option<&'a str>,
    name: &'a str,
}

impl<'a> Target<'a> {
    fn of(object: &'a Value) -> Self {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        Self {
            resource: resource(text("/apiVersion").unwrap_or_default(), text("/kind").unwrap_or_default()),
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name").unwrap_or_default(),
        }
    }

    fn api(&self, client: &Client) -> Api<DynamicObject> {
        api(client, &self.resource, self.namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plurals_match_the_applied_kinds() {
        for (api_version, kind, plural) in [
            ("v1", "ServiceAccount", "serviceaccounts"),
            ("v1", "Secret", "secrets"),
            ("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles"),
            ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings"),
            ("upgrade.cattle.io/v1", "Plan", "plans"),
            ("fleet.cattle.io/v1alpha1", "Bundle", "bundles"),
            ("fleet.cattle.io/v1alpha1", "BundleDeployment", "bundledeployments"),
        ] {
            let resource = resource(api_version, kind);
            assert_eq!((resource.plural.as_str(), resource.api_version.as_str()), (plural, api_version));
        }
    }
}
