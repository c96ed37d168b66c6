//! Tests of `server`.

use super::*;
use crate::fixtures::{self, FakeApi};
use axum::body::{Body, to_bytes};
use axum::http::Request;
use kube::runtime::watcher::Event;
use protocol::RefusalCode;
use serde_json::{Value, json};
use tower::ServiceExt;

const TOKEN: &str = "tttttttttttttttttttttttttttttttttttttttttttttttttttttt";

struct Answer {
    status: StatusCode,
    retry_after: bool,
    body: String,
}

impl Answer {
    fn code(&self) -> RefusalCode {
        serde_json::from_str::<Refusal>(&self.body).unwrap().code
    }
}

fn state(spec: Value) -> ServerState {
    let context = fixtures::context(&FakeApi::default());
    context.registrations.apply(&Event::Apply(fixtures::registration(spec, TOKEN)));
    ServerState::new(Arc::new(context), Admission::new(1).0)
}

async fn get(state: ServerState, path: &str) -> Answer {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = router(state).oneshot(request).await.unwrap();
    let status = response.status();
    let retry_after = response.headers().contains_key(header::RETRY_AFTER);
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    Answer { status, retry_after, body: String::from_utf8(body.to_vec()).unwrap() }
}

#[tokio::test]
async fn a_plain_get_of_the_url_returns_the_settings_of_a_medium() {
    let answer = get(state(json!({})), &format!("{PATH}/{TOKEN}")).await;
    assert_eq!(answer.status, StatusCode::OK);
    let yaml = answer.body.strip_prefix("#cloud-config\n").unwrap();
    let settings: Value = serde_yaml::from_str(yaml).unwrap();
    let install = &settings["rancheros"]["install"];
    assert_eq!(install["registrationURL"], format!("https://ros.example.org{PATH}/{TOKEN}"));
    assert_eq!(install["registrationCACert"], "PEM\n");
}

#[tokio::test]
async fn a_wrong_token_reveals_nothing_else() {
    for (token, code, status) in [
        ("short", RefusalCode::MalformedToken, StatusCode::BAD_REQUEST),
        (&TOKEN.replace('t', "u"), RefusalCode::UnknownToken, StatusCode::NOT_FOUND),
    ] {
        let answer = get(state(json!({})), &format!("{PATH}/{token}")).await;
        assert_eq!((answer.status, answer.code()), (status, code));
        assert!(!answer.body.contains(token));
    }
    let answer = get(state(json!({"expiresAt": "2020-01-01T00:00:00Z"})), &format!("{PATH}/{TOKEN}")).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::GONE, RefusalCode::RegistrationExpired));
}

#[tokio::test]
async fn a_websocket_that_cannot_be_one_is_refused_with_a_reason() {
    let request = Request::get(format!("{PATH}/{TOKEN}")).header(header::UPGRADE, "websocket");
    let response = router(state(json!({}))).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn health_and_certificates_are_public_and_contain_no_machine() {
    for (path, content) in
        [("/healthz", "ok"), ("/readyz", "ok"), ("/cacerts", "PEM"), ("/metrics", "rancheros_exchanges")]
    {
        let answer = get(state(json!({})), path).await;
        assert!(answer.status.is_success() && answer.body.contains(content), "{path}: {}", answer.body);
        assert!(!answer.body.contains(TOKEN));
    }
    assert_eq!(get(state(json!({})), "/v1-rancheros/inventory").await.code(), RefusalCode::Unauthenticated);
}

#[tokio::test]
async fn the_operator_is_not_ready_while_it_starts_or_stops() {
    let (admission, drain) = Admission::new(1);
    let closing = ServerState { admission, ..state(json!({})) };
    drain.close(std::time::Duration::from_millis(1)).await;
    assert_eq!(get(closing, "/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);

    let mut context = fixtures::context(&FakeApi::default());
    context.registrations = Default::default();
    let starting = ServerState::new(Arc::new(context), Admission::new(1).0);
    assert_eq!(get(starting.clone(), "/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
    let answer = get(starting, &format!("{PATH}/{TOKEN}")).await;
    assert_eq!((answer.code(), answer.retry_after), (RefusalCode::Unavailable, true));
}
