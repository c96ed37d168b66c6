//! Answers a GET or HEAD of a file that is put together while it is sent: whole, or a range of it. The memory of a
//! download is bounded, and so is the time that its reader may take.

use super::permits::Permit;
use super::{ServerState, admission};
use crate::media::{self, Download, MediaStore, Selection, select};
use axum::body::{Body, Bytes};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use protocol::{Refusal, RefusalCode};
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout, timeout_at};

/// Deadline of checking a medium's file.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that are read and sent at once while there are few downloads.
const PIECE: u64 = 64 * 1024;
/// How many downloads are few.
const FEW: i64 = 16;
/// The same while there are more. Each takes longer anyway, and slow readers may keep the operator's memory for minutes.
const SMALL_PIECE: u64 = 4 * 1024;
/// Pieces that are read and not yet encrypted. They determine the memory of a download, of which there may be thousands.
const PIECES: usize = 2;
/// From so many bytes on a download has its connection for itself, which then needs no permit beside the download's. Shorter ones
/// come one after the other on a connection, from a server's management controller that shows a medium as its drive.
const LONG: u64 = 4 << 20;
/// How long a reader may take for one piece.
pub(super) const PIECE_TIMEOUT: Duration = Duration::from_secs(30);
/// After this long without reading a piece the permit of the connection may be revoked.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Least average speed of a reader, in bytes per second. A slower one must request the rest again.
const SLOWEST: u64 = 32 * 1024;

/// What a client asks for.
pub(super) struct Asked {
    method: Method,
    headers: HeaderMap,
    /// The permit of its connection. Tests have none.
    connection: Option<Arc<Permit>>,
}

impl<S: Sync> FromRequestParts<S> for Asked {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let connection = parts.extensions.get::<Arc<Permit>>().cloned();
        Ok(Self { method: parts.method.clone(), headers: parts.headers.clone(), connection })
    }
}

/// How a file is described to the client, in metrics and in the log.
pub(super) struct Description {
    /// The request's name in metrics.
    pub(super) request: &'static str,
    pub(super) content_type: &'static str,
    pub(super) cache_control: &'static str,
    /// The name under which a browser stores it: plain letters, digits, dots and dashes.
    pub(super) file_name: Option<String>,
    /// For the log.
    pub(super) what: String,
    /// Gives a permit for the download.
    pub(super) admit: fn(&MediaStore) -> Result<OwnedSemaphorePermit, Refusal>,
    /// Whether the token of the request still counts. Called before each piece, so it must be cheap.
    pub(super) allowed: Allowed,
}

pub(super) type Allowed = Box<dyn Fn(&ServerState) -> Result<(), Refusal> + Send + Sync>;

pub(super) async fn answer(
    state: &ServerState,
    file: Download,
    description: Description,
    asked: Asked,
) -> Result<Response, Refusal> {
    let size = file.size();
    let (status, range) = match select(&asked.method, &asked.headers, file.etag(), size) {
        Selection::Whole => (StatusCode::OK, 0..size),
        Selection::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Selection::NotModified => {
            let length = [(header::CONTENT_LENGTH, size.to_string())];
            return Ok((StatusCode::NOT_MODIFIED, identity(&file, &description)?, length).into_response());
        }
        Selection::ConditionFailed => {
            return Ok((StatusCode::PRECONDITION_FAILED, identity(&file, &description)?).into_response());
        }
        Selection::OutOfRange => {
            let whole = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, whole).into_response());
        }
    };
    let length = [(header::CONTENT_LENGTH, (range.end - range.start).to_string())];
    let mut response = (status, identity(&file, &description)?, content_headers(&description)?, length).into_response();
    if status == StatusCode::PARTIAL_CONTENT {
        let part = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        response.headers_mut().insert(header::CONTENT_RANGE, header_value(part)?);
    }
    if asked.method == Method::GET {
        if state.admission.is_closing() {
            return Err(admission::shutting_down());
        }
        let (file, permit) = admit((description.admit)(&state.context.media)?, file).await?;
        if range.end - range.start >= LONG {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            asked.connection.iter().for_each(|connection| connection.release());
        }
        let reader = Reader { connection: asked.connection, _permit: permit };
        tracing::info!(what = description.what, ?range, "sending a medium");
        *response.body_mut() = body(state.clone(), description, file, range, reader);
    }
    Ok(response)
}

/// The permit of a download, if the medium can still be read. A file system that does not answer blocks the thread,
/// which keeps the permit. So at most as many threads are blocked as there are permits.
async fn admit(permit: OwnedSemaphorePermit, medium: Download) -> Result<(Download, OwnedSemaphorePermit), Refusal> {
    let looking = tokio::task::spawn_blocking(move || medium.is_unchanged().then_some((medium, permit)));
    match timeout(CHECK_TIMEOUT, looking).await {
        Ok(Ok(Some(admitted))) => Ok(admitted),
        _ => Err(media::changed_underneath()),
    }
}

/// The headers that identify this file.
fn identity(file: &Download, description: &Description) -> Result<HeaderMap, Refusal> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ETAG, header_value(file.etag().to_owned())?);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(description.cache_control));
    Ok(headers)
}

fn content_headers(description: &Description) -> Result<HeaderMap, Refusal> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(description.content_type));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(name) = &description.file_name {
        headers.insert(header::CONTENT_DISPOSITION, header_value(format!("attachment; filename=\"{name}\""))?);
    }
    Ok(headers)
}

fn header_value(text: String) -> Result<HeaderValue, Refusal> {
    HeaderValue::try_from(text).map_err(|_| Refusal::new(RefusalCode::Internal, "a header cannot be written"))
}

/// The reader of a medium.
struct Reader {
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
/// when the client has taken the last piece, is gone, or is too slow, or when its token no longer counts. The connection
/// is then closed before the announced length.
fn body(state: ServerState, description: Description, medium: Download, range: Range<u64>, reader: Reader) -> Body {
    let (pieces, taken) = mpsc::channel(PIECES);
    tokio::spawn(async move {
        let metrics = &state.context.metrics;
        metrics.downloads.inc();
        let outcome = send(&state, &description.allowed, &medium, range, &reader, &pieces).await;
        metrics.downloads.dec();
        drop(reader);
        match outcome {
            Ok(Sent::Whole) => metrics.count(description.request, None),
            Ok(Sent::ReaderGone) => tracing::debug!("the client closed a download"),
            Err(refusal) => {
                metrics.count(description.request, Some(&refusal));
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
    state: &ServerState,
    allowed: &Allowed,
    medium: &Download,
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
    let places = Arc::new(Semaphore::new(PIECES));
    let mut at = range.start;
    loop {
        let deadline = last_moment.min(Instant::now() + PIECE_TIMEOUT);
        // After the last piece all places, to see that it was taken.
        let wanted = if at == range.end { PIECES } else { 1 };
        let place = tokio::select! {
            place = timeout_at(deadline, places.clone().acquire_many_owned(wanted as u32)) => match place {
                Ok(place) => place.expect("nobody closes the places"),
                Err(_) => return Err(too_slow()),
            },
            // The client may close the connection as soon as it has the last piece.
            () = pieces.closed() => return Ok(if at == range.end { Sent::Whole } else { Sent::ReaderGone }),
        };
        reader.keeps_up();
        if at == range.end {
            return Ok(Sent::Whole);
        }
        allowed(state)?;
        let piece = if state.context.metrics.downloads.get() <= FEW { PIECE } else { SMALL_PIECE };
        let part = at..range.end.min(at + piece);
        at = part.end;
        let length = part.end - part.start;
        let reading = medium.clone();
        let read =
            tokio::task::spawn_blocking(move || reading.read(part)).await.unwrap_or_else(|error| Err(error.into()));
        match read {
            Ok(bytes) => {
                state.context.metrics.downloaded.inc_by(length);
                // An error is seen in the next round.
                let _ = pieces.send(Ok(Bytes::from_owner(Piece { bytes, _place: place }))).await;
            }
            Err(error) => {
                tracing::warn!(%error, "reading a medium");
                let _ = pieces.send(Err(error)).await;
                return Err(media::changed_underneath());
            }
        }
    }
}

/// Has its place until it was encrypted or dropped. hyper would take more pieces, up to the most bytes of a header, before it
/// makes the stream wait.
struct Piece {
    bytes: Vec<u8>,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
