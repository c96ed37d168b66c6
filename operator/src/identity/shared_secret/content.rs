//! The content of a machine's Secret.

use api::{SHARED_SECRET_KEY, SHARED_SECRET_TYPE};
use k8s_openapi::api::core::v1::Secret;
use protocol::SharedSecret;

/// The result of reading a Secret.
#[derive(Clone, Debug)]
pub enum SecretContent {
    Valid(SharedSecret),
    Missing,
    /// The operator may not read Secrets in this namespace.
    Forbidden,
    /// The Secret exists but contains no shared secret; the reason.
    Malformed(&'static str),
}

impl SecretContent {
    pub fn of(secret: Option<&Secret>) -> Self {
        let Some(secret) = secret else { return Self::Missing };
        if secret.type_.as_deref() != Some(SHARED_SECRET_TYPE) {
            return Self::Malformed("its type is not rancheros.cattle.io/token");
        }
        match secret.data.as_ref().and_then(|data| data.get(SHARED_SECRET_KEY)) {
            Some(token) if !token.0.is_empty() => Self::Valid(SharedSecret::new(token.0.clone())),
            _ => Self::Malformed("its key `token` is absent or empty"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    fn read(type_: &str, key: &str, token: &str) -> SecretContent {
        let data = [(key.to_owned(), ByteString(token.into()))];
        SecretContent::of(Some(&Secret { type_: Some(type_.into()), data: Some(data.into()), ..Secret::default() }))
    }

    #[test]
    fn type_and_key_are_the_first_releases() {
        let SecretContent::Valid(secret) = read(SHARED_SECRET_TYPE, SHARED_SECRET_KEY, "known") else {
            panic!("it is one")
        };
        assert_eq!(secret.expose(), b"known");
        assert!(!format!("{secret:?}").contains("known"));
        for (type_, key, token) in [
            ("Opaque", SHARED_SECRET_KEY, "x"),
            (SHARED_SECRET_TYPE, "other", "x"),
            (SHARED_SECRET_TYPE, SHARED_SECRET_KEY, ""),
        ] {
            assert!(matches!(read(type_, key, token), SecretContent::Malformed(_)), "{type_} {key}");
        }
        assert!(matches!(SecretContent::of(None), SecretContent::Missing));
    }
}
