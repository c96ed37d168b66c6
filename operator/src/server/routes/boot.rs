//! The files of a network boot: the script and the settings of a registration, found by its boot token, and the files of
//! the release, which are the same for everybody.

use super::registration::{unexpired, unknown_token};
use crate::inventory::lookup::starting;
use crate::media::network_boot::{self, is_digest};
use crate::media::{BaseMedium, Download, MediaStore};
use crate::registration::Registration;
use crate::server::download::{self, Allowed, Asked, Description};
use crate::server::{ServerState, refuse};
use ::media::network_set::{
    GRUB_SCRIPT, IPXE_SCRIPT, REGISTRATION_ARCHIVE, grub_script, ipxe_script, registration_archive,
};
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use protocol::{Refusal, RefusalCode, RegistrationToken};
use std::sync::Arc;

/// The request's name in metrics.
const REQUEST: &str = "boot";
const UNCHANGING: &str = "public, no-cache";
const CHANGING: &str = "private, no-store";
const CONTENT_TYPE: &str = "application/octet-stream";

/// A file beside the script: a boot loader, a script, or the settings of a registration.
pub async fn own(
    State(state): State<ServerState>,
    Path((token, medium, name)): Path<(String, String, String)>,
    asked: Asked,
) -> Response {
    answer_own(&state, &token, &medium, &name, asked).await.unwrap_or_else(|refusal| refused(&state, &refusal))
}

/// A file of a release.
pub async fn file(
    State(state): State<ServerState>,
    Path((digest, name)): Path<(String, String)>,
    asked: Asked,
) -> Response {
    answer_file(&state, &digest, &name, asked).await.unwrap_or_else(|refusal| refused(&state, &refusal))
}

fn refused(state: &ServerState, refusal: &Refusal) -> Response {
    state.context.metrics.count(REQUEST, Some(refusal));
    tracing::info!(code = %refusal.code, "refused a file of a network boot");
    refuse(refusal)
}

async fn answer_own(
    state: &ServerState,
    token: &str,
    medium: &str,
    name: &str,
    asked: Asked,
) -> Result<Response, Refusal> {
    let registration = find(state, token)?;
    let base = state.context.media.find(medium)?;
    let set = base.network_set().and_then(Result::ok).ok_or_else(unknown_file)?;
    let files = network_boot::files(&base);
    let content = match name {
        IPXE_SCRIPT => ipxe_script(&files, &set.arguments).into_bytes(),
        GRUB_SCRIPT => grub_script(&files, &set.arguments).into_bytes(),
        REGISTRATION_ARCHIVE => {
            let settings = registration.medium_settings(&state.context.endpoint());
            let failed = |_| Refusal::new(RefusalCode::Internal, "the settings cannot be archived");
            registration_archive(settings.to_yaml().as_bytes()).map_err(failed)?
        }
        _ => {
            let token = token.to_owned();
            let allowed: Allowed = Box::new(move |state| find(state, &token).map(drop));
            return send_part(state, base, name, asked, allowed).await;
        }
    };
    state.context.metrics.count(REQUEST, None);
    let key = format!("{}/{}", registration.namespace, registration.name);
    tracing::info!(registration = key, medium, file = name, "sending a file of a network boot");
    let headers = [(header::CONTENT_TYPE, CONTENT_TYPE), (header::CACHE_CONTROL, CHANGING)];
    Ok((headers, content).into_response())
}

async fn answer_file(state: &ServerState, digest: &str, name: &str, asked: Asked) -> Result<Response, Refusal> {
    if !is_digest(digest) {
        return Err(unknown_file());
    }
    let base = state.context.media.find_by_digest(digest)?;
    // The same files for everybody, without a token.
    send_part(state, base, name, asked, Box::new(|_| Ok(()))).await
}

/// Sends a file that is a part of the ISO.
async fn send_part(
    state: &ServerState,
    base: Arc<BaseMedium>,
    name: &str,
    asked: Asked,
    allowed: Allowed,
) -> Result<Response, Refusal> {
    let what = format!("{}{name}", network_boot::files(&base));
    let file = Download::network_file(base, name).ok_or_else(unknown_file)?;
    let description = Description {
        request: REQUEST,
        content_type: CONTENT_TYPE,
        cache_control: UNCHANGING,
        file_name: None,
        what,
        admit: MediaStore::admit_boot,
        allowed,
    };
    download::answer(state, file, description, asked).await
}

/// The registration of a boot token.
fn find(state: &ServerState, token: &str) -> Result<Arc<Registration>, Refusal> {
    let token: RegistrationToken = token.parse().map_err(|error: protocol::token::MalformedToken| {
        Refusal::new(RefusalCode::MalformedToken, format!("{error}; the boot URL was cut or mistyped"))
    })?;
    let registrations = &state.context.registrations;
    if !registrations.is_complete() {
        return Err(starting());
    }
    unexpired(state, registrations.find_for_boot(&token).ok_or_else(unknown_token)?)
}

fn unknown_file() -> Refusal {
    let message = "a network boot has no file of this name; take the URL from the registration's status.bootURLs";
    Refusal::new(RefusalCode::UnknownMedium, message)
}

#[cfg(test)]
mod tests;
