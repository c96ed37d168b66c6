//! A roll-out in which the operator itself upgrades the nodes of its cluster (the engine `Operator`), as values: parsed
//! from the spec of a ManagedOSImage, and decided from Nodes, pods and Jobs.
//!
//! Each node goes: cordon, drain, upgrade Job, restart, Ready with the release, uncordon. What must be remembered is in an
//! annotation of the Node ([`memory`]), so that the operator may be killed between any two writes.

pub mod cloud_configs;
pub mod decide;
pub mod drain;
pub mod job;
pub mod memory;
pub mod node;
pub mod step;
#[cfg(test)]
mod tests;

use super::containers::{Container, Containers, containers};
use super::desired::DesiredObjects;
use super::drain_options::DrainOptions;
use super::machines;
use super::windows::Windows;
use super::{DefaultRegistry, ImageReference, LOCAL_NAMESPACE, Release};
use crate::digest::Digest;
use api::{Engine, ManagedOSImage, ManagedOSImageSpec, Problem, reason};
use cloud_config::CloudConfig;
use k8s_openapi::api::core::v1::LocalObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};
use std::collections::BTreeMap;

/// A valid ManagedOSImage that the operator carries out on the nodes of its cluster.
#[derive(Clone, Debug)]
pub struct NodeRollout {
    /// Name of the ManagedOSImage.
    pub name: String,
    /// What runs on a node; another one means that nodes are upgraded again.
    pub version: String,
    pub retry: Option<String>,
    pub upgrade: Container,
    pub prepare: Option<Container>,
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// The cloud-config for the nodes.
    pub cloud_config: Option<String>,
    /// Whether a node counts only when its Job has run on it, even if it runs the release already.
    pub needs_job: bool,
    /// `None`: it is not known which release the image contains.
    pub release: Option<Release>,
    pub selector: Selector,
    pub cordon: bool,
    pub drain: Option<Drain>,
    pub concurrency: usize,
    pub max_failures: usize,
    pub windows: Windows,
}

/// How nodes are drained.
#[derive(Clone, Debug)]
pub struct Drain {
    pub options: DrainOptions,
    /// Selects the pods that are drained.
    pub selector: Selector,
}

impl NodeRollout {
    /// Parses the spec. `registry`: for images that name none. A problem names the field.
    pub fn of(object: &ManagedOSImage, registry: &DefaultRegistry) -> Result<Self, Problem> {
        let spec = &object.spec;
        let problem = |reason, message: String| Problem { reason, message };
        let invalid = |message: String| problem(reason::INVALID_SPEC, message);
        if object.namespace().as_deref() != Some(LOCAL_NAMESPACE) {
            let message = "spec.engine is Operator, and the operator upgrades the nodes of its own cluster only; use the \
                           namespace fleet-local, Fleet for other clusters, or Machine for machines that are no nodes";
            return Err(problem(reason::NO_ENGINE, message.to_owned()));
        }
        let own_image = spec.upgrade_container.as_ref().and_then(|container| container.image.as_deref());
        if spec.os_image.as_deref().or(own_image).is_none_or(|image| image.trim().is_empty()) {
            let message = "nothing is upgraded: set spec.osImage to the image that contains the release".to_owned();
            return Err(problem(reason::NO_IMAGE, message));
        }
        let unused = unused(spec);
        if !unused.is_empty() {
            let message = format!("the engine Operator does not use {}: remove them", unused.join(", "));
            return Err(invalid(message));
        }
        let config = spec.cloud_config.as_ref().filter(|config| !config.is_empty());
        let cloud_config = config.map(|config| CloudConfig(config.clone()).to_yaml());
        let Containers { upgrade, prepare, version, .. } =
            containers(spec, cloud_config.as_deref(), registry).map_err(|error| invalid(error.to_string()))?;
        let selects = |selector: &Option<LabelSelector>, field: &str| {
            let selector = Selector::try_from(selector.clone().unwrap_or_default());
            selector.map_err(|error| invalid(format!("{field}: {error}")))
        };
        let drain = spec.drain.as_ref().map(|drain| {
            let options = DrainOptions::of(drain).map_err(|error| invalid(error.to_string()))?;
            let selector = selects(&options.pod_selector, "spec.drain.podSelector")?;
            Ok::<_, Problem>(Drain { options, selector })
        });
        let windows = Windows::of(spec.windows.as_deref().unwrap_or_default());
        // Nothing is known of the image of the user's own container.
        let image = spec.os_image.as_deref().filter(|_| own_image.is_none());
        let image: Option<ImageReference> = image.and_then(|image| image.trim().parse().ok());
        Ok(Self {
            name: object.name_any(),
            version,
            retry: spec.retry.clone().filter(|text| !text.is_empty()),
            upgrade,
            prepare,
            image_pull_secrets: spec.image_pull_secrets.clone().unwrap_or_default(),
            needs_job: spec.upgrade_container.is_some() || cloud_config.is_some(),
            cloud_config,
            release: Release::of(spec.release.as_deref(), image.as_ref()),
            selector: selects(&spec.node_selector, "spec.nodeSelector")?,
            cordon: spec.cordon.unwrap_or(true) || drain.is_some(),
            drain: drain.transpose()?,
            concurrency: usize::try_from(spec.concurrency.unwrap_or(1)).unwrap_or(0),
            max_failures: usize::try_from(spec.max_failures.unwrap_or(0)).unwrap_or(usize::MAX),
            windows: windows.map_err(|error| invalid(error.to_string()))?,
        })
    }

    /// Another one means that the roll-out begins anew: its failures are forgotten.
    pub fn attempt(&self) -> String {
        Digest::of(&(&self.version, &self.retry)).to_string()
    }

    /// Whether the selector selects a node with these labels.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector.matches(labels)
    }

    /// The release for people: its name, else the image.
    pub fn release_text(&self) -> String {
        self.release.as_ref().map_or_else(|| self.upgrade.image.clone(), ToString::to_string)
    }
}

/// What else is applied and deleted: the objects of an engine before, and a finalizer, because nodes are given back when
/// the ManagedOSImage is deleted.
pub fn leftovers(object: &ManagedOSImage) -> DesiredObjects {
    let before = object.status.as_ref().and_then(|status| status.engine);
    let delete = if before == Some(Engine::Operator) { Vec::new() } else { machines::leftovers(object).delete };
    DesiredObjects { apply: Vec::new(), delete, predecessor: None, finalizer: true }
}

fn unused(spec: &ManagedOSImageSpec) -> Vec<&'static str> {
    let given = [
        (spec.cluster_rollout_strategy.is_some(), "spec.clusterRolloutStrategy"),
        (spec.targets.as_ref().is_some_and(|targets| !targets.is_empty()), "spec.targets"),
        (spec.cluster_targets.as_ref().is_some_and(|targets| !targets.is_empty()), "spec.clusterTargets"),
    ];
    given.into_iter().filter(|(is_given, _)| *is_given).map(|(_, field)| field).collect()
}
