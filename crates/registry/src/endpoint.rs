//! Where an image is looked for: the mirrors of its registry, then the registry.

use crate::registries_file::{Credentials, HostSettings};
use crate::{Proxy, Reference, RegistriesFile, RegistryError};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::net::IpAddr;

/// A host that is asked, and how.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// With the port, where it is not that of the scheme.
    pub(crate) host: String,
    pub(crate) is_https: bool,
    /// The image there.
    pub(crate) image: oci_client::Reference,
    /// The registry that this is a mirror of.
    pub(crate) mirror_of: Option<String>,
    pub(crate) credentials: Option<Credentials>,
    /// Authorities that are trusted besides those of the system.
    pub(crate) authorities: Vec<CertificateDer<'static>>,
    pub(crate) insecure_skip_verify: bool,
    pub(crate) proxy: Option<Proxy>,
}

impl Endpoint {
    /// The registry itself.
    pub(crate) fn of_registry(reference: &Reference, file: &RegistriesFile) -> Result<Self, RegistryError> {
        let image = reference.inner().clone();
        // Docker's registry has another address than its name.
        let host = image.resolve_registry().to_owned();
        let settings = file.host(&host);
        let is_https = !file.allows_plain_http() && (settings.has_tls || !is_loopback(&host));
        Self::new(host, is_https, image, None, settings, file)
    }

    /// Mirrors first, in the order of the file, and the registry itself last.
    pub(crate) fn all(reference: &Reference, file: &RegistriesFile) -> Result<Vec<Self>, RegistryError> {
        let mut endpoints = Vec::new();
        for mirror in file.mirrors(reference.registry()) {
            let inner = reference.inner();
            let repository = format!("{}{}", mirror.prefix, inner.repository());
            let tag = inner.tag().unwrap_or_default().to_owned();
            let image = match inner.digest() {
                Some(digest) => oci_client::Reference::with_digest(mirror.host.clone(), repository, digest.to_owned()),
                None => oci_client::Reference::with_tag(mirror.host.clone(), repository, tag),
            };
            let mirror_of = Some(reference.registry().to_owned());
            let settings = file.host(&mirror.host);
            endpoints.push(Self::new(mirror.host.clone(), mirror.is_https, image, mirror_of, settings, file)?);
        }
        endpoints.push(Self::of_registry(reference, file)?);
        Ok(endpoints)
    }

    fn new(
        host: String,
        is_https: bool,
        image: oci_client::Reference,
        mirror_of: Option<String>,
        settings: HostSettings,
        file: &RegistriesFile,
    ) -> Result<Self, RegistryError> {
        let mut authorities = Vec::new();
        if let Some(path) = &settings.ca_file {
            let invalid = |why: String| RegistryError::RegistriesFileInvalid {
                path: file.path().to_owned(),
                why: format!("configs.{host}.tls.ca_file {}: {why}", path.display()),
            };
            let found = CertificateDer::pem_file_iter(path).map_err(|error| invalid(error.to_string()))?;
            authorities = found.collect::<Result<Vec<_>, _>>().map_err(|error| invalid(error.to_string()))?;
            if authorities.is_empty() {
                return Err(invalid("there is no certificate in it".into()));
            }
        }
        let HostSettings { credentials, insecure_skip_verify, .. } = settings;
        let proxy = file.proxy().cloned();
        Ok(Self { host, is_https, image, mirror_of, credentials, authorities, insecure_skip_verify, proxy })
    }
}

/// Whether a host, perhaps with a port, is this machine. Nobody is on the way then.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    name == "localhost" || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn file(text: &str) -> RegistriesFile {
        RegistriesFile::parse(Path::new("registries.yaml"), text.as_bytes()).unwrap()
    }
    fn reference(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn only_loopback_is_spoken_to_by_plain_http_unasked() {
        let is_https = |host: &str, file: &RegistriesFile| {
            Endpoint::of_registry(&reference(&format!("{host}/ros:1")), file).unwrap().is_https
        };
        let none = RegistriesFile::default();
        for loopback in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.1.2.3"] {
            assert!(!is_https(loopback, &none), "{loopback}");
        }
        for other in ["registry.example.org", "127.0.0.1.example.org", "localhost.example.org:5000", "10.0.0.1"] {
            assert!(is_https(other, &none), "{other}");
            assert!(!is_https(other, &none.clone().with_plain_http(true)), "{other}");
        }
        assert!(is_https("127.0.0.1:5000", &file("configs: {\"127.0.0.1:5000\": {tls: {}}}")));
    }

    #[test]
    fn mirrors_come_before_the_registry() {
        let file = file(
            "mirrors: {a.example.org: {endpoint: [\"https://m.example.org/v2/cache\", \"http://10.0.0.1:5000\"]}}\n\
             configs: {m.example.org: {auth: {username: u, password: p}}}",
        );
        let all = Endpoint::all(&reference("a.example.org/os/ros:1"), &file).unwrap();
        let shown: Vec<_> = all
            .iter()
            .map(|endpoint| (endpoint.is_https, endpoint.image.to_string(), endpoint.credentials.is_some()))
            .collect();
        assert_eq!(
            shown,
            [
                (true, "m.example.org/cache/os/ros:1".to_owned(), true),
                (false, "10.0.0.1:5000/os/ros:1".to_owned(), false),
                (true, "a.example.org/os/ros:1".to_owned(), false),
            ]
        );
    }

    #[test]
    fn an_authority_that_cannot_be_read_is_named_with_its_key() {
        let file = file("configs: {a.example.org: {tls: {ca_file: /nowhere/ca.pem}}}");
        let error = Endpoint::of_registry(&reference("a.example.org/ros:1"), &file).unwrap_err();
        assert_eq!(error.reason(), "RegistriesFileInvalid");
        assert!(error.to_string().contains("configs.a.example.org.tls.ca_file /nowhere/ca.pem"), "{error}");
    }
}
