//! A MachineRegistration in parsed form. It is parsed once when it changes, not for each machine.

pub mod decide;
pub mod endpoint;
pub mod index;
pub mod record;
pub mod register;
mod templates;

use crate::digest::sha256;
use crate::inventory::index::{Key, KnownMachine};
use crate::kube::label;
use crate::registration::endpoint::Endpoint;
use crate::registration::index::{Authorities, TokenScope};
use api::{EkCertificatePolicy, MachineRegistration, MachineRegistrationSpec, Problem, reason};
use cloud_config::CloudConfig;
use cloud_config::document;
use kube::ResourceExt;
use protocol::bounded::cut;
use protocol::message::MAX_FRAME;
use protocol::operator_settings::{MAX_AUTHORITIES, MalformedRevision};
use protocol::template::{DEFAULT_MACHINE_NAME, dashed};
use protocol::{OperatorSettings, Refusal, RefusalCode, RegistrationToken, SmbiosDocument, Template};
use serde_json::{Map, Value};
use templates::ConfigTemplates;
use x509_cert::Certificate;
use x509_cert::der::DecodePem;

/// Bytes of a `config` message beside the cloud-config.
const ENVELOPE: usize = 4096;
/// The path under which machines register, as in the first release.
pub const PATH: &str = "/v1-rancheros/registration";

#[derive(Clone, Debug)]
pub struct Registration {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// The token on media. It admits new machines.
    pub token: Option<RegistrationToken>,
    /// The token of installed machines. It admits only machines that are known.
    pub installed_token: Option<RegistrationToken>,
    pub spec: MachineRegistrationSpec,
    /// How many machines may register: `spec.maxMachines`, or the operator's default.
    pub most: Option<u32>,
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
    cloud_config: ConfigTemplates,
}

impl Registration {
    pub fn of(object: &MachineRegistration) -> Self {
        let status = object.status.as_ref();
        let parse = |token: Option<&String>| token.and_then(|token| token.parse().ok());
        Self {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            uid: object.uid().unwrap_or_default(),
            token: parse(status.and_then(|status| status.registration_token.as_ref())),
            installed_token: parse(status.and_then(|status| status.installed_token.as_ref())),
            cloud_config_bytes: serde_json::to_vec(&object.spec.cloud_config).map_or(usize::MAX, |json| json.len()),
            templates: parse_templates(&object.spec),
            most: object.spec.max_machines,
            spec: object.spec.clone(),
        }
    }

    pub fn key(&self) -> Key {
        (self.namespace.clone(), self.name.clone())
    }

    /// The configuration for a machine: the registration's cloud-config with its templates filled in, and the operator's
    /// settings merged over it. `token`: the token that the installed system reports with. `smbios`: as the machine reports
    /// it now.
    pub fn answer(
        &self,
        endpoint: &Endpoint,
        token: TokenScope,
        machine: &KnownMachine,
        smbios: &SmbiosDocument,
    ) -> Result<CloudConfig, Refusal> {
        let mut config = self.filled_in(machine, smbios)?;
        let host_name = document::host_name(&config).unwrap_or_else(|| {
            let name = host_name(machine);
            config.insert("hostname".to_owned(), name.as_str().into());
            name
        });
        if given_node_name(&config).is_none() {
            put(&mut config, &["rancherd", "nodeName"], node_name(&host_name).into());
        }
        put(&mut config, &["rancherd", "server"], endpoint.server_url.as_str().into());
        put(&mut config, &["rancherd", "token"], "tpm://".into());
        put(&mut config, &["rancheros", "install", "automatic"], true.into());
        let token = match token {
            TokenScope::NewMachines => self.token.as_ref(),
            TokenScope::KnownMachines => self.installed_token.as_ref().or(self.token.as_ref()),
        };
        self.put_address(&mut config, endpoint, token);
        Ok(CloudConfig(config))
    }

    fn filled_in(&self, machine: &KnownMachine, smbios: &SmbiosDocument) -> Result<Map<String, Value>, Refusal> {
        let config = self.spec.cloud_config.clone().unwrap_or_default();
        match &self.templates {
            Ok(templates) => templates.cloud_config.fill_in(config, machine, smbios),
            Err(problem) => Err(Refusal::new(RefusalCode::RegistrationInvalid, problem.message.clone())),
        }
    }

    /// Whether the cloud-config names the Node or the host.
    pub fn names_nodes(&self) -> bool {
        let config = self.spec.cloud_config.as_ref();
        config.is_some_and(|config| document::host_name(config).is_some() || given_node_name(config).is_some())
    }

    /// The settings on a medium: the registration URL, and the authorities to trust.
    pub fn medium_settings(&self, endpoint: &Endpoint) -> CloudConfig {
        let mut config = Map::new();
        self.put_address(&mut config, endpoint, self.token.as_ref());
        CloudConfig(config)
    }

    /// The settings that installed machines get. `None`: their token does not exist yet, or the settings do not fit into a
    /// message, which the registration's condition reports.
    pub fn operator_settings(&self, endpoint: &Endpoint) -> Option<OperatorSettings> {
        operator_settings(endpoint, self.installed_token.as_ref()?).ok()
    }

    fn put_address(&self, config: &mut Map<String, Value>, endpoint: &Endpoint, token: Option<&RegistrationToken>) {
        if let Some(token) = token {
            put(config, &["rancheros", "install", "registrationURL"], url(endpoint, token).into());
            if !endpoint.ca_bundle.is_empty() {
                put(config, &["rancheros", "install", "registrationCACert"], endpoint.ca_bundle.as_str().into());
            }
        }
    }

    #[cfg(test)]
    pub fn for_tests(namespace: &str, name: &str, spec: MachineRegistrationSpec) -> Self {
        let mut object = MachineRegistration::new(name, spec);
        object.metadata.namespace = Some(namespace.to_owned());
        object.status = Some(api::MachineRegistrationStatus {
            registration_token: Some("t".repeat(RegistrationToken::GENERATED_LENGTH)),
            installed_token: Some("i".repeat(RegistrationToken::GENERATED_LENGTH)),
            ..Default::default()
        });
        Self::of(&object)
    }
}

/// Longest host name that is derived from the name of an inventory: the limit of a DNS label (RFC 1123).
const MAX_HOST_NAME: usize = 63;

/// The host name of a machine if its registration sets none: from the inventory's `spec.config`, else the inventory's name
/// with hyphens for dots, because a machine would use only the part before the first dot.
pub fn host_name(machine: &KnownMachine) -> String {
    let own = machine.config().and_then(|config| document::host_name(&config.cloud_config));
    match own {
        Some(name) => as_host_name(&name),
        None => dashed(&machine.name, &['-'], MAX_HOST_NAME),
    }
}

/// The default name of a machine's Node: the host name in lower case, as kubelet and k3s make it.
pub fn node_name(host_name: &str) -> String {
    host_name.to_lowercase()
}

fn given_node_name(config: &Map<String, Value>) -> Option<String> {
    given(config.get("rancherd")?.as_object()?, "nodeName")
}

/// The text at a key, if it is not empty.
fn given(config: &Map<String, Value>, key: &str) -> Option<String> {
    let text = match config.get(key)? {
        Value::String(text) => text.trim().to_owned(),
        Value::Null => return None,
        // The program that reads it reports the wrong type.
        other => other.to_string(),
    };
    (!text.is_empty()).then_some(text)
}

/// A valid host name: letters, digits, hyphens and dots, with a letter or digit at both ends. A sequence of other
/// characters becomes one hyphen. Empty if nothing is left.
fn as_host_name(text: &str) -> String {
    dashed(text, &['-', '.'], MAX_HOST_NAME)
}

/// The registration URL of a token.
pub fn url(endpoint: &Endpoint, token: &RegistrationToken) -> String {
    format!("{}{PATH}/{}", endpoint.server_url, token.expose())
}

/// The settings for machines that report with this token, or why they cannot be sent.
pub fn operator_settings(
    endpoint: &Endpoint,
    installed_token: &RegistrationToken,
) -> Result<OperatorSettings, Problem> {
    let unfit = |message: &str| Problem { reason: reason::SETTINGS_UNFIT, message: message.to_owned() };
    let registration_url = url(endpoint, installed_token);
    let authorities = certificates(&endpoint.ca_bundle);
    if let Some(message) = too_many(&authorities) {
        return Err(Problem { reason: reason::TOO_MANY_AUTHORITIES, message });
    }
    let revision = revision(&registration_url, &authorities).parse();
    let revision = revision.map_err(|error: MalformedRevision| unfit(&error.to_string()))?;
    let settings = OperatorSettings { revision, registration_url, authorities };
    settings.check().map_err(unfit)?;
    Ok(settings)
}

/// The message about more authorities than a machine keeps. It names those that expire first.
fn too_many(authorities: &[String]) -> Option<String> {
    const NAMED: usize = 8;
    let over = authorities.len().checked_sub(MAX_AUTHORITIES).filter(|over| *over > 0)?;
    let mut read: Vec<_> = authorities.iter().filter_map(|pem| Certificate::from_pem(pem).ok()).collect();
    read.sort_by_key(|certificate| certificate.tbs_certificate().validity().not_after.to_unix_duration());
    let names = read.iter().take(over.min(NAMED)).map(|certificate| {
        let certificate = certificate.tbs_certificate();
        format!("{} (until {})", cut(&certificate.subject().to_string(), 256), certificate.validity().not_after)
    });
    let names = names.collect::<Vec<_>>().join("; ");
    let names = if names.is_empty() { names } else { format!("; those that expire first: {names}") };
    Some(format!(
        "installed machines are told of no new address, authority or token: they keep {MAX_AUTHORITIES} authorities, and \
         there are {}; take {over} that no server needs out of where they come from (`ca.crt` of the chart's \
         tls.secretName, the chart's tls.ca, or Rancher's setting cacerts){names}",
        authorities.len()
    ))
}

/// The certificates of a PEM bundle, unchanged.
fn certificates(bundle: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let blocks = bundle.split_inclusive(END).map(|block| match block.find("-----BEGIN CERTIFICATE-----") {
        Some(begin) => &block[begin..],
        None => "",
    });
    blocks.filter(|block| block.ends_with(END)).map(|block| format!("{block}\n")).collect()
}

/// The revision of settings: 64 bits of the SHA-256 of their content, as hex digits.
fn revision(url: &str, authorities: &[String]) -> String {
    let parts = std::iter::once(url).chain(authorities.iter().map(String::as_str));
    // No part contains a zero byte.
    let content = parts.collect::<Vec<_>>().join("\0");
    hex::encode(&sha256(content.as_bytes())[..8])
}

/// Checks that the answer of a registration fits into a message.
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

/// The problem of a registration that requires an EK certificate while there is no authority to check it: neither its own
/// nor a TPM vendor's.
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
        cloud_config: ConfigTemplates::parse(spec.cloud_config.as_ref())
            .map_err(|error| invalid(&error.path, error.source.to_string()))?,
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
        let machine = KnownMachine::default();
        let url = |token: &str| format!("https://ros.example.org/v1-rancheros/registration/{}", token.repeat(54));
        assert_eq!(
            Value::Object(
                door.answer(&endpoint(), TokenScope::KnownMachines, &machine, &SmbiosDocument::default()).unwrap().0
            ),
            json!({
                "hostname": "a",
                "rancherd": {
                    "role": "server", "nodeName": "a", "server": "https://ros.example.org", "token": "tpm://",
                },
                "rancheros": {"install": {"automatic": true, "registrationURL": url("i"), "registrationCACert": "PEM"}},
            })
        );
        assert_eq!(
            Value::Object(door.medium_settings(&endpoint()).0),
            json!({"rancheros": {"install": {"registrationURL": url("t"), "registrationCACert": "PEM"}}})
        );
    }

    fn machine(name: &str, config: Value) -> KnownMachine {
        let mut object = crate::fixtures::inventory(name, json!({"config": config}));
        object.metadata.namespace = Some("n".into());
        KnownMachine::of(object)
    }
    /// Host name and Node's name of a machine with this serial number.
    fn names(cloud_config: Value, machine: &KnownMachine, serial: &str) -> (String, String) {
        let smbios = serde_json::from_value(json!({"System Information": {"Serial Number": serial}})).unwrap();
        let config = with(json!({"cloudConfig": cloud_config}))
            .answer(&endpoint(), TokenScope::KnownMachines, machine, &smbios)
            .unwrap()
            .0;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&config["hostname"]), text(&config["rancherd"]["nodeName"]))
    }

    #[test]
    fn each_machine_has_a_name_of_its_own() {
        let edge = machine("edge-7-bcdfg", json!({"role": "agent"}));
        let of = |config: Value| names(config, &edge, "S 1: \"x\"\nroot: y");
        let same = |name: &str| (name.to_owned(), name.to_owned());
        assert_eq!(of(json!({})), same("edge-7-bcdfg"));
        assert_eq!(of(json!({"hostname": "", "rancherd": {"role": "server"}})), same("edge-7-bcdfg"));
        assert_eq!(of(json!({"hostname": "pos-${machineName}"})), same("pos-edge-7-bcdfg"));
        // What a machine says of itself is made a host name.
        assert_eq!(
            of(json!({"hostname": "shop-${System Information/Serial Number}"})),
            ("shop-S-1-x-root-y".to_owned(), "shop-s-1-x-root-y".to_owned())
        );
        let own = json!({"hostname": "h", "rancherd": {"nodeName": "n-${System Information/Serial Number}"}});
        assert_eq!(of(own), ("h".to_owned(), "n-S-1-x-root-y".to_owned()));
        assert_eq!(names(json!({}), &machine("a", json!({"hostname": "till"})), "1"), same("till"));
        assert_eq!(names(json!({}), &machine("edge.7", json!({})), "1"), same("edge-7"));
        let long = format!("{}.example.org", "a".repeat(62));
        assert_eq!(names(json!({}), &machine(&long, json!({})), "1"), same(&"a".repeat(62)));
    }

    #[test]
    fn a_node_is_called_as_the_machine_calls_itself() {
        let edge = machine("edge-7", json!({}));
        for (config, host_name) in [
            (json!({"hostname": "a.b.c"}), "a"),
            (json!({"hostname": "${machineName}.example.org"}), "edge-7"),
            (json!({"fqdn": "Shop.example.org"}), "Shop"),
            (json!({"hostname": "a", "fqdn": "b.c"}), "a"),
            (json!({"hostname": "a", "fqdn": "b.c", "prefer_fqdn_over_hostname": "yes"}), "b.c"),
            (json!({"hostname": "a.b.c", "prefer_fqdn_over_hostname": true}), "a.b.c"),
            (json!({"hostname": ["no", "name"]}), "edge-7"),
            (json!({"hostname": " ", "fqdn": "b.c"}), "b"),
        ] {
            let answer = with(json!({"cloudConfig": config}))
                .answer(&endpoint(), TokenScope::KnownMachines, &edge, &SmbiosDocument::default())
                .unwrap();
            // As the machine reads it.
            let (document, _) = document::Document::read(&answer);
            assert_eq!(document.hostname.as_deref(), Some(host_name), "{config}");
            assert_eq!(answer.0["rancherd"]["nodeName"], host_name.to_lowercase(), "{config}");
        }
        assert_eq!(host_name(&machine("a", json!({"hostname": "till.example.org"}))), "till");
    }

    #[test]
    fn the_revision_of_settings_is_that_of_their_content() {
        const ONE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let door = with(json!({}));
        let settings = |server_url: &str, bundle: &str| {
            let endpoint = Endpoint { server_url: server_url.into(), ca_bundle: bundle.into() };
            door.operator_settings(&endpoint)
        };
        let first = settings("https://ros", ONE).unwrap();
        assert_eq!(first.authorities, [ONE]);
        assert!(first.registration_url.ends_with(&"i".repeat(54)), "not the token of media");
        assert_eq!(settings("https://ros", &format!("# a comment\n{ONE}")), Some(first.clone()));
        let two = settings("https://ros", &format!("{ONE}{ONE}")).unwrap();
        assert_eq!(two.authorities.len(), 2);
        let moved = settings("https://other", ONE).unwrap();
        assert!(two.revision != first.revision && moved.revision != first.revision);
        assert!(settings("https://ros", "").unwrap().authorities.is_empty());
        assert_eq!(settings("https://ros", &ONE.repeat(17)), None);
    }

    #[test]
    fn a_problem_names_the_field() {
        let door = with(json!({"machineInventoryLabels": {"not a key": "x"}}));
        let problem = door.templates.unwrap_err();
        assert_eq!(problem.reason, reason::INVALID_TEMPLATE);
        assert!(problem.message.contains("machineInventoryLabels[\"not a key\"]"), "{}", problem.message);
        let door = with(json!({"cloudConfig": {"users": [{"name": "${System Information/Seral Number}"}]}}));
        let message = door.templates.unwrap_err().message;
        assert!(message.starts_with("spec.cloudConfig.users[0].name: ") && message.contains("Seral"), "{message}");
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
