//! Media for downloading: a GET or HEAD of `…/media/<token>/<name>` gives a base medium with the registration's
//! settings in it, whole or in parts, a piece at a time.

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
use protocol::{Refusal, RefusalCode};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout, timeout_at};

/// What metrics call these requests.
const REQUEST: &str = "media";
/// How long a look at a medium's file may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// What is read and handed on at once: with what waits for the socket, the memory that a download takes.
const PIECE: u64 = 64 * 1024;
/// How long a reader may take for one piece.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);
/// The same when others wait for its connection's place.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a reader must take on average, in bytes per second; a slower one has to ask for the rest again.
const SLOWEST: u64 = 32 * 1024;
/// Settings of a registration are private, and a cache that kept a medium would keep them after they changed.
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
        tracing::error!(error = format!("{error:#}"), "making a medium");
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

/// A place for a download, if the medium can still be read. A file system that is away holds up whoever looks at it, and
/// then the place, too: no more threads wait for it than there are places.
async fn admit(context: &Context, medium: Customized) -> Result<(Customized, OwnedSemaphorePermit), Refusal> {
    let permit = context.media.admit()?;
    let looking = tokio::task::spawn_blocking(move || medium.is_unchanged().then_some((medium, permit)));
    match timeout(CHECK_TIMEOUT, looking).await {
        Ok(Ok(Some(admitted))) => Ok(admitted),
        _ => Err(media::changed_underneath()),
    }
}

/// What tells this medium from every other.
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

/// Who takes a medium.
struct Reader {
    /// The place of its connection, where it comes over one.
    connection: Option<Arc<Permit>>,
    /// Of the downloads.
    _permit: OwnedSemaphorePermit,
}

impl Reader {
    /// It took a piece: as long as it goes on, nobody gets its connection's place.
    fn keeps_up(&self) {
        if let Some(connection) = &self.connection {
            connection.start_deadline(PATIENCE);
        }
    }
}

/// These bytes of the medium. They are read as fast as they are taken, by a task that holds the place and gives it back
/// when the last piece was taken, or when the reader is gone or too slow: the connection is then closed before the
/// length that was promised.
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
            Ok(Sent::ReaderGone) => tracing::debug!("a medium's reader went away"),
            Err(refusal) => {
                context.metrics.count(REQUEST, Some(&refusal));
                tracing::info!(code = %refusal.code, message = refusal.message, "a medium was not sent to its end");
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
        let message = format!("a reader took less than {SLOWEST} bytes per second, or nothing for {PIECE_TIMEOUT:?}");
        Refusal::new(RefusalCode::DeadlineExceeded, message)
    };
    let last_moment = Instant::now() + PIECE_TIMEOUT + Duration::from_secs((range.end - range.start) / SLOWEST);
    let mut at = range.start;
    loop {
        let deadline = last_moment.min(Instant::now() + PIECE_TIMEOUT);
        // Once more after the last piece: to see it taken.
        let slot = match timeout_at(deadline, pieces.reserve()).await {
            Ok(Ok(slot)) => slot,
            // Who has the last piece needs nothing more, and may be gone before that is seen.
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
