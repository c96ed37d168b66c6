//! The spec of a Plan of System Upgrade Controller, `upgrade.cattle.io/v1`: the fields that the operator writes.
//!
//! The API server accepts more than the controller does. A number as `drain.timeout` means nanoseconds and stops the
//! controller for all Plans of the cluster, so it is always text. A `version` that is not a valid label value causes
//! neither a Job nor an error. `env` is pruned silently, so `envs` is used. If `drain` is given, its absent fields
//! count as true.

use super::containers::{Container, Containers, SECRET_PATH, containers};
use super::drain_options::DrainOptions;
use super::windows::Windows;
use super::{DefaultRegistry, Unsupported, names};
use crate::inventory::upgrade::DEADLINE;
use api::{ManagedOSImageSpec, Window};
use k8s_openapi::api::core::v1::{LocalObjectReference, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Serialize;

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanSpec {
    pub concurrency: i64,
    pub version: String,
    pub service_account_name: String,
    pub node_selector: LabelSelector,
    pub tolerations: Vec<Toleration>,
    pub cordon: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<PlanDrain>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prepare: Option<Container>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<PlanSecret>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Never two upgrades of one node at once, whatever Plans select it.
    pub exclusive: bool,
    /// Seconds; 0 is for ever. The controller's own value, 10 or 15 minutes, ends the Job of a node that is slow to start and
    /// to prove itself.
    pub job_active_deadline_secs: i64,
    pub upgrade: Container,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanDrain {
    /// A Go duration, such as `300s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period: Option<i32>,
    pub delete_local_data: bool,
    pub delete_emptydir_data: bool,
    pub ignore_daemon_sets: bool,
    pub force: bool,
    pub disable_eviction: bool,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_wait_for_delete_timeout: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanSecret {
    pub name: String,
    pub path: String,
}

/// The Plan for a ManagedOSImage. `cloud_config`: the document in the Secret of the same name. `registry`: for images
/// that name none.
pub fn plan(
    name: &str,
    spec: &ManagedOSImageSpec,
    cloud_config: Option<&str>,
    registry: &DefaultRegistry,
) -> Result<PlanSpec, Unsupported> {
    let concurrency = spec.concurrency.unwrap_or(1);
    let Containers { mut upgrade, prepare, version_with_retry, .. } = containers(spec, cloud_config, registry)?;
    if let Some(prepare) = &prepare {
        add_volumes(&mut upgrade, prepare)?;
    }
    if let Some(most) = spec.max_failures
        && i64::from(most) != (concurrency - 1).max(0)
    {
        return Err(Unsupported(format!(
            "spec.maxFailures is {most}; a Plan with the spec.concurrency {concurrency} stops after {} failures, so \
             write that value or remove the field",
            (concurrency - 1).max(0)
        )));
    }
    let drain = spec.drain.as_ref().map(DrainOptions::of).transpose()?;
    let windows = Windows::of(spec.windows.as_deref().unwrap_or_default());
    let windows = windows.map_err(|error| Unsupported(error.to_string()))?;
    Ok(PlanSpec {
        concurrency,
        // The controller makes new Jobs for another version alone.
        version: version_with_retry,
        service_account_name: name.to_owned(),
        node_selector: spec.node_selector.clone().unwrap_or_default(),
        // A node is upgraded whatever its taints are.
        tolerations: vec![Toleration { operator: Some("Exists".to_owned()), ..Toleration::default() }],
        cordon: spec.cordon.unwrap_or(true),
        job_active_deadline_secs: deadline(drain.as_ref().and_then(|drain| drain.timeout)),
        drain: drain.map(PlanDrain::from),
        prepare,
        secrets: cloud_config.map(|_| secret(name)).into_iter().collect(),
        image_pull_secrets: spec.image_pull_secrets.clone().unwrap_or_default(),
        exclusive: true,
        upgrade,
        window: window(&windows)?,
    })
}

fn secret(name: &str) -> PlanSecret {
    PlanSecret { name: names::secret(name), path: SECRET_PATH.to_owned() }
}

/// A Job that ends before its drain does would fail each time. A timeout of 0 is a drain for ever.
fn deadline(drain: Option<u64>) -> i64 {
    match drain {
        Some(0) => 0,
        Some(seconds) => i64::try_from(seconds).unwrap_or(i64::MAX).saturating_add(DEADLINE),
        None => DEADLINE,
    }
}

/// Adds the volumes of `prepare`: the pod has only those of the upgrade container.
fn add_volumes(upgrade: &mut Container, prepare: &Container) -> Result<(), Unsupported> {
    for volume in &prepare.volumes {
        match upgrade.volumes.iter().find(|other| other.name == volume.name || other.destination == volume.destination)
        {
            None => upgrade.volumes.push(volume.clone()),
            Some(other) if other.name == volume.name && other.source == volume.source => {}
            Some(other) => {
                return Err(Unsupported(format!(
                    "spec.prepare.volumes: {:?} has the name or the destination of {:?} in spec.upgradeContainer.volumes, \
                     and both containers are in one pod; give it others",
                    volume.name, other.name
                )));
            }
        }
    }
    Ok(())
}

impl From<DrainOptions> for PlanDrain {
    fn from(options: DrainOptions) -> Self {
        Self {
            timeout: options.timeout.map(|seconds| format!("{seconds}s")),
            grace_period: options.grace_period,
            delete_local_data: options.delete_local_data,
            delete_emptydir_data: options.delete_local_data,
            ignore_daemon_sets: options.ignore_daemon_sets,
            force: options.force,
            disable_eviction: options.disable_eviction,
            skip_wait_for_delete_timeout: options.skip_wait_for_delete_timeout,
            pod_selector: options.pod_selector,
        }
    }
}

fn window(windows: &Windows) -> Result<Option<Window>, Unsupported> {
    let mut windows = windows.to_plan();
    if windows.len() > 1 {
        return Err(Unsupported(format!(
            "spec.windows has {} windows, and a Plan can have only one; combine them, or create a ManagedOSImage for \
             each",
            windows.len()
        )));
    }
    Ok(windows.pop())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::containers::{LONGEST_VERSION, UPGRADE};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn of(spec: Value) -> Result<PlanSpec, Unsupported> {
        plan("mos-x", &serde_json::from_value(spec).unwrap(), None, &DefaultRegistry::default())
    }
    fn version_of(spec: Value) -> String {
        of(spec).unwrap().version
    }

    #[test]
    fn the_version_changes_only_if_nodes_must_be_upgraded_again() {
        let first = version_of(json!({"osImage": "r:5000/os2:v1"}));
        assert!(first.starts_with("v1-") && first.len() == 19, "{first}");
        let same = json!({"osImage": "r:5000/os2:v1", "concurrency": 7, "drain": {}, "prepare": {"image": "a"},
            "nodeSelector": {"matchLabels": {"a": "b"}}, "cordon": false, "upgradeContainer": {}});
        assert_eq!(version_of(same), first);
        for other in [
            json!({"osImage": "other/os2:v1"}),
            json!({"osImage": format!("r:5000/os2:v1@sha256:{}", "0".repeat(64))}),
            json!({"osImage": "r:5000/os2:v1", "upgradeContainer": {"args": ["x"]}}),
        ] {
            assert_ne!(version_of(other.clone()), first, "{other}");
        }
        let own = |os_image: &str| version_of(json!({"osImage": os_image, "upgradeContainer": {"image": "ubuntu"}}));
        assert!(own("a:v1") != own("a:v2") && own("a:v2").starts_with("v2-"), "{}", own("a:v2"));
        let spec = serde_json::from_value(json!({"osImage": "r:5000/os2:v1"})).unwrap();
        let registry = DefaultRegistry::default();
        assert_ne!(plan("mos-x", &spec, Some("#cloud-config\n"), &registry).unwrap().version, first);
    }

    #[test]
    fn a_retry_is_another_version_of_the_plan_and_no_other_container() {
        let image = json!({"osImage": "r:5000/os2:v1"});
        let with = |retry: &str| json!({"osImage": "r:5000/os2:v1", "retry": retry});
        assert_eq!(
            version_of(image.clone()),
            "v1-7d856b24209548f2",
            "nodes must not be upgraded again by a new operator"
        );
        assert_eq!(version_of(with("")), version_of(image.clone()));
        assert!(version_of(with("a")) != version_of(image.clone()) && version_of(with("a")) != version_of(with("b")));
        let env = |spec: &Value| json!(of(spec.clone()).unwrap().upgrade.envs);
        assert_eq!((env(&image), env(&with("a"))), (json!([]), json!([{"name": "ROS_RETRY", "value": "a"}])));
        let mut own = with("a");
        own["upgradeContainer"] = json!({"envs": [{"name": "ROS_RETRY", "value": "mine"}]});
        assert_eq!(env(&own), json!([{"name": "ROS_RETRY", "value": "mine"}]));
        let same = |spec: Value| {
            let spec = serde_json::from_value(spec).unwrap();
            containers(&spec, None, &DefaultRegistry::default()).unwrap().version
        };
        assert_eq!((same(with("a")), same(image.clone())), (version_of(image.clone()), version_of(image)));
    }

    #[test]
    fn local_data_is_kept_by_default() {
        let drain = of(json!({"osImage": "a", "drain": {}})).unwrap().drain.unwrap();
        assert!(!drain.delete_local_data && !drain.delete_emptydir_data && drain.ignore_daemon_sets);
        assert_eq!((drain.timeout, drain.grace_period), (None, None));
        let drain = of(json!({"osImage": "a", "drain": {"deleteLocalData": true}})).unwrap().drain.unwrap();
        assert!(drain.delete_local_data && drain.delete_emptydir_data);
    }

    #[test]
    fn prepare_runs_in_the_release_unless_it_has_its_own_image() {
        let plan = of(json!({"osImage": "a:1", "prepare": {"command": ["x"]}, "upgradeContainer": {"image": "b"}}));
        let plan = plan.unwrap();
        assert_eq!((plan.upgrade.image.as_str(), plan.prepare.unwrap().image.as_str()), ("b:latest", "b:latest"));
    }

    #[test]
    fn the_release_runs_its_upgrade_command_and_an_own_image_its_entry_point() {
        let command =
            |container: Value| of(json!({"osImage": "a:1", "upgradeContainer": container})).unwrap().upgrade.command;
        assert_eq!(of(json!({"osImage": "a:1"})).unwrap().upgrade.command, [UPGRADE]);
        assert_eq!(command(json!({"args": ["--force"]})), [UPGRADE]);
        assert_eq!(command(json!({"command": ["/own"]})), ["/own"]);
        assert_eq!(command(json!({"image": "ubuntu"})), [""; 0]);
    }

    #[test]
    fn a_default_registry_does_not_change_the_version() {
        let spec = json!({"osImage": "os2:v1", "prepare": {"image": "quay.io/a:1"}});
        let spec = serde_json::from_value(spec).unwrap();
        let here = plan("mos-x", &spec, None, &DefaultRegistry::new("r.example.org")).unwrap();
        let there = plan("mos-x", &spec, None, &DefaultRegistry::default()).unwrap();
        let images = (here.upgrade.image.as_str(), here.prepare.unwrap().image);
        assert_eq!(images, ("r.example.org/os2:v1", "quay.io/a:1".to_owned()));
        assert_eq!(here.version, there.version);
        assert!(plan("mos-x", &spec, None, &DefaultRegistry::new("https://r")).is_err());
    }

    #[test]
    fn a_spec_that_a_plan_cannot_express_is_refused() {
        let window = json!({"startTime": "22:00"});
        for (spec, what) in [
            (json!({"osImage": "Not An Image"}), "not an image reference"),
            (json!({"osImage": "a", "maxFailures": 1}), "spec.maxFailures"),
            (json!({"osImage": "a", "windows": [window, window]}), "spec.windows"),
            (json!({"osImage": "a", "drain": {"gracePeriod": "9999999h"}}), "spec.drain.gracePeriod"),
        ] {
            let error = of(spec).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
        }
        assert!(of(json!({"osImage": "a", "maxFailures": 1, "concurrency": 2})).is_ok());
        assert!(of(json!({"osImage": "a", "maxFailures": 0, "concurrency": 0})).is_ok());
    }

    #[test]
    fn windows_that_the_controller_never_opens_are_completed_or_refused_by_name() {
        let window = |window: Value| of(json!({"osImage": "a", "windows": [window]})).map(|plan| plan.window.unwrap());
        let completed = window(json!({"startTime": "01:00", "endTime": "04:00"})).unwrap();
        assert_eq!(completed.days.as_ref().map(Vec::len), Some(7));
        assert_eq!(window(json!({"days": ["Sunday"]})).unwrap().days.unwrap(), ["sunday"]);
        assert_eq!(window(json!({"endTime": "24:00"})).unwrap().end_time.unwrap(), "23:59");
        for (wrong, field) in [
            (json!({"timeZone": "Nowhere/Land"}), "spec.windows[0].timeZone"),
            (json!({"startTime": "25:00"}), "spec.windows[0].startTime"),
            (json!({"days": ["someday"]}), "spec.windows[0].days"),
        ] {
            let error = window(wrong).unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }

    #[test]
    fn a_job_lives_longer_than_its_drain() {
        let deadline = |drain: Value| of(json!({"osImage": "a", "drain": drain})).unwrap().job_active_deadline_secs;
        assert_eq!(deadline(json!({"timeout": "30m"})), 1800 + DEADLINE);
        assert_eq!(deadline(json!({"timeout": "1.5h"})), 5400 + DEADLINE);
        assert_eq!((deadline(json!({})), deadline(json!({"timeout": 0}))), (DEADLINE, 0));
    }

    #[test]
    fn a_grace_period_of_minus_one_is_each_pods_own() {
        let drain = of(json!({"osImage": "a", "drain": {"gracePeriod": -1}})).unwrap().drain.unwrap();
        assert_eq!(drain.grace_period, None);
        for (field, value) in [("timeout", json!(-1)), ("gracePeriod", json!(-2))] {
            let error = of(json!({"osImage": "a", "drain": {field: value}})).unwrap_err().to_string();
            assert!(error.starts_with(&format!("spec.drain.{field}")), "{error}");
        }
    }

    #[test]
    fn the_pod_has_the_volumes_of_prepare_and_its_pull_secrets() {
        let volume = |name: &str, source: &str, destination: &str| json!({"name": name, "source": source, "destination": destination});
        let spec = |own: Value| {
            json!({"osImage": "a", "imagePullSecrets": [{"name": "registry-login"}], "upgradeContainer": {"volumes": own},
                "prepare": {"image": "busybox", "volumes": [volume("scripts", "/opt/scripts", "/scripts")]}})
        };
        let plan = of(spec(json!([volume("own", "/own", "/own")]))).unwrap();
        let names: Vec<&str> = plan.upgrade.volumes.iter().map(|volume| volume.name.as_str()).collect();
        assert_eq!((names, plan.image_pull_secrets[0].name.as_str()), (vec!["own", "scripts"], "registry-login"));
        assert_eq!(
            plan.version,
            version_of(json!({"osImage": "a", "upgradeContainer": {"volumes": [volume("own", "/own", "/own")]}}))
        );
        assert!(of(spec(json!([volume("scripts", "/opt/scripts", "/elsewhere")]))).is_ok());
        for other in [volume("scripts", "/other", "/x"), volume("other", "/opt/scripts", "/scripts")] {
            let error = of(spec(json!([other]))).unwrap_err().to_string();
            assert!(error.starts_with("spec.prepare.volumes"), "{error}");
        }
    }

    proptest! {
        /// Integers in the spec mean seconds. The Plan has a duration and int32 seconds.
        #[test]
        fn units_survive(seconds in 0u32..=i32::MAX as u32, minutes in 0u32..100_000) {
            let drain = of(json!({"osImage": "a", "drain": {
                "timeout": seconds, "gracePeriod": format!("{minutes}m"), "skipWaitForDeleteTimeout": seconds,
            }})).unwrap().drain.unwrap();
            prop_assert_eq!(drain.timeout, Some(format!("{seconds}s")));
            prop_assert_eq!(drain.grace_period, i32::try_from(minutes * 60).ok());
            prop_assert_eq!(drain.skip_wait_for_delete_timeout, i32::try_from(seconds).ok());
        }

        #[test]
        fn a_version_is_a_label_value(tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}") {
            let version = version_of(json!({"osImage": format!("a:{tag}")}));
            let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            prop_assert!(version.len() <= LONGEST_VERSION && version.chars().all(fits), "{}", version);
            prop_assert!(version.starts_with(|c: char| c.is_ascii_alphanumeric()), "{}", version);
        }
    }
}
