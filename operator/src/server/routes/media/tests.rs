//! Tests of `server::routes::media`.

use super::*;
use crate::context::Context;
use crate::fixtures::{self, FakeApi};
use crate::media::{MediaStore, PATH, Source};
use crate::server::download::{PATIENCE, PIECE_TIMEOUT};
use crate::server::permits::Permits;
use crate::server::{Admission, router};
use ::media::reserved_space;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use futures::{FutureExt, StreamExt};
use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tower::ServiceExt;

const TOKEN: &str = "tttttttttttttttttttttttttttttttttttttttttttttttttttttt";
const NAME: &str = "ros.iso";

/// The state of a server with one medium and this many permits for downloads.
async fn state(spec: Value, most: usize) -> (ServerState, TempDir) {
    let (store, folder) = fixtures::media_store(NAME, most).await;
    (state_with(spec, store), folder)
}

fn state_with(spec: Value, store: MediaStore) -> ServerState {
    let context = Context { media: store, ..fixtures::context(&FakeApi::default()) };
    context.registrations.apply(&Event::Apply(fixtures::registration(spec, TOKEN)));
    ServerState::new(Arc::new(context), Admission::new(1).0)
}

async fn ask(state: &ServerState, method: Method, path: &str, headers: &[(header::HeaderName, &str)]) -> Response {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    router(state.clone()).oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

async fn get(state: &ServerState, headers: &[(header::HeaderName, &str)]) -> Response {
    ask(state, Method::GET, &format!("{PATH}/{TOKEN}/{NAME}"), headers).await
}

async fn bytes(response: Response) -> Vec<u8> {
    fixtures::received(response.into_body()).await.unwrap()
}

async fn code(response: Response) -> RefusalCode {
    serde_json::from_slice::<Refusal>(&bytes(response).await).unwrap().code
}

fn text(response: &Response, name: header::HeaderName) -> &str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// The medium that `ros-image customize` would make with the settings from the registration URL.
async fn customized(state: &ServerState, folder: &FilePath) -> Vec<u8> {
    let url = format!("{}/{TOKEN}", crate::registration::PATH);
    let settings = bytes(ask(state, Method::GET, &url, &[]).await).await;
    let settings = reserved_space::filled(std::str::from_utf8(&settings).unwrap()).unwrap();
    let mut medium = std::fs::read(folder.join(NAME)).unwrap();
    let mut volume = ::media::iso9660::Volume::open(std::io::Cursor::new(&medium)).unwrap();
    let space = reserved_space::find(&mut volume).unwrap().offset as usize;
    let id = reserved_space::volume_id(&volume.id, reserved_space::digest(&settings).as_deref());
    let id_at = volume.id_extent.offset as usize;
    medium[space..space + settings.len()].copy_from_slice(&settings);
    medium[id_at..id_at + id.len()].copy_from_slice(&id);
    medium
}

#[tokio::test]
async fn the_whole_and_its_parts_equal_the_output_of_customize() {
    let (state, folder) = state(json!({}), 1).await;
    let expected = customized(&state, folder.path()).await;
    let response = get(&state, &[]).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(text(&response, header::CONTENT_LENGTH), expected.len().to_string());
    assert_eq!(text(&response, header::CONTENT_DISPOSITION), "attachment; filename=\"door-ros.iso\"");
    assert_eq!(text(&response, header::ACCEPT_RANGES), "bytes");
    assert!(bytes(response).await == expected);
    // Parts that begin before, within and after the settings, and the whole.
    let size = expected.len();
    for (start, end) in [(0, size), (0, 40_000), (40_000, 100_000), (100_000, size), (size - 1, size)] {
        let response = get(&state, &[(header::RANGE, &format!("bytes={start}-{}", end - 1))]).await;
        assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(text(&response, header::CONTENT_RANGE), format!("bytes {start}-{}/{size}", end - 1));
        assert_eq!(text(&response, header::CONTENT_LENGTH), (end - start).to_string());
        assert!(bytes(response).await == expected[start..end], "{start}..{end}");
    }
}

#[tokio::test]
async fn unchanged_media_and_bad_ranges_are_answered_without_a_body() {
    let (state, folder) = state(json!({}), 0).await;
    let size = std::fs::metadata(folder.path().join(NAME)).unwrap().len();
    // There is no permit for a download. These requests need none.
    let head = ask(&state, Method::HEAD, &format!("{PATH}/{TOKEN}/{NAME}"), &[]).await;
    assert_eq!((head.status(), text(&head, header::CONTENT_LENGTH)), (StatusCode::OK, size.to_string().as_str()));
    let etag = text(&head, header::ETAG).to_owned();
    assert!(etag.starts_with('"') && !etag.contains(TOKEN), "{etag}");
    assert!(bytes(head).await.is_empty());
    let known = get(&state, &[(header::IF_NONE_MATCH, &etag)]).await;
    assert_eq!((known.status(), text(&known, header::ETAG)), (StatusCode::NOT_MODIFIED, etag.as_str()));
    let beyond = get(&state, &[(header::RANGE, &format!("bytes={size}-"))]).await;
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(text(&beyond, header::CONTENT_RANGE), format!("bytes */{size}"));
    assert_eq!(get(&state, &[(header::IF_MATCH, "\"other\"")]).await.status(), StatusCode::PRECONDITION_FAILED);
}

#[tokio::test]
async fn resuming_another_medium_returns_the_whole_of_this_one() {
    let (state, folder) = state(json!({}), 1).await;
    let head = ask(&state, Method::HEAD, &format!("{PATH}/{TOKEN}/{NAME}"), &[]).await;
    let etag = text(&head, header::ETAG).to_owned();
    let size = std::fs::metadata(folder.path().join(NAME)).unwrap().len();
    let range = (header::RANGE, "bytes=5-");
    for (tag, status, length) in
        [(etag.as_str(), StatusCode::PARTIAL_CONTENT, size - 5), ("\"other\"", StatusCode::OK, size)]
    {
        let response = get(&state, &[range.clone(), (header::IF_RANGE, tag)]).await;
        assert_eq!(response.status(), status, "{tag}");
        assert_eq!(bytes(response).await.len() as u64, length);
    }
}

#[tokio::test]
async fn a_wrong_token_or_name_reveals_nothing_else() {
    let (open, _folder) = state(json!({}), 1).await;
    let stranger = TOKEN.replace('t', "u");
    for (path, refused, status) in [
        (format!("{PATH}/short/{NAME}"), RefusalCode::MalformedToken, StatusCode::BAD_REQUEST),
        (format!("{PATH}/{stranger}/{NAME}"), RefusalCode::UnknownToken, StatusCode::NOT_FOUND),
        (format!("{PATH}/{stranger}/other.iso"), RefusalCode::UnknownToken, StatusCode::NOT_FOUND),
        (format!("{PATH}/{TOKEN}/other.iso"), RefusalCode::UnknownMedium, StatusCode::NOT_FOUND),
        (format!("{PATH}/{TOKEN}/..%2F{NAME}"), RefusalCode::UnknownMedium, StatusCode::NOT_FOUND),
        (format!("{PATH}/{TOKEN}"), RefusalCode::Unauthenticated, StatusCode::UNAUTHORIZED),
    ] {
        let response = ask(&open, Method::GET, &path, &[]).await;
        assert_eq!(response.status(), status, "{path}");
        let body = String::from_utf8(bytes(response).await).unwrap();
        assert!(!body.contains(&stranger) && !body.contains(TOKEN), "{body}");
        assert_eq!(serde_json::from_str::<Refusal>(&body).unwrap().code, refused, "{path}");
    }
    let (expired, _folder) = state(json!({"expiresAt": "2020-01-01T00:00:00Z"}), 1).await;
    assert_eq!(code(get(&expired, &[]).await).await, RefusalCode::RegistrationExpired);
    let post = ask(&open, Method::POST, &format!("{PATH}/{TOKEN}/{NAME}"), &[]).await;
    assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn media_that_are_not_scanned_yet_are_unavailable() {
    // The watcher does not run, so nothing is scanned.
    let (store, _watcher) = MediaStore::new(Some(Source { path: "/nothing".into(), origin: None }), 1);
    let response = get(&state_with(json!({}), store), &[]).await;
    assert!(response.headers().contains_key(header::RETRY_AFTER));
    assert_eq!(code(response).await, RefusalCode::Unavailable);
    let without = MediaStore::new(None, 1).0;
    assert_eq!(code(get(&state_with(json!({}), without), &[]).await).await, RefusalCode::UnknownMedium);
}

#[tokio::test]
async fn a_medium_that_is_written_to_is_not_served() {
    let (state, folder) = state(json!({}), 1).await;
    let begun = get(&state, &[]).await;
    let file = std::fs::File::options().write(true).open(folder.path().join(NAME)).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    assert!(fixtures::received(begun.into_body()).await.is_err(), "a download that has begun ends early");
    assert_eq!(code(get(&state, &[]).await).await, RefusalCode::Unavailable);
}

#[tokio::test]
async fn a_download_ends_when_its_token_no_longer_counts() {
    let (state, folder) = state(json!({}), 1).await;
    let whole = std::fs::metadata(folder.path().join(NAME)).unwrap().len();
    let expired = json!({"expiresAt": "2020-01-01T00:00:00Z"});
    for (change, code) in [
        (fixtures::registration(expired, TOKEN), "RegistrationExpired"),
        (fixtures::registration(json!({}), &TOKEN.replace('t', "u")), "UnknownToken"),
    ] {
        state.context.registrations.apply(&Event::Apply(fixtures::registration(json!({}), TOKEN)));
        let begun = get(&state, &[]).await;
        assert_eq!(begun.status(), StatusCode::OK);
        state.context.registrations.apply(&Event::Apply(change));
        // What was read before may still come.
        assert!((bytes(begun).await.len() as u64) < whole, "{code}");
        let text = state.context.metrics.text(&state.context.inventory.index).unwrap();
        assert!(text.contains(&format!(r#"{{request="media",result="refused",code="{code}"}} 1"#)), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_too_many_must_come_back_and_a_slow_reader_loses_its_permit() {
    let (state, _folder) = state(json!({}), 1).await;
    let slow = get(&state, &[]).await;
    let busy = get(&state, &[]).await;
    assert_eq!(
        (busy.status(), busy.headers().contains_key(header::RETRY_AFTER)),
        (StatusCode::TOO_MANY_REQUESTS, true)
    );
    assert_eq!(code(busy).await, RefusalCode::Busy);
    // The reader takes nothing, and the paused clock advances while nothing can run.
    tokio::time::sleep(PIECE_TIMEOUT + Duration::from_secs(1)).await;
    let next = get(&state, &[]).await;
    assert_eq!(next.status(), StatusCode::OK);
    let whole = bytes(next).await.len();
    assert!(bytes(slow).await.len() < whole, "the slow one's connection is closed before the promised length");
    // A reader that disconnects releases its permit as well.
    drop(get(&state, &[]).await);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(get(&state, &[]).await.status(), StatusCode::OK);
    let text = state.context.metrics.text(&state.context.inventory.index).unwrap();
    assert!(text.contains(r#"{request="media",result="refused",code="DeadlineExceeded"} 1"#), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_keeps_up_keeps_its_connection() {
    let (state, _folder) = state(json!({}), 1).await;
    let permits = Permits::new(1);
    let connection = Arc::new(permits.acquire().await);
    let mut request = Request::get(format!("{PATH}/{TOKEN}/{NAME}")).body(Body::empty()).unwrap();
    request.extensions_mut().insert(connection.clone());
    let response = router(state).oneshot(request).await.unwrap();
    // The listener does this when it has the answer.
    connection.start_deadline(PATIENCE);
    let mut pieces = response.into_body().into_data_stream();
    for piece in 0..3 {
        assert!(pieces.next().await.is_some_and(|piece| piece.is_ok()));
        tokio::time::sleep(PATIENCE - Duration::from_secs(1)).await;
        assert!(
            permits.try_acquire(None).await.is_none() && connection.revoked().now_or_never().is_none(),
            "piece {piece}"
        );
    }
    tokio::time::sleep(PATIENCE).await;
    assert!(permits.try_acquire(None).await.is_none(), "it holds the place until it is told");
    assert!(connection.revoked().now_or_never().is_some(), "one that took nothing is asked for it");
}

#[tokio::test]
async fn a_long_download_leaves_the_permit_of_its_connection_to_others() {
    let folder = tempfile::tempdir().unwrap();
    let medium = std::fs::File::options().write(true).open(fixtures::base_medium(folder.path(), NAME, 7)).unwrap();
    medium.set_len(5 << 20).unwrap();
    let state = state_with(json!({}), fixtures::serve(folder.path(), 2).await);
    let permits = Permits::new(1);
    for (range, is_long) in [("bytes=0-1000", false), ("bytes=0-", true)] {
        let connection = Arc::new(permits.acquire().await);
        let request = Request::get(format!("{PATH}/{TOKEN}/{NAME}")).header(header::RANGE, range);
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(connection.clone());
        let response = router(state.clone()).oneshot(request).await.unwrap();
        assert_eq!(permits.try_acquire(None).await.is_some(), is_long, "{range}");
        assert_eq!(text(&response, header::CONNECTION), if is_long { "close" } else { "" }, "{range}");
        let received = bytes(response).await.len();
        assert_eq!(received, if is_long { 5 << 20 } else { 1001 });
    }
}
