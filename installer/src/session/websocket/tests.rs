//! Tests against a TLS server in this process.

use super::*;
use protocol::RefusalCode;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::server::{Request as Asked, Response as Answer};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Accepts TLS as `localhost`. `change` may break the certificate.
    fn acceptor(&self, change: impl FnOnce(&mut CertificateParams)) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// The behaviour of the server on the first connection.
enum Behaviour {
    /// Accepts a websocket of our subprotocol and echoes frames.
    Echo,
    /// Answers with these bytes, one piece at a time.
    Http(Vec<String>),
}

/// Starts a server on a free port. Returns the registration URL.
async fn serve(acceptor: TlsAcceptor, behaviour: Behaviour) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(mut stream) = acceptor.accept(stream).await else { return };
        match behaviour {
            Behaviour::Echo => echo(stream).await,
            Behaviour::Http(pieces) => {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await.unwrap();
                for piece in pieces {
                    stream.write_all(piece.as_bytes()).await.unwrap();
                    stream.flush().await.unwrap();
                }
                let _ = stream.read(&mut request).await;
            }
        }
    });
    format!("https://localhost:{port}/v1-rancheros/registration/token")
}

async fn echo(stream: tokio_rustls::server::TlsStream<TcpStream>) {
    #[expect(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
    let agree = |request: &Asked, mut answer: Answer| {
        assert_eq!(request.uri().path(), "/v1-rancheros/registration/token");
        let wanted = request.headers()["sec-websocket-protocol"].clone();
        answer.headers_mut().insert("sec-websocket-protocol", wanted);
        Ok(answer)
    };
    let mut socket = tokio_tungstenite::accept_hdr_async(stream, agree).await.unwrap();
    while let Some(Ok(message)) = socket.next().await {
        if message.is_text() && socket.send(message).await.is_err() {
            return;
        }
    }
}

async fn met(url: &str, ca: &str) -> ConnectError {
    let mut transport = WebSocketTransport::new(url, Some(ca), None).unwrap();
    transport.connect().await.err().expect("no connection")
}

#[tokio::test]
async fn frames_go_both_ways() {
    let authority = Authority::new();
    let url = serve(authority.acceptor(|_| ()), Behaviour::Echo).await;
    let mut connection =
        WebSocketTransport::new(&url, Some(&authority.0.pem()), None).unwrap().connect().await.unwrap();
    connection.send("one".to_owned()).await.unwrap();
    connection.send("x".repeat(MAX_FRAME)).await.unwrap();
    assert_eq!(connection.receive().await.unwrap(), "one");
    assert_eq!(connection.receive().await.unwrap().len(), MAX_FRAME);
}

#[tokio::test]
async fn a_certificate_that_is_not_from_the_pinned_authority_is_refused() {
    let url = serve(Authority::new().acceptor(|_| ()), Behaviour::Echo).await;
    let error = met(&url, &Authority::new().0.pem()).await;
    assert!(matches!(error, ConnectError::NotPinned { .. }), "{error}");
    let error = error.to_string();
    assert!(error.contains("localhost") && error.contains("use a new medium"), "{error}");
}

#[tokio::test]
async fn a_certificate_for_another_name_or_time_says_so() {
    let authority = Authority::new();
    let other_name = |params: &mut CertificateParams| {
        params.subject_alt_names =
            CertificateParams::new(vec!["operator.example".to_owned()]).unwrap().subject_alt_names;
    };
    let url = serve(authority.acceptor(other_name), Behaviour::Echo).await;
    let error = met(&url, &authority.0.pem()).await.to_string();
    assert!(error.contains("not for localhost") && error.contains("operator.example"), "{error}");

    let expired = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let url = serve(authority.acceptor(expired), Behaviour::Echo).await;
    let error = met(&url, &authority.0.pem()).await.to_string();
    assert!(error.contains("(expired); this machine's clock says 20"), "{error}");
}

#[tokio::test]
async fn a_refusal_before_the_websocket_is_read_although_its_body_comes_late() {
    let authority = Authority::new();
    let body = serde_json::to_string(&Refusal::new(RefusalCode::Busy, "too many at once")).unwrap();
    let head = format!("HTTP/1.1 429 Too Many Requests\r\ncontent-length: {}\r\nretry-after: 9\r\n\r\n", body.len());
    let (begin, end) = body.split_at(5);
    let pieces = vec![head, begin.to_owned(), end.to_owned()];
    let url = serve(authority.acceptor(|_| ()), Behaviour::Http(pieces)).await;
    let error = met(&url, &authority.0.pem()).await;
    let ConnectError::Refused(refusal) = error else { panic!("{error}") };
    assert_eq!(refusal, Refusal::new(RefusalCode::Busy, "too many at once").retry_after(9));
}

#[tokio::test]
async fn a_server_that_is_no_operator_is_named_as_such() {
    let authority = Authority::new();
    let page = "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 4\r\n\r\noops".to_owned();
    let url = serve(authority.acceptor(|_| ()), Behaviour::Http(vec![page])).await;
    let error = met(&url, &authority.0.pem()).await;
    assert!(matches!(error, ConnectError::NotAnOperator { status: 502, .. }), "{error}");
}

#[tokio::test]
async fn a_port_where_nothing_listens_says_so() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let url = format!("https://127.0.0.1:{port}/v1-rancheros/registration/token");
    let error = met(&url, &Authority::new().0.pem()).await.to_string();
    assert!(error.contains("no server listens there"), "{error}");
}

#[test]
fn addresses_and_authorities_that_cannot_be_used_are_refused_at_once() {
    let new = |url: &str, ca: &str| WebSocketTransport::new(url, Some(ca), None).err().map(|error| error.to_string());
    let pem = Authority::new().0.pem();
    assert_eq!(new("https://[::1]:8443/v1-rancheros/registration/t", &pem), None);
    for url in ["http://h/x", "https://", "nonsense", "https://h_/x y z"] {
        let error = new(url, &pem);
        assert!(
            error.as_deref().is_none_or(|error| error.contains("registrationURL is not a URL of an operator")),
            "{url}: {error:?}"
        );
    }
    assert!(new("http://h/x", &pem).is_some());
    let error = new("https://h/x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    assert!(error.contains("registrationCACert"), "{error}");
    assert!(new("https://h/x", "").unwrap().contains("it contains no PEM certificate"));
}
