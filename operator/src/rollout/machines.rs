//! A roll-out in which machines upgrade themselves (the engine `Machine`), as values: parsed from the spec of a
//! ManagedOSImage. It applies no objects: the answers to the machines' reports carry it out.

mod candidate;
pub mod verdict;

use super::desired::{DesiredObjects, everything, has_finalizer};
use super::engine::plan::identity_of_bundle;
use super::windows::Windows;
use super::{DefaultRegistry, ImageReference, Release, Running, name};
use crate::digest::Digest;
use crate::inventory::index::KnownMachine;
use api::{Engine, EngineProgress, ManagedOSImage, ManagedOSImageSpec, Problem, reason};
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};
use protocol::UpgradeOrder;
use std::collections::BTreeMap;

/// Seconds between two reports of a machine that waits for its turn, or works on it. 10,000 machines report 333 times a
/// second then.
const REPORT_SECONDS: u64 = 30;
/// Seconds between two reports of a machine that a ManagedOSImage selects and that has nothing to do for it, so that an
/// edit of the ManagedOSImage begins within a minute. No report of such a machine writes anything but `lastSeen`.
const STANDBY_SECONDS: u64 = 45;

/// A valid ManagedOSImage that machines carry out themselves.
#[derive(Clone, Debug)]
pub struct MachineRollout {
    pub namespace: String,
    pub name: String,
    /// Whether the spec asks for this engine.
    pub is_explicit: bool,
    /// What machines are told.
    pub order: UpgradeOrder,
    pub release: Release,
    /// Selects inventories by their labels.
    pub selector: Selector,
    pub concurrency: usize,
    pub max_failures: usize,
    pub windows: Windows,
    /// The given fields that are not used, such as `spec.drain`.
    pub unused: Vec<&'static str>,
}

impl MachineRollout {
    /// Parses the spec. `registry`: for images that name none. A problem names the field.
    pub fn of(object: &ManagedOSImage, registry: &DefaultRegistry) -> Result<Self, Problem> {
        let spec = &object.spec;
        let problem = |reason, message: String| Problem { reason, message };
        let invalid = |message: String| problem(reason::INVALID_SPEC, message);
        let image = spec.os_image.as_deref().map(str::trim).filter(|image| !image.is_empty());
        let image = image.ok_or_else(|| {
            let message = "nothing is upgraded: name the image that carries the release in spec.osImage";
            problem(reason::NO_IMAGE, message.to_owned())
        })?;
        let is_explicit = spec.engine == Some(Engine::Machine);
        let unused = unused(spec);
        if is_explicit && !unused.is_empty() {
            let message = format!("spec.engine is Machine, which does not use {}: remove them", unused.join(", "));
            return Err(invalid(message));
        }
        let image: ImageReference = image.parse().map_err(|error| invalid(format!("spec.osImage: {error}")))?;
        let release = Release::of(spec.release.as_deref(), Some(&image)).ok_or_else(|| {
            let message = "nothing says which release the image carries, so that no machine can be told; set \
                           spec.release to its name, or give osImage a tag of that name";
            problem(reason::RELEASE_UNKNOWN, message.to_owned())
        })?;
        if !release.to_string().bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(invalid("spec.release is no name of a release: it has blanks or other characters".to_owned()));
        }
        let image = registry.complete(&image).map_err(|error| invalid(error.to_string()))?;
        let selector = spec.node_selector.clone().unwrap_or_default();
        let selector = Selector::try_from(selector).map_err(|error| invalid(format!("spec.nodeSelector: {error}")))?;
        let windows = Windows::of(spec.windows.as_deref().unwrap_or_default());
        Ok(Self {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            is_explicit,
            order: UpgradeOrder {
                image: image.to_string(),
                release: release.to_string(),
                retry: spec.retry.clone().filter(|text| !text.is_empty()),
            },
            release,
            selector,
            concurrency: usize::try_from(spec.concurrency.unwrap_or(1)).unwrap_or(0),
            max_failures: usize::try_from(spec.max_failures.unwrap_or(0)).unwrap_or(usize::MAX),
            windows: windows.map_err(|error| invalid(error.to_string()))?,
            unused,
        })
    }

    /// Another one means that the roll-out begins anew.
    pub fn version(&self) -> String {
        Digest::of(&self.order).to_string()
    }

    /// Whether the selector selects this machine.
    pub fn selects(&self, machine: &KnownMachine) -> bool {
        selects(&self.selector, machine)
    }
}

/// The objects of an engine before. There is nothing to apply.
pub fn leftovers(object: &ManagedOSImage) -> DesiredObjects {
    let mut delete = if has_finalizer(object) { everything(&name(&object.name_any())) } else { Vec::new() };
    if object.status.as_ref().and_then(|status| status.engine) == Some(Engine::Fleet) {
        delete.push(identity_of_bundle(object));
    }
    DesiredObjects { apply: Vec::new(), delete, predecessor: None, finalizer: false }
}

/// When a machine should report again, in seconds, if one of these ManagedOSImages is for it. `None`: as usual.
pub fn report_seconds<'a>(images: impl Iterator<Item = &'a ManagedOSImage>, machine: &KnownMachine) -> Option<u64> {
    if machine.cluster().is_some() {
        return None;
    }
    images.filter_map(|image| seconds_for(image, machine)).min()
}

/// The same for one ManagedOSImage.
fn seconds_for(image: &ManagedOSImage, machine: &KnownMachine) -> Option<u64> {
    let engines = &image.status.as_ref()?.engines;
    let by_machines = engines.iter().find(|engine| engine.engine == Engine::Machine)?;
    if image.namespace().as_ref() != Some(&machine.namespace) {
        return None;
    }
    let Ok(rollout) = MachineRollout::of(image, &DefaultRegistry::default()) else {
        // It may select any machine when it is corrected.
        return Some(STANDBY_SECONDS);
    };
    if !rollout.selects(machine) {
        return None;
    }
    let runs = machine.status.os.as_ref().map(|os| rollout.release.running(os));
    Some(if goes_on(by_machines) && runs != Some(Running::Healthy) { REPORT_SECONDS } else { STANDBY_SECONDS })
}

/// Whether the machine may be told what its turn says, as far as ManagedOSImages decide it: the one that gave the turn is
/// there, and is not paused, unless the machine was told before.
pub fn may_be_told<'a>(images: impl Iterator<Item = &'a ManagedOSImage>, machine: &KnownMachine) -> bool {
    let Some(turn) = &machine.status.upgrade else { return false };
    let mut images = images;
    images.any(|image| {
        let own = image.name_any() == turn.managed_os_image && image.namespace().as_ref() == Some(&machine.namespace);
        let by_machines = matches!(image.spec.engine.unwrap_or_default(), Engine::Auto | Engine::Machine);
        own && (turn.told.is_some() || (by_machines && image.spec.concurrency != Some(0)))
    })
}

/// Whether machines may be told something soon.
fn goes_on(by_machines: &EngineProgress) -> bool {
    let waits = |reason: &str| matches!(reason, reason::PAUSED | reason::WINDOW_CLOSED | reason::UPGRADED);
    !by_machines.stalled && !waits(&by_machines.reason)
}

/// Whether a selector selects a machine by the labels of its inventory.
pub fn selects(selector: &Selector, machine: &KnownMachine) -> bool {
    let labels = machine.labels.iter();
    let labels: BTreeMap<String, String> =
        labels.map(|(key, value)| (String::from(&**key), String::from(&**value))).collect();
    selector.matches(&labels)
}

fn unused(spec: &ManagedOSImageSpec) -> Vec<&'static str> {
    let given = [
        (spec.prepare.is_some(), "spec.prepare"),
        (spec.drain.is_some(), "spec.drain"),
        (spec.upgrade_container.is_some(), "spec.upgradeContainer"),
        (spec.cluster_rollout_strategy.is_some(), "spec.clusterRolloutStrategy"),
        (spec.image_pull_secrets.as_ref().is_some_and(|secrets| !secrets.is_empty()), "spec.imagePullSecrets"),
        (spec.cloud_config.as_ref().is_some_and(|config| !config.is_empty()), "spec.cloudConfig"),
        (spec.targets.as_ref().is_some_and(|targets| !targets.is_empty()), "spec.targets"),
        (spec.cluster_targets.as_ref().is_some_and(|targets| !targets.is_empty()), "spec.clusterTargets"),
    ];
    given.into_iter().filter(|(is_given, _)| *is_given).map(|(_, field)| field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{ManagedOSImageStatus, NodeCounts, OsStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use serde_json::{Value, json};

    fn object(spec: Value) -> ManagedOSImage {
        let mut object = ManagedOSImage::new("x", serde_json::from_value(spec).unwrap());
        object.metadata.namespace = Some("fleet-default".to_owned());
        object
    }
    fn of(spec: Value) -> Result<MachineRollout, Problem> {
        MachineRollout::of(&object(spec), &DefaultRegistry::new("mirror.example.org"))
    }

    #[test]
    fn the_order_names_image_release_and_retry() {
        let rollout = of(json!({"osImage": " os2:v0.2.0", "retry": "again", "concurrency": 3})).unwrap();
        let order = UpgradeOrder {
            image: "mirror.example.org/os2:v0.2.0".into(),
            release: "v0.2.0".into(),
            retry: Some("again".into()),
        };
        assert_eq!((&rollout.order, rollout.concurrency, rollout.max_failures), (&order, 3, 0));
        assert_ne!(rollout.version(), of(json!({"osImage": "os2:v0.2.0"})).unwrap().version());
    }

    #[test]
    fn unused_fields_are_refused_by_name_where_the_engine_is_asked_for() {
        let fields = json!({"osImage": "a:1", "prepare": {}, "drain": {}, "upgradeContainer": {}, "targets": [{}],
            "clusterRolloutStrategy": {}, "cloudConfig": {"hostname": "h"}});
        let names = ["prepare", "drain", "upgradeContainer", "clusterRolloutStrategy", "cloudConfig", "targets"];
        let names = names.map(|name| format!("spec.{name}"));
        assert_eq!(of(fields.clone()).unwrap().unused, names);
        let mut explicit = fields;
        explicit["engine"] = json!("Machine");
        let problem = of(explicit).unwrap_err();
        assert_eq!(problem.reason, reason::INVALID_SPEC);
        assert!(problem.message.contains(&names.join(", ")), "{}", problem.message);
    }

    #[test]
    fn what_cannot_be_told_is_refused() {
        let windows = json!([{"startTime": "x"}]);
        for (spec, reason) in [
            (json!({}), reason::NO_IMAGE),
            (json!({"osImage": "Not An Image"}), reason::INVALID_SPEC),
            (json!({"osImage": "a"}), reason::RELEASE_UNKNOWN),
            (json!({"osImage": "a", "release": "a b"}), reason::INVALID_SPEC),
            (json!({"osImage": "a:1", "windows": windows}), reason::INVALID_SPEC),
        ] {
            assert_eq!(of(spec.clone()).unwrap_err().reason, reason, "{spec}");
        }
    }

    #[test]
    fn a_machine_reports_often_enough_for_an_edit_to_begin_within_a_minute() {
        let mut machine = KnownMachine { namespace: "fleet-default".into(), ..KnownMachine::default() };
        machine.status.os = Some(OsStatus { version: Some("1".into()), healthy: true, ..OsStatus::default() });
        let image = |reason: &str, stalled: bool| {
            let mut image = object(json!({"osImage": "a:2"}));
            let by = |engine, reason: &str, stalled| EngineProgress {
                engine,
                reason: reason.to_owned(),
                message: String::new(),
                stalled,
                version: None,
                progressed_at: None,
                counts: NodeCounts::default(),
            };
            let engines = vec![by(Engine::Fleet, reason::PROGRESSING, false), by(Engine::Machine, reason, stalled)];
            image.status = Some(ManagedOSImageStatus { engines, ..Default::default() });
            image
        };
        let seconds = |image: &ManagedOSImage, machine: &KnownMachine| report_seconds([image].into_iter(), machine);
        let going = image(reason::PROGRESSING, false);
        assert_eq!(seconds(&going, &machine), Some(REPORT_SECONDS));
        for waits_for_an_edit in [(reason::UPGRADED, false), (reason::PAUSED, false), (reason::FAILED, true)] {
            let (reason, stalled) = waits_for_an_edit;
            assert_eq!(seconds(&image(reason, stalled), &machine), Some(STANDBY_SECONDS), "{reason}");
        }
        let both = report_seconds([&image(reason::FAILED, true), &going].into_iter(), &machine);
        assert_eq!(both, Some(REPORT_SECONDS));
        machine.status.os.as_mut().unwrap().version = Some("2".into());
        assert_eq!(seconds(&going, &machine), Some(STANDBY_SECONDS), "it runs the release");
        let mut invalid = image(reason::INVALID_SPEC, true);
        invalid.spec.os_image = None;
        assert_eq!(seconds(&invalid, &machine), Some(STANDBY_SECONDS), "it may be corrected");
        let other = KnownMachine { namespace: "other".into(), ..machine };
        assert_eq!(seconds(&going, &other), None, "nobody could edit a release for it");
    }

    #[test]
    fn a_machine_is_told_nothing_for_an_object_that_is_gone_or_paused() {
        let mut image = object(json!({"osImage": "a:2"}));
        let now = Time(Timestamp::UNIX_EPOCH);
        let turn = MachineRollout::of(&image, &DefaultRegistry::default()).unwrap().turn(&now, &now);
        let mut machine = KnownMachine { namespace: "fleet-default".into(), ..KnownMachine::default() };
        machine.status.upgrade = Some(Box::new(turn));
        assert!(may_be_told([&image].into_iter(), &machine) && !may_be_told([].into_iter(), &machine));
        image.spec.concurrency = Some(0);
        assert!(!may_be_told([&image].into_iter(), &machine));
        image.spec = ManagedOSImageSpec { concurrency: None, engine: Some(Engine::Fleet), ..image.spec };
        assert!(!may_be_told([&image].into_iter(), &machine));
        machine.status.upgrade.as_mut().unwrap().told = Some(now);
        assert!(may_be_told([&image].into_iter(), &machine));
    }
}
