//! A Kubernetes cluster on loopback: etcd, the API server and, on request, the controllers.

use crate::clusters::certificates::Authority;
use crate::clusters::control_plane;
use crate::clusters::etcd::Etcd;
use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use kube::config::{KubeConfigOptions, Kubeconfig};
use qemu::port::Port;
use qemu::process::{KeptProcess, Process};
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Which programs run beside etcd and the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controllers {
    /// Garbage collection, namespace deletion, Jobs and scheduling do not happen.
    Absent,
    Running,
}

/// Keys, etcd's data, `kubeconfig` and a log per program are in the folder that it was started in.
pub struct Cluster {
    folder: PathBuf,
    programs: PathBuf,
    etcd_port: Port,
    api_port: Port,
    /// Ports that must stay reserved; nothing here connects to them.
    other_ports: Vec<Port>,
    // In the order of ending: clients before servers.
    controllers: Vec<Process>,
    api_server: Option<Process>,
    etcd: Process,
}

/// File with the certificate of the cluster's authority.
const AUTHORITY: &str = "ca.crt";
/// A start takes 2.4 s on an idle host, and ten times as long on a busy one.
const READY: Duration = Duration::from_secs(120);

impl Cluster {
    pub async fn start(folder: &Path, controllers: Controllers) -> Result<Self> {
        let programs = tokio::task::spawn_blocking(control_plane::folder).await.context("building Kubernetes")??;
        let (etcd_port, peer_port, api_port) = (Port::reserve()?, Port::reserve()?, Port::reserve()?);
        write_identities(folder, api_port.number())?;
        let etcd_url = format!("http://127.0.0.1:{}", etcd_port.number());
        let etcd = Process::start(
            Command::new(programs.join("etcd"))
                .args(["--data-dir", "etcd", "--listen-client-urls", &etcd_url, "--advertise-client-urls", &etcd_url])
                .args(["--listen-peer-urls", &format!("http://127.0.0.1:{}", peer_port.number())])
                // A test's data need not survive a power cut, and on a slow disk flushing takes most of the time.
                .arg("--unsafe-no-fsync")
                .current_dir(folder),
            &folder.join("etcd.log"),
        )?;
        let mut cluster = Self {
            folder: folder.to_owned(),
            programs,
            etcd_port,
            api_port,
            other_ports: vec![peer_port],
            controllers: Vec::new(),
            api_server: None,
            etcd,
        };
        cluster.start_api_server().await?;
        if controllers == Controllers::Running {
            cluster.start_controllers()?;
        }
        Ok(cluster)
    }

    /// The kubeconfig of the admin.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// PEM of the cluster's authority.
    pub fn authority_file(&self) -> PathBuf {
        self.folder.join(AUTHORITY)
    }

    /// URL of the API server, as a machine in QEMU's user network sees it.
    pub fn url_for_machines(&self) -> String {
        format!("https://10.0.2.2:{}", self.api_port.number())
    }

    pub async fn client(&self) -> Result<kube::Client> {
        client_of(&self.kubeconfig()).await
    }

    /// Runs kubectl as the admin and gives its standard output.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut child = Command::new(self.programs.join("kubectl"))
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting kubectl")?;
        // kubectl reads all of its input before it prints anything, so neither side waits for the other.
        child
            .stdin
            .take()
            .context("opening kubectl's input")?
            .write_all(input.as_bytes())
            .context("feeding kubectl")?;
        let output = child.wait_with_output().context("waiting for kubectl")?;
        if !output.status.success() {
            bail!("kubectl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        String::from_utf8(output.stdout).context("reading what kubectl printed")
    }

    /// Creates or changes an object, as `kubectl apply` does.
    pub fn apply(&self, object: &Value) -> Result<()> {
        self.apply_text(&object.to_string())
    }

    fn apply_text(&self, manifest: &str) -> Result<()> {
        self.kubectl(&["apply", "--server-side", "--filename", "-"], manifest).map(drop)
    }

    /// Applies CustomResourceDefinitions in YAML, and waits until their kinds are served.
    pub fn apply_definitions(&self, definitions: &str) -> Result<()> {
        self.apply_text(definitions)?;
        let wait = ["wait", "--for=condition=Established", "--timeout=60s", "--filename", "-"];
        self.kubectl(&wait, definitions).map(drop)
    }

    /// Creates a namespace if it is missing.
    pub fn ensure_namespace(&self, name: &str) -> Result<()> {
        self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
    }

    /// An object (`kind/name`), or the list of all objects of a kind.
    pub fn get(&self, object: &str, namespace: &str) -> Result<Value> {
        let found = self.kubectl(&["get", object, "--namespace", namespace, "--output=json"], "")?;
        serde_json::from_str(&found).with_context(|| format!("reading {object}"))
    }

    /// Changes `object` (`kind/name`) by a JSON merge patch (RFC 7396) of everything but its status. `namespace` is
    /// ignored for a kind without namespaces.
    pub fn patch(&self, object: &str, namespace: &str, patch: &Value) -> Result<()> {
        self.merge(object, namespace, patch, &[])
    }

    /// Changes the status of `object` in the same way.
    pub fn patch_status(&self, object: &str, namespace: &str, status: &Value) -> Result<()> {
        self.merge(object, namespace, &json!({"status": status}), &["--subresource=status"])
    }

    fn merge(&self, object: &str, namespace: &str, patch: &Value, part: &[&str]) -> Result<()> {
        let patch = patch.to_string();
        let arguments = ["patch", object, "--namespace", namespace, "--type=merge", "--patch", &patch];
        self.kubectl(&[&arguments[..], part].concat(), "").map(drop)
    }

    /// The folder of kubectl and the other programs, for a person's PATH.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// Ends the API server alone. `start_api_server` starts it again.
    pub fn stop_api_server(&mut self) {
        if let Some(server) = self.api_server.take() {
            server.stop();
        }
    }

    /// Starts the API server on the same port and data, and waits until it is ready.
    pub async fn start_api_server(&mut self) -> Result<()> {
        let mut server = Process::start(
            Command::new(self.programs.join("kube-apiserver"))
                .arg(format!("--etcd-servers={}", self.etcd_url()))
                .arg(format!("--secure-port={}", self.api_port.number()))
                // No client here uses the address of the service `kubernetes`.
                .args(["--bind-address=127.0.0.1", "--advertise-address=10.0.2.2", "--endpoint-reconciler-type=none"])
                .args(["--cert-dir=certificates", "--tls-cert-file=server.crt", "--tls-private-key-file=server.key"])
                .args(["--client-ca-file=ca.crt", "--authorization-mode=Node,RBAC", "--allow-privileged=true"])
                .args(["--enable-admission-plugins=NodeRestriction", "--enable-bootstrap-token-auth"])
                .args(["--service-account-key-file=service-account.pub"])
                .args(["--service-account-signing-key-file=service-account.key"])
                .args(["--service-account-issuer=https://kubernetes.default.svc"])
                .args(["--service-cluster-ip-range=10.96.0.0/16", "--shutdown-delay-duration=0s"])
                .current_dir(&self.folder),
            &self.folder.join("kube-apiserver.log"),
        )?;
        let client = self.client().await?;
        until("the API server's /readyz", READY, async || {
            server.check_running()?;
            self.etcd.check_running()?;
            let request = http_get("/readyz")?;
            Ok(match client.request_text(request).await {
                Ok(_) => Poll::Ready(()),
                Err(error) => Poll::Pending(error.to_string()),
            })
        })
        .await?;
        self.api_server = Some(server);
        Ok(())
    }

    fn start_controllers(&mut self) -> Result<()> {
        let arguments: [(&str, &[&str]); 2] = [
            (
                "kube-controller-manager",
                &[
                    "--service-account-private-key-file=service-account.key",
                    "--root-ca-file=ca.crt",
                    "--cluster-signing-cert-file=ca.crt",
                    "--cluster-signing-key-file=ca.key",
                    "--use-service-account-credentials=true",
                ],
            ),
            ("kube-scheduler", &[]),
        ];
        for (name, own) in arguments {
            let port = Port::reserve()?;
            self.controllers.push(Process::start(
                Command::new(self.programs.join(name))
                    .args(["--kubeconfig=kubeconfig", "--leader-elect=false", "--bind-address=127.0.0.1"])
                    .arg(format!("--secure-port={}", port.number()))
                    .args(own)
                    .current_dir(&self.folder),
                &self.folder.join(format!("{name}.log")),
            )?);
            self.other_ports.push(port);
        }
        Ok(())
    }

    /// The etcd behind the API server.
    pub fn etcd(&self) -> Etcd {
        Etcd::new(&self.etcd_url())
    }

    fn etcd_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.etcd_port.number())
    }

    /// The cluster's processes, in the order of ending.
    pub fn processes(&self) -> Result<Vec<KeptProcess>> {
        let all = self.controllers.iter().chain(&self.api_server).chain([&self.etcd]);
        all.map(Process::identity).collect()
    }
}

/// A client of the cluster that a kubeconfig names.
pub async fn client_of(kubeconfig: &Path) -> Result<kube::Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).context("reading kubeconfig")?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .context("creating a client's configuration from kubeconfig")?;
    kube::Client::try_from(config).context("creating a client")
}

fn http_get(path: &str) -> Result<http::Request<Vec<u8>>> {
    http::Request::get(path).body(Vec::new()).with_context(|| format!("creating a request for {path}"))
}

/// Keys and certificates of the server, the admin and the service accounts, and the admin's kubeconfig.
fn write_identities(folder: &Path, api_port: u16) -> Result<()> {
    let authority = Authority::new("kubernetes")?;
    let server = authority.server(&["127.0.0.1", "localhost", "10.0.2.2", "10.96.0.1", "kubernetes.default.svc"])?;
    let admin = authority.client("admin", "system:masters")?;
    let service_accounts = rcgen::KeyPair::generate().context("creating the service accounts' key")?;
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {
            "server": format!("https://127.0.0.1:{api_port}"),
            "certificate-authority-data": STANDARD.encode(authority.certificate()),
        }}],
        "users": [{"name": "admin", "user": {
            "client-certificate-data": STANDARD.encode(&admin.certificate),
            "client-key-data": STANDARD.encode(&admin.key),
        }}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "current-context": "test",
    });
    let files = [
        (AUTHORITY, authority.certificate()),
        ("ca.key", authority.key()),
        ("server.crt", server.certificate),
        ("server.key", server.key),
        ("service-account.key", service_accounts.serialize_pem()),
        ("service-account.pub", service_accounts.public_key_pem()),
        ("kubeconfig", serde_yaml::to_string(&kubeconfig).context("writing kubeconfig")?),
    ];
    for (name, content) in files {
        let path = folder.join(name);
        let mut options = fs::File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&path).with_context(|| format!("creating {}", path.display()))?;
        file.write_all(content.as_bytes()).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
