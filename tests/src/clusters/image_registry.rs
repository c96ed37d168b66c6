//! A container registry on loopback: Debian's `docker-registry`, so that what we push and pull is judged by another
//! program.

use crate::clusters::operator::HOST_SEEN_BY_MACHINES;
use anyhow::{Context, Result};
use qemu::port::Port;
use qemu::process::{KeptProcess, Process};
use qemu::wait::{Poll, until};
use registry::{Inspected, Patience, Pushed, Reference, RegistriesFile};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// The repository of the releases, by the name that machines know.
pub const REPOSITORY: &str = "registry.example.org/os/ros";
/// Where machines keep the file of [`ImageRegistry::for_machines`].
const REGISTRIES: &str = "/etc/rancher/k3s/registries.yaml";
const READY: Duration = Duration::from_secs(60);

/// It ends when this value is dropped.
pub struct ImageRegistry {
    process: Process,
    port: Port,
}

impl ImageRegistry {
    /// Starts it with its configuration, images and log in `folder`.
    pub async fn start(folder: &Path) -> Result<Self> {
        let port = Port::reserve()?;
        let configuration = json!({
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": folder.join("images")}},
            "http": {"addr": format!("127.0.0.1:{}", port.number())},
        });
        let file = folder.join("config.yml");
        fs::write(&file, configuration.to_string()).with_context(|| format!("writing {}", file.display()))?;
        let mut command = Command::new("docker-registry");
        let mut process = Process::start(command.arg("serve").arg(&file), &folder.join("docker-registry.log"))?;
        let url = format!("http://127.0.0.1:{}/v2/", port.number());
        until("the registry", READY, async || {
            process.check_running()?;
            Ok(match reqwest::get(&url).await {
                Ok(_) => Poll::Ready(()),
                Err(error) => Poll::Pending(error.to_string()),
            })
        })
        .await?;
        Ok(Self { process, port })
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// An entry of `write_files` in a cloud-config: a machine in QEMU's user network then takes [`REPOSITORY`] from here.
    pub fn for_machines(&self) -> Value {
        let endpoint = format!("http://{HOST_SEEN_BY_MACHINES}:{}", self.port());
        let (name, _) = REPOSITORY.split_once('/').unwrap_or_default();
        let registries = json!({"mirrors": {name: {"endpoint": [endpoint]}}});
        json!({"path": REGISTRIES, "content": registries.to_string()})
    }

    /// Bytes of layers that it has sent since it was started.
    pub fn layer_bytes_sent(&self) -> u64 {
        self.process.output().lines().filter_map(layer_bytes).sum()
    }

    pub fn process(&self) -> Result<KeptProcess> {
        self.process.identity()
    }
}

/// Pushes the archive of an image to the registry at this port, as the tag of [`REPOSITORY`].
pub async fn push(archive: &Path, port: u16, tag: &str) -> Result<Pushed> {
    let reference = on_this_host(port, tag)?;
    Ok(registry::push(archive, &reference, &RegistriesFile::default(), Arc::new(|_, _| ())).await?)
}

/// What was pushed to the registry at this port.
pub async fn inspect(port: u16, tag: &str) -> Result<Inspected> {
    let registries = RegistriesFile::default();
    Ok(registry::inspect(&on_this_host(port, tag)?, &registries, Patience::BRIEF, &mut |_| ()).await?)
}

fn on_this_host(port: u16, tag: &str) -> Result<Reference> {
    let (_, repository) = REPOSITORY.split_once('/').unwrap_or_default();
    Ok(format!("127.0.0.1:{port}/{repository}:{tag}").parse()?)
}

/// From a line of its access log, in Apache's format: `… "GET /v2/os/ros/blobs/sha256:… HTTP/1.1" 200 1234 …`.
fn layer_bytes(line: &str) -> Option<u64> {
    let (request, answer) = line.split_once("\"GET ")?.1.split_once("\" ")?;
    let mut answer = answer.split(' ');
    let is_sent = matches!(answer.next()?, "200" | "206");
    (is_sent && request.contains("/blobs/")).then(|| answer.next()?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sent_bytes_are_those_of_layers() {
        let line = |request: &str, answer: &str| {
            layer_bytes(&format!(
                "127.0.0.1 - - [30/Nov/2026:09:42:30 +0000] \"{request} HTTP/1.1\" {answer} \"\" \"x\""
            ))
        };
        assert_eq!(line("GET /v2/os/ros/blobs/sha256:00", "200 5"), Some(5));
        assert_eq!(line("GET /v2/os/ros/blobs/sha256:00", "206 3"), Some(3));
        assert_eq!(line("GET /v2/os/ros/blobs/sha256:00", "404 157"), None);
        assert_eq!(line("GET /v2/os/ros/manifests/0.2.0", "200 5"), None);
        assert_eq!(line("HEAD /v2/os/ros/blobs/sha256:00", "200 5"), None);
    }
}
