//! The operator as a user runs it: `ros-operator run` beside a cluster, over TLS with its own CA.

use crate::clusters::cluster::Cluster;
use anyhow::{Context, Result, bail};
use qemu::paths;
use qemu::port::Port;
use qemu::process::{KeptProcess, Process};
use qemu::wait::{Poll, until};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub struct Operator {
    process: Option<Process>,
    /// Its environment variables.
    environment: Vec<(String, String)>,
    log: PathBuf,
    port: Port,
    /// The URL that machines are told. Replicas have that of the first one.
    server_url: String,
}

/// The operator's own namespace.
pub const NAMESPACE: &str = "cattle-rancheros-operator-system";
/// The host's loopback interface as a machine in QEMU's user network sees it.
pub const HOST_SEEN_BY_MACHINES: &str = "10.0.2.2";
const READY: Duration = Duration::from_secs(90);

impl Operator {
    /// Installs the CRDs and the namespaces of the reference. The operator is not started; it will use this kubeconfig, and
    /// tell machines this host.
    pub fn prepare(cluster: &Cluster, kubeconfig: &Path, host: &str, folder: &Path) -> Result<Self> {
        install_definitions(cluster)?;
        let port = Port::reserve()?;
        let server_url = format!("https://{host}:{}", port.number());
        let mut operator =
            Self { process: None, environment: Vec::new(), log: folder.join("ros-operator.log"), port, server_url };
        operator.set("KUBECONFIG", &kubeconfig.display().to_string());
        operator.set("ROS_SERVER_URL", &operator.url());
        operator.set("ROS_NAMESPACE", NAMESPACE);
        Ok(operator)
    }

    /// Sets an environment variable, from the next start on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts another replica at another address. It tells machines the same URL.
    pub async fn start_replica(&self, folder: &Path) -> Result<Self> {
        Self::start_as(Port::reserve()?, self.server_url.clone(), self.environment.clone(), folder).await
    }

    /// Starts the operator as a Deployment would, with that environment and the rights of its ServiceAccount.
    /// `server_url` is the URL that the operator shall find out and tell machines.
    pub async fn start_deployed(
        kubeconfig: &Path,
        mut environment: Vec<(String, String)>,
        server_url: &str,
        folder: &Path,
    ) -> Result<Self> {
        environment.push(("KUBECONFIG".to_owned(), kubeconfig.display().to_string()));
        Self::start_as(Port::reserve()?, server_url.to_owned(), environment, folder).await
    }

    async fn start_as(
        port: Port,
        server_url: String,
        environment: Vec<(String, String)>,
        folder: &Path,
    ) -> Result<Self> {
        let log = folder.join("ros-operator.log");
        let mut operator = Self { process: None, environment, log, port, server_url };
        operator.resume().await?;
        Ok(operator)
    }

    /// The start of the name by which the replica holds the Lease.
    pub fn replica(&self) -> String {
        format!("port-{}", self.port.number())
    }

    /// Kills the operator, as a power cut does.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Ends the operator as Kubernetes does, with SIGTERM.
    pub fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.stop();
        }
    }

    /// Starts it, after `stop` at the same address, and waits until it has read everything.
    pub async fn resume(&mut self) -> Result<()> {
        self.launch()?;
        self.ready().await
    }

    /// Starts it without waiting for it.
    pub fn launch(&mut self) -> Result<()> {
        let process = Process::start(
            Command::new(paths::program("ros-operator")?)
                .args(["run", "--listen", &format!("127.0.0.1:{}", self.port.number())])
                .args(["--replica", &self.replica(), "--log", "text"])
                .envs(self.environment.iter().cloned()),
            &self.log,
        )?;
        self.process = Some(process);
        Ok(())
    }

    /// Waits until `/readyz` says that it has read everything.
    pub async fn ready(&mut self) -> Result<()> {
        let client = unpinned_client()?;
        let address = self.local_url("/readyz");
        let process = self.process.as_mut().context("waiting for an operator that was not started")?;
        until("the operator's /readyz", READY, async || {
            process.check_running()?;
            let answer = async { client.get(&address).send().await?.error_for_status()?.text().await };
            Ok(match answer.await {
                // Before that it serves machines, but has not read everything.
                Ok(text) if text == "ok\n" => Poll::Ready(()),
                Ok(text) => Poll::Pending(text),
                Err(error) => Poll::Pending(format!("{error:?}")),
            })
        })
        .await
    }

    /// The pid of the running operator.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("reading the operator's pid while it is stopped")?.pid())
    }

    /// The start of every registration URL that machines are told.
    pub fn url(&self) -> String {
        self.server_url.clone()
    }

    /// The URL of a path for programs on this host.
    pub fn local_url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.port.number())
    }

    /// PEM of the CA that signed the operator's certificate, as the operator hands it out.
    pub async fn ca(&self) -> Result<String> {
        self.fetch(&self.local_url("/cacerts")).await
    }

    /// The process of the operator; none while it is stopped.
    pub fn processes(&self) -> Result<Vec<KeptProcess>> {
        self.process.iter().map(Process::identity).collect()
    }

    /// The operator's metrics, in the Prometheus text format.
    pub async fn metrics(&self) -> Result<String> {
        self.fetch(&self.local_url("/metrics")).await
    }

    /// The body of a GET.
    pub async fn fetch(&self, url: &str) -> Result<String> {
        fetch(url).await
    }
}

/// The body of a GET of one of the operator's URLs.
pub async fn fetch(url: &str) -> Result<String> {
    let response = unpinned_client()?.get(url).send().await.context("sending a request to the operator")?;
    response
        .error_for_status()
        .context("sending a request to the operator")?
        .text()
        .await
        .context("reading the operator's answer")
}

/// A client that accepts any certificate, over loopback: it fetches the CA.
fn unpinned_client() -> Result<reqwest::Client> {
    reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .timeout(Duration::from_secs(10))
        .build()
        .context("creating an HTTP client")
}

/// Applies the output of `ros-operator crd`, and creates the namespaces of the reference.
pub fn install_definitions(cluster: &Cluster) -> Result<()> {
    let output =
        Command::new(paths::program("ros-operator")?).arg("crd").output().context("running ros-operator crd")?;
    if !output.status.success() {
        bail!("ros-operator crd ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    let definitions = String::from_utf8(output.stdout).context("reading the CRDs")?;
    cluster.apply_definitions(&definitions)?;
    [NAMESPACE, "fleet-default", "fleet-local"].into_iter().try_for_each(|name| cluster.ensure_namespace(name))
}
