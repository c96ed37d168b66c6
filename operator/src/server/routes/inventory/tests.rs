//! Tests of `server::routes::inventory`.

use super::*;
use crate::fixtures::{self, FakeApi};
use crate::server::{Admission, router};
use api::SHARED_SECRET_TYPE;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::ServiceExt;

const AUTHORIZATION: &str = include_str!("../../../../../crates/protocol/testdata/first-release.authorization");

struct Scene {
    api: FakeApi,
    state: ServerState,
}

impl Scene {
    /// A scene with one inventory of this spec, and the Secret `s` with the shared secret.
    async fn new(spec: Value) -> Self {
        let api = FakeApi::default();
        let context = fixtures::context(&api);
        let object = fixtures::inventory("a", spec);
        let path = "/apis/rancheros.cattle.io/v1/namespaces/n/machineinventories/a";
        api.put(path, serde_json::to_value(&object).unwrap());
        context.inventory.index.enter(object);
        api.put_secret("s", SHARED_SECRET_TYPE, "secret");
        Self { api, state: ServerState::new(Arc::new(context), Admission::new(1).0) }
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, String) {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = router(self.state.clone()).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, headers, String::from_utf8(body.to_vec()).unwrap())
    }

    /// The configuration of a machine with a shared secret, or the code of the refusal.
    async fn ask(&self, secret: &str) -> Result<Value, RefusalCode> {
        let bearer = format!("Bearer {}", STANDARD.encode(secret));
        let (status, _, body) = self.get("/v1-rancheros/inventory", &[("authorization", &bearer)]).await;
        assert!(secret.is_empty() || !body.contains(&bearer[7..]), "the secret is not repeated: {body}");
        if status == StatusCode::OK {
            return Ok(serde_json::from_str(&body).unwrap());
        }
        let refusal: Refusal = serde_json::from_str(&body).unwrap();
        assert_eq!(refusal.code.http_status(), status.as_u16());
        Err(refusal.code)
    }
}

#[tokio::test]
async fn a_machine_with_a_shared_secret_gets_its_configuration() {
    let spec = json!({"machineTokenSecretName": "s", "config": {"role": "agent", "labels": {"a": "1"}}});
    let scene = Scene::new(spec).await;
    assert_eq!(scene.ask("secret").await, Ok(json!({"role": "agent", "nodeName": "a", "labels": ["a=1"]})));
    let inventory = scene.api.objects("machineinventories").pop().unwrap();
    assert_eq!(inventory["status"]["phase"], "Registered", "it was here");
    scene.api.take_requests();
    assert!(scene.ask("secret").await.is_ok());
    assert_eq!(scene.api.take_requests().len(), 1, "one read of the Secret, and no write");
}

#[tokio::test]
async fn every_refusal_has_its_own_code() {
    let with = |more: Value| {
        let mut spec = json!({"machineTokenSecretName": "s"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Scene::new(spec)
    };
    let code = async |more: Value, secret: &str| with(more).await.ask(secret).await.unwrap_err();
    assert_eq!(code(json!({}), "guess").await, RefusalCode::UnknownSecret);
    assert_eq!(code(json!({}), "").await, RefusalCode::Unauthenticated);
    assert_eq!(code(json!({}), "secret").await, RefusalCode::NotAssigned);
    assert_eq!(code(json!({"config": {"nodeName": "x"}}), "secret").await, RefusalCode::NotAssigned);
    assert_eq!(code(json!({"clusterName": "c"}), "secret").await, RefusalCode::ClusterTokenPending);
    assert_eq!(code(json!({"approved": false}), "secret").await, RefusalCode::ApprovalPending);
    assert_eq!(code(json!({}), &"x".repeat(MAX_SECRET)).await, RefusalCode::MessageTooBig);
    let scene = with(json!({})).await;
    scene.api.set_away(true);
    assert_eq!(scene.ask("secret").await, Err(RefusalCode::Unavailable));
}

#[tokio::test]
async fn requests_without_credentials_are_refused() {
    let scene = Scene::new(json!({"machineTokenSecretName": "s", "config": {"role": "agent"}})).await;
    for path in ["/v1-rancheros/inventory", "/v1-rancheros/x", "/v1-rancheros/a/b"] {
        for headers in [&[][..], &[("authorization", "Basic c2VjcmV0")], &[("authorization", "Bearer ")]] {
            let (status, _, body) = scene.get(path, headers).await;
            assert!(status == StatusCode::UNAUTHORIZED && body.contains("Unauthenticated"), "{path}: {body}");
        }
    }
    let (status, ..) = scene.get("/v1-rancheros/inventory", &[("authorization", "Bearer !")]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    // The public keys of a TPM prove nothing without an exchange over a websocket.
    let (status, ..) = scene.get("/v1-rancheros/inventory", &[("authorization", AUTHORIZATION)]).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, _, body) = scene.get("/v1-rancheros/registration/t/more", &[]).await;
    assert!(status == StatusCode::BAD_REQUEST && body.contains("MalformedToken"), "{body}");
}

#[tokio::test]
async fn authorities_are_public_and_hashed_for_known_machines() {
    let hash = "d68795c6192af9922692f050b1a4fe2bda5c93a1d8c0d8f1c8a0a7a8f6b1e3c4";
    let scene = Scene::new(json!({"machineTokenSecretName": "s", "tpm": hash})).await;
    let digest = |known: &str| format!("Bearer {}", STANDARD.encode(crate::digest::sha256(known.as_bytes())));
    for path in ["/cacerts", "/v1-rancheros/cacerts", "/v1-rancheros/some/cacerts"] {
        for (known, vouched) in [("secret", true), (hash, true), ("stranger", false)] {
            let headers = [("authorization", digest(known)), ("x-cattle-nonce", "n".to_owned())];
            let headers = headers.iter().map(|(name, value)| (*name, value.as_str())).collect::<Vec<_>>();
            let (status, answer, body) = scene.get(path, &headers).await;
            assert_eq!((status, body.as_str()), (StatusCode::OK, "PEM\n"));
            assert_eq!(answer.contains_key("x-cattle-hash"), vouched, "{known}");
        }
        let (status, answer, body) = scene.get(path, &[("authorization", &digest("secret"))]).await;
        assert!(status == StatusCode::OK && body == "PEM\n" && !answer.contains_key("x-cattle-hash"));
    }
}

proptest! {
    #[test]
    fn no_header_makes_it_panic(authorization: String, path: String) {
        let mut headers = HeaderMap::new();
        if let Ok(value) = format!("Bearer {authorization}").parse() {
            headers.insert(header::AUTHORIZATION, value);
        }
        let _ = Credential::of(&path, &headers);
    }
}
