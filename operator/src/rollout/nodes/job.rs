//! The Job that upgrades a node: what System Upgrade Controller makes of a Plan, on the one node, without rights in the
//! cluster. The upgrade container finds the host at `/host`.

use super::NodeRollout;
use super::cloud_configs;
use super::node::Node;
use crate::digest::Digest;
use crate::inventory::upgrade::DEADLINE;
use crate::rollout::LOCAL_NAMESPACE;
use crate::rollout::containers::{Container, SECRET_PATH};
use api::{HostVolume, OS_IMAGE_LABEL, OS_IMAGE_NAMESPACE_LABEL};
use serde_json::{Value, json};

/// Label with the uid of the Node.
pub const NODE_LABEL: &str = "rancheros.cattle.io/node-uid";
/// Label with [`label_of_attempt`].
pub const ATTEMPT_LABEL: &str = "rancheros.cattle.io/upgrade-attempt";
/// Pods that may fail. A restart costs one, and a release on trial may restart three times before the node goes back.
const BACKOFF_LIMIT: u32 = 6;
/// Seconds that an ended Job stays, for its log.
const KEPT: u32 = 24 * 3600;
/// Longest part of the name that is the node's.
const LONGEST_NODE: usize = 36;
const LABEL_DIGITS: usize = 16;
/// The volume with the cloud-config.
const CLOUD_CONFIG: &str = "cloud-config";

/// The attempt as a label value.
pub fn label_of_attempt(rollout: &NodeRollout) -> String {
    rollout.attempt()[..LABEL_DIGITS].to_owned()
}

/// Name of a node's Job: one for each attempt and Node.
pub fn name(rollout: &NodeRollout, node: &Node) -> String {
    let digest = Digest::of(&(&rollout.name, rollout.attempt(), &node.uid)).to_string();
    let readable = node.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
    let readable: String = readable.take(LONGEST_NODE).collect();
    format!("upgrade-{readable}-{}", &digest[..LABEL_DIGITS])
}

/// `namespace`: the operator's.
pub fn job(rollout: &NodeRollout, node: &Node, namespace: &str) -> Value {
    let labels = json!({
        OS_IMAGE_LABEL: rollout.name,
        OS_IMAGE_NAMESPACE_LABEL: LOCAL_NAMESPACE,
        NODE_LABEL: node.uid,
        ATTEMPT_LABEL: label_of_attempt(rollout),
    });
    let sources = Sources::of(rollout);
    let upgrade = container("upgrade", &rollout.upgrade, rollout, &sources);
    let prepare = rollout.prepare.as_ref().map(|prepare| container("prepare", prepare, rollout, &sources));
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name(rollout, node), "namespace": namespace, "labels": labels},
        "spec": {
            "backoffLimit": BACKOFF_LIMIT,
            "activeDeadlineSeconds": DEADLINE,
            "ttlSecondsAfterFinished": KEPT,
            "template": {"metadata": {"labels": labels}, "spec": {
                "nodeName": node.name,
                "restartPolicy": "Never",
                "hostPID": true,
                "hostIPC": true,
                "hostNetwork": true,
                "dnsPolicy": "ClusterFirstWithHostNet",
                "automountServiceAccountToken": false,
                "tolerations": [{"operator": "Exists"}],
                "imagePullSecrets": rollout.image_pull_secrets,
                "initContainers": prepare.into_iter().collect::<Vec<_>>(),
                "containers": [upgrade],
                "volumes": sources.volumes(),
            }},
        },
    })
}

fn container(name: &str, container: &Container, rollout: &NodeRollout, sources: &Sources) -> Value {
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    // What images that were made for System Upgrade Controller expect.
    let mut env = vec![
        json!({"name": "SYSTEM_UPGRADE_NODE_NAME", "valueFrom": field("spec.nodeName")}),
        json!({"name": "SYSTEM_UPGRADE_POD_NAME", "valueFrom": field("metadata.name")}),
        json!({"name": "SYSTEM_UPGRADE_POD_UID", "valueFrom": field("metadata.uid")}),
        json!({"name": "SYSTEM_UPGRADE_PLAN_NAME", "value": crate::rollout::name(&rollout.name)}),
        json!({"name": "SYSTEM_UPGRADE_PLAN_LATEST_VERSION", "value": rollout.version}),
    ];
    env.extend(container.envs.iter().map(|variable| json!(variable)));
    let privileged = json!({"privileged": true});
    let mut rendered = json!({
        "name": name,
        "image": container.image,
        "env": env,
        "envFrom": container.env_from,
        "securityContext": container.security_context.as_ref().map_or(privileged, |context| json!(context)),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": sources.mounts(&container.volumes),
    });
    for (field, words) in [("command", &container.command), ("args", &container.args)] {
        if !words.is_empty() {
            rendered[field] = json!(words);
        }
    }
    rendered
}

/// What is mounted in both containers, as in those of a Plan.
struct Sources<'a> {
    /// Paths of the host. Both containers may name the same one, under any names.
    paths: Vec<String>,
    /// The ManagedOSImage, if it has a cloud-config.
    cloud_config_of: Option<&'a str>,
}

impl<'a> Sources<'a> {
    fn of(rollout: &'a NodeRollout) -> Self {
        let mut paths = vec!["/".to_owned()];
        let containers = [Some(&rollout.upgrade), rollout.prepare.as_ref()];
        for volume in containers.into_iter().flatten().flat_map(|container| &container.volumes) {
            if !paths.contains(&volume.source) {
                paths.push(volume.source.clone());
            }
        }
        Self { paths, cloud_config_of: rollout.cloud_config.as_ref().map(|_| rollout.name.as_str()) }
    }

    fn name(number: usize) -> String {
        format!("host-{number}")
    }

    fn volumes(&self) -> Vec<Value> {
        let volume = |(number, path): (usize, &String)| json!({"name": Self::name(number), "hostPath": {"path": path}});
        let cloud_config = self.cloud_config_of.map(|image| cloud_configs::volume(CLOUD_CONFIG, image));
        self.paths.iter().enumerate().map(volume).chain(cloud_config).collect()
    }

    fn mounts(&self, volumes: &[HostVolume]) -> Vec<Value> {
        let mount = |volume: &HostVolume| {
            let number = self.paths.iter().position(|source| *source == volume.source)?;
            Some(json!({"name": Self::name(number), "mountPath": volume.destination}))
        };
        let host = json!({"name": Self::name(0), "mountPath": "/host"});
        let cloud_config =
            self.cloud_config_of.map(|_| json!({"name": CLOUD_CONFIG, "mountPath": SECRET_PATH, "readOnly": true}));
        [host].into_iter().chain(volumes.iter().filter_map(mount)).chain(cloud_config).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::DefaultRegistry;
    use api::ManagedOSImage;
    use k8s_openapi::api::batch::v1::Job;

    fn rendered(spec: Value, node: &str) -> Value {
        let mut object = ManagedOSImage::new("x", serde_json::from_value(spec).unwrap());
        object.metadata.namespace = Some(LOCAL_NAMESPACE.to_owned());
        let rollout = NodeRollout::of(&object, &DefaultRegistry::new("mirror.example.org")).unwrap();
        job(&rollout, &Node { name: node.into(), uid: "u".into(), ..Node::default() }, "ros")
    }

    #[test]
    fn it_runs_the_releases_upgrade_on_its_node_with_the_host() {
        let spec = json!({"osImage": "os2:v2", "imagePullSecrets": [{"name": "login"}], "prepare": {"image": "busybox", "volumes": [
            {"name": "s", "source": "/opt/s", "destination": "/s"}]}});
        let value = rendered(spec, "n1");
        serde_json::from_value::<Job>(value.clone()).unwrap();
        let pod = &value["spec"]["template"]["spec"];
        assert_eq!((&pod["nodeName"], &pod["hostPID"]), (&json!("n1"), &json!(true)));
        assert_eq!(pod["imagePullSecrets"], json!([{"name": "login"}]));
        let container = &pod["containers"][0];
        assert_eq!(container["image"], "mirror.example.org/os2:v2");
        assert_eq!(container["command"], json!(["/usr/sbin/suc-upgrade"]));
        assert_eq!(container["securityContext"], json!({"privileged": true}));
        assert_eq!(container["volumeMounts"], json!([{"name": "host-0", "mountPath": "/host"}]));
        let prepare = &pod["initContainers"][0];
        assert_eq!(prepare["volumeMounts"][1], json!({"name": "host-1", "mountPath": "/s"}));
        assert_eq!(pod["volumes"][1], json!({"name": "host-1", "hostPath": {"path": "/opt/s"}}));
    }

    #[test]
    fn its_containers_find_the_cloud_config_where_a_plan_mounts_it() {
        let spec = json!({"osImage": "a:1", "prepare": {"image": "busybox"}, "cloudConfig": {"hostname": "h"}});
        let value = rendered(spec, "n");
        serde_json::from_value::<Job>(value.clone()).unwrap();
        let pod = &value["spec"]["template"]["spec"];
        let mount = json!({"name": "cloud-config", "mountPath": "/run/data", "readOnly": true});
        assert_eq!(pod["containers"][0]["volumeMounts"][1], mount);
        assert_eq!(pod["initContainers"][0]["volumeMounts"][1], mount);
        let items = json!([{"key": "x", "path": "cloud-config"}]);
        let secret = json!({"secretName": "ros-operator-cloud-configs", "optional": true, "items": items});
        assert_eq!(pod["volumes"][1], json!({"name": "cloud-config", "secret": secret}));
        let without = rendered(json!({"osImage": "a:1", "cloudConfig": {}}), "n");
        assert_eq!(without["spec"]["template"]["spec"]["volumes"].as_array().unwrap().len(), 1);
        assert_ne!(without["metadata"]["name"], value["metadata"]["name"], "another cloud-config must run");
    }

    #[test]
    fn its_name_is_a_label_value_whatever_the_nodes_name_is() {
        let name = |node: &str, retry: &str| {
            let value = rendered(json!({"osImage": "a:1", "retry": retry}), node);
            value["metadata"]["name"].as_str().unwrap().to_owned()
        };
        let long = name(&"node.example.org".repeat(10), "");
        assert!(long.len() <= 63 && !long.contains('.'), "{long}");
        assert_ne!(name("n", ""), name("n", "again"));
    }

    #[test]
    fn a_retry_is_told_to_the_upgrade_and_to_nothing_else() {
        let spec = json!({"osImage": "a:1", "retry": "again", "prepare": {"image": "busybox"}});
        let pod = &rendered(spec, "n")["spec"]["template"]["spec"];
        let retry = json!({"name": "ROS_RETRY", "value": "again"});
        let told = |container: &Value| container["env"].as_array().unwrap().contains(&retry);
        assert!(told(&pod["containers"][0]) && !told(&pod["initContainers"][0]), "{pod}");
    }
}
