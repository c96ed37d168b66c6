//! Everything that the operator does for one machine and one upgrade, from the first registration until all is deleted.
//! Users and the machine try again after each failure. For tests that make something fail meanwhile: the end must
//! always be the same.

use crate::clusters::cluster::Cluster;
use crate::clusters::operator::fetch;
use crate::clusters::registration::{NAMESPACE, Registration};
use crate::fakes::rancher::Rancher;
use crate::fakes::software_machine::{Endpoint, NoAnswer, usual_report};
use crate::fakes::software_tpm::{KeyKind, SoftwareTpm};
use crate::fakes::upgrade_engines::Kinds;
use crate::objects::{current_condition, kubectl_name, manifest};
use anyhow::{Context, Result, bail, ensure};
use api::{Engine, MachineInventory, ManagedOSImage, Phase, condition_type, reason};
use kube::Resource;
use protocol::FromMachine;
use protocol::message::{InstallPhase, OsReport, Progress, Slot};
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

pub struct Lifecycle<'a> {
    cluster: &'a Cluster,
    client: kube::Client,
    /// The operator's URL, `https://127.0.0.1:20000` for example.
    address: String,
    tpm: SoftwareTpm,
    /// Every inventory that the operator has named to the machine.
    told: RefCell<BTreeSet<String>>,
}

const TIMEOUT: Duration = Duration::from_secs(120);
const TOKENS: &str = "/apis/management.cattle.io/v3/clusterregistrationtokens";
/// Name and namespace of the ManagedOSImage.
const IMAGE: &str = "x";
const IMAGE_NAMESPACE: &str = "fleet-local";
const BUNDLES: &str = "/apis/fleet.cattle.io/v1alpha1/bundles";
const PLANS: &str = "/apis/upgrade.cattle.io/v1/plans";
/// The Plan's other objects.
const BESIDE_PLAN: [&str; 4] = [
    "/api/v1/namespaces/system-upgrade/serviceaccounts/mos-x",
    "/api/v1/namespaces/system-upgrade/secrets/mos-x",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles/mos-x",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/mos-x",
];
const MANAGEMENT_CLUSTER: &str = "c-m-shop";

impl<'a> Lifecycle<'a> {
    /// Installs the kinds of Fleet, System Upgrade Controller and Rancher. `address` is the URL of the operator, which
    /// need not run yet.
    pub async fn prepare(cluster: &'a Cluster, address: String) -> Result<Self> {
        Kinds::Strict.install_fleet(cluster)?;
        Kinds::Strict.install_plans(cluster)?;
        cluster.ensure_namespace("system-upgrade")?;
        let rancher = Rancher::install(cluster)?;
        rancher.make_cluster("shop")?;
        rancher.manage_cluster("shop", MANAGEMENT_CLUSTER)?;
        let (client, tpm) = (cluster.client().await?, SoftwareTpm::new(KeyKind::P256)?);
        Ok(Self { cluster, client, address, tpm, told: RefCell::default() })
    }

    /// Runs all of it. In the end nothing is left but the registration.
    pub async fn run(&self) -> Result<()> {
        let endpoint = self.open_registration().await?;
        self.persist("the machine to be installed", async || self.install(&endpoint).await).await?;
        self.persist("the machine's report", async || self.report(&endpoint).await).await?;
        let inventory = self.only_inventory().await?;
        self.join_cluster(&inventory).await?;
        self.upgrade().await?;
        self.check().await?;
        self.end(&inventory).await
    }

    async fn open_registration(&self) -> Result<Endpoint> {
        let registration = Registration::apply(self.cluster, "edge", json!({}))?;
        let path = registration.url.find("/v1-rancheros/").map(|start| &registration.url[start..]);
        let url = format!("{}{}", self.address, path.context("finding the path in the registration URL")?);
        let authority = format!("{}/cacerts", self.address);
        let authority = self.persist("the authority", async || Ok(fetch(&authority).await?)).await?;
        Endpoint::new(&url, &authority)
    }

    async fn install(&self, endpoint: &Endpoint) -> Result<(), NoAnswer> {
        let mut exchange = endpoint.connect().await?;
        exchange.prove(&self.tpm).await?;
        let config = exchange.ask_for_config(usual_report("SN-1")).await?;
        self.told.borrow_mut().insert(config.inventory);
        // Without a pause this write would be merged with the next one.
        let registered = |inventories: &Vec<Value>| phase(inventories.first()).is_some();
        self.seen("the machine's phase", async || self.inventories().await, registered).await?;
        let message = String::new();
        let progress = Progress { phase: InstallPhase::Writing, bytes: 1, total_bytes: 2, message };
        exchange.say(&FromMachine::Progress(progress)).await?;
        exchange.finish().await.map(drop)
    }

    async fn report(&self, endpoint: &Endpoint) -> Result<(), NoAnswer> {
        let system = OsReport { version: "0.1.0".into(), slot: Slot::A, healthy: true, ..OsReport::default() };
        endpoint.report(&self.tpm, system).await.map(drop)
    }

    async fn only_inventory(&self) -> Result<String> {
        let inventories = self.inventories().await?;
        let [inventory] = &inventories[..] else { bail!("one machine, {} inventories", inventories.len()) };
        let name = inventory["metadata"]["name"].as_str().context("reading an inventory's name")?;
        let told = BTreeSet::from([format!("{NAMESPACE}/{name}")]);
        ensure!(*self.told.borrow() == told, "the machine was told {:?}, there is {name}", self.told.borrow());
        ensure!(inventory["status"]["phase"] == json!(Phase::Ready), "its status: {}", inventory["status"]);
        ensure!(inventory["status"]["hardware"].is_object(), "what it is made of was lost: {}", inventory["status"]);
        Ok(name.to_owned())
    }

    async fn join_cluster(&self, inventory: &str) -> Result<()> {
        let object = kubectl_name::<MachineInventory>(inventory);
        self.patch(&object, NAMESPACE, &json!({"clusterName": "shop", "config": {"role": "agent"}}))?;
        self.seen("a token asked for", async || self.list(TOKENS).await, |tokens| !tokens.is_empty()).await?;
        Rancher::of(self.cluster).issue_token(MANAGEMENT_CLUSTER, "token").await?;
        let assigned = |inventories: &Vec<Value>| {
            let condition = inventories.first().map(|inventory| current_condition(inventory, condition_type::ASSIGNED));
            condition.is_some_and(|condition| condition["reason"] == reason::TOKEN_ISSUED)
        };
        self.seen("the machine assigned", async || self.inventories().await, assigned).await?;
        Ok(())
    }

    /// Upgrades first by Fleet, then by a Plan.
    async fn upgrade(&self) -> Result<()> {
        let spec = json!({"osImage": "a:v0.2.0", "cloudConfig": {"hostname": "x"}, "drain": {}});
        self.cluster.apply(&manifest::<ManagedOSImage>(IMAGE_NAMESPACE, IMAGE, &spec))?;
        let image = image_path();
        self.seen("a Bundle", async || self.list(BUNDLES).await, |bundles| !bundles.is_empty()).await?;
        self.seen("Fleet in the status", async || self.get(&image).await, |image| has(image, Engine::Fleet)).await?;
        self.patch(&kubectl_name::<ManagedOSImage>(IMAGE), IMAGE_NAMESPACE, &json!({"engine": Engine::Plan}))?;
        self.seen("the Plan in the status", async || self.get(&image).await, |image| has(image, Engine::Plan)).await?;
        Ok(())
    }

    /// Checks that each object exists once.
    async fn check(&self) -> Result<()> {
        self.only_inventory().await?;
        for (path, count) in [(TOKENS, 1), (BUNDLES, 0), (PLANS, 1)] {
            let found = self.list(path).await?.len();
            ensure!(found == count, "{path}: {found} in place of {count}");
        }
        for path in BESIDE_PLAN {
            ensure!(self.get(path).await?.is_object(), "{path} is missing");
        }
        Ok(())
    }

    async fn end(&self, inventory: &str) -> Result<()> {
        let delete = |object: &str, namespace: &str| {
            self.cluster.kubectl(&["delete", object, "--namespace", namespace, "--wait=false"], "")
        };
        delete(&kubectl_name::<ManagedOSImage>(IMAGE), IMAGE_NAMESPACE)?;
        delete(&kubectl_name::<MachineInventory>(inventory), NAMESPACE)?;
        let image = image_path();
        self.seen("the upgrade's end", async || self.get(&image).await, Value::is_null).await?;
        self.seen("the machine's end", async || self.inventories().await, Vec::is_empty).await?;
        for path in [TOKENS, BUNDLES, PLANS] {
            ensure!(self.list(path).await?.is_empty(), "{path}: something is left");
        }
        for path in BESIDE_PLAN {
            ensure!(self.get(path).await?.is_null(), "{path} is left");
        }
        Ok(())
    }

    fn patch(&self, object: &str, namespace: &str, spec: &Value) -> Result<()> {
        self.cluster.patch(object, namespace, &json!({"spec": spec}))
    }

    /// Tries again after every failure. A refusal must never be final for an honest machine.
    async fn persist<T>(&self, what: &str, mut attempt: impl AsyncFnMut() -> Result<T, NoAnswer>) -> Result<T> {
        until(what, TIMEOUT, async || match attempt().await {
            Ok(value) => Ok(Poll::Ready(value)),
            Err(NoAnswer::Refused(refusal)) if !refusal.code.may_succeed_later() => Err(refusal.into()),
            Err(error) => Ok(Poll::Pending(error.to_string())),
        })
        .await
    }

    async fn seen<T: std::fmt::Debug>(
        &self,
        what: &str,
        mut look: impl AsyncFnMut() -> Result<T>,
        right: impl Fn(&T) -> bool,
    ) -> Result<T> {
        until(what, TIMEOUT, async || {
            let found = look().await?;
            Ok(if right(&found) { Poll::Ready(found) } else { Poll::Pending(format!("{found:?}")) })
        })
        .await
    }

    async fn inventories(&self) -> Result<Vec<Value>> {
        self.list(&MachineInventory::url_path(&(), None)).await
    }

    async fn list(&self, path: &str) -> Result<Vec<Value>> {
        Ok(self.get(path).await?["items"].as_array().cloned().unwrap_or_default())
    }

    /// Null if the object does not exist.
    async fn get(&self, path: &str) -> Result<Value> {
        let request = http::Request::get(path).body(Vec::new()).with_context(|| format!("requesting {path}"))?;
        match self.client.request::<Value>(request).await {
            Ok(object) => Ok(object),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Value::Null),
            Err(error) => Err(error).with_context(|| format!("requesting {path}")),
        }
    }
}

fn phase(inventory: Option<&Value>) -> Option<&str> {
    inventory?["status"]["phase"].as_str()
}

/// The path of the ManagedOSImage.
fn image_path() -> String {
    format!("{}/{IMAGE}", ManagedOSImage::url_path(&(), Some(IMAGE_NAMESPACE)))
}

fn has(image: &Value, engine: Engine) -> bool {
    image["status"]["engine"] == json!(engine)
}
