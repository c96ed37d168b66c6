//! The API `rancheros.cattle.io/v1`: its three kinds, and the types, reasons and messages of their conditions.
//!
//! Everything that the first release's reference accepts is accepted, in the spelling of its documentation and in that
//! of its Go types. `ros-operator crd` prints the definitions. They are committed in `chart/crds/`, and a test compares
//! the two.

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

/// Name of the MachineRegistration through which a machine registered. An annotation, because the name may be longer
/// than a label value.
pub const REGISTRATION_ANNOTATION: &str = "rancheros.cattle.io/registration";
/// Digest of the labels, annotations and SMBIOS that the registration last wrote to the inventory. If it is equal,
/// nothing need be written.
pub const REGISTERED_DIGEST_ANNOTATION: &str = "rancheros.cattle.io/registered-digest";

/// Type of the Secret that `machineTokenSecretName` of an inventory names, and the key of the shared secret in it, as in
/// the first release.
pub const SHARED_SECRET_TYPE: &str = "rancheros.cattle.io/token";
pub const SHARED_SECRET_KEY: &str = "token";

/// Finalizer of an inventory whose cluster registration token must be deleted first. The token is in another namespace,
/// which owner references do not reach.
pub const TOKEN_FINALIZER: &str = "rancheros.cattle.io/cluster-registration-token";
/// Annotation of a cluster registration token: the inventory that it was created for, `namespace/name`.
pub const INVENTORY_ANNOTATION: &str = "rancheros.cattle.io/inventory";

/// Labels of the objects of a ManagedOSImage: its name and namespace.
pub const OS_IMAGE_LABEL: &str = "rancheros.cattle.io/managed-os-image";
pub const OS_IMAGE_NAMESPACE_LABEL: &str = "rancheros.cattle.io/managed-os-image-namespace";
/// Finalizer of a ManagedOSImage with objects that owner references do not reach.
pub const OS_IMAGE_FINALIZER: &str = "rancheros.cattle.io/managed-os-image";

/// The API server's own reading of [`char::is_control`].
const NO_CONTROL_CHARACTERS: &str = r"^[^\x00-\x1f\x7f-\x9f]*$";

/// The schema of a mapping with arbitrary keys. Nothing in it is pruned or checked.
fn free_form(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "nullable": true, "x-kubernetes-preserve-unknown-fields": true})
}

/// The schema of a list of such mappings.
fn free_form_list(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    })
}
