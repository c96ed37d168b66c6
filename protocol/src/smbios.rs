//! SMBIOS as a document of sections and fields, and the templates that name machines after it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Section name (as `dmidecode` prints it, such as `System Information`) to field name (`Serial Number`) to value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SmbiosDocument(pub BTreeMap<String, BTreeMap<String, String>>);
