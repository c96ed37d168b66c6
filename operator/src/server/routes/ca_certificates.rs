//! The authorities to trust, for clients that do not trust the operator yet. A machine of the first release has no
//! pinned authority: it asks with a digest of its identity and checks the keyed hash of the answer.
//!
//! Source: rancher/os2 v0.1.0-alpha12 `pkg/server/cacert.go`; rancher/rancherd `pkg/cacerts/cacerts.go`. A TPM hash is
//! not secret, so for a machine with a TPM the keyed hash proves only that the sender knows the machine.

use super::first_release::header_text;
use crate::context::Context;
use crate::server::ServerState;
use aws_lc_rs::hmac;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use base64::{Engine, engine::general_purpose::STANDARD};

const NONCE_HEADER: &str = "x-cattle-nonce";
const HASH_HEADER: &str = "x-cattle-hash";
/// Clients send 54 characters.
const MAX_NONCE: usize = 1024;
/// Length of a SHA-256 in base64.
const DIGEST_LENGTH: usize = 44;

pub async fn show(State(state): State<ServerState>, headers: HeaderMap) -> Response {
    let text = with_end_of_line(state.context.endpoint().ca_bundle);
    let hash = match question(&headers) {
        Some((digest, nonce)) => keyed_hash(&state.context, &digest, nonce, &text).await,
        None => None,
    };
    let plain = [(header::CONTENT_TYPE, "text/plain")];
    match hash {
        Some(hash) => (plain, [(HASH_HEADER, hash)], text).into_response(),
        // A client that is unknown, or cannot be looked up now, gets the authorities without a keyed hash.
        None => (plain, text).into_response(),
    }
}

/// The digest of the machine's identity (TPM hash or shared secret), and its nonce.
fn question(headers: &HeaderMap) -> Option<([u8; 32], &str)> {
    let nonce = header_text(headers, NONCE_HEADER).filter(|nonce| !nonce.is_empty() && nonce.len() <= MAX_NONCE)?;
    let encoded = header_text(headers, header::AUTHORIZATION.as_str())?.strip_prefix("Bearer ")?;
    if encoded.len() != DIGEST_LENGTH {
        return None;
    }
    Some((STANDARD.decode(encoded).ok()?.try_into().ok()?, nonce))
}

async fn keyed_hash(context: &Context, digest: &[u8; 32], nonce: &str, text: &str) -> Option<String> {
    if let Some(hash) = context.inventory.index.find_by_digest(digest).and_then(|machine| machine.hash.clone()) {
        return Some(hash_of(hash.as_str().as_bytes(), nonce, text));
    }
    let secret = context.secrets.find_by_digest(&context.inventory.index, digest).await.ok()??;
    Some(hash_of(secret.expose(), nonce, text))
}

/// Base64 of HMAC-SHA512 over nonce, zero, authorities, zero.
fn hash_of(key: &[u8], nonce: &str, text: &str) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA512, key));
    for part in [nonce.as_bytes(), &[0], text.as_bytes(), &[0]] {
        context.update(part);
    }
    STANDARD.encode(context.sign())
}

/// With a final newline, as the first release sent and hashed it.
fn with_end_of_line(mut text: String) -> String {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Made with `printf 'nonce\0PEM\n\0' | openssl dgst -sha512 -hmac secret -binary | base64 --wrap 0`.
    const OPENSSL: &str = "vTR6TSU7afRkrQWsj7jIaqMH+MS6rZU28qS6uU//IuWEohe6mymCnUN4B82fFwSDzlE5jnGQYH4ix2Gzz1XSbg==";

    #[test]
    fn the_hash_equals_that_of_openssl() {
        assert_eq!(hash_of(b"secret", "nonce", "PEM\n"), OPENSSL);
        assert_eq!(with_end_of_line("PEM".into()), "PEM\n");
        assert_eq!(with_end_of_line(String::new()), "");
    }

    fn asked(authorization: &str, nonce: &str) -> HeaderMap {
        let values = [("authorization", authorization), (NONCE_HEADER, nonce)];
        let parsed = values.into_iter().filter_map(|(name, value)| Some((name.parse().ok()?, value.parse().ok()?)));
        parsed.collect()
    }

    #[test]
    fn a_question_is_a_digest_and_a_nonce() {
        let digest = format!("Bearer {}", STANDARD.encode([7; 32]));
        assert_eq!(question(&asked(&digest, "n")), Some(([7; 32], "n")));
        for (authorization, nonce) in [
            (digest.as_str(), ""),
            (digest.as_str(), &"n".repeat(MAX_NONCE + 1)),
            (digest.trim_start_matches("Bearer "), "n"),
            ("Bearer TPMabc", "n"),
            ("", "n"),
        ] {
            assert_eq!(question(&asked(authorization, nonce)), None, "{authorization:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(authorization: String, nonce: String) {
            let _ = question(&asked(&format!("Bearer {authorization}"), &nonce));
        }
    }
}
