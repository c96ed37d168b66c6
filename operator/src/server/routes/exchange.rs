//! The exchange with a machine, from `hello` to `done`: the operator's side of [`protocol::exchange`] over a websocket.

mod identify;

use crate::cluster::join;
use crate::context::Context;
use crate::identity::attestation::add_tpm;
use crate::identity::challenge::random;
use crate::inventory::life::{Step, not_configured};
use crate::inventory::writer::InventoryWriter;
use crate::registration::Registration;
use crate::registration::index::TokenScope;
use crate::registration::register;
use crate::rollout::machines::{may_be_told, report_seconds};
use crate::server::admission::{Admitted, permit_revoked, shutting_down};
use crate::server::frames::{End, Frames, Socket};
use identify::Peer;
use protocol::exchange::{Installing, OperatorSide, Statement};
use protocol::message::{Config, EXCHANGE_SECONDS, InstallPhase, MachineReport, OsReport, Recorded};
use protocol::{EraseRequest, Refusal, RefusalCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::Instrument;

/// After this long without a message that the machine has ready, its permit may be revoked.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same during an installation. A machine sends its progress every second, unless its disk is busy.
const DISK_PATIENCE: Duration = Duration::from_secs(120);
/// How long an exchange may continue before its answer when the operator stops.
const CLOSING: Duration = Duration::from_secs(8);
/// A machine that has been silent for this long during its installation is considered gone.
const SILENCE: Duration = Duration::from_secs(15 * 60);
/// Time between two writes of progress within one phase.
const PROGRESS_EVERY: Duration = Duration::from_secs(15);
/// The registration is written together with the next message, or after this long.
const SOON: Duration = Duration::from_secs(1);
/// Bytes. A larger report is written before the machine gets its answer, because thousands of concurrent installations
/// must not hold that much in memory. A server with a dozen disks reports 8 KiB.
const LARGE: usize = 32 * 1024;
/// Pause before a failed write is repeated.
const WRITE_AGAIN: Duration = Duration::from_secs(5);
/// How long an installation should take, in seconds.
const INSTALL_SECONDS: u64 = 3600;
/// Seconds between two reports of an installed system.
const REPORT_SECONDS: u64 = 300;

/// Runs an exchange to its end.
pub async fn run(
    socket: impl Socket,
    context: Arc<Context>,
    (registration, scope): (Arc<Registration>, TokenScope),
    admitted: Admitted,
) {
    let correlation = random::<6>().map(hex::encode).unwrap_or_default();
    let span = tracing::info_span!(
        "exchange",
        correlation,
        registration = format!("{}/{}", registration.namespace, registration.name)
    );
    let exchange = Exchange {
        frames: Frames::new(socket),
        side: OperatorSide::default(),
        context,
        registration,
        scope,
        admitted,
        correlation,
        request: "open",
        writer: None,
        last_progress: None,
    };
    exchange.hold().instrument(span).await;
}

struct Exchange<S> {
    frames: Frames<S>,
    side: OperatorSide,
    context: Arc<Context>,
    registration: Arc<Registration>,
    /// Which machines the machine's token admits.
    scope: TokenScope,
    admitted: Admitted,
    correlation: String,
    /// The request, as metrics name it.
    request: &'static str,
    /// Set as soon as the inventory of the machine is known.
    writer: Option<InventoryWriter>,
    last_progress: Option<(InstallPhase, Instant)>,
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
                self.admitted.continue_as_installation();
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
            Err(End::HungUp) => tracing::info!("the machine closed the connection"),
            Err(End::Refused(refusal)) => {
                tracing::info!(code = %refusal.code, message = refusal.message, "refused");
                self.context.metrics.count(self.request, Some(&refusal));
                if let Ok(frame) = self.side.refuse(refusal) {
                    // The machine may have closed the connection already.
                    let _ = self.frames.send_last(frame).await;
                }
            }
        }
        self.frames.close().await;
        if let Some(writer) = &mut self.writer
            && let Err(refusal) = writer.write(&self.context.inventory).await
        {
            tracing::warn!(inventory = writer.name(), %refusal, "the machine's last message was not recorded");
        }
    }

    /// Runs the exchange up to the answer, within its deadline, or a shorter one when the operator stops.
    async fn answer_in_time(&mut self) -> Result<After, End> {
        let deadline = Instant::now() + Duration::from_secs(EXCHANGE_SECONDS);
        let mut closing = self.admitted.watch();
        let revoked = self.admitted.revoked();
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
            () = revoked => Err(permit_revoked().into()),
        }
    }

    async fn answer(&mut self) -> Result<After, End> {
        let peer = self.identify().await?;
        let frame = self.receive(PATIENCE).await?;
        let is_large = frame.len() > LARGE;
        let statement = self.side.receive_statement(&frame)?;
        drop(frame);
        match statement {
            Statement::Machine(report) => {
                self.request = "register";
                self.admitted.reserve_installation().await?;
                self.register(peer, *report, is_large).await?;
                Ok(After::Installation)
            }
            Statement::Booted(report) => self.report("booted", &peer, report).await,
            Statement::Report(report) => self.report("report", &peer, report).await,
            Statement::Installing(first) => {
                self.request = "resume";
                self.open_writer(&peer).await?;
                if matches!(first, Installing::Progress(_)) {
                    self.admitted.reserve_installation().await?;
                }
                let over = self.installing(first).await?;
                Ok(if over { After::Nothing } else { After::Installation })
            }
        }
    }

    async fn register(&mut self, peer: Peer, report: MachineReport, is_large: bool) -> Result<(), End> {
        let begun = Instant::now();
        let writer = match peer {
            Peer::Tpm(mut identity) => {
                if self.scope == TokenScope::KnownMachines {
                    // A machine that nobody knows is refused.
                    register::find(&self.context.inventory, &self.registration, &identity.hash).await?;
                }
                add_tpm(&mut identity.attestation, report.hardware.tpm.as_ref());
                register::register(&self.context.inventory, &self.registration, &identity, &report).await?
            }
            Peer::SecretHolder(machine) => {
                register::register_known(&self.context.inventory, &self.registration, &machine, &report).await?
            }
        };
        let inventory = writer.name();
        let cloud_config = self.registration.answer(
            &self.context.endpoint(),
            TokenScope::KnownMachines,
            writer.machine(),
            &report.smbios,
        );
        drop(report);
        let writer = self.writer.insert(writer);
        if is_large {
            writer.write(&self.context.inventory).await?;
        }
        tracing::info!(inventory, "registered");
        let cloud_config = match cloud_config {
            Ok(cloud_config) => cloud_config,
            Err(refusal) => {
                self.record(Step::Failed(not_configured(&refusal))).await?;
                return Err(refusal.into());
            }
        };
        let config =
            Config { inventory, cloud_config, install_seconds: INSTALL_SECONDS, report_seconds: REPORT_SECONDS };
        let frame = self.side.send_config(config)?;
        self.frames.send(frame).await?;
        self.context.metrics.time_phase("config", begun.elapsed());
        Ok(())
    }

    /// Records progress until the machine is done.
    async fn follow_installation(&mut self) -> Result<(), End> {
        let (mut closing, revoked) = (self.admitted.watch(), self.admitted.revoked());
        let mut revoked = std::pin::pin!(revoked);
        let (mut heard, mut patience) = (Instant::now(), SOON);
        loop {
            let frame = tokio::select! {
                frame = timeout(patience, self.receive(DISK_PATIENCE)) => frame,
                () = closing.closing() => return Err(shutting_down().into()),
                () = &mut revoked => return Err(permit_revoked().into()),
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
            let written = self.writer.as_ref().is_none_or(InventoryWriter::is_written);
            patience = if written { SILENCE.saturating_sub(heard.elapsed()) } else { WRITE_AGAIN };
        }
    }

    /// Handles a message of an installation. Returns whether the installation is over.
    async fn installing(&mut self, message: Installing) -> Result<bool, End> {
        match message {
            Installing::Progress(progress) => {
                let recent = self
                    .last_progress
                    .is_some_and(|(phase, written)| phase == progress.phase && written.elapsed() < PROGRESS_EVERY);
                if !recent {
                    self.last_progress = Some((progress.phase, Instant::now()));
                    self.note(Step::Progress(progress));
                    self.write_if_possible().await?;
                }
                Ok(false)
            }
            Installing::Done(done) => {
                let step = done.failure.map_or(Step::Installed, Step::Failed);
                self.record(step).await?;
                let frame = self.side.send_done(Recorded::default())?;
                self.frames.send_last(frame).await?;
                Ok(true)
            }
        }
    }

    /// Records the report of an installed system and answers it.
    async fn report(&mut self, request: &'static str, peer: &Peer, report: Box<OsReport>) -> Result<After, End> {
        self.request = request;
        self.open_writer(peer).await?;
        self.record(Step::Reported(report.clone())).await?;
        let frame = self.receive(PATIENCE).await?;
        self.side.receive_installing(&frame)?;
        let join = match &self.writer {
            Some(writer) => Some(
                join::join(
                    &self.context.rancher,
                    &self.context.registrations,
                    &self.context.endpoint(),
                    writer.machine(),
                )
                .await,
            ),
            None => None,
        };
        let settings = self.registration.operator_settings(&self.context.endpoint());
        let request = match &mut self.writer {
            Some(writer) => writer.send_request(&self.context.inventory, &report).await,
            None => None,
        };
        let images = self.context.os_images.state();
        let images = || images.iter().map(AsRef::as_ref);
        // A machine that erases its data does nothing else.
        let upgrade = match &mut self.writer {
            Some(writer) if request.is_none() && may_be_told(images(), writer.machine()) => {
                writer.send_upgrade(&self.context.inventory, &report).await
            }
            _ => None,
        };
        let report_seconds = self.writer.as_ref().and_then(|writer| report_seconds(images(), writer.machine()));
        let (reinstall, reset) = match request {
            Some(EraseRequest::Reinstall(text)) => (Some(text), None),
            Some(EraseRequest::Reset(reset)) => (None, Some(reset)),
            None => (None, None),
        };
        let frame = self.side.send_done(Recorded { join, settings, reinstall, reset, upgrade, report_seconds })?;
        self.frames.send_last(frame).await?;
        Ok(After::Nothing)
    }

    async fn open_writer(&mut self, peer: &Peer) -> Result<(), End> {
        self.writer = Some(match peer {
            Peer::Tpm(identity) => register::find(&self.context.inventory, &self.registration, &identity.hash).await?,
            Peer::SecretHolder(machine) => register::find_known(&self.registration, machine)?,
        });
        Ok(())
    }

    fn note(&mut self, step: Step) {
        if let Some(writer) = &mut self.writer {
            writer.note(&self.context.inventory, step);
        }
    }

    async fn record(&mut self, step: Step) -> Result<(), End> {
        self.note(step);
        match &mut self.writer {
            Some(writer) => Ok(writer.write(&self.context.inventory).await?),
            None => Ok(()),
        }
    }

    /// Writes the noted steps. If the API server is unavailable or the registration's limit is reached, they stay
    /// noted: that must not stop an installation.
    async fn write_if_possible(&mut self) -> Result<(), End> {
        match &mut self.writer {
            Some(writer) => match writer.write(&self.context.inventory).await {
                Err(refusal) if matches!(refusal.code, RefusalCode::Unavailable | RefusalCode::Busy) => Ok(()),
                result => Ok(result?),
            },
            None => Ok(()),
        }
    }

    /// The next text frame. `patience`: how long it may take before the permit may be revoked.
    async fn receive(&mut self, patience: Duration) -> Result<String, End> {
        self.admitted.start_deadline(patience);
        let frame = self.frames.next().await;
        self.admitted.clear_deadline();
        frame
    }
}
