//! A MachineRegistration made ready for use: parsed once when it changes, not at each machine.

use crate::crd::{EkCertificatePolicy, MachineRegistration, MachineRegistrationSpec, reason};
use crate::label;
use crate::registration_index::Authorities;
use kube::ResourceExt;
use protocol::message::MAX_FRAME;
use protocol::template::DEFAULT_MACHINE_NAME;
use protocol::{CloudConfig, RegistrationToken, Template};
use serde_json::{Map, Value};

/// Room that the rest of a `config` message needs beside the cloud-config, in bytes.
const ENVELOPE: usize = 4096;
/// The path under which machines register, as in the first release.
pub const PATH: &str = "/v1-rancheros/registration";

#[derive(Clone, Debug)]
pub struct Registration {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub token: Option<RegistrationToken>,
    pub spec: MachineRegistrationSpec,
    /// Bytes of the cloud-config as JSON.
    cloud_config_bytes: usize,
    /// The templates, or why the registration cannot be used.
    pub templates: Result<Templates, Problem>,
}

#[derive(Clone, Debug)]
pub struct Templates {
    pub machine_name: Template,
    pub labels: Vec<(String, Template)>,
    pub annotations: Vec<(String, Template)>,
}

/// Why a registration cannot be used, for its `Ready` condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub reason: &'static str,
    pub message: String,
}

/// How machines reach the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Such as `https://ros.example.org`, without a slash at the end.
    pub server_url: String,
    /// PEM of the authorities to trust; empty: those that everybody trusts.
    pub ca_bundle: String,
}

impl Endpoint {
    /// Whether the URL is a Service's name, which leads nowhere outside the cluster.
    pub fn is_inside_only(&self) -> bool {
        let host = self.server_url.trim_start_matches("https://").split([':', '/']).next().unwrap_or_default();
        host.ends_with(".svc")
    }
}

impl Registration {
    pub fn of(object: &MachineRegistration) -> Self {
        let token = object.status.as_ref().and_then(|status| status.registration_token.as_deref());
        Self {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            uid: object.uid().unwrap_or_default(),
            token: token.and_then(|token| token.parse().ok()),
            cloud_config_bytes: serde_json::to_vec(&object.spec.cloud_config).map_or(usize::MAX, |json| json.len()),
            templates: parse_templates(&object.spec),
            spec: object.spec.clone(),
        }
    }

    /// The configuration for a machine: the registration's, and over it what the operator has to say.
    pub fn answer(&self, endpoint: &Endpoint) -> CloudConfig {
        let mut config = self.spec.cloud_config.clone().unwrap_or_default();
        put(&mut config, &["rancherd", "server"], endpoint.server_url.as_str().into());
        put(&mut config, &["rancherd", "token"], "tpm://".into());
        put(&mut config, &["rancheros", "install", "automatic"], true.into());
        self.put_address(&mut config, endpoint);
        CloudConfig(config)
    }

    /// What stands on a medium: where to register, and whom to trust there.
    pub fn medium_settings(&self, endpoint: &Endpoint) -> CloudConfig {
        let mut config = Map::new();
        self.put_address(&mut config, endpoint);
        CloudConfig(config)
    }

    /// The URL for media; `None` before the token is made.
    pub fn url(&self, endpoint: &Endpoint) -> Option<String> {
        self.token.as_ref().map(|token| url(endpoint, token))
    }

    fn put_address(&self, config: &mut Map<String, Value>, endpoint: &Endpoint) {
        if let Some(url) = self.url(endpoint) {
            put(config, &["rancheros", "install", "registrationURL"], url.into());
            if !endpoint.ca_bundle.is_empty() {
                put(config, &["rancheros", "install", "registrationCACert"], endpoint.ca_bundle.as_str().into());
            }
        }
    }

    #[cfg(test)]
    pub fn for_tests(namespace: &str, name: &str, spec: MachineRegistrationSpec) -> Self {
        let mut object = MachineRegistration::new(name, spec);
        object.metadata.namespace = Some(namespace.to_owned());
        object.status = Some(crate::crd::MachineRegistrationStatus {
            registration_token: Some("t".repeat(RegistrationToken::GENERATED_LENGTH)),
            ..Default::default()
        });
        Self::of(&object)
    }
}

/// The registration URL of a token.
pub fn url(endpoint: &Endpoint, token: &RegistrationToken) -> String {
    format!("{}{PATH}/{}", endpoint.server_url, token.expose())
}

/// Whether the answer of a registration fits into a message.
pub fn check_size(registration: &Registration, endpoint: &Endpoint) -> Result<(), Problem> {
    let limit = MAX_FRAME - ENVELOPE - endpoint.ca_bundle.len().min(MAX_FRAME / 2);
    let size = registration.cloud_config_bytes;
    if size <= limit {
        return Ok(());
    }
    Err(Problem {
        reason: reason::CLOUD_CONFIG_TOO_LARGE,
        message: format!(
            "spec.cloudConfig has {size} bytes as JSON, the limit is {limit}; \
             let machines fetch large files instead of carrying them in write_files"
        ),
    })
}

/// The problem of a registration that requires a certificate of the TPM's maker while there is no authority that it
/// could lead to: neither one of the registration's own nor a TPM vendor's.
pub fn without_authority(spec: &MachineRegistrationSpec, vendors: &Authorities) -> Option<Problem> {
    let policy = spec.attestation.as_ref()?;
    let nobody = policy.ek_certificate == Some(EkCertificatePolicy::Required)
        && policy.trusted_cas.is_none()
        && vendors.is_empty();
    nobody.then(|| Problem {
        reason: reason::TRUST_MISSING,
        message: "spec.attestation.ekCertificate is Required, and there is no authority that a certificate could lead \
                  to: name one in spec.attestation.trustedCAs, or start the operator with --tpm-vendors"
            .to_owned(),
    })
}

fn parse_templates(spec: &MachineRegistrationSpec) -> Result<Templates, Problem> {
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
    })
}

/// Every text is a template, but not every template was meant: what can never be filled in is pointed out.
fn parse_template(text: &str) -> Result<Template, String> {
    let Ok(template) = text.parse::<Template>();
    if let Some(path) = template.paths().find(|path| !path.contains('/')) {
        return Err(format!("`${{{path}}}` names no field; write ${{Section/Field}} as `dmidecode` prints them"));
    }
    if text.matches("${").count() > template.paths().count() {
        return Err("a `${` has no `}`".to_owned());
    }
    Ok(template)
}

/// Puts a value at a path of mappings; whatever stands in the way of the path is replaced.
fn put(config: &mut Map<String, Value>, path: &[&str], value: Value) {
    let Some((first, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        config.insert((*first).to_owned(), value);
        return;
    }
    let below = config.entry((*first).to_owned()).or_insert_with(|| Value::Object(Map::new()));
    if !below.is_object() {
        *below = Value::Object(Map::new());
    }
    if let Value::Object(below) = below {
        put(below, rest, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn endpoint() -> Endpoint {
        Endpoint { server_url: "https://ros.example.org".into(), ca_bundle: "PEM".into() }
    }
    fn with(spec: Value) -> Registration {
        Registration::for_tests("n", "door", serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn the_answer_is_the_registrations_and_the_operators() {
        let door = with(json!({"cloudConfig": {
            "hostname": "a", "rancherd": {"role": "server", "token": "mine"}, "rancheros": {"install": null},
        }}));
        let url = format!("https://ros.example.org/v1-rancheros/registration/{}", "t".repeat(54));
        assert_eq!(
            Value::Object(door.answer(&endpoint()).0),
            json!({
                "hostname": "a",
                "rancherd": {"role": "server", "server": "https://ros.example.org", "token": "tpm://"},
                "rancheros": {"install": {"automatic": true, "registrationURL": url, "registrationCACert": "PEM"}},
            })
        );
        assert_eq!(
            Value::Object(door.medium_settings(&endpoint()).0),
            json!({"rancheros": {"install": {"registrationURL": url, "registrationCACert": "PEM"}}})
        );
    }

    #[test]
    fn a_problem_names_the_field() {
        let door = with(json!({"machineInventoryLabels": {"not a key": "x"}}));
        let problem = door.templates.unwrap_err();
        assert_eq!(problem.reason, reason::INVALID_TEMPLATE);
        assert!(problem.message.contains("machineInventoryLabels[\"not a key\"]"), "{}", problem.message);
        for text in ["m-${System Information/Serial Number", "${Serial Number}"] {
            let door = with(json!({"machineName": text}));
            assert!(door.templates.unwrap_err().message.starts_with("spec.machineName: "), "{text}");
        }
    }

    #[test]
    fn too_large_a_configuration_is_found_before_a_machine_asks() {
        let door = with(json!({"cloudConfig": {"write_files": [{"content": "x".repeat(MAX_FRAME)}]}}));
        assert_eq!(check_size(&door, &endpoint()).unwrap_err().reason, reason::CLOUD_CONFIG_TOO_LARGE);
        assert_eq!(check_size(&with(json!({})), &endpoint()), Ok(()));
    }
}
