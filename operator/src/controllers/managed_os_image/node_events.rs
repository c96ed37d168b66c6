//! Events of a roll-out's nodes: what became of each.

use super::{Context, ManagedOSImage};
use crate::rollout::progress::Phase;
use api::{ManagedOSImageStatus, NodeProgress};
use kube::Resource;

/// Publishes what the new status says of nodes, and the old one did not.
pub(super) fn publish(object: &ManagedOSImage, context: &Context, after: &ManagedOSImageStatus) {
    let before = object.status.clone().unwrap_or_default();
    for (warning, reason, note) in changes(&before, after) {
        context.events.publish(object.object_ref(&()), warning, reason, &note);
    }
}

/// Whether it is a warning, the reason, and the text.
fn changes(before: &ManagedOSImageStatus, after: &ManagedOSImageStatus) -> Vec<(bool, &'static str, String)> {
    let known = |node: &NodeProgress| {
        let same = |other: &&NodeProgress| match (&other.id, &node.id) {
            (Some(other), Some(id)) => other == id,
            _ => (&other.name, &other.cluster) == (&node.name, &node.cluster),
        };
        before.nodes.iter().flatten().find(same).and_then(Phase::of)
    };
    let changed = after.nodes.iter().flatten().filter_map(|node| {
        let (phase, was) = (Phase::of(node)?, known(node)?);
        let (warning, reason) = match phase {
            Phase::Upgrading => (false, "NodeBegun"),
            Phase::Done => (false, "NodeUpgraded"),
            Phase::Failed => (true, "NodeFailed"),
            Phase::Gone => (true, "NodeGone"),
            Phase::Proving | Phase::Unknown | Phase::Waiting => return None,
        };
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (from, to, why) = (text(&node.from), text(&node.to), text(&node.reason));
        let why = if why.is_empty() { why } else { format!(": {why}") };
        (phase != was).then(|| (warning, reason, format!("{} from {from} to {to}{why}", node.name)))
    });
    changed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_of_a_node_is_said_once() {
        let node = |name: &str, phase: &str| NodeProgress {
            name: name.into(),
            id: Some("id-a".into()),
            from: Some("1".into()),
            to: Some("2".into()),
            phase: Some(phase.into()),
            ..NodeProgress::default()
        };
        let status = |node| ManagedOSImageStatus { nodes: Some(vec![node]), ..ManagedOSImageStatus::default() };
        let of = |before, after| changes(&status(before), &status(after));
        let done = of(node("a", "Proving"), node("b", "Done"));
        assert_eq!(done, [(false, "NodeUpgraded", "b from 1 to 2".to_owned())]);
        assert!(of(node("a", "Done"), node("a", "Done")).is_empty());
        assert!(of(node("a", "Upgrading"), node("a", "Failed"))[0].0);
        let first = changes(&ManagedOSImageStatus::default(), &status(node("a", "Done")));
        assert!(first.is_empty(), "one that was done before anybody looked is no news");
    }
}
