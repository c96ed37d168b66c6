//! Requests to one host. `oci-client` logs in and pushes. Downloads are made here: `oci-client` reads a manifest of any size
//! into memory, and does not tell an authority that is unknown from a host that is down.

use crate::RegistryError;
use crate::endpoint::Endpoint;
use crate::error::{Failure, quoted};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, RegistryOperation};
use rustls::{CertificateError, InvalidMessage};
use std::error::Error;
use std::io;
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A host that sends nothing for so long is taken for one that is gone.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) struct Connection {
    endpoint: Endpoint,
    operation: RegistryOperation,
    http: reqwest::Client,
    oci: Client,
    auth: RegistryAuth,
    is_logged_in: bool,
    authorization: Option<HeaderValue>,
}

impl Connection {
    /// Makes the clients. Nothing is sent.
    pub(crate) fn new(endpoint: Endpoint, operation: RegistryOperation) -> Result<Self, RegistryError> {
        let host = endpoint.host.clone();
        let broken =
            |source: Box<dyn Error + Send + Sync>| RegistryError::RegistryUnreachable { host: host.clone(), source };
        let http = http_client(&endpoint).map_err(|error| broken(error.into()))?;
        let oci = Client::try_from(oci_config(&endpoint)).map_err(|error| broken(error.into()))?;
        let auth = endpoint.credentials.as_ref().map_or(RegistryAuth::Anonymous, |credentials| {
            RegistryAuth::Basic(credentials.username.clone(), credentials.password.clone())
        });
        if endpoint.insecure_skip_verify {
            tracing::warn!(host = endpoint.host, "the registry's certificate is not checked: insecure_skip_verify");
        }
        Ok(Self { endpoint, operation, http, oci, auth, is_logged_in: false, authorization: None })
    }

    pub(crate) fn host(&self) -> &str {
        &self.endpoint.host
    }

    /// For requests that need `log_in` before.
    pub(crate) fn oci(&self) -> &Client {
        &self.oci
    }

    /// The image at this host.
    pub(crate) fn image(&self) -> &oci_client::Reference {
        &self.endpoint.image
    }

    /// Asks for a part of the image, such as `manifests/1.0`, from the byte `from` on. A token that has expired is renewed.
    /// The answer has a status of success, or 416 where there is no byte `from`.
    pub(crate) async fn get(&mut self, part: &str, accept: &str, from: u64) -> Result<reqwest::Response, Failure> {
        if !self.is_logged_in {
            self.log_in().await?;
        }
        let response = self.send(part, accept, from).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.checked(response, from);
        }
        self.log_in().await?;
        let response = self.send(part, accept, from).await?;
        self.checked(response, from)
    }

    async fn send(&self, part: &str, accept: &str, from: u64) -> Result<reqwest::Response, Failure> {
        let scheme = if self.endpoint.is_https { "https" } else { "http" };
        let url = format!("{scheme}://{}/v2/{}/{part}", self.endpoint.host, self.image().repository());
        let mut request = self.http.get(url).header(header::ACCEPT, accept);
        if let Some(registry) = &self.endpoint.mirror_of {
            // A mirror of several registries is told which one, as containerd does.
            request = request.query(&[("ns", registry)]);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        request.send().await.map_err(|error| self.transport_failure(error))
    }

    fn checked(&self, response: reqwest::Response, from: u64) -> Result<reqwest::Response, Failure> {
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => Ok(response),
            status => Err(self.refusal(status, "")),
        }
    }

    /// The failure that a status means.
    fn refusal(&self, status: StatusCode, message: &str) -> Failure {
        let message = quoted(message);
        let why = format!("it answers {status} {message}").trim_end().to_owned();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::permanent(self.denied(why)),
            StatusCode::NOT_FOUND => Failure::permanent(self.not_found()),
            _ => {
                let error = self.unreachable(why);
                let passes = status.is_server_error()
                    || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
                Failure { error, retry: passes }
            }
        }
    }

    /// Asks the host how it wants to know who asks, and gets a token where it wants one.
    pub(crate) async fn log_in(&mut self) -> Result<(), Failure> {
        let token = self.oci.auth(self.image(), &self.auth, self.operation).await;
        let authorization = match token.map_err(|error| self.oci_failure(error))? {
            Some(token) => Some(format!("Bearer {token}")),
            None => self.endpoint.credentials.as_ref().map(|credentials| {
                use base64::Engine;
                let pair = format!("{}:{}", credentials.username, credentials.password);
                format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
            }),
        };
        self.authorization = match authorization.map(|text| HeaderValue::from_str(&text)).transpose() {
            Ok(value) => value.map(|mut value| {
                value.set_sensitive(true);
                value
            }),
            Err(_) => return Err(Failure::permanent(self.denied("its token cannot be sent".into()))),
        };
        self.is_logged_in = true;
        Ok(())
    }

    /// The failure of a request that had no answer, or whose answer broke off.
    pub(crate) fn transport_failure(&self, error: reqwest::Error) -> Failure {
        let host = self.endpoint.host.clone();
        match tls_error(&error) {
            Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
                return Failure::permanent(RegistryError::PlainHttpRefused { host });
            }
            Some(source @ rustls::Error::InvalidCertificate(why)) => {
                use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
                let source = source.clone();
                return Failure::permanent(match why {
                    Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. } => {
                        RegistryError::CertificateNotValidNow { host, source }
                    }
                    _ => RegistryError::CertificateNotTrusted { host, source },
                });
            }
            _ => (),
        }
        // The address may have been one of a redirection, with a signature in its query.
        let error = error.without_url();
        if error.is_builder() || error.is_redirect() {
            let error = RegistryError::RegistryUnreachable { host, source: error.into() };
            return Failure::permanent(error);
        }
        Failure::temporary(RegistryError::RegistryUnreachable { host, source: error.into() })
    }

    /// The failure of a request that `oci-client` made.
    pub(crate) fn oci_failure(&self, error: OciDistributionError) -> Failure {
        use OciDistributionError as Oci;
        match error {
            Oci::RequestError(error) => match error.status() {
                Some(status) => self.refusal(status, ""),
                None => self.transport_failure(error),
            },
            Oci::ServerError { code, message, .. } => {
                self.refusal(StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_GATEWAY), &message)
            }
            // The text is the body of the token server's answer. Its status is lost.
            Oci::AuthenticationFailure(body) => Failure::permanent(self.denied(quoted(&body))),
            Oci::UnauthorizedError { .. } => Failure::permanent(self.denied("it answers 401 Unauthorized".into())),
            Oci::RegistryError { envelope, .. } => {
                let first = envelope.errors.into_iter().next();
                let message = first.as_ref().map(|error| quoted(&error.message)).unwrap_or_default();
                match first.map(|error| error.code) {
                    Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => Failure::permanent(self.denied(message)),
                    Some(OciErrorCode::NotFound | OciErrorCode::NameUnknown | OciErrorCode::ManifestUnknown) => {
                        Failure::permanent(self.not_found())
                    }
                    Some(OciErrorCode::Toomanyrequests) => Failure::temporary(self.unreachable(message)),
                    _ => Failure::permanent(self.unreachable(message)),
                }
            }
            other => Failure::permanent(self.unreachable(quoted(&other.to_string()))),
        }
    }

    pub(crate) fn unreachable(&self, why: String) -> RegistryError {
        RegistryError::RegistryUnreachable { host: self.endpoint.host.clone(), source: why.into() }
    }

    fn denied(&self, why: String) -> RegistryError {
        RegistryError::RegistryDenied { host: self.endpoint.host.clone(), why }
    }

    fn not_found(&self) -> RegistryError {
        RegistryError::ImageNotFound { host: self.endpoint.host.clone(), reference: self.image().to_string() }
    }
}

fn http_client(endpoint: &Endpoint) -> Result<reqwest::Client, reqwest::Error> {
    let authorities = endpoint.authorities.iter().map(|der| reqwest::Certificate::from_der(der));
    let mut client = reqwest::Client::builder();
    if let Some(proxy) = &endpoint.proxy {
        client = client.proxy(proxy.for_reqwest()?);
    }
    client
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        // A redirection must not lead from HTTPS to plain HTTP.
        .https_only(endpoint.is_https)
        .tls_certs_merge(authorities.collect::<Result<Vec<_>, _>>()?)
        .tls_danger_accept_invalid_certs(endpoint.insecure_skip_verify)
        .build()
}

fn oci_config(endpoint: &Endpoint) -> ClientConfig {
    let certificate = |data: &[u8]| Certificate { encoding: CertificateEncoding::Der, data: data.to_vec() };
    ClientConfig {
        protocol: if endpoint.is_https { ClientProtocol::Https } else { ClientProtocol::Http },
        accept_invalid_certificates: endpoint.insecure_skip_verify,
        extra_root_certificates: endpoint.authorities.iter().map(|der| certificate(der)).collect(),
        // One request with the whole blob, as containerd pushes. Not every registry takes chunks.
        use_monolithic_push: true,
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout: Some(READ_TIMEOUT),
        http_proxy: endpoint.proxy.as_ref().map(|proxy| proxy.url().to_owned()),
        https_proxy: endpoint.proxy.as_ref().map(|proxy| proxy.url().to_owned()),
        no_proxy: endpoint.proxy.as_ref().map(|proxy| proxy.except().to_owned()),
        ..ClientConfig::default()
    }
}

/// The TLS error among the causes of an error. `io::Error` hides what it was made from: its `source` is that error's source.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| tls_error(inner)) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Where the bytes of an answer begin in the whole, as `Content-Range` says (RFC 9110, 14.4).
pub(crate) fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    range.split_once('-')?.0.parse().ok()
}
