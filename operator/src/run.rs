//! `ros-operator run`: puts the parts together, keeps the certificate fresh, and stops in order.

use crate::authority::{Authority, TlsMaterial};
use crate::context::Context;
use crate::controllers;
use crate::events::Events;
use crate::inventory_index::InventoryIndex;
use crate::metrics::Metrics;
use crate::rancher::Rancher;
use crate::registration::Endpoint;
use crate::registration_index::RegistrationIndex;
use crate::server::{self, Admission, CertificateHolder, Desk, Limits};
use crate::shared_secret::SharedSecrets;
use anyhow::Context as _;
use futures::FutureExt;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// How often it is looked whether a certificate is due, or another replica renewed it.
const RENEWAL_EVERY: Duration = Duration::from_secs(10 * 60);
/// How long the API server is waited for between two attempts at the start.
const START_RETRY: Duration = Duration::from_secs(2);
/// How long exchanges in flight have when the operator stops: within the 30 s that Kubernetes gives a pod.
const PATIENCE: Duration = Duration::from_secs(12);

const CONTROLLERS_PATIENCE: Duration = Duration::from_secs(3);

/// What `run` is told.
#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: SocketAddr,
    /// What machines are told: the start of every registration URL.
    pub server_url: String,
    /// Where the operator keeps what is its own.
    pub namespace: String,
    /// Exchanges at once, before their answer.
    pub exchanges: usize,
}

/// Runs until `stop`, then ends what is in flight.
pub async fn run(
    client: Client,
    settings: Settings,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let listener =
        TcpListener::bind(settings.listen).await.with_context(|| format!("listening on {}", settings.listen))?;
    let address = listener.local_addr().context("asking for the address listened on")?;
    let server_url = settings.server_url.trim_end_matches('/').to_owned();
    let authority = Authority::new(client.clone(), &settings.namespace, hosts(&server_url)?);
    let stop = stop.shared();
    let Some(material) = first_certificate(&authority, stop.clone()).await else { return Ok(()) };
    let certificate = CertificateHolder::new(&material)?;
    let (endpoint_sender, endpoint) = watch::channel(Endpoint { server_url, ca_bundle: material.bundle() });
    let (events, write_events) = Events::new(client.clone());
    let context = Arc::new(Context {
        client,
        registrations: RegistrationIndex::default(),
        inventories: InventoryIndex::default(),
        secrets: SharedSecrets::default(),
        rancher: Rancher::default(),
        events,
        metrics: Metrics::default(),
        endpoint,
        clock: Timestamp::now,
    });
    let (admission, drain) = Admission::new(settings.exchanges);
    let router = server::router(Desk { context: context.clone(), admission });
    let tls = TlsAcceptor::from(certificate.clone().server_config()?);

    let background = tokio::spawn(write_events);
    let renewal = tokio::spawn(keep_certificate(authority, certificate, endpoint_sender, material));
    let connections = context.metrics.connections.clone();
    let serving = tokio::spawn(server::serve(listener, tls, router, Limits::default(), connections, stop.clone()));
    let controlling = tokio::spawn(controllers::run(context, stop.clone()));
    tracing::info!(%address, server_url = settings.server_url, "serving");
    stop.await;

    tracing::info!("stopping");
    if !drain.close(PATIENCE).await {
        tracing::warn!("some exchanges did not end in time");
    }
    // A reconciliation that waits for an API server which is away is begun anew at the next start.
    if tokio::time::timeout(CONTROLLERS_PATIENCE, controlling).await.is_err() {
        tracing::warn!("a reconciliation did not end in time");
    }
    serving.await.context("stopping the server")?;
    background.abort();
    renewal.abort();
    Ok(())
}

/// Names and addresses that the certificate is for: what the URL says, and this machine.
fn hosts(server_url: &str) -> anyhow::Result<Vec<String>> {
    let url: axum::http::Uri = server_url.parse().with_context(|| format!("reading the server URL {server_url:?}"))?;
    anyhow::ensure!(url.scheme_str() == Some("https"), "the server URL {server_url:?} does not start with https://");
    let host = url.host().with_context(|| format!("finding the host in the server URL {server_url:?}"))?;
    let mut hosts = vec![host.trim_start_matches('[').trim_end_matches(']').to_owned()];
    for local in ["127.0.0.1", "localhost"] {
        if hosts[0] != local {
            hosts.push(local.to_owned());
        }
    }
    Ok(hosts)
}

/// `None`: told to stop while waiting for the API server.
async fn first_certificate(authority: &Authority, stop: impl Future<Output = ()>) -> Option<TlsMaterial> {
    let stop = stop.fuse();
    tokio::pin!(stop);
    loop {
        match authority.current(Timestamp::now()).await {
            Ok(material) => return Some(material),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "waiting for the API server"),
        }
        tokio::select! {
            () = tokio::time::sleep(START_RETRY) => {}
            () = &mut stop => return None,
        }
    }
}

async fn keep_certificate(
    authority: Authority,
    certificate: Arc<CertificateHolder>,
    endpoint: watch::Sender<Endpoint>,
    mut material: TlsMaterial,
) {
    loop {
        tokio::time::sleep(RENEWAL_EVERY).await;
        let next = match authority.current(Timestamp::now()).await {
            Ok(next) if next == material => continue,
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "renewing the certificate");
                continue;
            }
        };
        if let Err(error) = certificate.replace(&next) {
            tracing::error!(error = format!("{error:#}"), "using the renewed certificate");
            continue;
        }
        tracing::info!("the certificate was renewed");
        endpoint.send_modify(|endpoint| endpoint.ca_bundle = next.bundle());
        material = next;
    }
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
