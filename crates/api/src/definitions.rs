//! The CustomResourceDefinitions of the three kinds, as `ros-operator crd` prints them and the chart installs them.

use crate::{MachineInventory, MachineRegistration, ManagedOSImage};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

/// File name and definition of each kind.
pub fn definitions() -> Vec<(String, CustomResourceDefinition)> {
    [MachineRegistration::crd(), MachineInventory::crd(), ManagedOSImage::crd()]
        .into_iter()
        .map(|definition| (format!("{}.yaml", definition.spec.names.plural), without_unknown_formats(definition)))
        .collect()
}

/// Removes the formats of Rust's unsigned integers. The API server does not know them and warns; the minimum is enough.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_installs_what_is_printed() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../chart/crds");
        for (file, definition) in definitions() {
            let printed = to_yaml(&definition).unwrap();
            if std::env::var_os("ROS_WRITE_GOLDEN").is_some() {
                std::fs::write(folder.join(&file), &printed).unwrap();
            }
            let committed = std::fs::read_to_string(folder.join(&file)).unwrap_or_default();
            assert!(
                committed == printed,
                "chart/crds/{file} differs from the code; run `ros-operator crd --directory chart/crds`"
            );
        }
    }

    #[test]
    fn every_field_is_explained() {
        for (file, definition) in definitions() {
            let schema = serde_json::to_value(&definition.spec.versions[0].schema).unwrap();
            let silent = silent_fields(&schema["openAPIV3Schema"], "");
            assert!(silent.is_empty(), "{file}: {silent:?} have no description; write a doc comment");
        }
    }

    #[test]
    fn what_machines_say_is_bounded() {
        let definition = MachineInventory::crd();
        let schema = serde_json::to_value(&definition.spec.versions[0].schema).unwrap();
        let status = &schema["openAPIV3Schema"]["properties"]["status"];
        for part in ["hardware", "addresses", "attestation", "os", "failure", "conditions", "reinstall", "reset"] {
            let unbounded = unbounded_fields(&status["properties"][part], part);
            assert!(
                unbounded.is_empty() || unbounded == ["conditions"],
                "neither maxLength nor maxItems: {unbounded:?}"
            );
        }
    }

    /// Paths of all texts and lists in a schema without a limit of their length. The list of conditions is limited by
    /// its types.
    fn unbounded_fields(schema: &serde_json::Value, path: &str) -> Vec<String> {
        let free = match schema["type"].as_str() {
            Some("string") => schema["maxLength"].is_null() && schema["enum"].is_null() && schema["format"].is_null(),
            Some("array") => schema["maxItems"].is_null(),
            _ => false,
        };
        let inner = schema["properties"].as_object().into_iter().flatten();
        let inner = inner.map(|(name, field)| unbounded_fields(field, &format!("{path}.{name}")));
        let items = schema["items"].is_object().then(|| unbounded_fields(&schema["items"], path));
        free.then(|| path.to_owned()).into_iter().chain(inner.chain(items).flatten()).collect()
    }

    /// Paths of all fields in a schema without a description.
    fn silent_fields(schema: &serde_json::Value, path: &str) -> Vec<String> {
        let mut silent = Vec::new();
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if field["description"].as_str().is_none_or(str::is_empty) {
                silent.push(path.clone());
            }
            silent.extend(silent_fields(field, &path));
        }
        for inner in ["items", "additionalProperties"] {
            if schema[inner].is_object() {
                silent.extend(silent_fields(&schema[inner], path));
            }
        }
        silent
    }
}
