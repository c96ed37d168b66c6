//! Our exchange, from `hello` to `done`: a socket on one side, [`protocol::exchange`] and the registrar on the other.

use super::admission::{Admitted, made_room, shutting_down};
use super::identity::{add_tpm, judge, puzzle, random};
use super::secret_holder;
use crate::context::Context;
use crate::inventory_index::KnownMachine;
use crate::join;
use crate::machine_life::Step;
use crate::registrar::{self, Identity, Ledger};
use crate::registration::Registration;
use axum::Error;
use axum::extract::ws::Message;
use futures::{Sink, SinkExt, Stream, StreamExt};
use protocol::attestation::{AttestationKey, EndorsementKey, check_secret};
use protocol::exchange::{Installing, Opening, OperatorSide, Statement};
use protocol::message::{
    Challenge, Config, EXCHANGE_SECONDS, Hello, InstallPhase, MachineReport, QUOTED_PCRS, SecretChallenge, SecretHello,
    agree_on_version,
};
use protocol::{Refusal, RefusalCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::Instrument;

/// A machine that connects has its `hello` ready.
const HELLO: Duration = Duration::from_secs(10);
/// How long a message may take, when other machines wait for the place: one that the machine has ready.
const HURRY: Duration = Duration::from_secs(2);
/// The same for one that its TPM must make first, and TPMs are slow.
const HURRY_OF_TPM: Duration = Duration::from_secs(15);
/// The same for one that installs, and says how far it is every second, but for what its disk does in one go.
const HURRY_OF_DISK: Duration = Duration::from_secs(120);
/// How long an exchange before its answer may go on when the operator stops.
const CLOSING: Duration = Duration::from_secs(8);
/// A machine that installs says something at least this often, or is taken for gone.
const SILENCE: Duration = Duration::from_secs(15 * 60);
/// How often progress within one phase is written.
const PROGRESS_EVERY: Duration = Duration::from_secs(15);
/// What a machine said with its request for configuration is written when it says more, or after this.
const SOON: Duration = Duration::from_secs(1);
/// When it is tried again to write what could not be written.
const WRITE_AGAIN: Duration = Duration::from_secs(5);
/// How long sending one message may take: a peer that does not read is not waited for.
const SENDING: Duration = Duration::from_secs(10);
/// In which an installation should be done.
const INSTALL_SECONDS: u64 = 3600;
/// Between two reports of an installed system.
const REPORT_SECONDS: u64 = 300;

/// A websocket, or what stands for one in a test.
pub trait Socket: Stream<Item = Result<Message, Error>> + Sink<Message, Error = Error> + Send + Unpin {}
impl<S: Stream<Item = Result<Message, Error>> + Sink<Message, Error = Error> + Send + Unpin> Socket for S {}

/// Why an exchange ends before its end.
#[derive(Debug)]
enum End {
    /// We send it away.
    Refused(Refusal),
    /// It is not there any more.
    HungUp,
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        End::Refused(refusal)
    }
}

/// Holds an exchange to its end, whatever that is.
pub async fn run(socket: impl Socket, context: Arc<Context>, registration: Arc<Registration>, admitted: Admitted) {
    let correlation = random::<6>().map(hex::encode).unwrap_or_default();
    let span = tracing::info_span!(
        "exchange",
        correlation,
        registration = format!("{}/{}", registration.namespace, registration.name)
    );
    let exchange = Exchange {
        socket,
        side: OperatorSide::default(),
        context,
        registration,
        admitted,
        correlation,
        request: "open",
        ledger: None,
        last_progress: None,
    };
    exchange.hold().instrument(span).await;
}

struct Exchange<S> {
    socket: S,
    side: OperatorSide,
    context: Arc<Context>,
    registration: Arc<Registration>,
    admitted: Admitted,
    correlation: String,
    /// What the machine asks for, as metrics name it.
    request: &'static str,
    /// From the moment it is known which inventory is the machine's.
    ledger: Option<Ledger>,
    last_progress: Option<(InstallPhase, Instant)>,
}

/// Who a machine proved to be.
enum Peer {
    Tpm(Identity),
    /// By the shared secret of this inventory.
    SecretHolder(Arc<KnownMachine>),
}

/// What follows the answer.
enum After {
    Installation,
    Nothing,
}

impl<S: Socket> Exchange<S> {
    async fn hold(mut self) {
        let begun = Instant::now();
        self.context.metrics.in_flight.inc();
        let answered = self.answer_in_time().await;
        self.context.metrics.in_flight.dec();
        self.context.metrics.seconds.observe(begun.elapsed().as_secs_f64());
        let end = match answered {
            Ok(After::Installation) => {
                self.context.metrics.count(self.request, None);
                self.request = "install";
                self.admitted.go_on_as_installation();
                self.context.metrics.installing.inc();
                let end = self.follow_installation().await;
                self.context.metrics.installing.dec();
                end
            }
            Ok(After::Nothing) => Ok(()),
            Err(end) => Err(end),
        };
        match end {
            Ok(()) => self.context.metrics.count(self.request, None),
            Err(End::HungUp) => tracing::info!("the machine hung up"),
            Err(End::Refused(refusal)) => {
                tracing::info!(code = %refusal.code, message = refusal.message, "refused");
                self.context.metrics.count(self.request, Some(&refusal));
                if let Ok(frame) = self.side.refuse(refusal) {
                    // It may be gone already; then there is nobody to tell.
                    let _ = self.send_last(frame).await;
                }
            }
        }
        let _ = timeout(SENDING, self.socket.send(Message::Close(None))).await;
        if let Some(ledger) = &mut self.ledger
            && let Err(refusal) = ledger.write(&self.context).await
        {
            tracing::warn!(inventory = ledger.inventory(), %refusal, "what the machine last said is not recorded");
        }
    }

    /// Up to the answer, within the exchange's deadline, or a shorter one when the operator stops.
    async fn answer_in_time(&mut self) -> Result<After, End> {
        let deadline = Instant::now() + Duration::from_secs(EXCHANGE_SECONDS);
        let mut closing = self.admitted.watch();
        let wanted = self.admitted.wanted();
        let answer = self.answer();
        let cut_short = async {
            closing.closing().await;
            tokio::time::sleep(CLOSING).await;
        };
        tokio::select! {
            answer = timeout_at(deadline, answer) => answer.unwrap_or_else(|_| {
                let message = format!("the exchange took longer than {EXCHANGE_SECONDS} s");
                Err(Refusal::new(RefusalCode::DeadlineExceeded, message).into())
            }),
            () = cut_short => Err(shutting_down().into()),
            () = wanted => Err(made_room().into()),
        }
    }

    async fn answer(&mut self) -> Result<After, End> {
        let peer = self.identify().await?;
        let frame = self.receive(HURRY).await?;
        match self.side.receive_statement(&frame)? {
            Statement::Machine(report) => {
                self.request = "register";
                self.admitted.reserve_installation().await?;
                self.register(peer, &report).await?;
                Ok(After::Installation)
            }
            Statement::Booted(report) => {
                self.request = "booted";
                self.open_ledger(&peer).await?;
                self.record(Step::Reported(&report)).await?;
                self.finish_report().await
            }
            Statement::Report(report) => {
                self.request = "report";
                self.open_ledger(&peer).await?;
                self.record(Step::Reported(&report)).await?;
                self.finish_report().await
            }
            Statement::Installing(first) => {
                self.request = "resume";
                self.open_ledger(&peer).await?;
                if matches!(first, Installing::Progress(_)) {
                    self.admitted.reserve_installation().await?;
                }
                let over = self.installing(first).await?;
                Ok(if over { After::Nothing } else { After::Installation })
            }
        }
    }

    /// From the first message to a proof.
    async fn identify(&mut self) -> Result<Peer, End> {
        let begun = Instant::now();
        let frame = timeout(HELLO, self.receive(HURRY)).await.unwrap_or_else(|_| {
            let message = format!("no `hello` within {} s", HELLO.as_secs());
            Err(Refusal::new(RefusalCode::DeadlineExceeded, message).into())
        })?;
        match self.side.receive_opening(&frame)? {
            Opening::Tpm(hello) => {
                let identity = self.identify_by_tpm(&hello, begun).await?;
                // Not for each machine of a fleet, every few minutes.
                tracing::debug!(machine = %identity.hash, "attested");
                self.context.metrics.count_attestation(identity.attestation.ek_certificate);
                Ok(Peer::Tpm(identity))
            }
            Opening::SharedSecret(hello) => {
                let machine = self.identify_by_secret(&hello, begun).await?;
                tracing::debug!(inventory = format!("{}/{}", machine.namespace, machine.name), "has its shared secret");
                Ok(Peer::SecretHolder(machine))
            }
        }
    }

    /// `hello`, `challenge`, `proof`.
    async fn identify_by_tpm(&mut self, hello: &Hello, begun: Instant) -> Result<Identity, End> {
        let version = agree_on_version(&hello.versions)?;
        let endorsement = EndorsementKey::from_spki_der(&hello.ek_public)?;
        let attestation = AttestationKey::parse(&hello.ak_public)?;
        let identity = judge(&self.context, &self.registration, &endorsement, &hello.ek_certificates)?;
        let puzzle = puzzle(&endorsement, attestation.name())?;
        let nonce = random::<32>()?;
        let challenge = Challenge {
            version,
            credential: puzzle.credential.credential,
            encrypted_secret: puzzle.credential.encrypted_secret,
            nonce: nonce.to_vec(),
            pcrs: QUOTED_PCRS.to_vec(),
            correlation: self.correlation.clone(),
        };
        let frame = self.side.send_challenge(challenge)?;
        self.send(frame).await?;
        let challenged = Instant::now();
        self.context.metrics.time_phase("challenge", challenged - begun);
        let frame = self.receive(HURRY_OF_TPM).await?;
        let proof = self.side.receive_proof(&frame)?;
        check_secret(&puzzle.secret, &proof.secret)?;
        attestation.verify_quote(&proof.quote, &proof.signature, &nonce, QUOTED_PCRS)?;
        self.context.metrics.time_phase("proof", challenged.elapsed());
        Ok(identity)
    }

    /// `secretHello`, `secretChallenge`, `secretProof`.
    async fn identify_by_secret(&mut self, hello: &SecretHello, begun: Instant) -> Result<Arc<KnownMachine>, End> {
        let version = agree_on_version(&hello.versions)?;
        let (machine, secret) = secret_holder::claimed(&self.context, &hello.digest).await?;
        let nonce = random::<32>()?;
        let correlation = self.correlation.clone();
        let challenge = SecretChallenge { version, nonce: nonce.to_vec(), correlation };
        let frame = self.side.send_secret_challenge(challenge)?;
        self.send(frame).await?;
        let challenged = Instant::now();
        self.context.metrics.time_phase("challenge", challenged - begun);
        let frame = self.receive(HURRY).await?;
        let proof = self.side.receive_secret_proof(&frame)?;
        secret.check(&nonce, &proof.answer)?;
        secret_holder::accept(&self.registration, &machine)?;
        self.context.metrics.time_phase("proof", challenged.elapsed());
        Ok(machine)
    }

    async fn register(&mut self, peer: Peer, report: &MachineReport) -> Result<(), End> {
        let begun = Instant::now();
        let ledger = match peer {
            Peer::Tpm(mut identity) => {
                add_tpm(&mut identity.attestation, report.hardware.tpm.as_ref());
                registrar::register(&self.context, &self.registration, &identity, report).await?
            }
            Peer::SecretHolder(machine) => {
                registrar::register_known(&self.context, &self.registration, &machine, report).await?
            }
        };
        let inventory = ledger.inventory();
        self.ledger = Some(ledger);
        tracing::info!(inventory, "registered");
        let config = Config {
            inventory,
            cloud_config: self.registration.answer(&self.context.endpoint()),
            install_seconds: INSTALL_SECONDS,
            report_seconds: REPORT_SECONDS,
        };
        let frame = self.side.send_config(config)?;
        self.send(frame).await?;
        self.context.metrics.time_phase("config", begun.elapsed());
        Ok(())
    }

    /// Progress, until the machine is done.
    async fn follow_installation(&mut self) -> Result<(), End> {
        let (mut closing, wanted) = (self.admitted.watch(), self.admitted.wanted());
        let mut wanted = std::pin::pin!(wanted);
        let (mut heard, mut patience) = (Instant::now(), SOON);
        loop {
            let frame = tokio::select! {
                frame = timeout(patience, self.receive(HURRY_OF_DISK)) => frame,
                () = closing.closing() => return Err(shutting_down().into()),
                () = &mut wanted => return Err(made_room().into()),
            };
            if let Ok(frame) = frame {
                heard = Instant::now();
                let message = self.side.receive_installing(&frame?)?;
                if self.installing(message).await? {
                    return Ok(());
                }
            } else if heard.elapsed() >= SILENCE {
                return Err(End::HungUp);
            } else {
                self.write_if_possible().await?;
            }
            let written = self.ledger.as_ref().is_none_or(Ledger::is_written);
            patience = if written { SILENCE.saturating_sub(heard.elapsed()) } else { WRITE_AGAIN };
        }
    }

    /// Whether the installation is over.
    async fn installing(&mut self, message: Installing) -> Result<bool, End> {
        match message {
            Installing::Progress(progress) => {
                let recent = self
                    .last_progress
                    .is_some_and(|(phase, written)| phase == progress.phase && written.elapsed() < PROGRESS_EVERY);
                if !recent {
                    self.last_progress = Some((progress.phase, Instant::now()));
                    self.note(Step::Progress(&progress));
                    self.write_if_possible().await?;
                }
                Ok(false)
            }
            Installing::Done(done) => {
                let step = done.failure.as_ref().map_or(Step::Installed, Step::Failed);
                self.record(step).await?;
                let frame = self.side.send_done(None)?;
                self.send_last(frame).await?;
                Ok(true)
            }
        }
    }

    async fn finish_report(&mut self) -> Result<After, End> {
        let frame = self.receive(HURRY).await?;
        self.side.receive_installing(&frame)?;
        let join = match &self.ledger {
            Some(ledger) => Some(join::join(&self.context, ledger.machine()).await),
            None => None,
        };
        let frame = self.side.send_done(join)?;
        self.send_last(frame).await?;
        Ok(After::Nothing)
    }

    async fn open_ledger(&mut self, peer: &Peer) -> Result<(), End> {
        self.ledger = Some(match peer {
            Peer::Tpm(identity) => registrar::find(&self.context, &self.registration, &identity.hash).await?,
            Peer::SecretHolder(machine) => registrar::find_known(&self.registration, machine)?,
        });
        Ok(())
    }

    fn note(&mut self, step: Step<'_>) {
        if let Some(ledger) = &mut self.ledger {
            ledger.note(&self.context, step);
        }
    }

    async fn record(&mut self, step: Step<'_>) -> Result<(), End> {
        self.note(step);
        match &mut self.ledger {
            Some(ledger) => Ok(ledger.write(&self.context).await?),
            None => Ok(()),
        }
    }

    /// Writes what is noted. While the API server is away it stays noted: no reason to stop an installation.
    async fn write_if_possible(&mut self) -> Result<(), End> {
        match &mut self.ledger {
            Some(ledger) => match ledger.write(&self.context).await {
                Err(refusal) if refusal.code == RefusalCode::Unavailable => Ok(()),
                result => Ok(result?),
            },
            None => Ok(()),
        }
    }

    /// The next text frame. `hurry`: how long it may take when others wait for the place.
    async fn receive(&mut self, hurry: Duration) -> Result<String, End> {
        self.admitted.waits(hurry);
        let frame = self.next_frame().await;
        self.admitted.works();
        frame
    }

    async fn next_frame(&mut self) -> Result<String, End> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text.as_str().to_owned()),
                Some(Ok(Message::Binary(_))) => {
                    let message = "a binary frame; this exchange is of JSON text frames";
                    return Err(Refusal::new(RefusalCode::MalformedMessage, message).into());
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Err(End::HungUp),
                Some(Err(error)) => return Err(read_error(error)),
            }
        }
    }

    async fn send(&mut self, frame: String) -> Result<(), End> {
        sent(timeout(SENDING, self.socket.send(Message::Text(frame.into()))).await)
    }

    /// The same for the last frame, which goes out with the closing one: one packet less for each machine.
    async fn send_last(&mut self, frame: String) -> Result<(), End> {
        sent(timeout(SENDING, self.socket.feed(Message::Text(frame.into()))).await)
    }
}

fn sent(result: Result<Result<(), Error>, Elapsed>) -> Result<(), End> {
    match result {
        Ok(Ok(())) => Ok(()),
        _ => Err(End::HungUp),
    }
}

fn read_error(error: Error) -> End {
    use tokio_tungstenite::tungstenite::Error as Tungstenite;
    match error.into_inner().downcast_ref::<Tungstenite>() {
        Some(Tungstenite::Capacity(error)) => {
            Refusal::new(RefusalCode::MessageTooBig, format!("a message over the limit: {error}")).into()
        }
        Some(Tungstenite::Utf8(_)) => Refusal::new(RefusalCode::MalformedMessage, "a text frame is not UTF-8").into(),
        _ => End::HungUp,
    }
}
