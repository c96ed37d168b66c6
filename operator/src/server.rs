//! The HTTPS server for machines and people. The router is a function, so that tests call it without a socket.
//!
//! | route                                  | for whom                    | content                                   |
//! |----------------------------------------|-----------------------------|-------------------------------------------|
//! | `/v1-rancheros/registration/<token>`   | holders of the token        | settings for a medium; the exchanges      |
//! | `/v1-rancheros/media/<token>/<name>`   | holders of the token        | a medium with those settings              |
//! | `/cacerts`, `/v1-rancheros/…/cacerts`  | everybody                   | PEM of the authorities to trust           |
//! | all others below `/v1-rancheros/`      | a TPM or a shared secret    | how the machine joins its cluster         |
//! |                                        | that an inventory knows     |                                           |
//! | `/healthz`, `/readyz`, `/metrics`      | everybody                   | nothing about any machine                 |
//!
//! A listener of its own serves network boots over plain HTTP, and nothing else:
//!
//! | route                                  | for whom                    | content                                   |
//! |----------------------------------------|-----------------------------|-------------------------------------------|
//! | `/boot/<token>/<medium>/<name>`        | holders of the boot token   | boot loaders, their scripts, settings     |
//! | `/boot-files/<digest>/<name>`          | everybody                   | kernel, initrd and release                |
//! | `/grub/grub.cfg`                       | everybody                   | GRUB's first script                       |

mod admission;
mod download;
mod frames;
mod listener;
mod permits;
mod routes;
mod tls;

pub use admission::{Admission, Drain};
pub use listener::{Limits, Service, listen, serve};
pub use tls::{CertificateError, CertificateHolder};

use crate::context::Context;
use crate::media::network_boot;
use crate::registration::PATH;
use ::media::network_set::{GRUB_START, grub_start};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use protocol::Refusal;
use protocol::token::BOOT_PATH;
use routes::{boot, ca_certificates, inventory, media, registration};
use std::sync::Arc;

/// The state of the request handlers.
#[derive(Clone)]
pub struct ServerState {
    pub context: Arc<Context>,
    pub admission: Admission,
    /// For the inventory endpoint, which is open to everybody: strangers must not take the permits of machines with a
    /// token.
    pub inventory_admission: Admission,
}

impl ServerState {
    pub fn new(context: Arc<Context>, admission: Admission) -> Self {
        let inventory_admission = admission.separate();
        Self { context, admission, inventory_admission }
    }
}

pub fn router(state: ServerState) -> Router {
    Router::new()
        .route(&format!("{PATH}/{{token}}"), get(registration::open))
        .route(&format!("{}/{{token}}/{{name}}", crate::media::PATH), get(media::open))
        .route("/v1-rancheros/{*path}", get(inventory::open))
        .route("/cacerts", get(ca_certificates::show))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(state)
}

/// The router of network boots.
pub fn boot_router(state: ServerState) -> Router {
    Router::new()
        .route(&format!("{BOOT_PATH}{{token}}/{{medium}}/{{name}}"), get(boot::own))
        // Shim asks for GRUB with two slashes.
        .route(&format!("{BOOT_PATH}{{token}}/{{medium}}//{{name}}"), get(boot::own))
        .route(&format!("{}/{{digest}}/{{name}}", network_boot::FILES_PATH), get(boot::file))
        .route(&format!("/{GRUB_START}"), get(async || grub_start()))
        .with_state(state)
}

async fn ready(State(state): State<ServerState>) -> Response {
    if state.admission.is_closing() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response();
    }
    if !state.context.registrations.is_complete() {
        return (StatusCode::SERVICE_UNAVAILABLE, "reading the registrations\n").into_response();
    }
    // Machines are served during the first listing as well, only more slowly, so the replica is ready.
    let all_read = state.context.inventory.index.is_complete();
    if all_read { "ok\n" } else { "ok, reading the inventory\n" }.into_response()
}

async fn metrics(State(state): State<ServerState>) -> Response {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match state.context.metrics.text(&state.context.inventory.index) {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(refusal) => refuse(&refusal),
    }
}

/// The HTTP response of a refusal: status, JSON body, and `Retry-After` if the refusal has one.
fn refuse(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, axum::Json(refusal)).into_response();
    if let Some(seconds) = refusal.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

#[cfg(test)]
mod tests;
