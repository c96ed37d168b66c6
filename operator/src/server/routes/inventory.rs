//! The inventory endpoint: a machine proves its identity and learns how it joins its cluster. The clients are those of
//! the first release (rancherd): with a TPM over a websocket, or with a shared secret in a plain GET.
//!
//! Source: rancher/os2 v0.1.0-alpha12 `pkg/server/server.go` and `secret.go`; rancher/rancherd `pkg/config/remote.go`.
//! All other paths below `/v1-rancheros/` lead here, as in the first release.

use super::ca_certificates;
use super::first_release::{self, conclude, header_text, in_time, prove};
use crate::cluster::join;
use crate::context::Context;
use crate::inventory::index::KnownMachine;
use crate::inventory::life::Step;
use crate::inventory::lookup::starting;
use crate::inventory::writer::InventoryWriter;
use crate::server::admission::Admitted;
use crate::server::frames::Socket;
use crate::server::{ServerState, refuse};
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use base64::{Engine, engine::general_purpose::STANDARD};
use protocol::first_release::{AUTHORIZATION_PREFIX, Presented};
use protocol::{JoinConfiguration, Refusal, RefusalCode, SharedSecret};
use std::sync::Arc;
use tracing::Instrument;

/// The request's name in metrics.
const REQUEST: &str = "inventory";
/// Longest shared secret, in bytes of base64. A Secret could have a megabyte.
const MAX_SECRET: usize = 16 * 1024;
/// An answer to a challenge has some hundred bytes.
const MAX_READ: usize = 16 * 1024;

pub async fn open(
    State(state): State<ServerState>,
    Path(path): Path<String>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    if path == "cacerts" || path.ends_with("/cacerts") {
        return ca_certificates::show(State(state), headers).await;
    }
    let answer = match Credential::of(&path, &headers) {
        Ok(Credential::Tpm(presented)) => enter(&state, *presented, upgrade).await,
        Ok(Credential::Secret(secret)) => answer(&state, &secret).await,
        Err(refusal) => Err(refusal),
    };
    answer.unwrap_or_else(|refusal| {
        state.context.metrics.count(REQUEST, Some(&refusal));
        tracing::info!(code = %refusal.code, message = refusal.message, "refused the inventory");
        refuse(&refusal)
    })
}

/// The credential that a machine shows.
enum Credential {
    /// Must still be proved.
    Tpm(Box<Presented>),
    Secret(SharedSecret),
}

impl Credential {
    fn of(path: &str, headers: &HeaderMap) -> Result<Self, Refusal> {
        if path.starts_with("registration/") || path.contains("/registration/") {
            let message = "this is not a registration URL; a registration URL ends with the token";
            return Err(Refusal::new(RefusalCode::MalformedToken, message));
        }
        let unauthenticated = || {
            let message = "the request needs the TPM's keys or the shared secret in `Authorization: Bearer …`";
            Refusal::new(RefusalCode::Unauthenticated, message)
        };
        let authorization = header_text(headers, header::AUTHORIZATION.as_str()).ok_or_else(unauthenticated)?;
        if authorization.starts_with(AUTHORIZATION_PREFIX) {
            return Presented::from_authorization(authorization).map(Box::new).map(Self::Tpm);
        }
        let encoded = authorization.strip_prefix("Bearer ").ok_or_else(unauthenticated)?;
        if encoded.len() > MAX_SECRET {
            let message = format!("a shared secret of {} bytes; the limit is {MAX_SECRET}", encoded.len());
            return Err(Refusal::new(RefusalCode::MessageTooBig, message));
        }
        match STANDARD.decode(encoded) {
            Ok(secret) if !secret.is_empty() => Ok(Self::Secret(SharedSecret::new(secret))),
            Ok(_) => Err(unauthenticated()),
            Err(_) => Err(Refusal::new(RefusalCode::MalformedMessage, "`Authorization` is not base64 after `Bearer `")),
        }
    }
}

/// Answers a machine with a shared secret.
async fn answer(state: &ServerState, secret: &SharedSecret) -> Result<Response, Refusal> {
    let context = &state.context;
    if !context.inventory.index.is_complete() {
        return Err(starting());
    }
    let _admitted = state.inventory_admission.admit(None).await?;
    let machine = context.secrets.find(&context.inventory.index, secret).await?;
    let configuration = configuration(context, &machine).await?;
    note(context, machine).await;
    context.metrics.count(REQUEST, None);
    Ok(axum::Json(configuration).into_response())
}

/// Opens a websocket for a machine with a TPM.
async fn enter(
    state: &ServerState,
    presented: Presented,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let upgrade = upgrade.map_err(|_| {
        let message = "a machine proves its TPM over a websocket, and this is a plain HTTP request";
        Refusal::new(RefusalCode::Unauthenticated, message)
    })?;
    let admitted = state.inventory_admission.admit(None).await?;
    let context = state.context.clone();
    let upgrade = upgrade.max_message_size(MAX_READ).max_frame_size(MAX_READ).write_buffer_size(0);
    Ok(upgrade.on_upgrade(move |socket| run(socket, context, presented, admitted)))
}

async fn run(mut socket: impl Socket, context: Arc<Context>, presented: Presented, _admitted: Admitted) {
    let machine = presented.endorsement_key.tpm_hash();
    let span = tracing::info_span!("inventory", %machine);
    async {
        let result = in_time(&context, converse(&mut socket, &context, &presented)).await;
        conclude(&mut socket, &context, REQUEST, result).await;
    }
    .instrument(span)
    .await;
}

async fn converse(socket: &mut impl Socket, context: &Context, presented: &Presented) -> Result<(), Refusal> {
    prove(socket, presented).await?;
    let known = context.inventory.find(&presented.endorsement_key.tpm_hash()).await?;
    let machine = known.ok_or_else(|| {
        let message = "no MachineInventory has this TPM's hash; register the machine, or create one with spec.tpmHash";
        Refusal::new(RefusalCode::UnknownMachine, message)
    })?;
    let configuration = configuration(context, &machine).await?;
    let answer = serde_json::to_vec(&configuration)
        .map_err(|error| Refusal::new(RefusalCode::Internal, format!("writing the configuration: {error}")))?;
    first_release::send(socket, answer).await?;
    note(context, machine).await;
    Ok(())
}

/// The configuration of a machine. A client that gets neither a role nor a cluster would stop asking, so it is refused
/// until the machine is assigned.
async fn configuration(context: &Context, machine: &KnownMachine) -> Result<JoinConfiguration, Refusal> {
    let configuration =
        join::configuration(&context.rancher, &context.registrations, &context.endpoint(), machine).await?;
    let assigned = |answer: &JoinConfiguration| machine.cluster().is_some() || answer.0.contains_key("role");
    configuration.filter(assigned).ok_or_else(|| {
        let message = format!(
            "MachineInventory {}/{} names neither a cluster nor a role: set its spec.clusterName or spec.config.role",
            machine.namespace, machine.name
        );
        Refusal::new(RefusalCode::NotAssigned, message).retry_after(60)
    })
}

/// Records that the machine fetched its configuration. A failed write is only logged, because the machine has its
/// answer.
async fn note(context: &Context, machine: Arc<KnownMachine>) {
    let mut writer = InventoryWriter::new(machine);
    tracing::info!(inventory = writer.name(), "sent how the machine joins its cluster");
    writer.note(&context.inventory, Step::Fetched);
    if let Err(refusal) = writer.write(&context.inventory).await {
        tracing::warn!(inventory = writer.name(), %refusal, "the machine's request was not recorded");
    }
}

#[cfg(test)]
mod tests;
