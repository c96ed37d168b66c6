//! A cloud-config document and the rule by which one is laid over another.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A cloud-config: a mapping, as it stands below `#cloud-config`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CloudConfig(pub Map<String, Value>);
