//! The API `rancheros.cattle.io/v1`: its kinds, and the one block of condition types and reasons.
//!
//! Everything the first release's reference accepts is accepted, in the spelling of its documentation and in that of
//! its Go types. What `ros-operator crd` prints from here is committed in `chart/crds/`; a test compares the two.

mod condition;
mod duration;
mod machine_inventory;
mod machine_registration;
mod managed_os_image;

pub use condition::{Condition, ConditionStatus, Conditions};
pub use duration::{MalformedDuration, SecondsOrDuration};
pub use machine_inventory::*;
pub use machine_registration::*;
pub use managed_os_image::*;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

pub const GROUP: &str = "rancheros.cattle.io";
pub const VERSION: &str = "v1";

/// Name of the MachineRegistration through which a machine came. An annotation, because a registration's name may be
/// longer than a label's value.
pub const REGISTRATION_ANNOTATION: &str = "rancheros.cattle.io/registration";
/// Digest of what the registration last asked to be written to the inventory (labels, annotations, SMBIOS): equal
/// means that nothing need be written.
pub const REGISTERED_DIGEST_ANNOTATION: &str = "rancheros.cattle.io/registered-digest";

/// On what is made for a ManagedOSImage, wherever it is: the ManagedOSImage's name and namespace.
pub const OS_IMAGE_LABEL: &str = "rancheros.cattle.io/managed-os-image";
pub const OS_IMAGE_NAMESPACE_LABEL: &str = "rancheros.cattle.io/managed-os-image-namespace";
/// On a ManagedOSImage for which objects were made where its owner references do not reach.
pub const OS_IMAGE_FINALIZER: &str = "rancheros.cattle.io/managed-os-image";

/// Condition types, shared by all kinds. `Ready` and `Stalled` are kstatus's: `kubectl wait --for=condition=Ready`
/// works everywhere, and `Stalled` says that nothing will change until somebody acts.
pub mod condition_type {
    pub const READY: &str = "Ready";
    pub const STALLED: &str = "Stalled";
    /// The machine proved its identity and was given its configuration.
    pub const REGISTERED: &str = "Registered";
    /// The machine may have its configuration.
    pub const APPROVED: &str = "Approved";
    /// The disk holds the release and was read back.
    pub const INSTALLED: &str = "Installed";
    /// The installed system started from its disk and said so.
    pub const BOOTED: &str = "Booted";
}

/// Reasons of conditions: CamelCase, stable, counted on by scripts.
pub mod reason {
    // MachineRegistration
    pub const AVAILABLE: &str = "Available";
    pub const INVALID_TEMPLATE: &str = "InvalidTemplate";
    pub const CLOUD_CONFIG_TOO_LARGE: &str = "CloudConfigTooLarge";
    pub const EXPIRED: &str = "Expired";
    pub const FULL: &str = "Full";
    pub const TRUST_MISSING: &str = "TrustedCAsMissing";
    pub const TRUST_MALFORMED: &str = "TrustedCAsMalformed";
    pub const NO_SERVER_URL: &str = "NoServerURL";
    // MachineInventory
    pub const EXPECTED: &str = "Expected";
    pub const MALFORMED_IDENTITY: &str = "MalformedIdentity";
    pub const DUPLICATE_IDENTITY: &str = "DuplicateIdentity";
    pub const APPROVAL_PENDING: &str = "ApprovalPending";
    pub const APPROVED: &str = "Approved";
    pub const ATTESTED: &str = "Attested";
    pub const NOT_INSTALLED: &str = "NotInstalled";
    pub const INSTALLING: &str = "Installing";
    pub const INSTALLED: &str = "Installed";
    pub const NOT_BOOTED: &str = "NotBooted";
    pub const BOOTED: &str = "Booted";
    pub const HEALTHY: &str = "Healthy";
    pub const NOT_HEALTHY: &str = "NotHealthy";
    pub const INSTALLATION_FAILED: &str = "InstallationFailed";
    // ManagedOSImage
    pub const NO_IMAGE: &str = "NoImage";
    pub const INVALID_SPEC: &str = "InvalidSpec";
    pub const SECRET_IN_CLOUD_CONFIG: &str = "SecretInCloudConfig";
    pub const NO_ENGINE: &str = "NoEngine";
    pub const NOT_ACCEPTED: &str = "NotAccepted";
    pub const NOT_APPLIED: &str = "NotApplied";
    pub const NO_TARGET_MATCHED: &str = "NoTargetMatched";
    pub const NO_NODE_MATCHED: &str = "NoNodeMatched";
    pub const RELEASE_UNKNOWN: &str = "ReleaseUnknown";
    pub const PAUSED: &str = "Paused";
    pub const PROGRESSING: &str = "Progressing";
    pub const APPLIED_NOT_UPGRADED: &str = "AppliedNotUpgraded";
    pub const STUCK: &str = "Stuck";
    pub const FAILED: &str = "Failed";
    pub const UPGRADED: &str = "Upgraded";
}

/// The definitions of all kinds, as `ros-operator crd` prints them and as the chart installs them: file name, object.
pub fn definitions() -> Vec<(String, CustomResourceDefinition)> {
    [MachineRegistration::crd(), MachineInventory::crd(), ManagedOSImage::crd()]
        .into_iter()
        .map(|definition| (format!("{}.yaml", definition.spec.names.plural), without_unknown_formats(definition)))
        .collect()
}

/// Rust's unsigned integers have formats that the API server does not know and warns of; their minimum says it all.
fn without_unknown_formats(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut definition.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            drop_unknown_formats(schema);
        }
    }
    definition
}

fn drop_unknown_formats(schema: &mut JSONSchemaProps) {
    schema.format.take_if(|format| format.starts_with("uint"));
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(drop_unknown_formats);
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => drop_unknown_formats(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(drop_unknown_formats),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        drop_unknown_formats(values);
    }
}

/// One YAML document.
pub fn to_yaml(definition: &CustomResourceDefinition) -> Result<String, serde_yaml::Error> {
    serde_yaml::to_string(definition)
}

/// A mapping whose keys are the user's: nothing in it is pruned or checked.
fn free_form(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "nullable": true, "x-kubernetes-preserve-unknown-fields": true})
}

/// A list of such mappings.
fn free_form_list(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_installs_what_is_printed() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../chart/crds");
        for (file, definition) in definitions() {
            let committed = std::fs::read_to_string(folder.join(&file)).unwrap_or_default();
            assert!(
                committed == to_yaml(&definition).unwrap(),
                "chart/crds/{file} is not what the code says; run `ros-operator crd --directory chart/crds`"
            );
        }
    }

    #[test]
    fn every_field_is_explained() {
        for (file, definition) in definitions() {
            let schema = serde_json::to_value(&definition.spec.versions[0].schema).unwrap();
            let properties = &schema["openAPIV3Schema"]["properties"];
            for part in ["spec", "status"] {
                for (field, schema) in properties[part]["properties"].as_object().unwrap() {
                    assert!(schema["description"].is_string(), "{file}: {part}.{field} has no description");
                }
            }
        }
    }
}
