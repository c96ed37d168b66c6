//! The spec of a Plan of System Upgrade Controller, `upgrade.cattle.io/v1`: the fields that the operator writes.
//!
//! The API server accepts more than the controller does. A number as `drain.timeout` means nanoseconds and stops the
//! controller for all Plans of the cluster, so it is always text. A `version` that is not a valid label value causes
//! neither a Job nor an error. `env` is pruned silently, so `envs` is used. If `drain` is given, its absent fields
//! count as true.

use super::windows::Windows;
use super::{DefaultRegistry, ImageReference, MalformedImage, names};
use crate::digest::Digest;
use crate::inventory::upgrade::DEADLINE;
use api::{ContainerSpec, Drain, HostVolume, ManagedOSImageSpec, SecondsOrDuration, Window};
use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, LocalObjectReference, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Serialize;
use serde_json::{Map, Value};

/// Longest version: the limit of a label value, which it becomes.
const LONGEST_VERSION: usize = 63;
/// Hex digits of the digest at the end of a version.
const VERSION_DIGEST: usize = 16;
/// The command that upgrades a machine from an image with a release. The entry point of the first release's images does
/// nothing.
const UPGRADE: &str = "/usr/sbin/suc-upgrade";
/// Path of the Secret in the upgrade container, as in the first release, so that its images find it.
pub(super) const SECRET_PATH: &str = "/run/data";
/// The variable with `spec.retry`, which the release's upgrade command reads.
const RETRY_VARIABLE: &str = "ROS_RETRY";

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

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanSecret {
    pub name: String,
    pub path: String,
}

/// A spec that a Plan cannot express. The text names the field and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnsupportedByPlan(pub String);

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
) -> Result<Containers, UnsupportedByPlan> {
    let mut upgrade = upgrade_container(spec)?;
    // From the user's text, without the default registry: the same image from another registry is no upgrade.
    let version_of = |upgrade: &Container| version(upgrade, spec.os_image.as_deref(), cloud_config);
    let version = version_of(&upgrade)?;
    ask_again(&mut upgrade, spec.retry.as_deref());
    let version_with_retry = version_of(&upgrade)?;
    let mut prepare = spec.prepare.as_ref().map(|prepare| container(prepare, Some(&upgrade.image))).transpose()?;
    for container in [&mut upgrade].into_iter().chain(&mut prepare) {
        let image = registry.complete(&image(&container.image)?);
        container.image = image.map_err(|error| UnsupportedByPlan(error.to_string()))?.to_string();
    }
    Ok(Containers { upgrade, prepare, version, version_with_retry })
}

/// The Plan for a ManagedOSImage. `cloud_config`: the document in the Secret of the same name. `registry`: for images
/// that name none.
pub fn plan(
    name: &str,
    spec: &ManagedOSImageSpec,
    cloud_config: Option<&str>,
    registry: &DefaultRegistry,
) -> Result<PlanSpec, UnsupportedByPlan> {
    let concurrency = spec.concurrency.unwrap_or(1);
    let Containers { mut upgrade, prepare, version_with_retry, .. } = containers(spec, cloud_config, registry)?;
    if let Some(prepare) = &prepare {
        add_volumes(&mut upgrade, prepare)?;
    }
    if let Some(most) = spec.max_failures
        && i64::from(most) != (concurrency - 1).max(0)
    {
        return Err(UnsupportedByPlan(format!(
            "spec.maxFailures is {most}; a Plan with the spec.concurrency {concurrency} stops after {} failures, so \
             write that value or remove the field",
            (concurrency - 1).max(0)
        )));
    }
    let drain = spec.drain.as_ref().map(DrainOptions::of).transpose()?;
    let windows = Windows::of(spec.windows.as_deref().unwrap_or_default());
    let windows = windows.map_err(|error| UnsupportedByPlan(error.to_string()))?;
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
fn add_volumes(upgrade: &mut Container, prepare: &Container) -> Result<(), UnsupportedByPlan> {
    for volume in &prepare.volumes {
        match upgrade.volumes.iter().find(|other| other.name == volume.name || other.destination == volume.destination)
        {
            None => upgrade.volumes.push(volume.clone()),
            Some(other) if other.name == volume.name && other.source == volume.source => {}
            Some(other) => {
                return Err(UnsupportedByPlan(format!(
                    "spec.prepare.volumes: {:?} has the name or the destination of {:?} in spec.upgradeContainer.volumes, \
                     and both containers are in one pod; give it others",
                    volume.name, other.name
                )));
            }
        }
    }
    Ok(())
}

fn upgrade_container(spec: &ManagedOSImageSpec) -> Result<Container, UnsupportedByPlan> {
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

fn container(spec: &ContainerSpec, default_image: Option<&str>) -> Result<Container, UnsupportedByPlan> {
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

fn image(text: &str) -> Result<ImageReference, UnsupportedByPlan> {
    text.trim().parse().map_err(|error: MalformedImage| UnsupportedByPlan(error.to_string()))
}

/// The version of the Plan, a valid label value. It changes exactly when nodes must be upgraded again: with `osImage`,
/// the container or the cloud-config. The controller compares only this version.
fn version(
    upgrade: &Container,
    os_image: Option<&str>,
    cloud_config: Option<&str>,
) -> Result<String, UnsupportedByPlan> {
    // If the container has an image of its own, the Plan contains `osImage` nowhere else.
    let image = image(os_image.unwrap_or(&upgrade.image))?;
    let digest = Digest::of(&(upgrade, image.to_string(), cloud_config)).to_string();
    // A tag may begin with characters with which a label value may not begin.
    let tag = image.short().trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let tag = &tag[..tag.len().min(LONGEST_VERSION - VERSION_DIGEST - 1)];
    Ok(format!("{tag}-{}", &digest[..VERSION_DIGEST]).trim_start_matches('-').to_owned())
}

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
    pub fn of(drain: &Drain) -> Result<Self, UnsupportedByPlan> {
        let seconds = |field: &str, value: &Option<SecondsOrDuration>| {
            let seconds = value.as_ref().map(SecondsOrDuration::seconds).transpose();
            seconds.map_err(|error| UnsupportedByPlan(format!("spec.drain.{field}: {error}")))
        };
        let short = |field: &str, value: &Option<SecondsOrDuration>| {
            let seconds = seconds(field, value)?.map(i32::try_from).transpose();
            seconds.map_err(|_| UnsupportedByPlan(format!("spec.drain.{field} is longer than {} s", i32::MAX)))
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

fn window(windows: &Windows) -> Result<Option<Window>, UnsupportedByPlan> {
    let mut windows = windows.to_plan();
    if windows.len() > 1 {
        return Err(UnsupportedByPlan(format!(
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
    use proptest::prelude::*;
    use serde_json::json;

    fn of(spec: Value) -> Result<PlanSpec, UnsupportedByPlan> {
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
