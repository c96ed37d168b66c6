//! `spec.drain` with its defaults.

use super::Unsupported;
use api::{Drain, SecondsOrDuration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// How a node is drained, with durations in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DrainOptions {
    /// `None` or 0: no limit.
    pub timeout: Option<u64>,
    /// `None`: the grace period of each pod.
    pub grace_period: Option<i32>,
    pub delete_local_data: bool,
    pub ignore_daemon_sets: bool,
    pub force: bool,
    pub disable_eviction: bool,
    /// `None` or 0: deleted pods are waited for, however long it takes.
    pub skip_wait_for_delete_timeout: Option<i32>,
    pub pod_selector: Option<LabelSelector>,
}

impl DrainOptions {
    pub fn of(drain: &Drain) -> Result<Self, Unsupported> {
        let seconds = |field: &str, value: &Option<SecondsOrDuration>| {
            let seconds = value.as_ref().map(SecondsOrDuration::seconds).transpose();
            seconds.map_err(|error| Unsupported(format!("spec.drain.{field}: {error}")))
        };
        let short = |field: &str, value: &Option<SecondsOrDuration>| {
            let seconds = seconds(field, value)?.map(i32::try_from).transpose();
            seconds.map_err(|_| Unsupported(format!("spec.drain.{field} is longer than {} s", i32::MAX)))
        };
        // -1 is each pod's own, as for `kubectl drain`, which the controller says by saying nothing.
        let grace_period = drain.grace_period.clone().filter(|period| *period != SecondsOrDuration::Seconds(-1));
        Ok(Self {
            timeout: seconds("timeout", &drain.timeout)?,
            grace_period: short("gracePeriod", &grace_period)?,
            delete_local_data: drain.delete_local_data.unwrap_or(false),
            ignore_daemon_sets: drain.ignore_daemon_sets.unwrap_or(true),
            force: drain.force.unwrap_or(false),
            disable_eviction: drain.disable_eviction.unwrap_or(false),
            skip_wait_for_delete_timeout: short("skipWaitForDeleteTimeout", &drain.skip_wait_for_delete_timeout)?,
            pod_selector: drain.pod_selector.clone(),
        })
    }
}
