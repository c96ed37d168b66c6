//! Whether this machine, if it is a node of a cluster, is Ready. It has no credentials of its own: the kubelet's healthz
//! answers on loopback, and the kubelet's kubeconfig allows the kubelet's own Node to be read.

mod kubeconfig;
mod node;

use crate::installed::files::write_secret;
use crate::path_error::PathError;
use boot_contract::paths::below;
use kubeconfig::{Kubeconfig, KubeconfigError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where kubeadm, a plain kubelet, k3s and RKE2 keep the kubelet's kubeconfig. All are on COS_PERSISTENT.
const KUBECONFIGS: [&str; 5] = [
    "/etc/kubernetes/kubelet.conf",
    "/var/lib/kubelet/kubeconfig",
    "/var/lib/kubelet/kubelet.conf",
    "/var/lib/rancher/k3s/agent/kubelet.kubeconfig",
    "/var/lib/rancher/rke2/agent/kubelet.kubeconfig",
];
/// The kubelet's default for `healthzBindAddress` and `healthzPort`.
const HEALTHZ: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 10248);
/// An empty file that says that this machine was a Ready node.
const WAS_READY: &str = "/var/lib/ros/node-was-ready";
/// The time that each of the two questions has.
const LIMIT: Duration = Duration::from_secs(10);

/// Why a node is not Ready.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("the kubelet does not answer on http://{HEALTHZ}/healthz")]
    NoAnswer(#[source] reqwest::Error),
    #[error("the kubelet's healthz answers {0}")]
    Unhealthy(reqwest::StatusCode),
    #[error("reading {}", .0.display())]
    Kubeconfig(PathBuf, #[source] KubeconfigError),
    #[error("asking {server} for the node {node}")]
    ApiServer { server: String, node: String, source: reqwest::Error },
    #[error("the node {node} is not Ready: {why}")]
    NotReady { node: String, why: String },
    #[error("starting the client")]
    Client(#[source] std::io::Error),
}

/// The node that this machine is.
#[derive(Debug, PartialEq, Eq)]
pub struct Kubelet {
    kubeconfig: PathBuf,
    healthz: SocketAddr,
}

impl Kubelet {
    /// `None` if this machine is no node: it has no kubeconfig of a kubelet.
    pub fn find(root: &Path) -> Option<Self> {
        let kubeconfig = KUBECONFIGS.map(|path| below(root, path)).into_iter().find(|path| path.exists())?;
        Some(Self { kubeconfig, healthz: HEALTHZ })
    }

    /// Asks the kubelet, then the API server. Each has [`LIMIT`].
    pub async fn check(&self) -> Result<(), NodeError> {
        let client = reqwest::Client::builder().timeout(LIMIT).no_proxy().build().map_err(NodeError::NoAnswer)?;
        let answer =
            client.get(format!("http://{}/healthz", self.healthz)).send().await.map_err(NodeError::NoAnswer)?;
        if !answer.status().is_success() {
            return Err(NodeError::Unhealthy(answer.status()));
        }
        let unusable = |error| NodeError::Kubeconfig(self.kubeconfig.clone(), error);
        let kubeconfig = Kubeconfig::read(&self.kubeconfig).map_err(unusable)?;
        let (server, name) = (&kubeconfig.server, &kubeconfig.node);
        let failed = |source| NodeError::ApiServer { server: server.clone(), node: name.clone(), source };
        let client = kubeconfig.client(LIMIT).map_err(unusable)?;
        let url = format!("{}/api/v1/nodes/{name}", server.trim_end_matches('/'));
        let answer = client.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(failed)?;
        let body = node::read_bounded(answer).await.map_err(failed)?;
        node::ready(&body).map_err(|why| NodeError::NotReady { node: name.clone(), why })
    }
}

/// What keeps a machine that was a Ready node from being one. `None` where nothing is to be asked for. Blocks for at most
/// twice [`LIMIT`].
pub fn what_is_missing(root: &Path) -> Option<String> {
    let kubelet = Kubelet::find(root).filter(|_| below(root, WAS_READY).exists())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(NodeError::Client);
    let checked = runtime.and_then(|runtime| runtime.block_on(kubelet.check()));
    checked.err().map(|error| protocol::error_chain(&error))
}

/// Remembers that this machine is a Ready node, if it is one. The next release is good only if it is one again.
pub async fn remember_if_ready(root: &Path) -> Result<(), PathError> {
    let path = below(root, WAS_READY);
    let Some(kubelet) = Kubelet::find(root).filter(|_| !path.exists()) else { return Ok(()) };
    match kubelet.check().await {
        Ok(()) => write_secret(&path, b"").map_err(PathError::of("writing", &path)),
        Err(error) => {
            tracing::debug!("{}", protocol::error_chain(&error));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// A server on loopback that gives these answers, one to a connection: status line and body.
    fn server(answers: Vec<(&'static str, String)>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for (status, body) in answers {
                let (mut connection, _) = listener.accept().unwrap();
                let mut request = [0; 2048];
                let _ = connection.read(&mut request).unwrap();
                let length = body.len();
                write!(connection, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
                    .unwrap();
            }
        });
        address
    }

    fn node(ready: &str) -> String {
        format!(r#"{{"status": {{"conditions": [{{"type": "Ready", "status": "{ready}", "message": "no CNI"}}]}}}}"#)
    }

    /// A machine whose kubelet and API server give these answers.
    fn machine(healthz: &'static str, node: &str) -> (tempfile::TempDir, Kubelet) {
        let api_server = server(vec![("200 OK", node.to_owned())]);
        let root = tempfile::tempdir().unwrap();
        let path = below(root.path(), KUBECONFIGS[0]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, kubeconfig::fixture(&format!("http://{api_server}"), "n1")).unwrap();
        let kubelet =
            Kubelet { healthz: server(vec![(healthz, String::new())]), ..Kubelet::find(root.path()).unwrap() };
        (root, kubelet)
    }

    async fn check(healthz: &'static str, node: &str) -> Result<(), String> {
        machine(healthz, node).1.check().await.map_err(|error| protocol::error_chain(&error))
    }

    #[tokio::test]
    async fn a_node_is_ready_if_its_kubelet_and_its_node_say_so() {
        assert_eq!(check("200 OK", &node("True")).await, Ok(()));
        let error = check("200 OK", &node("False")).await.unwrap_err();
        assert_eq!(error, "the node n1 is not Ready: no CNI");
        assert!(check("200 OK", "{}").await.unwrap_err().contains("n1"));
        assert!(check("500 Oh", &node("True")).await.unwrap_err().contains("500"));
    }

    #[test]
    fn only_a_machine_that_was_a_ready_node_must_be_one() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(what_is_missing(root.path()), None, "no node");
        let path = below(root.path(), KUBECONFIGS[1]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "{").unwrap();
        assert_eq!(what_is_missing(root.path()), None, "it was never Ready");
        let marker = below(root.path(), WAS_READY);
        fs::create_dir_all(marker.parent().unwrap()).unwrap();
        fs::write(&marker, "").unwrap();
        assert!(what_is_missing(root.path()).is_some());
        fs::remove_file(path).unwrap();
        assert_eq!(what_is_missing(root.path()), None, "it has left its cluster");
    }

    #[tokio::test]
    async fn a_node_that_is_not_ready_is_not_remembered() {
        let root = tempfile::tempdir().unwrap();
        remember_if_ready(root.path()).await.unwrap();
        let path = below(root.path(), KUBECONFIGS[0]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "{").unwrap();
        remember_if_ready(root.path()).await.unwrap();
        assert!(!below(root.path(), WAS_READY).exists());
    }
}
