//! Serves files by HTTP/1.1, whole. Connections and the patience with them are bounded.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{self, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep, sleep_until};

use super::event::{Event, Protocol, Reporter, shown};
use super::files::{Files, ServedFile};

/// Connections at a time. Others wait to be accepted.
const CONNECTIONS: usize = 256;
/// From the first byte of a request to the end of its headers.
const HEADERS: Duration = Duration::from_secs(10);
/// A connection that does not move for so long is closed.
const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes of all headers of a request.
const HEADER_BYTES: usize = 16 * 1024;
/// Bytes of a file that are read and sent at once.
const PIECE: u64 = 128 * 1024;
/// The pause after an error, mostly for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves for ever.
pub async fn serve(listener: TcpListener, files: Arc<Files>, reporter: Reporter) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, client)) => {
                let client = match client.ip() {
                    IpAddr::V4(address) => address,
                    IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
                };
                let files = files.clone();
                tokio::spawn(async move {
                    converse(stream, client, &files, reporter).await;
                    drop(place);
                });
            }
            Err(error) => {
                reporter.warn(format_args!("HTTP: {error}"));
                sleep(PAUSE).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, client: Ipv4Addr, files: &Files, reporter: Reporter) {
    let progress = Progress::new();
    let answering = service_fn(async |request: Request<Incoming>| {
        progress.moved();
        Ok::<_, Infallible>(answer(&request, client, files, &progress, reporter))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(HEADER_BYTES)
        // GRUB 2.12 takes only `Content-Length` for what it is.
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), answering);
    tokio::select! {
        // An error is a client that has gone, and the body has told it.
        _ = connection => {}
        () = progress.stalled() => {}
    }
}

fn answer<B>(
    request: &Request<B>,
    client: Ipv4Addr,
    files: &Files,
    progress: &Progress,
    reporter: Reporter,
) -> Response<Content> {
    let path = request.uri().path();
    let response = Response::builder();
    let answered = match (request.method(), files.find(path)) {
        (&Method::GET | &Method::HEAD, Some(file)) => {
            let sending = || Sending { file: file.clone(), sent: 0, client, progress: progress.clone(), reporter };
            response
                .header(CONTENT_TYPE, content_type(file.name))
                .header(CONTENT_LENGTH, file.size())
                .body(Content((request.method() == Method::GET).then(sending)))
        }
        (&Method::GET | &Method::HEAD, None) => {
            reporter.tell(&Event::Unknown { client, protocol: Protocol::Http, path: shown(path) });
            response.status(StatusCode::NOT_FOUND).body(Content(None))
        }
        _ => response.status(StatusCode::METHOD_NOT_ALLOWED).header(ALLOW, "GET, HEAD").body(Content(None)),
    };
    // Every part of these answers is valid.
    answered.unwrap_or_default()
}

/// UEFI starts only what has a type that it knows (UEFI specification 2.10, section 24.7.6).
fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.') {
        Some((_, "efi")) => "application/efi",
        Some((_, "cfg" | "ipxe")) => "text/plain",
        _ => "application/octet-stream",
    }
}

/// The content of an answer, which is read as the client takes it.
#[derive(Default)]
struct Content(Option<Sending>);

struct Sending {
    file: ServedFile,
    /// In bytes.
    sent: u64,
    client: Ipv4Addr,
    progress: Progress,
    reporter: Reporter,
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(self.0.as_mut().and_then(Sending::piece).map(|piece| piece.map(|bytes| Frame::data(bytes.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left())
    }
}

impl Content {
    fn left(&self) -> u64 {
        self.0.as_ref().map_or(0, Sending::left)
    }
}

impl Sending {
    /// The next bytes; `None` at the end.
    fn piece(&mut self) -> Option<io::Result<Vec<u8>>> {
        self.progress.moved();
        let range = self.sent..(self.sent + PIECE).min(self.file.size());
        if range.is_empty() {
            return None;
        }
        let piece = block_in_place(|| self.file.read(range.clone()));
        if piece.is_ok() {
            self.sent = range.end;
        }
        Some(piece)
    }

    fn left(&self) -> u64 {
        self.file.size() - self.sent
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let (client, protocol, file, bytes) = (self.client, Protocol::Http, self.file.name, self.sent);
        self.reporter.tell(&match self.left() == 0 {
            true => Event::Loaded { client, protocol, file, bytes },
            false => Event::Interrupted { client, protocol, file, bytes },
        });
    }
}

/// When a connection last moved.
#[derive(Clone)]
struct Progress(Arc<Mutex<Instant>>);

impl Progress {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn moved(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Ends when the connection has not moved for [`PATIENCE`].
    async fn stalled(&self) {
        loop {
            let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner) + PATIENCE;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn exchange(files: Files, request: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let server = tokio::spawn(serve(listener, Arc::new(files), Reporter { json: false }));
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        server.abort();
        answer
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn files_are_sent_whole_with_headers_that_grub_knows() {
        let get =
            |method: &str, path: &str| format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        for (request, status, end) in [
            (get("GET", "//shimx64.efi"), "200 OK", "\r\n\r\ncontent of shimx64.efi"),
            (get("HEAD", "/shimx64.efi"), "200 OK", "\r\n\r\n"),
            (get("GET", "/../etc/passwd"), "404 Not Found", "\r\n\r\n"),
            (get("PUT", "/shimx64.efi"), "405 Method Not Allowed", "\r\n\r\n"),
            ("nonsense\r\n\r\n".to_owned(), "400 Bad Request", "\r\n\r\n"),
        ] {
            let answer = exchange(super::super::files::tests::files(), &request).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}\r\n")) && answer.ends_with(end),
                "{request}{answer}"
            );
            if status == "200 OK" {
                assert!(answer.contains("\r\nContent-Length: 22\r\n"), "{answer}");
                assert!(answer.contains("\r\nContent-Type: application/efi\r\n"), "{answer}");
            }
        }
    }
}
