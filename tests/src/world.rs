//! The world of one test: a cluster, the operator on it, a folder for everything, and what is asked for beside them.

mod inventories;
mod media;
mod os_images;

use crate::clusters::cluster::{Cluster, Controllers};
use crate::clusters::operator::{HOST_SEEN_BY_MACHINES, Operator};
use crate::clusters::registration::Registration;
use crate::fakes::fault_proxy::FaultProxy;
use crate::fakes::software_machine::Endpoint;
use anyhow::{Context, Result};
use qemu::machine::{Machine, MachineSpec};
use qemu::process::KeptProcess;
use qemu::scratch::Scratch;
use qemu::ssh::SshKey;
use qemu::wait::{Poll, until};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use media::{MEDIA_NOTICED, USER};

/// Everything that runs ends when this value is dropped. Fields are in the order of ending.
pub struct World {
    pub operator: Operator,
    /// Between operator and cluster; see [`WorldBuilder::faults`].
    pub proxy: Option<FaultProxy>,
    pub cluster: Cluster,
    /// Logs in to every machine that was installed through the example registration.
    pub key: SshKey,
    registration: Option<Registration>,
    folder: Folder,
}

/// What a world is made of. By default: no controllers, no registration, an operator with its own defaults.
pub struct WorldBuilder {
    folder: Folder,
    controllers: Controllers,
    settings: Vec<(String, String)>,
    registration: Option<Value>,
    faults: bool,
    host: String,
}

/// Holds `cluster/`, `operator/` and what the test adds.
enum Folder {
    /// Deleted with the world. Logs stay in `out/test/NAME/`.
    Scratch(Scratch),
    /// Not deleted.
    Kept(PathBuf),
}

impl World {
    /// A world with a registration of this spec. `name` is the test's.
    pub async fn start(name: &str, registration: Value) -> Result<Self> {
        Self::builder(name)?.registration(registration).start().await
    }

    /// `name` is the test's; two running tests must not share one.
    pub fn builder(name: &str) -> Result<WorldBuilder> {
        Ok(WorldBuilder::new(Folder::Scratch(Scratch::new(name)?)))
    }

    /// A world that outlives the program when its value is forgotten: everything is in `folder`, which stays.
    pub fn builder_in(folder: &Path) -> WorldBuilder {
        WorldBuilder::new(Folder::Kept(folder.to_owned()))
    }

    /// The test's own folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A folder in the test's own. It is created when it is missing.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        self.folder.subfolder(name)
    }

    /// The registration that the world was started with.
    ///
    /// # Panics
    /// In a world without one.
    pub fn registration(&self) -> &Registration {
        self.registration.as_ref().expect("the world was started with a registration")
    }

    /// The registration's URL for programs on this host.
    ///
    /// # Panics
    /// In a world without a registration.
    pub fn url(&self) -> Result<String> {
        self.registration().local_url(&self.operator)
    }

    /// The registration's endpoint, for machines in memory.
    ///
    /// # Panics
    /// In a world without a registration.
    pub async fn endpoint(&self) -> Result<Endpoint> {
        Endpoint::new(&self.url()?, &self.operator.ca().await?)
    }

    /// Everything that the operator has logged.
    pub fn operator_log(&self) -> Result<String> {
        let path = self.path().join("operator/ros-operator.log");
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// Assembles a virtual machine in the folder `machine`. It is off.
    pub async fn machine(&self, spec: MachineSpec) -> Result<Machine> {
        Machine::assemble(&self.folder("machine")?, spec).await
    }

    /// What runs here, in the order of ending. Virtual machines have their own lists.
    pub fn processes(&self) -> Result<Vec<KeptProcess>> {
        Ok([self.operator.processes()?, self.cluster.processes()?].concat())
    }
}

impl WorldBuilder {
    fn new(folder: Folder) -> Self {
        let (settings, registration) = (Vec::new(), None);
        let host = HOST_SEEN_BY_MACHINES.to_owned();
        Self { folder, controllers: Controllers::Absent, settings, registration, faults: false, host }
    }

    /// A folder in the world's own, for files that must exist before the operator starts.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        self.folder.subfolder(name)
    }

    pub fn controllers(self, controllers: Controllers) -> Self {
        Self { controllers, ..self }
    }

    /// An environment variable of the operator.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The host of the operator's URL, as machines are told it. An IPv6 address has brackets.
    pub fn host(self, host: &str) -> Self {
        Self { host: host.to_owned(), ..self }
    }

    /// A MachineRegistration `edge` with this spec, applied when the operator is ready.
    pub fn registration(self, spec: Value) -> Self {
        Self { registration: Some(spec), ..self }
    }

    /// Puts a [`FaultProxy`] between operator and cluster.
    pub fn faults(self) -> Self {
        Self { faults: true, ..self }
    }

    /// Starts everything and waits until the operator is ready.
    pub async fn start(mut self) -> Result<World> {
        let registration = self.registration.take();
        let mut world = self.prepare().await?;
        world.operator.resume().await?;
        world.registration = registration.map(|spec| Registration::apply(&world.cluster, "edge", spec)).transpose()?;
        Ok(world)
    }

    /// The same with an operator that is not started yet; a registration is not applied.
    pub async fn prepare(self) -> Result<World> {
        let Self { folder, controllers, settings, faults, host, .. } = self;
        let cluster = Cluster::start(&folder.subfolder("cluster")?, controllers).await?;
        let proxy = if faults { Some(FaultProxy::start(&cluster, folder.path()).await?) } else { None };
        let kubeconfig = proxy.as_ref().map_or_else(|| cluster.kubeconfig(), |proxy| proxy.kubeconfig().to_owned());
        let mut operator = Operator::prepare(&cluster, &kubeconfig, &host, &folder.subfolder("operator")?)?;
        settings.iter().for_each(|(name, value)| operator.set(name, value));
        let key = SshKey::generate(folder.path())?;
        Ok(World { operator, proxy, cluster, key, registration: None, folder })
    }
}

impl Folder {
    fn path(&self) -> &Path {
        match self {
            Self::Scratch(scratch) => scratch.path(),
            Self::Kept(path) => path,
        }
    }

    fn subfolder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(path)
    }
}

/// Waits until an object is `right`. `fetch` gives `None` for one that is not there yet.
async fn status_when(
    what: &str,
    limit: Duration,
    fetch: impl Fn() -> Result<Option<Value>>,
    right: impl Fn(&Value) -> bool,
) -> Result<Value> {
    until(what, limit, async || {
        Ok(match fetch()? {
            Some(object) if right(&object) => Poll::Ready(object),
            Some(object) => Poll::Pending(object["status"].to_string()),
            None => Poll::Pending("no such object".to_owned()),
        })
    })
    .await
}
