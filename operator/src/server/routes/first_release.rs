//! The exchange of the first release, so that existing machines can register without a change.

use crate::context::Context;
use crate::identity::attestation::judge;
use crate::identity::challenge::credential_challenge;
use crate::inventory::life::{Step, not_configured};
use crate::registration::Registration;
use crate::registration::index::TokenScope;
use crate::registration::register;
use crate::server::admission::Admitted;
use crate::server::frames::Socket;
use axum::extract::ws::Message;
use axum::http::{HeaderMap, header};
use futures::{SinkExt, StreamExt};
use protocol::first_release::{EXCHANGE_SECONDS, Presented, challenge_message, check_answer, smbios};
use protocol::message::MachineReport;
use protocol::{Refusal, RefusalCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tracing::Instrument;

/// The content of the headers of a request of the first release.
pub struct Introduction {
    presented: Presented,
    report: MachineReport,
}

/// Reads the headers before the websocket is opened, so that errors can be reported over HTTP.
pub fn read_headers(headers: &HeaderMap) -> Result<Introduction, Refusal> {
    let text = |name: &str| header_text(headers, name);
    let authorization = text(header::AUTHORIZATION.as_str()).ok_or_else(|| {
        let message = "the request has neither this operator's subprotocol nor the Authorization of the first release";
        Refusal::new(RefusalCode::Unauthenticated, message)
    })?;
    let presented = Presented::from_authorization(authorization)?;
    let smbios = smbios(text)?.unwrap_or_default();
    Ok(Introduction { presented, report: MachineReport { smbios, ..MachineReport::default() } })
}

/// Runs the exchange: challenge, answer, configuration. It has no message for a refusal: the client sees the socket
/// closed, with the code as the reason of the close frame, and comes back after 15 s.
pub async fn run(
    mut socket: impl Socket,
    context: Arc<Context>,
    registration: Arc<Registration>,
    introduction: Introduction,
    _admitted: Admitted,
) {
    let registration_name = format!("{}/{}", registration.namespace, registration.name);
    let span = tracing::info_span!("first release", registration = registration_name);
    async {
        let result = in_time(&context, converse(&mut socket, &context, &registration, &introduction)).await;
        conclude(&mut socket, &context, "firstRelease", result).await;
    }
    .instrument(span)
    .await;
}

/// Limits a conversation to the client's deadline.
pub(super) async fn in_time(
    context: &Context,
    conversation: impl Future<Output = Result<(), Refusal>>,
) -> Result<(), Refusal> {
    context.metrics.in_flight.inc();
    let result = timeout(Duration::from_secs(EXCHANGE_SECONDS), conversation).await;
    context.metrics.in_flight.dec();
    result.unwrap_or_else(|_| Err(Refusal::new(RefusalCode::DeadlineExceeded, "the exchange took longer than 10 s")))
}

/// Counts the result of a conversation and closes the socket, with the code of the refusal if there is one.
pub(super) async fn conclude(
    socket: &mut impl Socket,
    context: &Context,
    request: &'static str,
    result: Result<(), Refusal>,
) {
    context.metrics.count(request, result.as_ref().err());
    if let Err(refusal) = &result {
        tracing::info!(code = %refusal.code, message = refusal.message, "refused");
    }
    let _ = timeout(Duration::from_secs(EXCHANGE_SECONDS), socket.send(closing(result.err().as_ref()))).await;
}

/// Challenges the machine to prove that one TPM holds both presented keys.
pub(super) async fn prove(socket: &mut impl Socket, presented: &Presented) -> Result<(), Refusal> {
    let credential_challenge = credential_challenge(&presented.endorsement_key, presented.attestation_key.name())?;
    send(socket, challenge_message(&credential_challenge.credential)?.into_bytes()).await?;
    check_answer(&receive(socket).await?, &credential_challenge.secret)
}

/// A header's value, where it is text.
pub(super) fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

async fn converse(
    socket: &mut impl Socket,
    context: &Context,
    registration: &Registration,
    introduction: &Introduction,
) -> Result<(), Refusal> {
    let Introduction { presented, report } = introduction;
    let identity = judge(
        &context.registrations,
        &context.tpm_vendors,
        registration,
        &presented.endorsement_key,
        &presented.certificates,
    )?;
    prove(socket, presented).await?;
    context.metrics.count_attestation(identity.attestation.ek_certificate);
    let mut writer = register::register(&context.inventory, registration, &identity, report).await?;
    // A system of the first release does not report, so it keeps the token of its medium.
    let answer = registration.answer(&context.endpoint(), TokenScope::NewMachines, writer.machine(), &report.smbios);
    if let Err(refusal) = &answer {
        writer.note(&context.inventory, Step::Failed(not_configured(refusal)));
    }
    writer.write(&context.inventory).await?;
    tracing::info!(inventory = writer.name(), "registered");
    let config = serde_json::to_vec(&answer?)
        .map_err(|error| Refusal::new(RefusalCode::Internal, format!("writing the configuration: {error}")))?;
    send(socket, config).await
}

async fn receive(socket: &mut impl Socket) -> Result<Vec<u8>, Refusal> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Binary(bytes))) => return Ok(bytes.to_vec()),
            Some(Ok(Message::Text(text))) => return Ok(text.as_bytes().to_vec()),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            _ => return Err(Refusal::new(RefusalCode::ProofRejected, "the machine closed the connection")),
        }
    }
}

pub(super) async fn send(socket: &mut impl Socket, bytes: Vec<u8>) -> Result<(), Refusal> {
    let hung_up = |_| Refusal::new(RefusalCode::ProofRejected, "the machine closed the connection");
    socket.send(Message::Binary(bytes.into())).await.map_err(hung_up)
}

fn closing(refusal: Option<&Refusal>) -> Message {
    use axum::extract::ws::{CloseFrame, close_code};
    Message::Close(
        refusal.map(|refusal| CloseFrame { code: close_code::POLICY, reason: refusal.code.to_string().into() }),
    )
}
