//! The machine's side of the registration exchange, in memory. For the load generator, and for tests that send what no
//! honest machine sends.

use anyhow::{Context, Result, anyhow, bail};
use futures::{SinkExt, StreamExt};
use protocol::hardware::{Address, Cpu, Disk, Firmware, FirmwareKind, Hardware, Nic, TpmInfo};
use protocol::message::{Challenge, Config, Done, MachineReport, OsReport, Recorded, SUBPROTOCOL, decode, encode};
use protocol::{FromMachine, FromOperator, Refusal, SmbiosDocument};
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::fakes::software_tpm::SoftwareTpm;

/// Where to register, and which authority to trust.
#[derive(Clone)]
pub struct Endpoint {
    url: String,
    tls: Arc<ClientConfig>,
}

/// An open exchange.
pub struct Exchange {
    socket: WebSocketStream<TlsStream<TcpStream>>,
}

/// Why the expected answer did not come.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    #[error("refused: {0}")]
    Refused(#[source] Refusal),
    #[error("{0:#}")]
    Broken(anyhow::Error),
}

/// The time limit for one answer.
const TIMEOUT: Duration = Duration::from_secs(60);

impl Endpoint {
    /// `url` is a registration URL, `authority` the PEM of the only CA to trust.
    pub fn new(url: &str, authority: &str) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
            roots.add(certificate.context("reading the authority's PEM")?).context("trusting the authority")?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("choosing TLS versions")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // Machines share no memory: each makes a full handshake.
        tls.resumption = Resumption::disabled();
        Ok(Self { url: url.replacen("http", "ws", 1), tls: Arc::new(tls) })
    }

    pub async fn connect(&self) -> Result<Exchange, NoAnswer> {
        let mut request = self.url.as_str().into_client_request().context("reading the registration URL")?;
        request.headers_mut().insert("sec-websocket-protocol", http::HeaderValue::from_static(SUBPROTOCOL));
        let connecting = async {
            let uri = request.uri();
            let host = uri.host().context("finding the host in the registration URL")?.trim_matches(['[', ']']);
            let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await.context("connecting")?;
            stream.set_nodelay(true).context("connecting")?;
            let name = ServerName::try_from(host.to_owned()).context("reading the registration URL")?;
            let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await.context("shaking hands")?;
            anyhow::Ok(client_async(request, stream).await)
        };
        match timeout(TIMEOUT, connecting).await.context("connecting: no answer in time")?? {
            Ok((socket, _)) => Ok(Exchange { socket }),
            Err(tungstenite::Error::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                Err(serde_json::from_slice(body).map(NoAnswer::Refused).unwrap_or_else(|_| {
                    anyhow!("connecting: HTTP {}: {}", response.status(), String::from_utf8_lossy(body)).into()
                }))
            }
            Err(error) => Err(anyhow!(error).context("connecting").into()),
        }
    }

    /// The operator's address.
    pub fn address(&self) -> Result<SocketAddr> {
        let url: http::Uri = self.url.parse().context("reading the registration URL")?;
        let address = url.authority().context("finding the address in the registration URL")?;
        address.as_str().parse().context("reading the address in the registration URL")
    }

    /// Makes the TLS handshake of a machine. The caller sends any bytes afterwards.
    pub async fn shake_hands(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
        let name = ServerName::from(self.address()?.ip());
        TlsConnector::from(self.tls.clone()).connect(name, stream).await.context("shaking hands")
    }

    /// The request with which a machine opens its websocket.
    pub fn upgrade_request(&self) -> Result<String> {
        let url: http::Uri = self.url.parse().context("reading the registration URL")?;
        Ok(format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n",
            url.path(),
            self.address()?
        ))
    }

    /// A whole exchange of an honest machine that asks for its configuration.
    pub async fn register(&self, tpm: &SoftwareTpm, report: MachineReport) -> Result<Config, NoAnswer> {
        let mut exchange = self.connect().await?;
        exchange.prove(tpm).await?;
        let config = exchange.ask_for_config(report).await?;
        exchange.finish().await?;
        Ok(config)
    }

    /// A whole exchange of an installed machine: a report of its system. Gives the operator's answer.
    pub async fn report(&self, tpm: &SoftwareTpm, system: OsReport) -> Result<Recorded, NoAnswer> {
        let mut exchange = self.connect().await?;
        exchange.prove(tpm).await?;
        exchange.say(&FromMachine::Report(Box::new(system))).await?;
        exchange.finish().await
    }
}

impl Exchange {
    pub async fn say(&mut self, message: &FromMachine) -> Result<(), NoAnswer> {
        let frame = encode(message).map_err(anyhow::Error::from)?;
        self.say_raw(frame).await
    }

    /// Sends a frame, whatever it contains.
    pub async fn say_raw(&mut self, frame: String) -> Result<(), NoAnswer> {
        Ok(self.socket.send(Message::text(frame)).await.context("sending a message")?)
    }

    /// The operator's next message; a refusal is an error.
    pub async fn hear(&mut self) -> Result<FromOperator, NoAnswer> {
        loop {
            let next = timeout(TIMEOUT, self.socket.next()).await.context("waiting for a message: none in time")?;
            match next.context("waiting for a message: the connection ended")?.context("receiving a message")? {
                Message::Text(text) => {
                    return match decode(&text).map_err(anyhow::Error::from)? {
                        FromOperator::Refused(refusal) => Err(NoAnswer::Refused(refusal)),
                        message => Ok(message),
                    };
                }
                Message::Ping(_) | Message::Pong(_) => {}
                other => return Err(anyhow!("the operator sent {other:?} in place of a message").into()),
            }
        }
    }

    pub async fn hear_challenge(&mut self) -> Result<Challenge, NoAnswer> {
        match self.hear().await? {
            FromOperator::Challenge(challenge) => Ok(challenge),
            other => Err(anyhow!("expected a challenge, got {other:?}").into()),
        }
    }

    /// `hello`, the challenge, `proof`.
    pub async fn prove(&mut self, tpm: &SoftwareTpm) -> Result<(), NoAnswer> {
        self.say(&FromMachine::Hello(tpm.hello())).await?;
        let challenge = self.hear_challenge().await?;
        self.say(&FromMachine::Proof(tpm.proof(&challenge)?)).await
    }

    pub async fn ask_for_config(&mut self, report: MachineReport) -> Result<Config, NoAnswer> {
        self.say(&FromMachine::Machine(Box::new(report))).await?;
        self.hear_config().await
    }

    pub async fn hear_config(&mut self) -> Result<Config, NoAnswer> {
        match self.hear().await? {
            FromOperator::Config(config) => Ok(*config),
            other => Err(anyhow!("expected a configuration, got {other:?}").into()),
        }
    }

    /// Ends the exchange well: everything sent before is recorded when this returns. Gives the operator's last answer.
    pub async fn finish(mut self) -> Result<Recorded, NoAnswer> {
        self.say(&FromMachine::Done(Done::default())).await?;
        match self.hear().await? {
            FromOperator::Done(recorded) => Ok(*recorded),
            other => Err(anyhow!("expected done, got {other:?}").into()),
        }
    }
}

impl NoAnswer {
    /// The refusal. Anything else is an error.
    pub fn refusal(self) -> Result<Refusal> {
        match self {
            Self::Refused(refusal) => Ok(refusal),
            Self::Broken(error) => bail!(error.context("expected a refusal")),
        }
    }
}

impl From<anyhow::Error> for NoAnswer {
    fn from(error: anyhow::Error) -> Self {
        Self::Broken(error)
    }
}

/// A report of usual size: a server with two disks and two NICs.
pub fn usual_report(serial: &str) -> MachineReport {
    let disk = |name: &str| Disk {
        path: format!("/dev/{name}"),
        model: "SAMSUNG MZQL2960HCJR".to_owned(),
        serial: format!("S64{serial}{name}"),
        size_bytes: 960_197_124_096,
        rotational: false,
        removable: false,
    };
    let nic = |name: &str, last: u8| Nic {
        name: name.to_owned(),
        mac: format!("52:54:00:12:34:{last:02x}"),
        driver: "ixgbe".to_owned(),
        link: true,
    };
    MachineReport {
        smbios: usual_smbios(serial),
        hardware: Hardware {
            cpu: Cpu { model: "AMD EPYC 7302P".to_owned(), architecture: "x86_64".to_owned(), threads: 32 },
            memory_bytes: 128 << 30,
            disks: vec![disk("nvme0n1"), disk("nvme1n1")],
            nics: vec![nic("eno1", 1), nic("eno2", 2)],
            firmware: Firmware {
                kind: FirmwareKind::Uefi,
                secure_boot: Some(true),
                vendor: "American Megatrends".to_owned(),
                version: "2.4".to_owned(),
            },
            tpm: Some(TpmInfo { manufacturer: "SOFT".to_owned(), firmware: "0001000000000000".to_owned() }),
        },
        addresses: vec![Address { interface: "eno1".to_owned(), address: "192.0.2.10".to_owned() }],
    }
}

/// The largest report: it fills a frame with everything that an inventory would keep.
pub fn largest_report() -> MachineReport {
    let long = |bytes: usize| "\u{1b}[31m\"\\large\n".repeat(bytes / 14);
    let sections = (0..20).map(|section| {
        let fields = (0..8).map(|field| (format!("Field {field}"), long(300)));
        (format!("Section {section}"), fields.collect())
    });
    let usual = usual_report(&long(300));
    let address = Address { interface: long(28), address: long(56) };
    let (disk, nic) = (usual.hardware.disks[0].clone(), usual.hardware.nics[0].clone());
    let hardware = Hardware {
        disks: vec![Disk { path: long(70), model: long(140), ..disk }; 70],
        nics: vec![Nic { mac: long(70), driver: long(70), ..nic }; 70],
        ..usual.hardware
    };
    MachineReport { smbios: SmbiosDocument(sections.collect()), hardware, addresses: vec![address; 200] }
}

fn usual_smbios(serial: &str) -> SmbiosDocument {
    let sections: [(&str, &[(&str, &str)]); 4] = [
        ("BIOS Information", &[("Vendor", "American Megatrends"), ("Version", "2.4"), ("Release Date", "12/21/2021")]),
        (
            "System Information",
            &[
                ("Manufacturer", "Supermicro"),
                ("Product Name", "AS-1114S-WTRT"),
                ("Version", "0123456789"),
                ("Serial Number", serial),
                ("UUID", "3c1b0a00-1d8e-11ec-8000-3cecef000000"),
                ("Wake-up Type", "Power Switch"),
                ("SKU Number", "To be filled by O.E.M."),
                ("Family", "To be filled by O.E.M."),
            ],
        ),
        (
            "Base Board Information",
            &[("Manufacturer", "Supermicro"), ("Product Name", "H12SSW-NT"), ("Version", "1.02")],
        ),
        ("Chassis Information", &[("Manufacturer", "Supermicro"), ("Type", "Other"), ("Asset Tag", "unset")]),
    ];
    let text = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    SmbiosDocument(
        sections.iter().map(|(name, fields)| ((*name).to_owned(), fields.iter().map(text).collect())).collect(),
    )
}
