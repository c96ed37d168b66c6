//! One source's settings, and the rule by which a stronger source overrides a weaker one.

use super::{Digest, Secret, Setting, Settings, Source};
use base64::{Engine, engine::general_purpose::STANDARD};
use boot_contract::KernelArguments;
use cloud_config::CloudConfig;
use cloud_config::normal_key;
use disk::plan::DeviceSelector;
use serde_json::Value;
use std::collections::BTreeMap;

/// The settings of one source. Keys are in the form of [`normal_key`].
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    source: Source,
    entries: BTreeMap<String, Value>,
}

/// A setting that cannot be used. The message does not contain the value, which may be a secret.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{key}, from {source_of_value}, must be {rule}")]
pub struct SettingError {
    pub key: String,
    pub source_of_value: Source,
    pub rule: &'static str,
}

/// Resolved settings, and the values that were left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resolved {
    pub settings: Settings,
    /// One line for each value that was left out, for the console: its key is unknown, or its source may not set it.
    pub left_out: Vec<String>,
}

/// Resolves the sources: a stronger one overrides a weaker one.
///
/// Trust in an operator is an exception. The document at configURL comes from the network, and a DHCP server may have
/// named it. It can neither replace a registration from another source nor name the authority to trust there.
pub fn resolve<'a>(layers: impl IntoIterator<Item = &'a Layer>) -> Result<Resolved, SettingError> {
    let layers: Vec<&Layer> = layers.into_iter().collect();
    let mut resolved = Resolved::default();
    for layer in &layers {
        for (key, value) in &layer.entries {
            if let Some(other) = pinned_by(&layers, layer.source, key) {
                let source = layer.source;
                let note = format!("{}, from {source}, is ignored: {other} says which operator to trust", spelled(key));
                resolved.left_out.push(note);
            } else if !apply(&mut resolved.settings, key, value, layer.source)? {
                let source = layer.source;
                resolved
                    .left_out
                    .push(format!("{key}, from {source}, is not a known setting and is ignored; check its spelling"));
            }
        }
    }
    Ok(resolved)
}

/// The other source that forbids this source to set this key.
fn pinned_by(layers: &[&Layer], source: Source, key: &str) -> Option<Source> {
    let pins: &[&str] = match (source, key) {
        (Source::ConfigUrl, "registrationurl") => &["registrationurl"],
        (Source::ConfigUrl, "registrationcacert") => &["registrationurl", "registrationcacert"],
        _ => return None,
    };
    let pinning =
        |layer: &&&Layer| layer.source != Source::ConfigUrl && pins.iter().any(|pin| layer.entries.contains_key(*pin));
    layers.iter().find(pinning).map(|layer| layer.source)
}

/// The spelling of a key in documents.
fn spelled(key: &str) -> &str {
    SPELLING.iter().find(|spelled| normal_key(spelled) == key).copied().unwrap_or(key)
}

impl Layer {
    pub fn new(source: Source) -> Self {
        Self { source, entries: BTreeMap::new() }
    }

    /// Adds a value. `Null` counts as absent.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        if !value.is_null() {
            self.entries.insert(normal_key(key), value);
        }
    }

    /// Reads the mapping `rancheros.install`. Mappings in it, such as `deviceSelector`, become keys with a dot.
    pub fn from_cloud_config(source: Source, document: &CloudConfig) -> Self {
        let mut layer = Self::new(source);
        for (key, value) in document.install() {
            match value {
                Value::Object(inner) => {
                    inner.iter().for_each(|(name, value)| layer.set(&format!("{key}.{name}"), value.clone()));
                }
                value => layer.set(&key, value.clone()),
            }
        }
        layer
    }

    /// Reads the words of a kernel command line that begin with `rancheros.install.`. A word without `=` means true. If
    /// a setting has several values, the last one counts.
    pub fn from_kernel_command_line(line: &str) -> Self {
        let mut layer = Self::new(Source::KernelCommandLine);
        for word in KernelArguments::parse(line).words() {
            let (key, value) = match word.split_once('=') {
                Some((key, value)) => (key, Value::from(value)),
                None => (word, Value::Bool(true)),
            };
            if let Some(own) = normal_key(key).strip_prefix("rancherosinstall").filter(|own| !own.is_empty()) {
                layer.set(own, value);
            }
        }
        layer
    }
}

/// Spelling of keys in documents, for messages.
const SPELLING: &[&str] = &[
    "configURL",
    "configSHA256",
    "registrationURL",
    "registrationCACert",
    "registrationRevision",
    "registrationSecret",
    "noProxy",
    "forceEFI",
    "noFormat",
    "powerOff",
    "isoURL",
    "deviceSelector.byId",
    "deviceSelector.serial",
    "deviceSelector.model",
    "deviceSelector.minSize",
    "deviceSelector.maxSize",
];

/// Sets a key. No other place knows every key. Returns whether the key exists.
fn apply(settings: &mut Settings, key: &str, value: &Value, source: Source) -> Result<bool, SettingError> {
    let must_be = |rule| SettingError { key: spelled(key).to_owned(), source_of_value: source, rule };
    let text = || text(value).ok_or_else(|| must_be("text"));
    let flag = || flag(value).ok_or_else(|| must_be("true or false"));
    let size = || size(value).ok_or_else(|| must_be("a size in bytes or with KiB, MiB, GiB or TiB"));
    let selector = &mut settings.device_selector;
    match key {
        "configurl" => settings.config_url = Setting::new(Some(text()?), source),
        "configsha256" => {
            let digest = text()?.parse::<Digest>().map_err(|()| must_be("64 hex digits, as sha256sum prints them"))?;
            settings.config_sha256 = Setting::new(Some(digest), source);
        }
        "registrationurl" => {
            let url = text()?;
            if !url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://")) {
                return Err(must_be("an https:// URL, as in status.registrationURL of a MachineRegistration"));
            }
            settings.registration_url = Setting::new(Some(url), source);
        }
        "registrationcacert" => {
            let pem = certificate(&text()?).ok_or_else(|| must_be("a certificate as PEM, or PEM in base64"))?;
            settings.registration_ca_cert = Setting::new(Some(pem), source);
        }
        "registrationrevision" => settings.registration_revision = Setting::new(Some(text()?), source),
        "registrationsecret" => {
            let secret =
                text().ok().filter(|text| !text.is_empty()).ok_or_else(|| must_be("a text that is not empty"))?;
            settings.registration_secret = Setting::new(Some(Secret::new(secret)), source);
        }
        "proxy" => settings.proxy = Setting::new(Some(Secret::new(text()?)), source),
        "noproxy" => settings.no_proxy = Setting::new(Some(text()?), source),
        "device" => settings.device = Setting::new(Some(text()?), source),
        "automatic" => settings.automatic = Setting::new(flag()?, source),
        "debug" => settings.debug = Setting::new(flag()?, source),
        "forceefi" => settings.force_efi = Setting::new(flag()?, source),
        "noformat" => settings.no_format = Setting::new(flag()?, source),
        "poweroff" => settings.power_off = Setting::new(flag()?, source),
        "tty" => settings.tty = Setting::new(Some(text()?), source),
        "isourl" => settings.iso_url = Setting::new(Some(text()?), source),
        "password" => settings.password = Setting::new(Some(Secret::new(text()?)), source),
        "wipe" => settings.wipe = Setting::new(flag()?, source),
        // The parts of one setting. A stronger source may override each of them separately.
        "deviceselectorbyid" => select(selector, source, |s| &mut s.by_id, text()?),
        "deviceselectorserial" => select(selector, source, |s| &mut s.serial, text()?),
        "deviceselectormodel" => select(selector, source, |s| &mut s.model, text()?),
        "deviceselectorminsize" => select(selector, source, |s| &mut s.min_size, size()?),
        "deviceselectormaxsize" => select(selector, source, |s| &mut s.max_size, size()?),
        _ => return Ok(false),
    }
    Ok(true)
}

fn select<T>(
    selector: &mut Setting<DeviceSelector>,
    source: Source,
    part: impl FnOnce(&mut DeviceSelector) -> &mut Option<T>,
    value: T,
) {
    *part(&mut selector.value) = Some(value);
    selector.source = source;
}

/// Text of a value. A number is text as well: `serial: 12345` in YAML means the digits.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        // YAML 1.1 and kernel command lines have more words for true and false than JSON.
        Value::String(word) => match word.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" => Some(false),
            _ => None,
        },
        Value::Number(number) => number.as_u64().filter(|n| *n <= 1).map(|n| n == 1),
        _ => None,
    }
}

fn size(value: &Value) -> Option<u64> {
    let text = text(value)?;
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1u64 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// A kernel command line cannot hold line feeds, so PEM may be encoded in base64.
fn certificate(text: &str) -> Option<String> {
    let is_pem = |text: &str| text.trim_start().starts_with("-----BEGIN CERTIFICATE-----");
    if is_pem(text) {
        return Some(text.to_owned());
    }
    let decoded = STANDARD.decode(text.split_whitespace().collect::<String>()).ok()?;
    String::from_utf8(decoded).ok().filter(|pem| is_pem(pem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn document(install: Value) -> CloudConfig {
        serde_json::from_value(json!({ "rancheros": { "install": install } })).unwrap()
    }

    #[test]
    fn a_stronger_source_wins_and_is_remembered() {
        let medium = Layer::from_cloud_config(
            Source::Medium,
            &document(
                json!({"device": "/dev/sda", "automatic": true, "deviceSelector": {"serial": 7, "minSize": "10GiB"}}),
            ),
        );
        let kernel = Layer::from_kernel_command_line(
            "quiet rancheros.install.device=/dev/vda RANCHEROS.INSTALL.POWER_OFF \
             rancheros.install.deviceselector.min-size=1g rancheros.install.tty=\"ttyS0,115200 x\"",
        );
        let Resolved { settings, left_out } = resolve([&medium, &kernel]).unwrap();
        assert_eq!(left_out, Vec::<String>::new());
        assert_eq!(settings.device, Setting::new(Some("/dev/vda".into()), Source::KernelCommandLine));
        assert_eq!(settings.automatic, Setting::new(true, Source::Medium));
        assert_eq!(settings.tty.as_deref(), Some("ttyS0,115200 x"));
        assert!(*settings.power_off && !*settings.wipe);
        let selector = DeviceSelector { serial: Some("7".into()), min_size: Some(1 << 30), ..Default::default() };
        assert_eq!(settings.device_selector, Setting::new(selector, Source::KernelCommandLine));
    }

    #[test]
    fn a_value_that_cannot_be_used_names_its_key_and_source() {
        let refused = |install| resolve([&Layer::from_cloud_config(Source::Medium, &document(install))]).unwrap_err();
        assert_eq!(
            refused(json!({"registrationURL": "http://h/v1-rancheros/registration/t"})).to_string(),
            "registrationURL, from the medium's registration.yaml, must be an https:// URL, as in \
             status.registrationURL of a MachineRegistration"
        );
        assert_eq!(refused(json!({"wipe": "perhaps"})).rule, "true or false");
        assert_eq!(refused(json!({"deviceSelector": {"minSize": "big"}})).key, "deviceSelector.minSize");
        assert_eq!(refused(json!({"password": ["x"]})).key, "password");
        assert_eq!(refused(json!({"registrationSecret": ""})).key, "registrationSecret");
    }

    #[test]
    fn a_registration_secret_is_taken_from_anywhere_and_never_shown() {
        let medium = Layer::from_cloud_config(Source::Medium, &document(json!({"registrationSecret": "m3dium"})));
        let kernel = Layer::from_kernel_command_line("rancheros.install.registration_secret=k3rnel");
        let settings = resolve([&medium, &kernel]).unwrap().settings;
        assert_eq!(settings.registration_secret.as_ref().map(Secret::expose), Some("k3rnel"));
        assert!(!format!("{settings:?}").contains("k3rnel"));
    }

    #[test]
    fn unknown_keys_are_named_and_null_is_not_said() {
        let layer = Layer::from_cloud_config(Source::Medium, &document(json!({"devcie": "/dev/sda", "device": null})));
        let resolved = resolve([&layer]).unwrap();
        let unknown =
            "devcie, from the medium's registration.yaml, is not a known setting and is ignored; check its spelling";
        assert_eq!(resolved.left_out, [unknown]);
        assert_eq!(*resolved.settings.device, None);
    }

    #[test]
    fn a_certificate_is_pem_or_pem_in_base64() {
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(certificate(pem).as_deref(), Some(pem));
        assert_eq!(certificate(&STANDARD.encode(pem)).as_deref(), Some(pem));
        assert_eq!(certificate("AAAA"), None);
    }

    #[test]
    fn the_document_at_config_url_cannot_lead_the_machine_to_another_operator() {
        let pem = |letter: &str| format!("-----BEGIN CERTIFICATE-----\n{letter}\n-----END CERTIFICATE-----\n");
        let medium = Layer::from_cloud_config(Source::Medium, &document(json!({"registrationURL": "https://ours/t"})));
        let theirs = json!({"registrationURL": "https://theirs/t", "registrationCACert": pem("B"), "tty": "ttyS0"});
        let fetched = Layer::from_cloud_config(Source::ConfigUrl, &document(theirs));
        let Resolved { settings, left_out } = resolve([&medium, &fetched]).unwrap();
        assert_eq!(settings.registration_url.as_deref(), Some("https://ours/t"));
        assert_eq!((settings.registration_ca_cert.as_deref(), settings.tty.as_deref()), (None, Some("ttyS0")));
        let note = "registrationURL, from the document at configURL, is ignored: the medium's registration.yaml says \
                    which operator to trust";
        assert!(left_out.len() == 2 && left_out.contains(&note.to_owned()), "{left_out:?}");
        // The document may name an operator if no other source does.
        let alone = resolve([&fetched]).unwrap().settings;
        assert_eq!(alone.registration_url.as_deref(), Some("https://theirs/t"));
        assert_eq!(alone.registration_ca_cert.as_deref(), Some(pem("B").as_str()));
    }

    proptest! {
        /// For any sources, configURL changes no setting of the operator that another source has pinned.
        #[test]
        fn a_pin_holds_against_config_url(
            said in proptest::collection::vec((0usize..5, any::<bool>(), any::<bool>()), 0..6),
            (url, authority) in any::<(bool, bool)>(),
        ) {
            use Source::*;
            let layer = |source: Source, url: bool, authority: bool| {
                let mut layer = Layer::new(source);
                layer.set("registrationURL", url.then(|| format!("https://{source:?}/t")));
                let pem = format!("-----BEGIN CERTIFICATE-----\n{source:?}\n-----END CERTIFICATE-----\n");
                layer.set("registrationCACert", authority.then_some(pem));
                layer
            };
            let others = said.iter().map(|(source, url, authority)| {
                layer([Medium, KernelCommandLine, Flag, Operator, Answer][*source], *url, *authority)
            });
            let others: Vec<Layer> = others.collect();
            let mut all = others.clone();
            all.push(layer(ConfigUrl, url, authority));
            all.sort_by_key(|layer| layer.source);
            let mut without = others.clone();
            without.sort_by_key(|layer| layer.source);
            let (with, without) = (resolve(&all).unwrap().settings, resolve(&without).unwrap().settings);
            if without.registration_url.is_some() {
                prop_assert_eq!(&with.registration_url, &without.registration_url);
                prop_assert_eq!(&with.registration_ca_cert, &without.registration_ca_cert);
            }
            if without.registration_ca_cert.is_some() {
                prop_assert_eq!(&with.registration_ca_cert, &without.registration_ca_cert);
            }
        }

        #[test]
        fn a_kernel_command_line_never_panics(line in ".{0,200}") {
            let _ = resolve([&Layer::from_kernel_command_line(&format!("rancheros.install.{line}"))]);
        }
    }
}
