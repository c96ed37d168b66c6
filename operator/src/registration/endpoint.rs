//! The operator's endpoint for machines: its URL, and the certificate for it. Both are determined at the start and
//! checked regularly.

pub mod address;
pub mod authority;

use crate::registration::endpoint::address::{AddressError, AddressFinder};
use crate::registration::endpoint::authority::{
    AuthorityError, CertificateAndKey, CertificateSource, InstalledMachines, ServerCertificate, SourceError,
};
use axum::http::Uri;
use axum::http::uri::InvalidUri;
use futures::FutureExt;
use k8s_openapi::jiff::Timestamp;
use protocol::error_chain;
use std::time::Duration;
use tokio::sync::watch;

/// How often certificate and address are checked: the certificate may be due or renewed by another replica.
const RENEWAL_EVERY: Duration = Duration::from_secs(10 * 60);
/// How often they are checked while no machine outside the cluster can reach the operator: a load balancer takes a
/// while to assign an address.
const ADDRESS_EVERY: Duration = Duration::from_secs(15);
/// Pause between two attempts at the start.
const START_RETRY: Duration = Duration::from_secs(2);

/// How machines reach the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Such as `https://ros.example.org`, without a slash at the end.
    pub server_url: String,
    /// PEM of the authorities to trust. Empty: the public ones.
    pub ca_bundle: String,
}

impl Endpoint {
    /// Whether the URL is a Service's name, which only the cluster itself can reach.
    pub fn is_inside_only(&self) -> bool {
        let host = self.server_url.trim_start_matches("https://").split([':', '/']).next().unwrap_or_default();
        host.ends_with(".svc")
    }
}

/// Why address or certificate are not known.
#[derive(Debug, thiserror::Error)]
enum EndpointError {
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error(transparent)]
    ServerUrl(#[from] ServerUrlError),
    #[error(transparent)]
    Certificate(#[from] SourceError),
}

/// Why no certificate can be issued for a server URL.
#[derive(Debug, thiserror::Error)]
pub enum ServerUrlError {
    #[error("parsing the server URL {0:?}")]
    Malformed(String, #[source] InvalidUri),
    #[error("the server URL {0:?} does not start with https://")]
    NotHttps(String),
    #[error("the server URL {0:?} has no host")]
    NoHost(String),
}

/// Determines address and certificate, and follows their changes.
pub struct EndpointWatcher {
    pub address: AddressFinder,
    pub certificate: CertificateSource,
}

impl EndpointWatcher {
    /// `machines`: what installed machines know, given the server URL.
    async fn find(
        &self,
        machines: impl FnOnce(&str) -> InstalledMachines,
    ) -> Result<(ServerCertificate, Endpoint), EndpointError> {
        let address = self.address.find().await?;
        let machines = machines(&address.url);
        let served = self.certificate.current(&hosts(&address.url)?, &machines, Timestamp::now()).await?;
        let ca_bundle = address.authorities.unwrap_or_else(|| served.bundle.clone());
        let endpoint = Endpoint { server_url: address.url, ca_bundle };
        Ok((served, endpoint))
    }

    /// Waits until address and certificate are known. `None`: `stop` came first.
    pub async fn wait(&self, stop: impl Future<Output = ()>) -> Option<(ServerCertificate, Endpoint)> {
        let stop = stop.fuse();
        tokio::pin!(stop);
        loop {
            match self.find(|_| InstalledMachines::default()).await {
                Ok(found) => {
                    if found.1.is_inside_only() {
                        tracing::warn!(
                            server_url = found.1.server_url,
                            "machines outside the cluster cannot reach this URL; set the chart's serverURL"
                        );
                    }
                    return Some(found);
                }
                // The operator does not serve and is not ready until then.
                Err(error) if error.is_damage() => tracing::error!("{}", error_chain(&error)),
                Err(error) => tracing::warn!(error = error_chain(&error), "waiting for an address and a certificate"),
            }
            tokio::select! {
                () = tokio::time::sleep(START_RETRY) => {}
                () = &mut stop => return None,
            }
        }
    }

    /// Watches certificate and address until it is dropped. `use_certificate` is called with each renewed certificate,
    /// `told` gets each endpoint that differs from the one before. `machines_behind`: how many installed machines do
    /// not have the settings of an endpoint yet; `None` while that is not known.
    pub async fn run<E: std::error::Error>(
        self,
        use_certificate: impl Fn(&CertificateAndKey) -> Result<(), E>,
        told: watch::Sender<Endpoint>,
        mut served: ServerCertificate,
        machines_behind: impl Fn(&Endpoint) -> Option<usize>,
    ) {
        loop {
            let pause = if told.borrow().is_inside_only() { ADDRESS_EVERY } else { RENEWAL_EVERY };
            tokio::time::sleep(pause).await;
            let (next, endpoint) =
                match self.find(|url| installed_machines(&told.borrow(), url, &machines_behind)).await {
                    Ok(found) => found,
                    Err(error) if error.is_damage() => {
                        // The current certificate stays valid; it only cannot be renewed.
                        tracing::error!("{}", error_chain(&error));
                        continue;
                    }
                    Err(error) => {
                        tracing::warn!(error = error_chain(&error), "updating the address and the certificate");
                        continue;
                    }
                };
            if next != served {
                if let Err(error) = use_certificate(&next.server) {
                    tracing::error!(error = error_chain(&error), "using the renewed certificate");
                    continue;
                }
                tracing::info!("the certificate was renewed");
                served = next;
            }
            told.send_if_modified(|now| {
                let changed = *now != endpoint;
                if changed {
                    tracing::info!(
                        server_url = endpoint.server_url,
                        "the URL or the authorities for machines have changed"
                    );
                    *now = endpoint;
                }
                changed
            });
        }
    }
}

/// What installed machines know of the operator. `told`: the endpoint in their settings. Nothing is known of an address
/// that the settings do not contain yet.
fn installed_machines(
    told: &Endpoint,
    server_url: &str,
    machines_behind: impl Fn(&Endpoint) -> Option<usize>,
) -> InstalledMachines {
    let behind = if told.server_url == server_url { machines_behind(told) } else { None };
    InstalledMachines { bundle: told.ca_bundle.clone(), behind }
}

impl EndpointError {
    /// Whether somebody must restore a part of the Secret. Waiting does not help.
    fn is_damage(&self) -> bool {
        matches!(self, Self::Certificate(SourceError::Own(AuthorityError::Damaged(_))))
    }
}

/// Names and addresses of the certificate: the host of the URL, and the local host.
pub fn hosts(server_url: &str) -> Result<Vec<String>, ServerUrlError> {
    let shown = || server_url.to_owned();
    let url: Uri = server_url.parse().map_err(|error| ServerUrlError::Malformed(shown(), error))?;
    if url.scheme_str() != Some("https") {
        return Err(ServerUrlError::NotHttps(shown()));
    }
    let host = url.host().ok_or_else(|| ServerUrlError::NoHost(shown()))?;
    let mut hosts = vec![host.trim_start_matches('[').trim_end_matches(']').to_owned()];
    for local in ["127.0.0.1", "localhost"] {
        if hosts[0] != local {
            hosts.push(local.to_owned());
        }
    }
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_is_for_the_urls_host_and_this_machine() {
        assert_eq!(hosts("https://10.0.2.2:8443").unwrap(), ["10.0.2.2", "127.0.0.1", "localhost"]);
        assert_eq!(hosts("https://localhost").unwrap(), ["localhost", "127.0.0.1"]);
        assert_eq!(hosts("https://[fd00::1]:8443/x").unwrap()[0], "fd00::1");
        for bad in ["http://a", "https://", "a", ""] {
            assert!(hosts(bad).is_err(), "{bad:?}");
        }
    }
}
