//! `ros-operator run`: wires the parts together, and stops them in order.

use crate::cluster::rancher::Rancher;
use crate::context::Context;
use crate::controllers;
use crate::identity::shared_secret::SharedSecrets;
use crate::inventory::Inventory;
use crate::inventory::index::InventoryIndex;
use crate::inventory::limiter::WriteLimiter;
use crate::inventory::lookup::Lookup;
use crate::inventory::store::InventoryStore;
use crate::kube::client;
use crate::kube::clock::Clock;
use crate::kube::events::Events;
use crate::kube::leadership::{Election, Leadership};
use crate::media::network_boot::BootListener;
use crate::media::{self, MediaStore};
use crate::observe::metrics::Metrics;
use crate::registration::endpoint::address::{AddressFinder, AddressOptions};
use crate::registration::endpoint::authority::{Authority, CertificateSource};
use crate::registration::endpoint::{self, Endpoint, EndpointWatcher};
use crate::registration::index::{Authorities, RegistrationIndex};
use crate::rollout::DefaultRegistry;
use crate::server::{self, Admission, CertificateHolder, Limits, ServerState};
use anyhow::Context as _;
use futures::FutureExt;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::runtime::reflector;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// How long exchanges in flight may continue when the operator stops. Kubernetes gives a pod 30 s.
const PATIENCE: Duration = Duration::from_secs(12);

const CONTROLLERS_PATIENCE: Duration = Duration::from_secs(3);

/// The settings of `run`.
#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: SocketAddr,
    /// How machines reach the operator: the start of every registration URL.
    pub address: AddressOptions,
    /// A folder with a certificate to serve with, in place of the operator's own.
    pub certificate: Option<PathBuf>,
    /// The operator's own namespace.
    pub namespace: String,
    /// Authorities of TPM vendors, for registrations that name none.
    pub tpm_vendors: Authorities,
    /// The registry of upgrade images that name none, unless Rancher has a Setting for it.
    pub default_registry: DefaultRegistry,
    /// Concurrent exchanges before their answer.
    pub exchanges: usize,
    /// Machines that a registration without `spec.maxMachines` admits; 0: any number.
    pub max_machines: u32,
    /// Writes per second that each registration may cause; 0: any number.
    pub writes_per_second: u32,
    /// The source of base media. `None`: none are served.
    pub media: Option<media::Source>,
    /// Concurrent downloads of media.
    pub downloads: usize,
    /// Where network boots are served over plain HTTP. `None`: nowhere.
    pub boot_listen: Option<SocketAddr>,
    /// At which port machines reach it. `None`: at that of `boot_listen`.
    pub boot_port: Option<u16>,
    /// How machines reach it. `None`: under the operator's host.
    pub boot_url: Option<String>,
    /// Limit of open files. A connection is an open file.
    pub open_files: usize,
    /// Name of this replica in the Lease.
    pub replica: String,
}

/// Runs until `stop`, then ends the exchanges in flight.
pub async fn run(
    cluster: kube::Config,
    settings: Settings,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let listener = server::listen(settings.listen).with_context(|| format!("listening on {}", settings.listen))?;
    let address = listener.local_addr().context("reading the address of the listening socket")?;
    let boot_listen = settings.boot_listen.map(|address| {
        let listener = server::listen(address).with_context(|| format!("listening on {address} for network boots"))?;
        let port = listener.local_addr().context("reading the address of the listening socket")?.port();
        let port = settings.boot_port.unwrap_or(port);
        anyhow::Ok((listener, BootListener { url: settings.boot_url.clone(), port }))
    });
    let (boot_listen, boot_listener) = boot_listen.transpose()?.unzip();
    if let Some(url) = &settings.address.server_url {
        endpoint::hosts(url)?;
    }
    let metrics = Metrics::default();
    let evictions = client::timed_without_retries(cluster.clone(), metrics.requests.clone());
    let evictions = evictions.context("creating a client of the cluster")?;
    let client = client::timed(cluster, metrics.requests.clone()).context("creating a client of the cluster")?;
    let finder = AddressFinder::new(client.clone(), &settings.namespace, settings.address.clone());
    let endpoint_watcher = EndpointWatcher { address: finder, certificate: certificate_source(&client, &settings) };
    let stop = stop.shared();
    let Some((served, first_endpoint)) = endpoint_watcher.wait(stop.clone()).await else { return Ok(()) };
    let certificate = CertificateHolder::new(&served.server)?;
    let server_url = first_endpoint.server_url.clone();
    let (endpoint_sender, endpoint) = watch::channel(first_endpoint);
    let (events, write_events) = Events::new(client.clone());
    let (leadership, lead) = Leadership::new();
    let election = Election::new(client.clone(), &settings.namespace, &settings.replica, lead, metrics.leads.clone())
        .context("no random bytes to tell replicas apart")?;
    let (media_store, media_watcher) = MediaStore::new(settings.media, settings.downloads.min(settings.open_files / 4));
    let clock = Clock(Timestamp::now);
    let (os_images, enter_os_images) = reflector::store();
    let context = Arc::new(Context {
        client: client.clone(),
        evictions,
        registrations: RegistrationIndex::new(settings.max_machines),
        inventory: Inventory {
            index: InventoryIndex::default(),
            store: InventoryStore::new(client.clone()),
            lookup: Lookup::default(),
            limiter: WriteLimiter::new(settings.writes_per_second),
            events: events.clone(),
            writes: metrics.writes.clone(),
            clock,
        },
        secrets: SharedSecrets::new(client.clone()),
        rancher: Rancher::new(client.clone()),
        media: media_store,
        boot_listener,
        events,
        metrics,
        leadership,
        endpoint,
        tpm_vendors: settings.tpm_vendors,
        default_registry: settings.default_registry,
        namespace: settings.namespace,
        replica: settings.replica,
        os_images,
        clock,
    });
    let (admission, drain) = Admission::new(settings.exchanges);
    let state = ServerState::new(context.clone(), admission);
    let service = server::Service {
        tls: Some(TlsAcceptor::from(certificate.clone().server_config().context("choosing TLS versions")?)),
        router: server::router(state.clone()),
        limits: Limits::for_open_files(settings.open_files),
        context: context.clone(),
    };
    let boots = server::Service {
        tls: None,
        router: server::boot_router(state),
        limits: Limits::for_open_files(settings.open_files / 4),
        context: context.clone(),
    };

    let background = tokio::spawn(write_events);
    let keeping = media_watcher.map(|media_watcher| tokio::spawn(media_watcher.run()));
    let machines_behind = {
        let context = context.clone();
        move |endpoint: &Endpoint| context.registrations.machines_behind(&context.inventory.index, endpoint)
    };
    let use_certificate = move |pair: &_| certificate.replace(pair);
    let renewal = tokio::spawn(endpoint_watcher.run(use_certificate, endpoint_sender, served, machines_behind));
    let serving = tokio::spawn(server::serve(listener, service, stop.clone()));
    let booting = boot_listen.map(|listener| tokio::spawn(server::serve(listener, boots, stop.clone())));
    let controlling = tokio::spawn(controllers::run(context, enter_os_images, stop.clone()));
    let stopped = stop.clone();
    // No controller writes after the Lease is released.
    let electing = tokio::spawn(election.run(async move {
        // A reconciliation that waits for an unavailable API server is dropped; the next start repeats it.
        stopped.await;
        if tokio::time::timeout(CONTROLLERS_PATIENCE, controlling).await.is_err() {
            tracing::warn!("a reconciliation did not end in time");
        }
    }));
    tracing::info!(%address, server_url, "serving");
    stop.await;

    tracing::info!("stopping");
    if !drain.close(PATIENCE).await {
        tracing::warn!("some exchanges did not end in time");
    }
    electing.await.context("ending the election")?;
    serving.await.context("stopping the server")?;
    if let Some(booting) = booting {
        booting.await.context("stopping the server of network boots")?;
    }
    background.abort();
    renewal.abort();
    if let Some(keeping) = keeping {
        keeping.abort();
    }
    Ok(())
}

fn certificate_source(client: &Client, settings: &Settings) -> CertificateSource {
    match &settings.certificate {
        Some(folder) => CertificateSource::Given(folder.clone()),
        None => CertificateSource::Own(Box::new(Authority::new(client.clone(), &settings.namespace))),
    }
}
