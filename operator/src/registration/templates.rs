//! The templates of a registration, and how those of its cloud-config are filled in for a machine.
//!
//! Values are put into strings of the parsed document, so no value can add a key.

mod config_template;
mod template;

pub use template::{Rendered, Template};

pub(super) use template::dashed;

use super::host_names::as_host_name;
use crate::inventory::index::KnownMachine;
use crate::kube::label;
use api::{MachineRegistrationSpec, Problem, reason};
use config_template::{ConfigTemplate, UndefinedField};
use protocol::message::MAX_FRAME;
use protocol::{Refusal, RefusalCode, SmbiosDocument};
use serde_json::{Map, Value};
use template::DEFAULT_MACHINE_NAME;

/// JSON pointers (RFC 6901) of strings that become the name of a host or a Node.
const NAMES: &[&str] = &["/hostname", "/fqdn", "/rancherd/nodeName"];

/// All templates of a registration.
#[derive(Clone, Debug)]
pub struct Templates {
    pub machine_name: Template,
    pub labels: Vec<(String, Template)>,
    pub annotations: Vec<(String, Template)>,
    pub(super) cloud_config: ConfigTemplates,
}

/// Parses all templates of a registration. A problem names the field.
pub(super) fn parse_templates(spec: &MachineRegistrationSpec) -> Result<Templates, Problem> {
    let invalid = |field: &str, error: String| Problem {
        reason: reason::INVALID_TEMPLATE,
        message: format!("spec.{field}: {error}"),
    };
    let parse = |field: &str, text: &str| parse_template(text).map_err(|error| invalid(field, error));
    let parse_all = |field: &str, values: &Option<std::collections::BTreeMap<String, String>>| {
        let values = values.iter().flatten();
        values
            .map(|(key, text)| {
                let field = format!("{field}[{key:?}]");
                label::check_key(key).map_err(|error| invalid(&field, error.to_string()))?;
                Ok((key.clone(), parse(&field, text)?))
            })
            .collect::<Result<Vec<_>, Problem>>()
    };
    Ok(Templates {
        machine_name: parse("machineName", spec.machine_name.as_deref().unwrap_or(DEFAULT_MACHINE_NAME))?,
        labels: parse_all("machineInventoryLabels", &spec.machine_inventory_labels)?,
        annotations: parse_all("machineInventoryAnnotations", &spec.machine_inventory_annotations)?,
        cloud_config: ConfigTemplates::parse(spec.cloud_config.as_ref())
            .map_err(|error| invalid(&error.path, error.source.to_string()))?,
    })
}

/// Parses a template. Every text is a valid template, so a placeholder that can never be filled in is reported.
fn parse_template(text: &str) -> Result<Template, String> {
    let Ok(template) = text.parse::<Template>();
    if let Some(path) = template.paths().find(|path| !path.contains('/')) {
        return Err(format!(
            "`${{{path}}}` is not a field; write ${{Section/Field}} with the names that `dmidecode` prints"
        ));
    }
    if text.matches("${").count() > template.paths().count() {
        return Err("a `${` has no `}`".to_owned());
    }
    Ok(template)
}

/// The strings of a cloud-config that are templates.
#[derive(Clone, Debug, Default)]
pub(super) struct ConfigTemplates(Vec<TemplateText>);

#[derive(Clone, Debug)]
struct TemplateText {
    /// Path for messages, such as `cloudConfig.users[0].name`.
    path: String,
    /// JSON pointer.
    pointer: String,
    template: ConfigTemplate,
}

/// A template that cannot be filled in for any machine.
#[derive(Debug)]
pub(super) struct InvalidTemplate {
    /// Such as `cloudConfig.users[0].name`.
    pub(super) path: String,
    pub(super) source: UndefinedField,
}

impl ConfigTemplates {
    pub(super) fn parse(config: Option<&Map<String, Value>>) -> Result<Self, InvalidTemplate> {
        let mut texts = Vec::new();
        if let Some(config) = config {
            in_map(config, "cloudConfig", "", &mut texts)?;
        }
        Ok(Self(texts))
    }

    /// The cloud-config for one machine. `config` must be the one that was parsed.
    pub(super) fn fill_in(
        &self,
        config: Map<String, Value>,
        machine: &KnownMachine,
        smbios: &SmbiosDocument,
    ) -> Result<Map<String, Value>, Refusal> {
        let mut config = Value::Object(config);
        let mut bytes = 0;
        for TemplateText { path, pointer, template } in &self.0 {
            let mut text = template.render(&machine.name, smbios).map_err(|empty| {
                let (namespace, name) = (&machine.namespace, &machine.name);
                let message = format!(
                    "machine {namespace}/{name}: its {empty}, and spec.{path} of the registration uses it; use another \
                     field there, or set the value in the firmware setup"
                );
                Refusal::new(RefusalCode::SmbiosFieldEmpty, message)
            })?;
            bytes += text.len();
            if bytes > MAX_FRAME {
                let message = format!("spec.cloudConfig of the registration exceeds {MAX_FRAME} bytes at {path}");
                return Err(Refusal::new(RefusalCode::MessageTooBig, message));
            }
            if NAMES.contains(&pointer.as_str()) {
                text = as_host_name(&text);
            }
            if let Some(place) = config.pointer_mut(pointer) {
                *place = text.into();
            }
        }
        match config {
            Value::Object(config) => Ok(config),
            _ => Ok(Map::new()),
        }
    }
}

fn in_map(
    map: &Map<String, Value>,
    path: &str,
    pointer: &str,
    texts: &mut Vec<TemplateText>,
) -> Result<(), InvalidTemplate> {
    map.iter().try_for_each(|(key, value)| {
        let escaped = key.replace('~', "~0").replace('/', "~1");
        in_value(value, &format!("{path}.{key}"), &format!("{pointer}/{escaped}"), texts)
    })
}

fn in_value(value: &Value, path: &str, pointer: &str, texts: &mut Vec<TemplateText>) -> Result<(), InvalidTemplate> {
    match value {
        Value::String(text) => {
            let template = ConfigTemplate::parse(text);
            let template = template.map_err(|source| InvalidTemplate { path: path.to_owned(), source })?;
            texts.extend(template.map(|template| TemplateText {
                path: path.to_owned(),
                pointer: pointer.to_owned(),
                template,
            }));
            Ok(())
        }
        Value::Array(items) => items.iter().enumerate().try_for_each(|(index, item)| {
            in_value(item, &format!("{path}[{index}]"), &format!("{pointer}/{index}"), texts)
        }),
        Value::Object(map) => in_map(map, path, pointer, texts),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloud_config::CloudConfig;
    use proptest::prelude::*;
    use serde_json::json;

    fn machine() -> KnownMachine {
        KnownMachine { namespace: "n".into(), name: "edge-x".into(), ..KnownMachine::default() }
    }
    fn filled_in(config: Value, serial: &str) -> Result<Value, Refusal> {
        let smbios = serde_json::from_value(json!({"System Information": {"Serial Number": serial}})).unwrap();
        let Value::Object(config) = config else { panic!("a mapping") };
        let templates = ConfigTemplates::parse(Some(&config)).unwrap();
        templates.fill_in(config, &machine(), &smbios).map(Value::Object)
    }

    #[test]
    fn texts_are_filled_in_at_every_depth_and_scripts_are_unchanged() {
        let script = "for f in ${FILES[@]}; do echo \"${f%.*} ${HOME}\"; done";
        let config = json!({
            "write_files": [{"path": "/etc/m~a/${machineName}", "content": "$${x} ${System Information/Serial Number}"}],
            "a/b": {"~c": "${machineName}"}, "runcmd": [script, ["echo", "${machineName}"]], "n": 1, "b": true,
        });
        let expected = json!({
            "write_files": [{"path": "/etc/m~a/edge-x", "content": "${x} S-1"}],
            "a/b": {"~c": "edge-x"}, "runcmd": [script, ["echo", "edge-x"]], "n": 1, "b": true,
        });
        assert_eq!(filled_in(config, "S-1"), Ok(expected));
    }

    #[test]
    fn a_machine_that_leaves_a_field_empty_is_refused_by_name() {
        let config = json!({"runcmd": [["echo", "${System Information/Serial Number}"]]});
        let refusal = filled_in(config, " ").unwrap_err();
        assert_eq!(refusal.code, RefusalCode::SmbiosFieldEmpty);
        for word in ["n/edge-x", "System Information/Serial Number", "spec.cloudConfig.runcmd[0][1]"] {
            assert!(refusal.message.contains(word), "{word}: {refusal}");
        }
    }

    #[test]
    fn filled_in_texts_are_bounded() {
        let text = "${System Information/Serial Number}".repeat(400);
        let refusal = filled_in(json!({"runcmd": [text]}), &"x".repeat(1024)).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::MessageTooBig);
    }

    proptest! {
        #[test]
        fn no_value_adds_to_the_document(serial in "[ \\n\"':#{}\\[\\]|>&*!%a-z-]{1,40}x") {
            let config = json!({"a": "${System Information/Serial Number}", "b": ["s: ${System Information/Serial Number}"]});
            let filled_in = filled_in(config, &serial).unwrap();
            let value = serial.trim().replace('\n', " ");
            let expected = json!({"a": value, "b": [format!("s: {value}")]});
            prop_assert_eq!(&filled_in, &expected);
            let Value::Object(map) = filled_in else { unreachable!() };
            let document = CloudConfig(map);
            prop_assert_eq!(CloudConfig::parse(&document.to_yaml()).unwrap(), document);
        }
    }
}
