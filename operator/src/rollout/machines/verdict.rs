//! Verdicts on a roll-out in which machines upgrade themselves, beside those of turns.

use super::MachineRollout;
use crate::rollout::verdict::{Verdict, not_stalled, stalled};
use api::reason;

/// The verdict where machines wait because they could not fetch the release: the name of each, and why.
pub fn waiting_for_registry(verdict: Verdict, waiting: &[(&str, &str)]) -> Verdict {
    let Some((name, why)) = waiting.first().filter(|_| verdict.reason == reason::PROGRESSING) else { return verdict };
    let (count, message) = (waiting.len(), verdict.message);
    let message = format!("{message}; {count} could not fetch it, such as {name}: {why}");
    not_stalled(reason::REGISTRY_UNREACHABLE, message)
}

/// The verdict where there is no machine.
pub fn nobody(rollout: &MachineRollout) -> Verdict {
    if rollout.is_explicit {
        let message = "spec.nodeSelector selects no installed machine of this namespace that is assigned to no cluster \
                       and is no node of this one";
        return stalled(reason::NO_NODE_MATCHED, message.to_owned());
    }
    let message = "Fleet (bundles.fleet.cattle.io), which reaches the clusters of this namespace, is not installed, and \
                   spec.nodeSelector selects no machine that upgrades itself; install Fleet, or for the nodes of this \
                   cluster use the namespace fleet-local";
    stalled(reason::NO_ENGINE, message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::DefaultRegistry;
    use api::{Engine, ManagedOSImage};
    use serde_json::json;

    #[test]
    fn a_registry_that_is_down_is_said_and_stops_nothing() {
        let going = || not_stalled(reason::PROGRESSING, "0 of 2 machines run 2".to_owned());
        assert_eq!(waiting_for_registry(going(), &[]), going());
        let said = waiting_for_registry(going(), &[("a", "refused"), ("b", "refused")]);
        assert_eq!((said.reason, said.stalled), (reason::REGISTRY_UNREACHABLE, false));
        assert_eq!(said.message, "0 of 2 machines run 2; 2 could not fetch it, such as a: refused");
        let failed = stalled(reason::FAILED, "one did not come up".to_owned());
        assert_eq!(waiting_for_registry(failed.clone(), &[("a", "refused")]), failed);
    }

    #[test]
    fn without_machines_the_reason_is_what_was_asked_for() {
        let of = |engine: Engine| {
            let spec = json!({"osImage": "a:2", "engine": engine});
            let object = ManagedOSImage::new("x", serde_json::from_value(spec).unwrap());
            nobody(&MachineRollout::of(&object, &DefaultRegistry::default()).unwrap())
        };
        let (explicit, auto) = (of(Engine::Machine), of(Engine::Auto));
        assert_eq!((explicit.reason, explicit.stalled), (reason::NO_NODE_MATCHED, true));
        assert_eq!((auto.reason, auto.stalled), (reason::NO_ENGINE, true));
    }
}
