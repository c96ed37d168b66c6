//! The registration URL: a GET returns the settings of a medium, a websocket starts an exchange, ours or the first
//! release's.

use super::{exchange, first_release};
use crate::inventory::lookup::starting;
use crate::registration::decide;
use crate::registration::index::TokenScope;
use crate::registration::{Registration, check_size};
use crate::server::{ServerState, refuse};
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use protocol::message::{MAX_FRAME, SUBPROTOCOL};
use protocol::{Refusal, RefusalCode, RegistrationToken};
use std::sync::Arc;

/// Largest message that the socket reads: little more than a valid message, because each admitted stranger can make the
/// operator keep as much.
const MAX_READ: usize = MAX_FRAME + BUFFER;
/// Buffer size of an exchange. The library's default of 128 KiB would be too much for thousands of machines.
const BUFFER: usize = 8 * 1024;

pub async fn open(
    State(state): State<ServerState>,
    Path(token): Path<String>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let answer = match upgrade {
        Ok(upgrade) => enter(&state, &token, &headers, upgrade).await,
        Err(_) if !headers.contains_key(header::UPGRADE) => settings(&state, &token),
        Err(rejection) => Err(Refusal::new(RefusalCode::MalformedMessage, rejection.body_text())),
    };
    answer.unwrap_or_else(|refusal| {
        state.context.metrics.count("open", Some(&refusal));
        tracing::info!(code = %refusal.code, "refused before an exchange");
        refuse(&refusal)
    })
}

/// The settings of a medium, as cloud-config.
fn settings(state: &ServerState, token: &str) -> Result<Response, Refusal> {
    let registration = find_for_media(state, token)?;
    let settings = registration.medium_settings(&state.context.endpoint());
    Ok(([(header::CONTENT_TYPE, "text/yaml")], settings.to_yaml()).into_response())
}

async fn enter(
    state: &ServerState,
    token: &str,
    headers: &HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Refusal> {
    let (registration, scope) = find(state, token)?;
    if let Err(problem) = &registration.templates {
        return Err(Refusal::new(RefusalCode::RegistrationInvalid, problem.message.clone()));
    }
    check_size(&registration, &state.context.endpoint())
        .map_err(|problem| Refusal::new(RefusalCode::RegistrationInvalid, problem.message))?;
    let admitted = state.admission.admit(Some(registration.key())).await?;
    let context = state.context.clone();
    let upgrade = upgrade
        .max_message_size(MAX_READ)
        .max_frame_size(MAX_READ)
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .protocols([SUBPROTOCOL]);
    if upgrade.selected_protocol().is_some() {
        return Ok(upgrade.on_upgrade(move |socket| exchange::run(socket, context, (registration, scope), admitted)));
    }
    if scope == TokenScope::KnownMachines {
        return Err(unknown_token());
    }
    let presented = first_release::read_headers(headers)?;
    Ok(upgrade.on_upgrade(move |socket| first_release::run(socket, context, registration, presented, admitted)))
}

/// The registration of a token in a path.
pub(super) fn find(state: &ServerState, token: &str) -> Result<(Arc<Registration>, TokenScope), Refusal> {
    let token: RegistrationToken = token.parse().map_err(|error: protocol::token::MalformedToken| {
        Refusal::new(RefusalCode::MalformedToken, format!("{error}; the registration URL was cut or mistyped"))
    })?;
    if !state.context.registrations.is_complete() {
        return Err(starting());
    }
    state.context.registrations.find(&token).ok_or_else(unknown_token)
}

/// The same, but only for the token of media, and an error once the registration has expired.
pub(super) fn find_for_media(state: &ServerState, token: &str) -> Result<Arc<Registration>, Refusal> {
    match find(state, token)? {
        (registration, TokenScope::NewMachines) => unexpired(state, registration),
        (_, TokenScope::KnownMachines) => Err(unknown_token()),
    }
}

pub(super) fn unexpired(state: &ServerState, registration: Arc<Registration>) -> Result<Arc<Registration>, Refusal> {
    decide::expired(&registration, state.context.clock.timestamp()).map_or(Ok(registration), Err)
}

pub(super) fn unknown_token() -> Refusal {
    let message = "no MachineRegistration has this token; take the URL from its status";
    Refusal::new(RefusalCode::UnknownToken, message)
}
