//! The transport used in production: a websocket over TLS, through a proxy where there is one. If the medium has the
//! operator's CA, only that is trusted.

use super::tunnel::Tunnels;
use super::{ConnectError, Connection, Transport};
use futures::{SinkExt, StreamExt};
use protocol::Refusal;
use protocol::message::{MAX_FRAME, SUBPROTOCOL};
use registry::Proxy;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::{Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};

/// Limit for one address to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Limit for the handshakes of TLS and websocket together.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// Largest body of a refusal that is read, in bytes.
const LARGEST_REFUSAL: usize = 16 * 1024;

/// The address of an operator and the authorities that are trusted there.
#[derive(Clone)]
pub struct WebSocketTransport {
    request: Request,
    host: String,
    port: u16,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
    is_pinned: bool,
    tunnels: Tunnels,
}

/// Why an address or a certificate authority cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error(
        "registrationURL is not a URL of an operator ({0}); it must look like \
         https://HOST/v1-rancheros/registration/TOKEN"
    )]
    Url(String),
    #[error("registrationCACert contains no valid certificate: {0}")]
    Authority(String),
    #[error("loading this system's certificate authorities")]
    System(#[source] rustls::Error),
}

impl WebSocketTransport {
    /// `ca` is PEM. With it, only certificates of these authorities are accepted; without it, those of the system. Without a
    /// proxy the variables of the environment count.
    pub fn new(registration_url: &str, ca: Option<&str>, proxy: Option<&Proxy>) -> Result<Self, EndpointError> {
        let url = reqwest::Url::parse(registration_url).map_err(|error| EndpointError::Url(error.to_string()))?;
        let no_url = |problem: &str| EndpointError::Url(problem.to_owned());
        let host = url.host_str().ok_or_else(|| no_url("it has no host"))?;
        // The brackets of an IPv6 address belong only to the URL.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|error| no_url(&error.to_string()))?;
        let port = url.port_or_known_default().ok_or_else(|| no_url("it has no port"))?;
        let rest = url.as_str().strip_prefix("https://").ok_or_else(|| no_url("it does not begin with https://"))?;
        let mut request =
            format!("wss://{rest}").into_client_request().map_err(|error| EndpointError::Url(error.to_string()))?;
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(SUBPROTOCOL));
        let (tls, is_pinned) = (Arc::new(client_config(ca)?), ca.is_some());
        Ok(Self { request, host, port, name, tls, is_pinned, tunnels: Tunnels::new(proxy) })
    }

    async fn dial(&self) -> Result<TcpStream, ConnectError> {
        if let Some(stream) = self.tunnels.connect(self.request.uri()).await? {
            return Ok(stream);
        }
        let lookup_failed = |cause| ConnectError::Name { host: self.host.clone(), cause };
        let addresses = tokio::net::lookup_host((self.host.as_str(), self.port)).await.map_err(lookup_failed)?;
        let mut last = lookup_failed(io::Error::other("the name has no address"));
        for address in addresses {
            last = match timeout(CONNECT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Delays are switched off, because frames are small and each waits for an answer.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(cause)) => ConnectError::Unreachable { address: address.to_string(), cause },
                Err(_) => ConnectError::Silent { address: address.to_string(), seconds: CONNECT.as_secs() },
            };
        }
        Err(last)
    }

    async fn shake_hands(&self, stream: TcpStream) -> Result<WebSocketConnection, ConnectError> {
        let mut stream = TlsConnector::from(Arc::clone(&self.tls))
            .connect(self.name.clone(), stream)
            .await
            .map_err(|error| self.explain_tls(error))?;
        let limits = WebSocketConfig::default().max_message_size(Some(MAX_FRAME)).max_frame_size(Some(MAX_FRAME));
        // The handshake borrows the stream, so that the body of a refusal can be read afterwards. Nothing is lost on
        // success, because the operator sends nothing before `hello`.
        let handshake =
            tokio_tungstenite::client_async_with_config(self.request.clone(), &mut stream, Some(limits)).await;
        match handshake {
            Ok(_) => {
                let socket = WebSocketStream::from_raw_socket(stream, Role::Client, Some(limits)).await;
                Ok(WebSocketConnection { socket })
            }
            Err(WebSocketError::Http(response)) => Err(self.explain_status(*response, &mut stream).await),
            Err(WebSocketError::Io(source)) => Err(ConnectError::Lost(source.to_string())),
            Err(other) => Err(ConnectError::Lost(other.to_string())),
        }
    }

    async fn explain_status(&self, response: Response, stream: &mut TlsStream<TcpStream>) -> ConnectError {
        let (head, begun) = response.into_parts();
        let length = number(&head.headers, "content-length").and_then(|length| usize::try_from(length).ok());
        let mut body = begun.unwrap_or_default();
        let wanted = length.unwrap_or(0).min(LARGEST_REFUSAL);
        // A body that ends early is treated like a missing one.
        let missing = wanted.saturating_sub(body.len()) as u64;
        let _ = timeout(CONNECT, stream.take(missing).read_to_end(&mut body)).await;
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(mut refusal) => {
                refusal.retry_after = refusal.retry_after.or_else(|| number(&head.headers, "retry-after"));
                ConnectError::Refused(refusal)
            }
            Err(_) => ConnectError::NotAnOperator { host: self.host.clone(), status: head.status.as_u16() },
        }
    }

    fn explain_tls(&self, error: io::Error) -> ConnectError {
        let host = self.host.clone();
        let certificate = match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(certificate)) => certificate,
            _ => return ConnectError::Encryption { host, source: error },
        };
        match certificate {
            CertificateError::NotValidForNameContext { presented, .. } => {
                ConnectError::WrongName { host, names: presented.join(", ") }
            }
            CertificateError::NotValidForName => ConnectError::WrongName { host, names: "another name".to_owned() },
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => wrong_time(host, "expired"),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                wrong_time(host, "not valid yet")
            }
            _ if self.is_pinned => ConnectError::NotPinned { host },
            _ => ConnectError::UnknownAuthority { host },
        }
    }
}

fn wrong_time(host: String, cause: &'static str) -> ConnectError {
    let now = x509_cert::der::DateTime::from_system_time(SystemTime::now());
    ConnectError::WrongTime { host, cause, now: now.map_or_else(|_| "before 1970".to_owned(), |now| now.to_string()) }
}

impl Transport for WebSocketTransport {
    type Connection = WebSocketConnection;

    async fn connect(&mut self) -> Result<WebSocketConnection, ConnectError> {
        let stream = self.dial().await?;
        let silent = ConnectError::Silent { address: self.host.clone(), seconds: HANDSHAKE.as_secs() };
        timeout(HANDSHAKE, self.shake_hands(stream)).await.unwrap_or(Err(silent))
    }
}

/// An open websocket.
pub struct WebSocketConnection {
    socket: WebSocketStream<TlsStream<TcpStream>>,
}

impl Connection for WebSocketConnection {
    async fn send(&mut self, frame: String) -> Result<(), ConnectError> {
        self.socket.send(Message::text(frame)).await.map_err(|error| ConnectError::Lost(error.to_string()))
    }

    async fn receive(&mut self) -> Result<String, ConnectError> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text.as_str().to_owned()),
                Some(Ok(Message::Close(frame))) => {
                    let reason = frame.map(|frame| format!("closed with code {}", frame.code));
                    return Err(ConnectError::Lost(reason.unwrap_or_else(|| "closed".to_owned())));
                }
                Some(Ok(Message::Binary(_))) => {
                    return Err(ConnectError::Lost("a binary frame was received".to_owned()));
                }
                // The library answers pings when the next frame is read or written.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(ConnectError::Lost(error.to_string())),
                None => return Err(ConnectError::Lost("closed".to_owned())),
            }
        }
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

fn client_config(ca: Option<&str>) -> Result<ClientConfig, EndpointError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(EndpointError::System)?;
    let Some(pem) = ca else {
        use rustls_platform_verifier::BuilderVerifierExt;
        return Ok(builder.with_platform_verifier().map_err(EndpointError::System)?.with_no_client_auth());
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| EndpointError::Authority(error.to_string()))?;
        roots.add(certificate).map_err(|error| EndpointError::Authority(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(EndpointError::Authority("it contains no PEM certificate".to_owned()));
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests;
