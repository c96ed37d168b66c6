//! The containers that upgrade a node, for every engine that upgrades nodes.

use super::{DefaultRegistry, ImageReference, MalformedImage, Unsupported};
use crate::digest::Digest;
use api::{ContainerSpec, HostVolume, ManagedOSImageSpec};
use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar};
use serde::Serialize;
use serde_json::{Map, Value};

/// Longest version: the limit of a label value, which it becomes.
pub(super) const LONGEST_VERSION: usize = 63;
/// Hex digits of the digest at the end of a version.
const VERSION_DIGEST: usize = 16;
/// The command that upgrades a machine from an image with a release. The entry point of the first release's images does
/// nothing.
pub(super) const UPGRADE: &str = "/usr/sbin/suc-upgrade";
/// Path of the Secret in the upgrade container, as in the first release, so that its images find it.
pub(super) const SECRET_PATH: &str = "/run/data";
/// The variable with `spec.retry`, which the release's upgrade command reads.
const RETRY_VARIABLE: &str = "ROS_RETRY";

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    pub image: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub envs: Vec<EnvVar>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env_from: Vec<EnvFromSource>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<HostVolume>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_context: Option<Map<String, Value>>,
}

/// The containers that upgrade a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Containers {
    pub upgrade: Container,
    pub prepare: Option<Container>,
    /// A valid label value. It changes exactly when nodes must be upgraded again.
    pub version: String,
    /// The same, and it changes with `spec.retry` as well.
    pub version_with_retry: String,
}

/// The containers for a ManagedOSImage, with the registry for images that name none.
pub fn containers(
    spec: &ManagedOSImageSpec,
    cloud_config: Option<&str>,
    registry: &DefaultRegistry,
) -> Result<Containers, Unsupported> {
    let mut upgrade = upgrade_container(spec)?;
    // From the user's text, without the default registry: the same image from another registry is no upgrade.
    let version_of = |upgrade: &Container| version(upgrade, spec.os_image.as_deref(), cloud_config);
    let version = version_of(&upgrade)?;
    ask_again(&mut upgrade, spec.retry.as_deref());
    let version_with_retry = version_of(&upgrade)?;
    let mut prepare = spec.prepare.as_ref().map(|prepare| container(prepare, Some(&upgrade.image))).transpose()?;
    for container in [&mut upgrade].into_iter().chain(&mut prepare) {
        let image = registry.complete(&image(&container.image)?);
        container.image = image.map_err(|error| Unsupported(error.to_string()))?.to_string();
    }
    Ok(Containers { upgrade, prepare, version, version_with_retry })
}

fn upgrade_container(spec: &ManagedOSImageSpec) -> Result<Container, Unsupported> {
    let given = spec.upgrade_container.clone().unwrap_or_default();
    let mut upgrade = container(&given, spec.os_image.as_deref())?;
    if given.image.is_none() && upgrade.command.is_empty() {
        upgrade.command = vec![UPGRADE.to_owned()];
    }
    Ok(upgrade)
}

/// Tells the upgrade to try a release again that failed on the node, unless the user's own container says something else.
fn ask_again(upgrade: &mut Container, retry: Option<&str>) {
    let Some(text) = retry.filter(|text| !text.is_empty()) else { return };
    if upgrade.envs.iter().all(|variable| variable.name != RETRY_VARIABLE) {
        let (name, value) = (RETRY_VARIABLE.to_owned(), Some(text.to_owned()));
        upgrade.envs.push(EnvVar { name, value, ..EnvVar::default() });
    }
}

fn container(spec: &ContainerSpec, default_image: Option<&str>) -> Result<Container, Unsupported> {
    let given = spec.image.as_deref().or(default_image).unwrap_or_default();
    Ok(Container {
        // With its tag: the controller would use the Plan's version as the tag of an image without one.
        image: image(given)?.to_string(),
        command: spec.command.clone().unwrap_or_default(),
        args: spec.args.clone().unwrap_or_default(),
        envs: [spec.env.clone(), spec.envs.clone()].into_iter().flatten().flatten().collect(),
        env_from: spec.env_from.clone().unwrap_or_default(),
        volumes: spec.volumes.clone().unwrap_or_default(),
        security_context: spec.security_context.clone(),
    })
}

fn image(text: &str) -> Result<ImageReference, Unsupported> {
    text.trim().parse().map_err(|error: MalformedImage| Unsupported(error.to_string()))
}

/// The version of the Plan, a valid label value. It changes exactly when nodes must be upgraded again: with `osImage`,
/// the container or the cloud-config. The controller compares only this version.
fn version(upgrade: &Container, os_image: Option<&str>, cloud_config: Option<&str>) -> Result<String, Unsupported> {
    // If the container has an image of its own, the Plan contains `osImage` nowhere else.
    let image = image(os_image.unwrap_or(&upgrade.image))?;
    let digest = Digest::of(&(upgrade, image.to_string(), cloud_config)).to_string();
    // A tag may begin with characters with which a label value may not begin.
    let tag = image.short().trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let tag = &tag[..tag.len().min(LONGEST_VERSION - VERSION_DIGEST - 1)];
    Ok(format!("{tag}-{}", &digest[..VERSION_DIGEST]).trim_start_matches('-').to_owned())
}
