//! Two ManagedOSImages over one node: the older one counts, and the other leaves the node out.

use super::fetch::{clusters, machine_of};
use super::listing::NodeListing;
use super::{Context, Desired, ManagedOSImage, ReconcileError};
use crate::rollout::{DefaultRegistry, HOSTNAME, Upgrade};
use api::Engine;
use kube::ResourceExt;
use kube::core::SelectorExt;
use std::collections::{BTreeMap, BTreeSet};

/// A node for which an older ManagedOSImage counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OlderNode {
    pub(super) hostname: String,
    /// Name of the ManagedOSImage.
    pub(super) image: String,
}

/// The ManagedOSImages of the same namespace that are older.
pub(super) fn older(object: &ManagedOSImage, context: &Context) -> Vec<std::sync::Arc<ManagedOSImage>> {
    let age = |image: &ManagedOSImage| (image.creation_timestamp().map(|time| time.0), image.name_any());
    let is_older = |image: &ManagedOSImage| {
        let same = image.namespace() == object.namespace() && image.uid() != object.uid();
        same && image.metadata.deletion_timestamp.is_none() && age(image) < age(object)
    };
    context.os_images.state().into_iter().filter(|image| is_older(image)).collect()
}

/// The nodes that an older ManagedOSImage selects as well.
pub(super) async fn nodes_of_older(
    object: &ManagedOSImage,
    context: &Context,
    desired: &Desired,
    listing: &NodeListing,
) -> Result<BTreeSet<OlderNode>, ReconcileError> {
    let older: Vec<Upgrade> = older(object, context).iter().filter_map(|image| upgrade(image, desired)).collect();
    if older.is_empty() {
        return Ok(BTreeSet::new());
    }
    let upgrade = &desired.upgrade;
    if upgrade.is_local() {
        let labels = listing.nodes(context).await?.iter().map(|node| node.labels().clone());
        return Ok(shared(upgrade, &older, labels));
    }
    let mut found = BTreeSet::new();
    for one in older {
        let clusters = clusters(context, &one.image_namespace, &[one.name.as_str()]).await?;
        let machines = context.inventory.index.installed(&one.image_namespace);
        let reached = machines.iter().filter(|machine| machine.cluster().is_some_and(|name| clusters.contains(name)));
        let labels = reached.filter_map(|machine| Some(machine_of(machine)?.labels));
        found.extend(shared(upgrade, &[one], labels));
    }
    Ok(found)
}

/// What an older one carries out by an engine for nodes.
fn upgrade(image: &ManagedOSImage, desired: &Desired) -> Option<Upgrade> {
    let engine = image.status.as_ref()?.engine?;
    let by_nodes = !matches!(engine, Engine::Machine | Engine::Auto);
    Upgrade::of(image, desired.engine, &DefaultRegistry::default()).ok().filter(|_| by_nodes)
}

/// Those of the nodes with these labels that both select.
fn shared(
    upgrade: &Upgrade,
    older: &[Upgrade],
    nodes: impl Iterator<Item = BTreeMap<String, String>>,
) -> BTreeSet<OlderNode> {
    let shared = nodes.filter(|labels| upgrade.selector.matches(labels)).filter_map(|labels| {
        let older = older.iter().find(|older| older.selector.matches(&labels))?;
        Some(OlderNode { hostname: labels.get(HOSTNAME)?.clone(), image: older.image_name.clone() })
    });
    shared.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::PLAN;
    use serde_json::{Value, json};

    #[test]
    fn nodes_that_both_select_are_those_of_the_older_one() {
        let of = |name: &str, selector: Value| {
            let spec = json!({"osImage": "a:1", "nodeSelector": selector});
            let image = ManagedOSImage::new(name, serde_json::from_value(spec).unwrap());
            Upgrade::of(&image, PLAN, &DefaultRegistry::default()).unwrap()
        };
        let labels = |name: &str, role: &str| {
            [(HOSTNAME, name), ("role", role)].map(|(key, value)| (key.to_owned(), value.to_owned())).into()
        };
        let nodes = || [labels("n1", "worker"), labels("n2", "server")].into_iter();
        let workers = of("workers", json!({"matchLabels": {"role": "worker"}}));
        let found = shared(&workers, &[of("all", json!(null))], nodes());
        assert_eq!(found, BTreeSet::from([OlderNode { hostname: "n1".into(), image: "all".into() }]));
        assert!(shared(&workers, &[of("servers", json!({"matchLabels": {"role": "server"}}))], nodes()).is_empty());
    }
}
