//! Stores the authority in one Secret, which all replicas share.

use super::{AuthorityError, AuthorityRequest, CertificateAndKey, Damaged, InstalledMachines, TlsMaterial, renewed};
use crate::kube::client::writing;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use kube::{Client, ResourceExt};
use std::collections::BTreeMap;

/// The Secret, in the operator's own namespace.
pub const SECRET_NAME: &str = "ros-operator-tls";
/// Annotation of the Secret with a request: `renew` or `take-over`. It is removed when the successor has taken over.
pub const REQUEST_ANNOTATION: &str = "rancheros.cattle.io/authority";
/// How often a write may conflict with another replica's before this replica gives up until the next check.
const ATTEMPTS: usize = 5;

/// The authority as stored in the cluster.
#[derive(Clone)]
pub struct Authority {
    secrets: Api<Secret>,
}

impl Authority {
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { secrets: Api::namespaced(client, namespace) }
    }

    /// Reads the stored authority, creates or renews what is due, and returns it. If several replicas renew at once,
    /// one writes and the others read what it wrote. `hosts`: names and addresses of the server. A damaged Secret is an
    /// error and is not changed.
    pub async fn current(
        &self,
        hosts: &[String],
        machines: &InstalledMachines,
        now: Timestamp,
    ) -> Result<TlsMaterial, AuthorityError> {
        for _ in 0..ATTEMPTS {
            let kept = self.secrets.get_opt(SECRET_NAME).await.map_err(AuthorityError::ReadSecret)?;
            let current = kept.as_ref().map(from_secret).transpose()?;
            let request = kept.as_ref().and_then(request);
            let next = renewed(current.as_ref(), hosts, machines, request, now)?;
            if Some(&next) == current.as_ref() {
                return Ok(next);
            }
            let written = match kept {
                None => self.secrets.create(&writing(), &to_secret(&next)).await,
                Some(kept) => {
                    let annotations = annotations(&kept, current.as_ref(), &next);
                    let mut secret = with_material(kept, &next);
                    secret.metadata.annotations = annotations;
                    self.secrets.replace(SECRET_NAME, &writing(), &secret).await
                }
            };
            match written {
                Ok(_) => return Ok(next),
                Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => continue,
                Err(error) => return Err(AuthorityError::WriteSecret(error)),
            }
        }
        Err(AuthorityError::Conflicts(ATTEMPTS))
    }
}

fn to_secret(material: &TlsMaterial) -> Secret {
    let mut secret = Secret { type_: Some("kubernetes.io/tls".to_owned()), ..Secret::default() };
    secret.metadata.name = Some(SECRET_NAME.to_owned());
    with_material(secret, material)
}

/// The Secret with this material. Labels, annotations and other keys stay.
fn with_material(mut secret: Secret, material: &TlsMaterial) -> Secret {
    let successor = material.successor.as_ref();
    let parts = [
        ("ca.crt", Some(&material.authority.certificate)),
        ("ca.key", Some(&material.authority.key)),
        ("tls.crt", Some(&material.server.certificate)),
        ("tls.key", Some(&material.server.key)),
        ("successor.crt", successor.map(|issued| &issued.certificate)),
        ("successor.key", successor.map(|issued| &issued.key)),
        ("predecessor.crt", material.predecessor.as_ref()),
    ];
    let data = secret.data.get_or_insert_default();
    for (key, text) in parts {
        match text {
            Some(text) => data.insert(key.to_owned(), ByteString(text.clone().into_bytes())),
            None => data.remove(key),
        };
    }
    secret
}

fn request(secret: &Secret) -> Option<AuthorityRequest> {
    match secret.annotations().get(REQUEST_ANNOTATION)?.as_str() {
        "renew" => Some(AuthorityRequest::Renew),
        "take-over" => Some(AuthorityRequest::TakeOver),
        _ => {
            tracing::warn!("annotation {REQUEST_ANNOTATION} of Secret {SECRET_NAME} is neither renew nor take-over");
            None
        }
    }
}

/// The Secret's annotations after a write. A fulfilled request is removed. `take-over` becomes `renew` if the successor
/// has just been created, because no machine knows it yet.
fn annotations(secret: &Secret, before: Option<&TlsMaterial>, after: &TlsMaterial) -> Option<BTreeMap<String, String>> {
    let mut annotations = secret.metadata.annotations.clone()?;
    if let Some(request) = annotations.get_mut(REQUEST_ANNOTATION) {
        if before.is_none_or(|before| before.authority != after.authority) {
            annotations.remove(REQUEST_ANNOTATION);
        } else if before.is_some_and(|before| before.successor.is_none()) && after.successor.is_some() {
            "renew".clone_into(request);
        }
    }
    Some(annotations)
}

/// The stored material. A missing certificate or key is an error, except the server's own, which can be issued again.
fn from_secret(secret: &Secret) -> Result<TlsMaterial, Damaged> {
    let text = |key: &str| match secret.data.as_ref().and_then(|data| data.get(key)) {
        None => Ok(None),
        Some(bytes) => match String::from_utf8(bytes.0.clone()) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(Damaged::new(key, "is not text")),
        },
    };
    let required = |key: &str| text(key)?.ok_or_else(|| Damaged::new(key, "is missing"));
    let (certificate, key) = (text("successor.crt")?, text("successor.key")?);
    let successor = match (certificate, key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some(CertificateAndKey { certificate, key }),
        (None, Some(_)) => return Err(Damaged::new("successor.crt", "is missing")),
        (Some(_), None) => return Err(Damaged::new("successor.key", "is missing")),
    };
    let server = |key: &str| text(key).ok().flatten().unwrap_or_default();
    Ok(TlsMaterial {
        authority: CertificateAndKey { certificate: required("ca.crt")?, key: required("ca.key")? },
        successor,
        predecessor: text("predecessor.crt")?,
        server: CertificateAndKey { certificate: server("tls.crt"), key: server("tls.key") },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::FakeApi;
    use serde_json::Value;

    const PATH: &str = "/api/v1/namespaces/n/secrets/ros-operator-tls";

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }
    fn hosts() -> Vec<String> {
        vec!["localhost".into()]
    }

    #[test]
    fn a_secret_holds_all_material() {
        let mut material = renewed(None, &hosts(), &InstalledMachines::default(), None, now()).unwrap();
        assert_eq!(from_secret(&to_secret(&material)), Ok(material.clone()));
        material.successor = Some(material.authority.clone());
        material.predecessor = Some(material.authority.certificate.clone());
        assert_eq!(from_secret(&to_secret(&material)), Ok(material));
    }

    #[tokio::test]
    async fn a_damaged_secret_is_refused_by_key_and_not_changed() {
        let api = FakeApi::default();
        let authority = Authority::new(api.client(), "n");
        let made = authority.current(&hosts(), &InstalledMachines::default(), now()).await.unwrap();
        let whole = api.objects("secrets").remove(0);
        let not_text = Value::from("/w==");
        let damages = [("ca.crt", Value::Null), ("ca.key", Value::Null), ("ca.key", not_text), ("ca.crt", "".into())];
        for (key, value) in damages {
            let mut damaged = whole.clone();
            match value {
                Value::Null => damaged["data"].as_object_mut().unwrap().remove(key),
                value => damaged["data"].as_object_mut().unwrap().insert(key.to_owned(), value),
            };
            api.put(PATH, damaged);
            let before = api.objects("secrets");
            api.take_requests();
            let error =
                authority.current(&hosts(), &InstalledMachines::default(), now()).await.unwrap_err().to_string();
            assert!(error.contains(&format!("key {key} of Secret ros-operator-tls")), "{error}");
            assert_eq!(
                (api.take_requests(), api.objects("secrets")),
                (vec!["GET ros-operator-tls".to_owned()], before)
            );
        }
        // An emptied Secret is damaged as well.
        api.put(PATH, serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": {}}));
        let error = authority.current(&hosts(), &InstalledMachines::default(), now()).await.unwrap_err().to_string();
        assert!(error.starts_with("key ca.crt of Secret"), "{error}");
        api.put(PATH, whole);
        assert_eq!(authority.current(&hosts(), &InstalledMachines::default(), now()).await.unwrap(), made);
    }

    #[tokio::test]
    async fn a_server_certificate_is_issued_again_and_foreign_keys_stay() {
        let api = FakeApi::default();
        let authority = Authority::new(api.client(), "n");
        let made = authority.current(&hosts(), &InstalledMachines::default(), now()).await.unwrap();
        api.change(
            PATH,
            serde_json::json!({"metadata": {"labels": {"l": "v"}}, "data": {"tls.key": null, "own": "eA=="}}),
        );
        let next = authority.current(&hosts(), &InstalledMachines::default(), now()).await.unwrap();
        assert_eq!((&next.authority, next.server == made.server), (&made.authority, false));
        let object = api.objects("secrets").remove(0);
        assert_eq!((&object["metadata"]["labels"]["l"], &object["data"]["own"]), (&"v".into(), &"eA==".into()));
    }

    #[test]
    fn a_request_stays_until_it_is_fulfilled_and_a_new_successor_does_not_take_over() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let next = |current: &TlsMaterial, secret: &Secret| {
            renewed(Some(current), &["localhost".into()], &InstalledMachines::default(), request(secret), now).unwrap()
        };
        let first = renewed(None, &["localhost".into()], &InstalledMachines::default(), None, now).unwrap();
        let mut secret = to_secret(&first);
        let annotated =
            |request: &str| Some([REQUEST_ANNOTATION, "other"].map(|key| (key.into(), request.into())).into());
        secret.metadata.annotations = annotated("take-over");
        let published = next(&first, &secret);
        let kept = annotations(&secret, Some(&first), &published).unwrap();
        assert_eq!((kept[REQUEST_ANNOTATION].as_str(), kept["other"].as_str()), ("renew", "take-over"));
        let taken_over = next(&published, &secret);
        assert_eq!(taken_over.authority, published.successor.clone().unwrap());
        let kept = annotations(&secret, Some(&published), &taken_over).unwrap();
        assert!(!kept.contains_key(REQUEST_ANNOTATION) && kept.contains_key("other"));
        secret.metadata.annotations = annotated("perhaps");
        assert_eq!(request(&secret), None);
    }
}
