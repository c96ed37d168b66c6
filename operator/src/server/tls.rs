//! The server certificate, which can be replaced while the server runs.

use crate::registration::endpoint::authority::CertificateAndKey;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{default_provider, sign::any_supported_type};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ServerConfig};
use std::sync::{Arc, RwLock};

/// Why a certificate cannot be served with.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("reading the server's certificate")]
    Certificate(#[source] pem::Error),
    #[error("reading the server's key")]
    Key(#[source] pem::Error),
    #[error("using the server's key")]
    Unsupported(#[source] rustls::Error),
    #[error("the server's certificate does not match its key")]
    OtherKey(#[source] rustls::Error),
}

#[derive(Debug)]
pub struct CertificateHolder {
    current: RwLock<Arc<CertifiedKey>>,
}

impl CertificateHolder {
    pub fn new(server: &CertificateAndKey) -> Result<Arc<Self>, CertificateError> {
        Ok(Arc::new(Self { current: RwLock::new(certified_key(server)?) }))
    }

    /// Uses this certificate for new connections.
    pub fn replace(&self, server: &CertificateAndKey) -> Result<(), CertificateError> {
        let key = certified_key(server)?;
        *self.current.write().unwrap_or_else(std::sync::PoisonError::into_inner) = key;
        Ok(())
    }

    /// TLS 1.2 and 1.3 with HTTP/1.1, which is enough for websockets.
    pub fn server_config(self: Arc<Self>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self);
        config.ignore_client_order = true;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A machine comes back as another process or minutes later, so it would not use a ticket.
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

/// Prefers TLS_AES_128_GCM_SHA256, as Go's servers do: processors have instructions for SHA-256, but mostly none for
/// the SHA-384 of the AES-256 suite, which took a tenth of a handshake.
fn provider() -> CryptoProvider {
    let mut provider = default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider
}

impl ResolvesServerCert for CertificateHolder {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone())
    }
}

fn certified_key(server: &CertificateAndKey) -> Result<Arc<CertifiedKey>, CertificateError> {
    let chain = CertificateDer::pem_slice_iter(server.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(CertificateError::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(server.key.as_bytes()).map_err(CertificateError::Key)?;
    let key = any_supported_type(&key).map_err(CertificateError::Unsupported)?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(CertificateError::OtherKey)?;
    Ok(Arc::new(certified))
}
