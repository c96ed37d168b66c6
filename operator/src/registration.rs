//! A MachineRegistration in parsed form. It is parsed once when it changes, not for each machine.

pub mod decide;
pub mod endpoint;
mod host_names;
pub mod index;
mod machine_name;
pub mod record;
pub mod register;
mod settings;
mod templates;

pub use host_names::{host_name, node_name};
pub use settings::operator_settings;
pub use templates::Templates;

use crate::inventory::index::{Key, KnownMachine};
use crate::inventory::installed_config::applied_once;
use crate::registration::endpoint::Endpoint;
use crate::registration::index::{Authorities, TokenScope};
use api::{EkCertificatePolicy, MachineRegistration, MachineRegistrationSpec, Problem, reason};
use cloud_config::{CloudConfig, Lists, document};
use kube::ResourceExt;
use protocol::message::MAX_FRAME;
use protocol::{OperatorSettings, Refusal, RefusalCode, RegistrationToken, SmbiosDocument};
use serde_json::{Map, Value};
use templates::parse_templates;

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
    /// The token of network boots. It gives the settings of a medium.
    pub boot_token: Option<RegistrationToken>,
    pub spec: MachineRegistrationSpec,
    /// How many machines may register: `spec.maxMachines`, or the operator's default.
    pub most: Option<u32>,
    /// Bytes of the cloud-config as JSON.
    cloud_config_bytes: usize,
    /// The templates, or why the registration cannot be used.
    pub templates: Result<Templates, Problem>,
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
            boot_token: parse(status.and_then(|status| status.boot_token.as_ref())),
            cloud_config_bytes: serde_json::to_vec(&object.spec.cloud_config).map_or(usize::MAX, |json| json.len()),
            templates: parse_templates(&object.spec),
            most: object.spec.max_machines,
            spec: object.spec.clone(),
        }
    }

    pub fn key(&self) -> Key {
        (self.namespace.clone(), self.name.clone())
    }

    /// The configuration for a machine: the registration's cloud-config with its templates filled in, that of the
    /// machine's inventory merged over it, and the operator's settings over both. `token`: the token that the installed system reports with. `smbios`: as the
    /// machine reports it now.
    pub fn answer(
        &self,
        endpoint: &Endpoint,
        token: TokenScope,
        machine: &KnownMachine,
        smbios: &SmbiosDocument,
    ) -> Result<CloudConfig, Refusal> {
        let mut config = CloudConfig(self.filled_in(machine, smbios)?);
        config.merge(own_config(machine), Lists::Replace);
        let mut config = config.0;
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

    /// The settings that installed machines get. `None`: their token does not exist yet, or the settings do not fit
    /// into a message, which the registration's condition reports.
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

/// The cloud-config of a machine alone: the keys of `spec.config` of its inventory that a system applies. The other keys are
/// for joining a cluster. `host_name` takes the host name into account, for which the registration comes first.
fn own_config(machine: &KnownMachine) -> CloudConfig {
    let own = applied_once(machine).filter(|(key, _)| !["hostname", "fqdn"].contains(&key.as_str()));
    CloudConfig(own.map(|(key, value)| (key.clone(), value.clone())).collect())
}

/// The registration URL of a token.
pub fn url(endpoint: &Endpoint, token: &RegistrationToken) -> String {
    format!("{}{PATH}/{}", endpoint.server_url, token.expose())
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
            "spec.cloudConfig has {size} bytes as JSON, and the limit is {limit}; let machines download large files \
             instead of putting them into write_files"
        ),
    })
}

/// The problem of a registration that requires an EK certificate while there is no authority to check it: neither its
/// own nor a TPM vendor's.
pub fn without_authority(spec: &MachineRegistrationSpec, vendors: &Authorities) -> Option<Problem> {
    let policy = spec.attestation.as_ref()?;
    let nobody = policy.ek_certificate == Some(EkCertificatePolicy::Required)
        && policy.trusted_cas.is_none()
        && vendors.is_empty();
    nobody.then(|| Problem {
        reason: reason::TRUST_MISSING,
        message: "spec.attestation.ekCertificate is Required, and no trusted authority is known: name one in \
                  spec.attestation.trustedCAs, or start the operator with --tpm-vendors"
            .to_owned(),
    })
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
mod tests;
