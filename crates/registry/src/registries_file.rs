//! Mirrors, credentials and certificate authorities, in the form of k3s' `registries.yaml`
//! (k3s documentation, "Private Registry Configuration").

use crate::{Proxy, RegistryError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cloud_config::{CloudConfig, CloudConfigError};
use reqwest::Url;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What stands for every registry that is not named.
const ANY: &str = "*";

/// A file in the form of `registries.yaml`. The default is an empty one.
#[derive(Clone, Debug, Default)]
pub struct RegistriesFile {
    path: PathBuf,
    mirrors: BTreeMap<String, Vec<Mirror>>,
    hosts: BTreeMap<String, HostSettings>,
    unused: Vec<String>,
    plain_http: bool,
    proxy: Option<Proxy>,
}

/// An endpoint that is asked before the registry itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mirror {
    pub(crate) is_https: bool,
    /// With the port, where the URL has one.
    pub(crate) host: String,
    /// What the repository's name begins with there: empty, or it ends with `/`.
    pub(crate) prefix: String,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct HostSettings {
    pub(crate) credentials: Option<Credentials>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) insecure_skip_verify: bool,
    /// Whether the file has a section `tls` for the host. Then HTTPS is spoken also on loopback addresses.
    pub(crate) has_tls: bool,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) username: String,
    pub(crate) password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(hidden)")
    }
}

impl RegistriesFile {
    pub const MAX_BYTES: usize = 64 * 1024;

    pub fn read(path: &Path) -> Result<Self, RegistryError> {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(Self::MAX_BYTES as u64 + 1).read_to_end(&mut bytes));
        read.map_err(RegistryError::storage(path))?;
        Self::parse(path, &bytes)
    }

    /// Parses the bytes of the file at `path`, which is for messages. These name keys, and never show a value.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, RegistryError> {
        let invalid = |why: String| RegistryError::RegistriesFileInvalid { path: path.to_owned(), why };
        if bytes.len() > Self::MAX_BYTES {
            return Err(invalid(format!("it is larger than {} bytes", Self::MAX_BYTES)));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| invalid(error.to_string()))?;
        // The same reader of YAML as for a cloud-config: it bounds what aliases expand to.
        let document = CloudConfig::parse(text).map_err(|error| match error {
            CloudConfigError::Unusable(why) => invalid(why),
            CloudConfigError::NotAMapping(found) => invalid(format!("it must be a mapping, and it is {found}")),
            CloudConfigError::TooBig(_) => invalid("it is too big".into()),
        })?;
        let mut file = Self { path: path.to_owned(), ..Self::default() };
        file.fill(&document.0).map_err(invalid)?;
        Ok(file)
    }

    /// The same, and registries that are not named in the file are spoken to by plain HTTP.
    pub fn with_plain_http(mut self, plain_http: bool) -> Self {
        self.plain_http = plain_http;
        self
    }

    /// The same, and hosts are reached through this proxy. Without one the variables of the environment count.
    pub fn with_proxy(mut self, proxy: Option<Proxy>) -> Self {
        self.proxy = proxy;
        self
    }

    /// Keys of the file that are not used, such as `configs.registry.example.org.tls.cert_file`.
    pub fn unused_keys(&self) -> &[String] {
        &self.unused
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    pub(crate) fn allows_plain_http(&self) -> bool {
        self.plain_http
    }

    /// Mirrors of a registry, in the order in which they are asked.
    pub(crate) fn mirrors(&self, registry: &str) -> &[Mirror] {
        self.mirrors.get(registry).or_else(|| self.mirrors.get(ANY)).map_or(&[], Vec::as_slice)
    }

    /// Settings for a host that is spoken to, a mirror or a registry.
    pub(crate) fn host(&self, host: &str) -> HostSettings {
        self.hosts.get(host).or_else(|| self.hosts.get(ANY)).cloned().unwrap_or_default()
    }

    fn fill(&mut self, document: &Map<String, Value>) -> Result<(), String> {
        for (key, value) in document {
            match key.as_str() {
                "mirrors" => {
                    for (registry, value) in mapping(value, key)? {
                        let mirrors = self.read_mirrors(mapping(value, &format!("mirrors.{registry}"))?, registry)?;
                        self.mirrors.insert(registry.clone(), mirrors);
                    }
                }
                "configs" => {
                    for (host, value) in mapping(value, key)? {
                        let settings = self.read_host(mapping(value, &format!("configs.{host}"))?, host)?;
                        self.hosts.insert(host.clone(), settings);
                    }
                }
                other => self.unused.push(other.to_owned()),
            }
        }
        Ok(())
    }

    fn read_mirrors(&mut self, section: &Map<String, Value>, registry: &str) -> Result<Vec<Mirror>, String> {
        let mut mirrors = Vec::new();
        for (key, value) in section {
            let path = format!("mirrors.{registry}.{key}");
            match (key.as_str(), value) {
                ("endpoint", Value::Array(endpoints)) => {
                    for (index, endpoint) in endpoints.iter().enumerate() {
                        let path = format!("{path}[{index}]");
                        mirrors.push(Mirror::parse(text(endpoint, &path)?).map_err(|why| format!("{path} {why}"))?);
                    }
                }
                ("endpoint", Value::Null) => (),
                ("endpoint", _) => return Err(format!("{path} must be a list")),
                _ => self.unused.push(path),
            }
        }
        Ok(mirrors)
    }

    fn read_host(&mut self, section: &Map<String, Value>, host: &str) -> Result<HostSettings, String> {
        let mut settings = HostSettings::default();
        for (key, value) in section {
            let path = format!("configs.{host}.{key}");
            match key.as_str() {
                "auth" => settings.credentials = self.read_auth(mapping(value, &path)?, &path)?,
                "tls" => {
                    settings.has_tls = true;
                    for (key, value) in mapping(value, &path)? {
                        let path = format!("{path}.{key}");
                        match (key.as_str(), value) {
                            ("ca_file", value) => settings.ca_file = Some(text(value, &path)?.into()),
                            ("insecure_skip_verify", Value::Bool(skip)) => settings.insecure_skip_verify = *skip,
                            ("insecure_skip_verify", _) => return Err(format!("{path} must be true or false")),
                            _ => self.unused.push(path),
                        }
                    }
                }
                _ => self.unused.push(path),
            }
        }
        Ok(settings)
    }

    /// User name and password, given as two keys or as `auth`, which is both in base64 with a colon between them.
    fn read_auth(&mut self, section: &Map<String, Value>, path: &str) -> Result<Option<Credentials>, String> {
        let (mut username, mut password, mut both) = (None, None, None);
        for (key, value) in section {
            let path = format!("{path}.{key}");
            match key.as_str() {
                "username" => username = Some(text(value, &path)?),
                "password" => password = Some(text(value, &path)?),
                "auth" => both = Some(text(value, &path)?),
                _ => self.unused.push(path),
            }
        }
        let credentials = match (username, password, both) {
            (None, None, None) => return Ok(None),
            (Some(username), Some(password), _) => (username.to_owned(), password.to_owned()),
            (None, None, Some(both)) => {
                let decoded = STANDARD.decode(both.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
                let (username, password) = pair.ok_or(format!("{path}.auth must be base64 of USERNAME:PASSWORD"))?;
                (username.to_owned(), password.to_owned())
            }
            _ => return Err(format!("{path} must have both username and password")),
        };
        Ok(Some(Credentials { username: credentials.0, password: credentials.1 }))
    }
}

impl Mirror {
    fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| format!("is no URL: {error}"))?;
        let is_https = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err("must begin with https:// or http://".into()),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("holds credentials; put them below configs".into());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("has a query or a fragment".into());
        }
        let host = url.host_str().ok_or("has no host")?;
        let host = url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"));
        let path = url.path().trim_matches('/');
        let prefix = match path.strip_prefix("v2") {
            _ if path.is_empty() => String::new(),
            Some("") => String::new(),
            Some(rest) if rest.starts_with('/') => format!("{}/", rest.trim_matches('/')),
            _ => return Err("has a path that does not begin with /v2".into()),
        };
        Ok(Self { is_https, host, prefix })
    }
}

fn mapping<'a>(value: &'a Value, path: &str) -> Result<&'a Map<String, Value>, String> {
    static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    match value {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(&EMPTY),
        _ => Err(format!("{path} must be a mapping")),
    }
}

fn text<'a>(value: &'a Value, path: &str) -> Result<&'a str, String> {
    // A number such as 1234 may be a password, but YAML readers disagree about what text it was.
    value.as_str().ok_or_else(|| format!("{path} must be text; put it between quotes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<RegistriesFile, RegistryError> {
        RegistriesFile::parse(Path::new("/etc/registries.yaml"), text.as_bytes())
    }

    const EXAMPLE: &str = r#"
mirrors:
  registry.example.org:
    endpoint: ["https://mirror.example.org:5000", "http://10.0.0.1/v2/cache"]
    rewrite: {"^os/(.*)": "x/$1"}
  "*":
    endpoint: ["https://any.example.org/v2"]
configs:
  mirror.example.org:5000:
    auth: {username: reader, password: hunter2}
    tls: {ca_file: /etc/ca.pem, cert_file: /etc/client.pem}
  10.0.0.1:
    auth: {auth: "cmVhZGVyOmh1bnRlcjI=", identity_token: secret3}
    tls: {insecure_skip_verify: true}
"#;

    #[test]
    fn mirrors_and_settings_of_hosts_are_found() {
        let file = parse(EXAMPLE).unwrap();
        let mirrors = file.mirrors("registry.example.org");
        assert_eq!(
            mirrors,
            [
                Mirror { is_https: true, host: "mirror.example.org:5000".into(), prefix: String::new() },
                Mirror { is_https: false, host: "10.0.0.1".into(), prefix: "cache/".into() },
            ]
        );
        assert_eq!(file.mirrors("other.example.org")[0].host, "any.example.org");
        let expected = Credentials { username: "reader".into(), password: "hunter2".into() };
        for host in ["mirror.example.org:5000", "10.0.0.1"] {
            assert_eq!(file.host(host).credentials, Some(expected.clone()), "{host}");
        }
        assert_eq!(file.host("mirror.example.org:5000").ca_file, Some("/etc/ca.pem".into()));
        assert!(file.host("10.0.0.1").insecure_skip_verify);
        assert!(file.host("other").credentials.is_none());
    }

    #[test]
    fn keys_without_effect_are_named() {
        let mut unused = parse(EXAMPLE).unwrap().unused_keys().to_vec();
        unused.sort();
        assert_eq!(
            unused,
            [
                "configs.10.0.0.1.auth.identity_token",
                "configs.mirror.example.org:5000.tls.cert_file",
                "mirrors.registry.example.org.rewrite",
            ]
        );
    }

    #[test]
    fn no_secret_is_shown() {
        let shown = format!("{:?}", parse(EXAMPLE).unwrap());
        for secret in ["hunter2", "cmVhZGVy", "secret3"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        let error = parse("configs: {a.b: {auth: {auth: hunter2}}}").unwrap_err().to_string();
        assert!(error.contains("configs.a.b.auth.auth must be base64") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn what_is_refused_is_named() {
        for (text, why) in [
            ("[]", "must be a mapping"),
            ("mirrors: 1", "mirrors must be a mapping"),
            ("mirrors: {a.b: {endpoint: x}}", "mirrors.a.b.endpoint must be a list"),
            ("mirrors: {a.b: {endpoint: [\"mirror\"]}}", "mirrors.a.b.endpoint[0] is no URL"),
            ("mirrors: {a.b: {endpoint: [\"ftp://mirror\"]}}", "must begin with https://"),
            ("mirrors: {a.b: {endpoint: [\"https://u:hunter2@m\"]}}", "holds credentials"),
            ("mirrors: {a.b: {endpoint: [\"https://m/cache\"]}}", "does not begin with /v2"),
            ("configs: {a.b: {auth: {username: x}}}", "both username and password"),
            ("configs: {a.b: {auth: {username: x, password: 12}}}", "password must be text"),
            ("configs: {a.b: {tls: {insecure_skip_verify: maybe}}}", "true or false"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.reason(), "RegistriesFileInvalid");
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
        let big = " ".repeat(RegistriesFile::MAX_BYTES + 1);
        assert!(parse(&big).unwrap_err().to_string().contains("larger than"));
        assert!(parse("# nothing\n").unwrap().mirrors("a.b").is_empty());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn no_structure_makes_the_parser_panic(
            section in "mirrors|configs", key in "endpoint|auth|tls|x", value in "[a-z:/\\[\\]{}\"., ]{0,40}",
        ) {
            let _ = parse(&format!("{section}:\n  a.b:\n    {key}: {value}\n"));
        }
    }
}
