//! What the server and the controllers share. The domain modules do not know it: they take the parts that they need.

use crate::cluster::rancher::Rancher;
use crate::identity::shared_secret::SharedSecrets;
use crate::inventory::Inventory;
use crate::kube::clock::Clock;
use crate::kube::events::Events;
use crate::kube::leadership::Leadership;
use crate::media::MediaStore;
use crate::media::network_boot::BootListener;
use crate::observe::metrics::Metrics;
use crate::registration::endpoint::Endpoint;
use crate::registration::index::{Authorities, RegistrationIndex};
use crate::rollout::DefaultRegistry;
use api::ManagedOSImage;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use kube::runtime::reflector::Store;
use tokio::sync::watch;

pub struct Context {
    pub client: Client,
    /// For evictions, which a PodDisruptionBudget refuses with the status 429: no request is made again by itself.
    pub evictions: Client,
    pub registrations: RegistrationIndex,
    pub inventory: Inventory,
    pub secrets: SharedSecrets,
    pub rancher: Rancher,
    /// Base media, and the permits of those who download them.
    pub media: MediaStore,
    /// Where machines start over the network. `None`: nowhere.
    pub boot_listener: Option<BootListener>,
    pub events: Events,
    pub metrics: Metrics,
    /// Controllers write only while this replica leads.
    pub leadership: Leadership,
    /// How machines reach the operator; changes when the authority is renewed.
    pub endpoint: watch::Receiver<Endpoint>,
    /// Authorities of TPM vendors, for registrations that name none; perhaps none.
    pub tpm_vendors: Authorities,
    /// The registry of upgrade images that name none, where Rancher has no Setting for it.
    pub default_registry: DefaultRegistry,
    /// The operator's own namespace, where upgrade Jobs run, and the name of its pod.
    pub namespace: String,
    pub replica: String,
    /// All ManagedOSImages, for the answers to reports of machines that carry them out.
    pub os_images: Store<ManagedOSImage>,
    pub clock: Clock,
}

impl Context {
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    pub fn endpoint(&self) -> Endpoint {
        self.endpoint.borrow().clone()
    }
}
