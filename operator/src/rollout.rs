//! The desired state of a roll-out, as values: parsed from the spec of a ManagedOSImage, and rendered as a Fleet Bundle
//! or as the objects themselves; or, where machines upgrade themselves, whose turn it is.
//!
//! Sources: rancher/system-upgrade-controller d357e23, rancher/fleet 3b2c622, and tests with both.

mod containers;
pub mod desired;
mod drain_options;
pub mod engine;
mod image;
pub mod machines;
mod names;
pub mod nodes;
pub mod objects;
mod plan;
pub mod progress;
mod registry;
mod release;
mod secrets;
pub mod turns;
mod unsupported;
pub mod verdict;
mod windows;

pub use containers::Container;
pub use engine::{FLEET, PLAN, PLAN_NAMESPACE, Presence, RolloutEngine, STANDALONE_NAMESPACE, ServedKinds, choose};
pub use image::{ImageReference, MalformedImage};
pub use names::name;
pub use plan::{PlanDrain, PlanSecret, PlanSpec};
pub use registry::{DefaultRegistry, UnusableRegistry};
pub use release::{Release, Running};
pub use unsupported::Unsupported;

use api::Problem;
use api::{ClusterTarget, ManagedOSImage, reason};
use cloud_config::CloudConfig;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;
use kube::ResourceExt;
use kube::core::Selector;
use std::collections::BTreeSet;
use windows::Windows;

/// The namespace whose ManagedOSImages are for the nodes of this cluster.
pub const LOCAL_NAMESPACE: &str = "fleet-local";

/// The label that the kubelet sets on its Node.
pub const HOSTNAME: &str = "kubernetes.io/hostname";

/// A valid ManagedOSImage that an engine carries out.
#[derive(Clone, Debug)]
pub struct Upgrade {
    pub image_namespace: String,
    pub image_name: String,
    /// Name of the Bundle and of all objects in it.
    pub name: String,
    pub plan: PlanSpec,
    /// The cloud-config for the nodes.
    pub cloud_config: Option<String>,
    pub targets: Vec<ClusterTarget>,
    /// The release that machines must report to count as done. `None`: it is not known which release the image
    /// contains.
    pub release: Option<Release>,
    /// Selects the nodes.
    pub selector: Selector,
    pub windows: Windows,
}

impl Upgrade {
    /// Parses the spec. `registry`: for images that name none. A problem names the field.
    pub fn of(
        object: &ManagedOSImage,
        engine: &dyn RolloutEngine,
        registry: &DefaultRegistry,
    ) -> Result<Self, Problem> {
        let spec = &object.spec;
        let invalid = |message: String| Problem { reason: reason::INVALID_SPEC, message };
        let own_image = spec.upgrade_container.as_ref().and_then(|container| container.image.as_deref());
        if spec.os_image.as_deref().or(own_image).is_none_or(|image| image.trim().is_empty()) {
            let message = "nothing is upgraded: set spec.osImage to the image that contains the release".to_owned();
            return Err(Problem { reason: reason::NO_IMAGE, message });
        }
        let name = name(&object.name_any());
        let config = spec.cloud_config.as_ref().filter(|config| !config.is_empty());
        if engine.exposes_content()
            && let Some(place) = config.and_then(secrets::first_secret)
        {
            let message = format!(
                "spec.cloudConfig.{place} is a secret, and everybody who may read Fleet's Contents could read it; put \
                 it into the machines' MachineRegistration, or into a Secret in the clusters that spec.prepare uses"
            );
            return Err(Problem { reason: reason::SECRET_IN_CLOUD_CONFIG, message });
        }
        let cloud_config = config.map(|config| CloudConfig(config.clone()).to_yaml());
        let plan = plan::plan(&name, spec, cloud_config.as_deref(), registry);
        let plan = plan.map_err(|error| invalid(error.to_string()))?;
        let selector = spec.node_selector.clone().unwrap_or_default();
        let selector = Selector::try_from(selector).map_err(|error| invalid(format!("spec.nodeSelector: {error}")))?;
        let image_namespace = object.namespace().unwrap_or_default();
        let targets = spec.targets().to_vec();
        if image_namespace == LOCAL_NAMESPACE && !targets.is_empty() {
            let message =
                "spec.targets is not possible in fleet-local, which always means this cluster; remove the field"
                    .to_owned();
            return Err(invalid(message));
        }
        // Nothing is known of the image of the user's own container.
        let image = spec.os_image.as_deref().filter(|_| own_image.is_none());
        let image: Option<ImageReference> = image.and_then(|image| image.trim().parse().ok());
        Ok(Self {
            image_namespace,
            image_name: object.name_any(),
            name,
            plan,
            cloud_config,
            targets,
            release: Release::of(spec.release.as_deref(), image.as_ref()),
            selector,
            windows: Windows::of(spec.windows.as_deref().unwrap_or_default())
                .map_err(|error| invalid(error.to_string()))?,
        })
    }

    /// Leaves out the nodes with these hostnames, for which another ManagedOSImage counts.
    pub fn leave_out(&mut self, hostnames: BTreeSet<String>) {
        if hostnames.is_empty() {
            return;
        }
        let values: Vec<String> = hostnames.into_iter().collect();
        let requirement =
            LabelSelectorRequirement { key: HOSTNAME.to_owned(), operator: "NotIn".to_owned(), values: Some(values) };
        self.plan.node_selector.match_expressions.get_or_insert_default().push(requirement);
        if let Ok(selector) = Selector::try_from(self.plan.node_selector.clone()) {
            self.selector = selector;
        }
    }

    /// Whether it is for the nodes of this cluster.
    pub fn is_local(&self) -> bool {
        self.image_namespace == LOCAL_NAMESPACE
    }

    /// No node is started; running Jobs continue.
    pub fn is_paused(&self) -> bool {
        self.plan.concurrency == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::SelectorExt;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;
    use std::path::Path;

    /// Names of the cases in `testdata/os-image/`, each with the default registry of the cluster. A user applies
    /// `NAME.yaml`; `NAME.bundle.yaml` and `NAME.objects.yaml` are rendered from it.
    /// `ROS_WRITE_GOLDEN=1 cargo test ... what_is_rendered` writes the rendered files again.
    const CASES: [(&str, &str); 5] = [
        ("default", ""),
        ("reference", ""),
        ("downstream", ""),
        ("registry", "mirror.example.org"),
        ("default-registry", "mirror.example.org:5000/rancher"),
    ];

    fn object(namespace: &str, spec: Value) -> ManagedOSImage {
        let mut object = ManagedOSImage::new("x", serde_json::from_value(spec).unwrap());
        object.metadata.namespace = Some(namespace.to_owned());
        object
    }

    fn upgrade(object: &ManagedOSImage) -> Result<Upgrade, Problem> {
        Upgrade::of(object, FLEET, &DefaultRegistry::default())
    }

    #[test]
    fn what_is_rendered_is_what_is_kept() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/os-image");
        for (case, registry) in CASES {
            let text = std::fs::read_to_string(folder.join(format!("{case}.yaml"))).unwrap();
            let mut object: ManagedOSImage = serde_yaml::from_str(&text).unwrap();
            object.metadata.uid = Some("00000000-0000-0000-0000-000000000000".to_owned());
            let upgrade = Upgrade::of(&object, FLEET, &DefaultRegistry::new(registry)).unwrap();
            let bundle = serde_yaml::to_string(&engine::fleet::bundle(&object, &upgrade)).unwrap();
            let objects = objects::objects(&upgrade, "system-upgrade").into_iter().filter_map(|(_, object)| object);
            let objects: String =
                objects.map(|object| format!("---\n{}", serde_yaml::to_string(&object).unwrap())).collect();
            for (file, rendered) in [("bundle", bundle), ("objects", objects)] {
                let path = folder.join(format!("{case}.{file}.yaml"));
                if std::env::var_os("ROS_WRITE_GOLDEN").is_some() {
                    std::fs::write(&path, &rendered).unwrap();
                }
                let kept = std::fs::read_to_string(&path).unwrap_or_default();
                assert!(kept == rendered, "{} is not what is rendered:\n{rendered}", path.display());
            }
        }
    }

    #[test]
    fn nothing_secret_goes_into_a_bundle() {
        let object = object("fleet-default", json!({"osImage": "a:1", "cloudConfig": {"password": "p"}}));
        let problem = upgrade(&object).unwrap_err();
        assert_eq!(problem.reason, reason::SECRET_IN_CLOUD_CONFIG);
        assert!(problem.message.contains("spec.cloudConfig.password"), "{}", problem.message);
        assert!(Upgrade::of(&object, PLAN, &DefaultRegistry::default()).is_ok());
    }

    #[test]
    fn without_an_image_the_spec_is_refused() {
        for spec in [json!({}), json!({"osImage": " "}), json!({"upgradeContainer": {"args": ["x"]}})] {
            assert_eq!(upgrade(&object("n", spec)).unwrap_err().reason, reason::NO_IMAGE);
        }
    }

    #[test]
    fn fleet_local_has_one_target() {
        let targets = json!({"osImage": "a:1", "targets": [{"clusterName": "c"}]});
        let problem = upgrade(&object(LOCAL_NAMESPACE, targets.clone())).unwrap_err();
        assert!(problem.message.contains("spec.targets"), "{}", problem.message);
        assert_eq!(upgrade(&object("fleet-default", targets)).unwrap().targets.len(), 1);
    }

    #[test]
    fn nodes_of_an_older_object_are_left_out() {
        let spec = json!({"osImage": "a:1", "nodeSelector": {"matchLabels": {"a": "b"}}});
        let mut upgrade = upgrade(&object("n", spec)).unwrap();
        let node = |hostname: &str| -> BTreeMap<String, String> {
            let labels = [("a", "b"), (HOSTNAME, hostname)];
            labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect()
        };
        upgrade.leave_out(BTreeSet::from(["n1".to_owned()]));
        let selects = |hostname: &str| upgrade.selector.matches(&node(hostname));
        assert!(!selects("n1") && selects("n2"));
        let kept = json!({"key": HOSTNAME, "operator": "NotIn", "values": ["n1"]});
        assert_eq!(json!(upgrade.plan.node_selector)["matchExpressions"], json!([kept]));
    }

    #[test]
    fn a_container_image_of_the_user_names_no_release() {
        let spec = json!({"osImage": "a:1", "upgradeContainer": {"image": "ubuntu:24.04"}});
        assert_eq!(upgrade(&object("n", spec)).unwrap().release, None);
        let spec = json!({"osImage": "a:1", "release": "2", "upgradeContainer": {"image": "ubuntu:24.04"}});
        let release = upgrade(&object("n", spec)).unwrap().release;
        assert_eq!(release, Some(Release::Name("2".into())));
    }
}
