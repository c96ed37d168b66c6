//! Downloads of installation media: a GET or HEAD of `…/media/<token>/<name>` returns a base medium with the settings
//! of the registration, whole or a range of it.

use super::registration::find_for_media;
use crate::media::{Download, MediaStore};
use crate::server::download::{self, Asked, Description};
use crate::server::{ServerState, refuse};
use axum::extract::{Path, State};
use axum::response::Response;
use protocol::{Refusal, RefusalCode, error_chain};

/// The request's name in metrics.
const REQUEST: &str = "media";
/// The settings of a registration are private, and a cache would keep them after they have changed.
const CACHE_CONTROL: &str = "private, no-cache";

pub async fn open(
    State(state): State<ServerState>,
    Path((token, name)): Path<(String, String)>,
    asked: Asked,
) -> Response {
    answer(&state, &token, &name, asked).await.unwrap_or_else(|refusal| {
        state.context.metrics.count(REQUEST, Some(&refusal));
        tracing::info!(code = %refusal.code, "refused a medium");
        refuse(&refusal)
    })
}

async fn answer(state: &ServerState, token: &str, name: &str, asked: Asked) -> Result<Response, Refusal> {
    let registration = find_for_media(state, token)?;
    let base = state.context.media.find(name)?;
    let settings = registration.medium_settings(&state.context.endpoint());
    let medium = Download::customized(base, &settings).map_err(|error| {
        tracing::error!(error = error_chain(&error), "putting settings into a medium");
        Refusal::new(RefusalCode::Internal, "the operator's address and authorities do not fit into a medium")
    })?;
    let description = Description {
        request: REQUEST,
        content_type: if name.ends_with(".iso") { "application/x-iso9660-image" } else { "application/octet-stream" },
        cache_control: CACHE_CONTROL,
        // Both names are plain letters, digits, dots and dashes. Media of two registrations lie beside each other.
        file_name: Some(format!("{}-{name}", registration.name)),
        what: format!("{}/{} {name}", registration.namespace, registration.name),
        admit: MediaStore::admit,
        allowed: {
            let token = token.to_owned();
            Box::new(move |state| find_for_media(state, &token).map(drop))
        },
    };
    download::answer(state, medium, description, asked).await
}

#[cfg(test)]
mod tests;
