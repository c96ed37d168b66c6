//! The kubelet's kubeconfig: the API server and the client certificate, whose name is the node's.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;
use x509_cert::Certificate;
use x509_cert::der::DecodePem;

/// Largest kubeconfig, certificate or key that is read, in bytes.
const LARGEST: u64 = 1 << 20;
/// Common name of a kubelet's certificate (Kubernetes, "Using Node Authorization").
const PREFIX: &str = "CN=system:node:";

/// Why a kubeconfig cannot be used. No message holds a value of it.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    #[error("{}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("it is no kubeconfig")]
    Malformed,
    #[error("it has no {0}")]
    Missing(&'static str),
    #[error("{0} is no base64")]
    NotBase64(&'static str),
    #[error("its client certificate is not that of a kubelet (CN=system:node:NAME)")]
    NoNode,
    #[error("its certificates cannot be used")]
    Tls(#[source] reqwest::Error),
}

/// What is needed to read the kubelet's Node.
pub struct Kubeconfig {
    pub server: String,
    /// Name of the Node.
    pub node: String,
    authorities: Vec<u8>,
    /// Certificate and key as PEM.
    client: Vec<u8>,
}

#[derive(Deserialize)]
struct Document {
    clusters: Vec<Named<Cluster>>,
    users: Vec<Named<User>>,
}

#[derive(Deserialize)]
struct Named<T> {
    #[serde(alias = "cluster", alias = "user")]
    item: T,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
}

impl Kubeconfig {
    /// Reads the first cluster and the first user: a kubelet's kubeconfig has no others.
    pub fn read(path: &Path) -> Result<Self, KubeconfigError> {
        let text = read(path)?;
        let Document { clusters, users } = serde_yaml::from_slice(&text).map_err(|_| KubeconfigError::Malformed)?;
        let cluster = clusters.into_iter().next().ok_or(KubeconfigError::Missing("cluster"))?.item;
        let user = users.into_iter().next().ok_or(KubeconfigError::Missing("user"))?.item;
        // Relative paths are relative to the file.
        let folder = path.parent().unwrap_or(Path::new("/"));
        let pem = |what, file: Option<PathBuf>, data: Option<String>| match (data, file) {
            (Some(data), _) => BASE64_STANDARD.decode(data).map(Some).map_err(|_| KubeconfigError::NotBase64(what)),
            (None, Some(file)) => read(&folder.join(file)).map(Some),
            (None, None) => Ok(None),
        };
        let authorities =
            pem("certificate-authority-data", cluster.certificate_authority, cluster.certificate_authority_data)?;
        let certificate = pem("client-certificate-data", user.client_certificate, user.client_certificate_data)?
            .ok_or(KubeconfigError::Missing("client certificate"))?;
        let key = pem("client-key-data", user.client_key, user.client_key_data)?;
        let node = node_of(&certificate).ok_or(KubeconfigError::NoNode)?;
        // The kubelet's own file holds both.
        let client = [certificate, b"\n".to_vec(), key.unwrap_or_default()].concat();
        Ok(Self { server: cluster.server, node, authorities: authorities.unwrap_or_default(), client })
    }

    /// A client that trusts the cluster's authorities alone.
    pub fn client(&self, limit: Duration) -> Result<reqwest::Client, KubeconfigError> {
        let build = || {
            let authorities = reqwest::Certificate::from_pem_bundle(&self.authorities)?;
            let identity = reqwest::Identity::from_pem(&self.client)?;
            let client = reqwest::Client::builder().timeout(limit).no_proxy().tls_certs_only(authorities);
            client.identity(identity).build()
        };
        build().map_err(KubeconfigError::Tls)
    }
}

/// The name of the node in the first certificate.
fn node_of(pem: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(pem).ok()?;
    // The kubelet's own file may begin with the key.
    let certificate = &text[text.find("-----BEGIN CERTIFICATE-----")?..];
    let end = certificate.find("-----END CERTIFICATE-----")? + "-----END CERTIFICATE-----".len();
    let certificate = Certificate::from_pem(&certificate.as_bytes()[..end]).ok()?;
    let subject = certificate.tbs_certificate().subject().to_string();
    let name = subject.split(',').find_map(|part| part.trim().strip_prefix(PREFIX))?;
    let is_plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
    is_plain.then(|| name.to_owned())
}

fn read(path: &Path) -> Result<Vec<u8>, KubeconfigError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|error| KubeconfigError::Read(path.to_owned(), error))
}

/// A kubeconfig with a new certificate, as kubeadm writes it.
#[cfg(test)]
pub fn fixture(server: &str, node: &str) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    parameters.distinguished_name.push(rcgen::DnType::CommonName, format!("system:node:{node}"));
    let certificate = parameters.self_signed(&key).unwrap().pem();
    let encoded = |text: &str| BASE64_STANDARD.encode(text);
    serde_json::json!({
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority-data": encoded(&certificate)}}],
        "users": [{"name": "u", "user": {
            "client-certificate-data": encoded(&certificate), "client-key-data": encoded(&key.serialize_pem()),
        }}],
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    fn read_text(text: &[u8]) -> Result<Kubeconfig, KubeconfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        fs::write(&path, text).unwrap();
        Kubeconfig::read(&path)
    }

    #[test]
    fn the_node_is_named_by_the_certificate() {
        let read = read_text(fixture("https://10.0.0.1:6443", "edge-1").as_bytes()).unwrap();
        assert_eq!((read.server.as_str(), read.node.as_str()), ("https://10.0.0.1:6443", "edge-1"));
        read.client(Duration::from_secs(1)).unwrap();
    }

    #[test]
    fn certificate_and_key_may_be_one_file_beside_it() {
        let value: serde_json::Value = serde_json::from_str(&fixture("https://h", "n")).unwrap();
        let decoded = |field: &str| {
            let text = value["users"][0]["user"][field].as_str().unwrap();
            String::from_utf8(BASE64_STANDARD.decode(text).unwrap()).unwrap()
        };
        let folder = tempfile::tempdir().unwrap();
        // As in kubelet-client-current.pem.
        fs::write(folder.path().join("current.pem"), decoded("client-certificate-data") + &decoded("client-key-data"))
            .unwrap();
        let path = folder.path().join("kubelet.conf");
        fs::write(
            &path,
            "clusters: [{name: c, cluster: {server: 'https://h'}}]\n\
             users: [{name: u, user: {client-certificate: current.pem, client-key: current.pem}}]\n",
        )
        .unwrap();
        let read = Kubeconfig::read(&path).unwrap();
        assert_eq!(read.node, "n");
        read.client(Duration::from_secs(1)).unwrap();
    }

    #[test]
    fn what_is_missing_is_named_and_no_value_is_shown() {
        let cases = [
            ("s3cr3t", "no kubeconfig"),
            ("{clusters: [], users: []}", "cluster"),
            ("{clusters: [{cluster: {server: s3cr3t}}], users: [{user: {}}]}", "client certificate"),
            ("{clusters: [{cluster: {server: h}}], users: [{user: {client-certificate-data: '%s3cr3t'}}]}", "base64"),
            (
                "{clusters: [{cluster: {server: h}}], users: [{user: {client-certificate-data: czNjcjN0}}]}",
                "system:node",
            ),
        ];
        for (text, expected) in cases {
            let error = read_text(text.as_bytes()).err().unwrap().to_string();
            assert!(error.contains(expected) && !error.contains("s3cr3t"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_kubeconfig_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300), text: String) {
            let _ = read_text(&bytes);
            let _ = node_of(&bytes);
            let _ = node_of(format!("-----BEGIN CERTIFICATE-----{text}-----END CERTIFICATE-----").as_bytes());
        }
    }
}
