//! The rules of the Lease, over values.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use std::time::Duration;
use tokio::time::Instant;

/// The Lease, in the operator's own namespace.
pub const NAME: &str = "ros-operator";
/// Another replica may take a Lease that has not changed for this long.
const DURATION: Duration = Duration::from_secs(10);
/// A leader that cannot renew its Lease for this long steps down, 2 s before another replica may take over.
pub(super) const GIVE_UP: Duration = Duration::from_secs(8);
/// Time between two renewals.
pub(super) const RENEW_EVERY: Duration = Duration::from_secs(3);
/// How often a replica that does not lead reads the Lease. With [`DURATION`]: at most 12 s from the end of one leader
/// to the start of the next.
pub(super) const POLL_EVERY: Duration = Duration::from_secs(2);

/// A version of the Lease, and when this replica first saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    version: String,
    since: Instant,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Take,
    /// Another replica leads.
    Wait(Seen),
}

/// What to do about an existing Lease. `seen`: from the previous decision.
pub(super) fn decide(lease: &Lease, seen: Option<Seen>, identity: &str, now: Instant) -> Decision {
    let holder = holder(lease);
    if holder.is_empty() || holder == identity {
        return Decision::Take;
    }
    let version = lease.resource_version().unwrap_or_default();
    let seen = seen.filter(|seen| seen.version == version).unwrap_or(Seen { version, since: now });
    if now.duration_since(seen.since) >= DURATION { Decision::Take } else { Decision::Wait(seen) }
}

pub(super) fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

/// The Lease with this replica as its holder. It keeps its resource version, so that if two replicas take it, one
/// fails.
pub(super) fn taken(lease: Option<Lease>, identity: &str, now: Timestamp) -> Lease {
    let mut lease = lease.unwrap_or_default();
    lease.metadata.name = Some(NAME.to_owned());
    let before = lease.spec.take().unwrap_or_default();
    let ours = before.holder_identity.as_deref() == Some(identity);
    let transitions = before.lease_transitions.unwrap_or_default();
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(DURATION.as_secs() as i32),
        acquire_time: before.acquire_time.filter(|_| ours).or(Some(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if ours { transitions } else { transitions.saturating_add(1) }),
        ..LeaseSpec::default()
    });
    lease
}

/// The Lease without a holder, so that the next replica need not wait until it expires.
pub(super) fn released(mut lease: Lease) -> Lease {
    if let Some(spec) = &mut lease.spec {
        spec.holder_identity = None;
        spec.acquire_time = None;
        spec.renew_time = None;
    }
    lease
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }
    fn lease(holder: &str, version: &str) -> Lease {
        let mut lease = taken(None, holder, at(0));
        lease.metadata.resource_version = Some(version.to_owned());
        lease
    }
    fn waited(decision: Decision) -> Option<Seen> {
        match decision {
            Decision::Wait(seen) => Some(seen),
            Decision::Take => None,
        }
    }

    #[test]
    fn only_a_lease_that_does_not_change_is_taken() {
        let start = Instant::now();
        let first = waited(decide(&lease("a", "1"), None, "b", start)).unwrap();
        let almost = start + DURATION - Duration::from_millis(1);
        let second = waited(decide(&lease("a", "1"), Some(first.clone()), "b", almost)).unwrap();
        assert_eq!(second, first);
        assert_eq!(decide(&lease("a", "1"), Some(first.clone()), "b", start + DURATION), Decision::Take);
        let renewed = waited(decide(&lease("a", "2"), Some(first), "b", start + DURATION)).unwrap();
        assert_eq!(renewed.since, start + DURATION);
    }

    #[test]
    fn a_released_or_own_lease_is_taken_at_once() {
        let now = Instant::now();
        assert_eq!(decide(&released(lease("a", "1")), None, "b", now), Decision::Take);
        assert_eq!(decide(&lease("b", "1"), None, "b", now), Decision::Take);
        assert_eq!(decide(&Lease::default(), None, "b", now), Decision::Take);
    }

    #[test]
    fn transitions_count_changes_of_the_holder() {
        let spec = |lease: &Lease| lease.spec.clone().unwrap();
        let first = taken(None, "a", at(0));
        let renewed = taken(Some(first.clone()), "a", at(3));
        assert_eq!(spec(&renewed).lease_transitions, spec(&first).lease_transitions);
        assert_eq!(spec(&renewed).acquire_time, Some(MicroTime(at(0))));
        assert_eq!(spec(&renewed).renew_time, Some(MicroTime(at(3))));
        let other = taken(Some(renewed.clone()), "b", at(6));
        assert_eq!(spec(&other).lease_transitions, spec(&renewed).lease_transitions.map(|count| count + 1));
        assert_eq!(spec(&other).acquire_time, Some(MicroTime(at(6))));
    }

    #[test]
    fn a_leader_steps_down_before_another_may_start() {
        assert!(GIVE_UP < DURATION && RENEW_EVERY * 2 < GIVE_UP);
        assert!(DURATION + POLL_EVERY < Duration::from_secs(15));
    }
}
