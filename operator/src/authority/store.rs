//! Where the authority is kept: one Secret, shared by all replicas.

use super::{Issued, TlsMaterial, renewed};
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
    pub async fn current(&self, hosts: &[String], now: Timestamp) -> anyhow::Result<TlsMaterial> {
        for _ in 0..ATTEMPTS {
            let kept = self.secrets.get_opt(SECRET_NAME).await.context("reading Secret ros-operator-tls")?;
            let current = kept.as_ref().and_then(from_secret);
            let next = renewed(current.as_ref(), hosts, now)?;
            if Some(&next) == current.as_ref() {
                return Ok(next);
            }
            let written = match kept {
                None => self.secrets.create(&writing(), &to_secret(&next)).await,
                Some(kept) => {
                    let mut secret = to_secret(&next);
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
        let mut material = renewed(None, &["localhost".into()], now).unwrap();
        assert_eq!(from_secret(&to_secret(&material)), Some(material.clone()));
        material.successor = Some(material.authority.clone());
        material.predecessor = Some(material.authority.certificate.clone());
        assert_eq!(from_secret(&to_secret(&material)), Some(material));
        assert_eq!(from_secret(&Secret::default()), None);
    }
}
