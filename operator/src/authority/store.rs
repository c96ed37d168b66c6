//! Where the authority is kept: one Secret, shared by all replicas.

use super::{Fleet, Issued, TlsMaterial, Wish, renewed};
use crate::client::writing;
use anyhow::Context as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use kube::{Client, ResourceExt};
use std::collections::BTreeMap;

/// The Secret, in the operator's own namespace.
pub const SECRET_NAME: &str = "ros-operator-tls";
/// What somebody asks for, on the Secret: `renew` or `take-over`; gone once the successor has taken over.
pub const WISH_ANNOTATION: &str = "rancheros.cattle.io/authority";
/// How often two replicas may get into each other's way before one gives up until the next round.
const ATTEMPTS: usize = 5;

/// The authority as kept in the cluster.
#[derive(Clone)]
pub struct Authority {
    secrets: Api<Secret>,
}

impl Authority {
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { secrets: Api::namespaced(client, namespace) }
    }

    /// Reads what is kept, makes or renews what is due, and returns what to serve. Of several replicas that renew at
    /// once one writes, and the others read what it wrote. `hosts`: names and addresses that clients reach the server
    /// by.
    pub async fn current(&self, hosts: &[String], fleet: &Fleet, now: Timestamp) -> anyhow::Result<TlsMaterial> {
        for _ in 0..ATTEMPTS {
            let kept = self.secrets.get_opt(SECRET_NAME).await.context("reading Secret ros-operator-tls")?;
            let current = kept.as_ref().and_then(from_secret);
            let wish = kept.as_ref().and_then(wish);
            let next = renewed(current.as_ref(), hosts, fleet, wish, now)?;
            if Some(&next) == current.as_ref() {
                return Ok(next);
            }
            let written = match kept {
                None => self.secrets.create(&writing(), &to_secret(&next)).await,
                Some(kept) => {
                    let mut secret = to_secret(&next);
                    secret.metadata.annotations = annotations(&kept, current.as_ref(), &next);
                    secret.metadata.labels.clone_from(&kept.metadata.labels);
                    secret.metadata.resource_version = kept.resource_version();
                    self.secrets.replace(SECRET_NAME, &writing(), &secret).await
                }
            };
            match written {
                Ok(_) => return Ok(next),
                Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => continue,
                Err(error) => return Err(error).context("writing Secret ros-operator-tls"),
            }
        }
        anyhow::bail!("writing Secret {SECRET_NAME}: {ATTEMPTS} times another replica was faster")
    }
}

fn to_secret(material: &TlsMaterial) -> Secret {
    let mut data = BTreeMap::from([
        ("ca.crt".to_owned(), material.authority.certificate.clone()),
        ("ca.key".to_owned(), material.authority.key.clone()),
        ("tls.crt".to_owned(), material.server.certificate.clone()),
        ("tls.key".to_owned(), material.server.key.clone()),
    ]);
    if let Some(successor) = &material.successor {
        data.insert("successor.crt".to_owned(), successor.certificate.clone());
        data.insert("successor.key".to_owned(), successor.key.clone());
    }
    if let Some(predecessor) = &material.predecessor {
        data.insert("predecessor.crt".to_owned(), predecessor.clone());
    }
    let mut secret = Secret {
        data: Some(data.into_iter().map(|(key, text)| (key, ByteString(text.into_bytes()))).collect()),
        type_: Some("kubernetes.io/tls".to_owned()),
        ..Secret::default()
    };
    secret.metadata.name = Some(SECRET_NAME.to_owned());
    secret
}

fn wish(secret: &Secret) -> Option<Wish> {
    match secret.annotations().get(WISH_ANNOTATION)?.as_str() {
        "renew" => Some(Wish::Renew),
        "take-over" => Some(Wish::TakeOver),
        _ => {
            tracing::warn!("annotation {WISH_ANNOTATION} of Secret {SECRET_NAME} is neither renew nor take-over");
            None
        }
    }
}

/// The Secret's annotations after it is written. A wish that is fulfilled goes. Who asks for a successor to take over
/// that was only just made gets one that waits for the machines: none of them knows it.
fn annotations(secret: &Secret, before: Option<&TlsMaterial>, after: &TlsMaterial) -> Option<BTreeMap<String, String>> {
    let mut annotations = secret.metadata.annotations.clone()?;
    if let Some(wish) = annotations.get_mut(WISH_ANNOTATION) {
        if before.is_none_or(|before| before.authority != after.authority) {
            annotations.remove(WISH_ANNOTATION);
        } else if before.is_some_and(|before| before.successor.is_none()) && after.successor.is_some() {
            "renew".clone_into(wish);
        }
    }
    Some(annotations)
}

/// `None`: a key is missing, which is treated like a missing Secret.
fn from_secret(secret: &Secret) -> Option<TlsMaterial> {
    let text = |key: &str| String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok();
    let issued =
        |name: &str| Some(Issued { certificate: text(&format!("{name}.crt"))?, key: text(&format!("{name}.key"))? });
    Some(TlsMaterial {
        authority: issued("ca")?,
        successor: issued("successor"),
        predecessor: text("predecessor.crt"),
        server: issued("tls")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_holds_all_of_it() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let mut material = renewed(None, &["localhost".into()], &Fleet::default(), None, now).unwrap();
        assert_eq!(from_secret(&to_secret(&material)), Some(material.clone()));
        material.successor = Some(material.authority.clone());
        material.predecessor = Some(material.authority.certificate.clone());
        assert_eq!(from_secret(&to_secret(&material)), Some(material));
        assert_eq!(from_secret(&Secret::default()), None);
    }

    #[test]
    fn a_wish_stays_until_it_is_fulfilled_and_nobody_is_overtaken_by_a_new_successor() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let next = |current: &TlsMaterial, secret: &Secret| {
            renewed(Some(current), &["localhost".into()], &Fleet::default(), wish(secret), now).unwrap()
        };
        let first = renewed(None, &["localhost".into()], &Fleet::default(), None, now).unwrap();
        let mut secret = to_secret(&first);
        let annotated = |wish: &str| Some([WISH_ANNOTATION, "other"].map(|key| (key.into(), wish.into())).into());
        secret.metadata.annotations = annotated("take-over");
        let published = next(&first, &secret);
        let kept = annotations(&secret, Some(&first), &published).unwrap();
        assert_eq!((kept[WISH_ANNOTATION].as_str(), kept["other"].as_str()), ("renew", "take-over"));
        let taken_over = next(&published, &secret);
        assert_eq!(taken_over.authority, published.successor.clone().unwrap());
        let kept = annotations(&secret, Some(&published), &taken_over).unwrap();
        assert!(!kept.contains_key(WISH_ANNOTATION) && kept.contains_key("other"));
        secret.metadata.annotations = annotated("perhaps");
        assert_eq!(wish(&secret), None);
    }
}
