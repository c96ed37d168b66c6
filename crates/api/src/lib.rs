//! The API `rancheros.cattle.io/v1`: its three kinds, and the types, reasons and messages of their conditions.
//!
//! Everything the first release's reference accepts is accepted, in the spelling of its documentation and in that of
//! its Go types. What `ros-operator crd` prints from here is committed in `chart/crds/`; a test compares the two.

mod condition;
mod definitions;
#[cfg(test)]
mod docs;
mod duration;
mod machine_inventory;
mod machine_registration;
mod managed_os_image;
mod reasons;
mod text;

pub use condition::{Condition, ConditionStatus, Conditions, Problem};
pub use definitions::{definitions, to_yaml};
pub use duration::{MalformedDuration, SecondsOrDuration};
pub use machine_inventory::*;
pub use machine_registration::*;
pub use managed_os_image::*;
pub use reasons::{condition_type, message, reason};
pub use text::Text;

pub const GROUP: &str = "rancheros.cattle.io";
pub const VERSION: &str = "v1";

/// Name of the MachineRegistration through which a machine came. An annotation, because a registration's name may be
/// longer than a label's value.
pub const REGISTRATION_ANNOTATION: &str = "rancheros.cattle.io/registration";
/// Digest of what the registration last asked to be written to the inventory (labels, annotations, SMBIOS): equal
/// means that nothing need be written.
pub const REGISTERED_DIGEST_ANNOTATION: &str = "rancheros.cattle.io/registered-digest";

/// Holds an inventory back, when it is deleted, until its cluster registration token is deleted too: that one is in
/// another namespace, where Kubernetes collects nothing by owner.
pub const TOKEN_FINALIZER: &str = "rancheros.cattle.io/cluster-registration-token";
/// On a cluster registration token: the inventory that it was made for, `namespace/name`.
pub const INVENTORY_ANNOTATION: &str = "rancheros.cattle.io/inventory";

/// On what is made for a ManagedOSImage, wherever it is: the ManagedOSImage's name and namespace.
pub const OS_IMAGE_LABEL: &str = "rancheros.cattle.io/managed-os-image";
pub const OS_IMAGE_NAMESPACE_LABEL: &str = "rancheros.cattle.io/managed-os-image-namespace";
/// On a ManagedOSImage for which objects were made where its owner references do not reach.
pub const OS_IMAGE_FINALIZER: &str = "rancheros.cattle.io/managed-os-image";

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
