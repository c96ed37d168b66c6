//! Downloads of installation media: a GET or HEAD of `…/media/<token>/<name>` returns a base medium with the settings
//! of the registration, whole or a range of it.

use super::registration;
use crate::context::Context;
use crate::media::{self, Customized, Selection, select};
use crate::registration::Registration;
use crate::registration::decide;
use crate::server::permits::Permit;
use crate::server::{ServerState, admission, refuse};
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use protocol::{Refusal, RefusalCode, error_chain};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout, timeout_at};

/// The request's name in metrics.
const REQUEST: &str = "media";
/// Deadline of checking a medium's file.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that are read and sent at once. They determine the memory of a download.
const PIECE: u64 = 64 * 1024;
/// How long a reader may take for one piece.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);
/// After this long without reading a piece the permit of the connection may be revoked.
const PATIENCE: Duration = Duration::from_secs(10);
/// Least average speed of a reader, in bytes per second. A slower one must request the rest again.
const SLOWEST: u64 = 32 * 1024;
/// The settings of a registration are private, and a cache would keep them after they have changed.
const CACHE_CONTROL: &str = "private, no-cache";

pub async fn open(
    State(state): State<ServerState>,
    Path((token, name)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
    connection: Option<Extension<Arc<Permit>>>,
) -> Response {
    let connection = connection.map(|Extension(permit)| permit);
    answer(&state, &token, &name, &method, &headers, connection).await.unwrap_or_else(|refusal| {
        state.context.metrics.count(REQUEST, Some(&refusal));
        tracing::info!(code = %refusal.code, "refused a medium");
        refuse(&refusal)
    })
}

async fn answer(
    state: &ServerState,
    token: &str,
    name: &str,
    method: &Method,
    headers: &HeaderMap,
    connection: Option<Arc<Permit>>,
) -> Result<Response, Refusal> {
    let registration = registration::find_for_media(state, token)?;
    if let Some(refusal) = decide::expired(&registration, state.context.clock.timestamp()) {
        return Err(refusal);
    }
    let base = state.context.media.find(name)?;
    let settings = registration.medium_settings(&state.context.endpoint());
    let medium = Customized::new(base, &settings).map_err(|error| {
        tracing::error!(error = error_chain(&error), "putting settings into a medium");
        Refusal::new(RefusalCode::Internal, "the operator's address and authorities do not fit into a medium")
    })?;
    let size = medium.size();
    let (status, range) = match select(method, headers, medium.etag(), size) {
        Selection::Whole => (StatusCode::OK, 0..size),
        Selection::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Selection::NotModified => {
            let length = [(header::CONTENT_LENGTH, size.to_string())];
            return Ok((StatusCode::NOT_MODIFIED, identity(&medium)?, length).into_response());
        }
        Selection::ConditionFailed => return Ok((StatusCode::PRECONDITION_FAILED, identity(&medium)?).into_response()),
        Selection::OutOfRange => {
            let whole = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, whole).into_response());
        }
    };
    let mut response = (status, identity(&medium)?, description(&registration, name, &range)).into_response();
    if status == StatusCode::PARTIAL_CONTENT {
        let part = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        response.headers_mut().insert(header::CONTENT_RANGE, header_value(part)?);
    }
    if *method == Method::GET {
        if state.admission.is_closing() {
            return Err(admission::shutting_down());
        }
        let (medium, permit) = admit(&state.context, medium).await?;
        let reader = Reader { connection, _permit: permit };
        let registration = format!("{}/{}", registration.namespace, registration.name);
        tracing::info!(registration, medium = name, ?range, "sending a medium");
        *response.body_mut() = body(state.context.clone(), medium, range, reader);
    }
    Ok(response)
}

/// A permit for a download, if the medium can still be read. A file system that does not answer blocks the thread,
/// which keeps the permit. So at most as many threads are blocked as there are permits.
async fn admit(context: &Context, medium: Customized) -> Result<(Customized, OwnedSemaphorePermit), Refusal> {
    let permit = context.media.admit()?;
    let looking = tokio::task::spawn_blocking(move || medium.is_unchanged().then_some((medium, permit)));
    match timeout(CHECK_TIMEOUT, looking).await {
        Ok(Ok(Some(admitted))) => Ok(admitted),
        _ => Err(media::changed_underneath()),
    }
}

/// The headers that identify this medium.
fn identity(medium: &Customized) -> Result<HeaderMap, Refusal> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ETAG, header_value(medium.etag().to_owned())?);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(CACHE_CONTROL));
    Ok(headers)
}

fn description(registration: &Registration, name: &str, range: &Range<u64>) -> [(HeaderName, String); 4] {
    [
        (header::CONTENT_TYPE, "application/x-iso9660-image".to_owned()),
        (header::CONTENT_LENGTH, (range.end - range.start).to_string()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
        // Both names are plain letters, digits, dots and dashes. Media of two registrations lie beside each other.
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{}-{name}\"", registration.name)),
    ]
}

fn header_value(text: String) -> Result<HeaderValue, Refusal> {
    HeaderValue::try_from(text).map_err(|_| Refusal::new(RefusalCode::Internal, "a header cannot be written"))
}

/// The reader of a medium.
struct Reader {
    /// The permit of its connection. Tests have none.
    connection: Option<Arc<Permit>>,
    /// The permit of the download.
    _permit: OwnedSemaphorePermit,
}

impl Reader {
    /// The reader took a piece: the deadline of its connection's permit starts again.
    fn keeps_up(&self) {
        if let Some(connection) = &self.connection {
            connection.start_deadline(PATIENCE);
        }
    }
}

/// The response body with this range of the medium. A task reads as fast as the client does. It releases the permit
/// when the client has taken the last piece, is gone, or is too slow. The connection is then closed before the
/// announced length.
fn body(context: Arc<Context>, medium: Customized, range: Range<u64>, reader: Reader) -> Body {
    let (pieces, taken) = mpsc::channel(1);
    tokio::spawn(async move {
        let downloads = context.metrics.downloads.clone();
        downloads.inc();
        let outcome = send(&context, &medium, range, &reader, &pieces).await;
        downloads.dec();
        drop(reader);
        match outcome {
            Ok(Sent::Whole) => context.metrics.count(REQUEST, None),
            Ok(Sent::ReaderGone) => tracing::debug!("the client closed a download"),
            Err(refusal) => {
                context.metrics.count(REQUEST, Some(&refusal));
                tracing::info!(code = %refusal.code, message = refusal.message, "a download of a medium was aborted");
            }
        }
    });
    Body::from_stream(stream::unfold(taken, |mut taken: mpsc::Receiver<std::io::Result<Bytes>>| async {
        taken.recv().await.map(|piece| (piece, taken))
    }))
}

enum Sent {
    Whole,
    ReaderGone,
}

async fn send(
    context: &Context,
    medium: &Customized,
    range: Range<u64>,
    reader: &Reader,
    pieces: &mpsc::Sender<std::io::Result<Bytes>>,
) -> Result<Sent, Refusal> {
    let too_slow = || {
        let message =
            format!("the client received less than {SLOWEST} bytes per second, or nothing for {PIECE_TIMEOUT:?}");
        Refusal::new(RefusalCode::DeadlineExceeded, message)
    };
    let last_moment = Instant::now() + PIECE_TIMEOUT + Duration::from_secs((range.end - range.start) / SLOWEST);
    let mut at = range.start;
    loop {
        let deadline = last_moment.min(Instant::now() + PIECE_TIMEOUT);
        // Once more after the last piece, to see that it was taken.
        let slot = match timeout_at(deadline, pieces.reserve()).await {
            Ok(Ok(slot)) => slot,
            // The client may close the connection as soon as it has the last piece.
            Ok(Err(_)) if at == range.end => return Ok(Sent::Whole),
            Ok(Err(_)) => return Ok(Sent::ReaderGone),
            Err(_) => return Err(too_slow()),
        };
        reader.keeps_up();
        if at == range.end {
            return Ok(Sent::Whole);
        }
        let part = at..range.end.min(at + PIECE);
        at = part.end;
        let length = part.end - part.start;
        let reading = medium.clone();
        let read =
            tokio::task::spawn_blocking(move || reading.read(part)).await.unwrap_or_else(|error| Err(error.into()));
        match read {
            Ok(bytes) => {
                context.metrics.downloaded.inc_by(length);
                slot.send(Ok(bytes.into()));
            }
            Err(error) => {
                tracing::warn!(%error, "reading a medium");
                slot.send(Err(error));
                return Err(media::changed_underneath());
            }
        }
    }
}

#[cfg(test)]
mod tests;
