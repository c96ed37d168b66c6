//! A roll-out and the status of its ManagedOSImage, with a fake Fleet and a fake System Upgrade Controller.

use anyhow::{Context, Result};
use api::{MachineInventory, ManagedOSImage, Phase, condition_type, reason};
use harness::clusters::cluster::Controllers;
use harness::clusters::registration::NAMESPACE;
use harness::fakes::rancher::Rancher;
use harness::fakes::upgrade_engines::{Kinds, deploy_bundle, set_bundle_status};
use harness::objects::{condition, contains, kubectl_kind, kubectl_name, manifest};
use harness::world::World;
use k8s_openapi::jiff::Timestamp;
use qemu::paths;
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::time::Duration;

/// The operator discovers engines once a minute.
const TIMEOUT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn machines_of_a_cluster_say_when_they_are_upgraded() {
    let rollout = Rollout::start("os-image-downstream", Controllers::Running).await.unwrap();
    Kinds::Strict.install_fleet(&rollout.world.cluster).unwrap();
    Kinds::Strict.install_plans(&rollout.world.cluster).unwrap();
    rollout.machine("a", "shop", json!({"version": "0.1.0", "slot": "A", "healthy": true})).unwrap();
    rollout.machine("b", "depot", json!({"version": "0.1.0", "slot": "A", "healthy": true})).unwrap();
    rollout.image("edge", "fleet-default", json!({"osImage": "r:5000/os2:v0.2.0", "concurrency": 0})).unwrap();

    let bundle = rollout.bundle("edge", "fleet-default").await.unwrap();
    set_bundle_status(&rollout.world.cluster, &bundle, 0, 0).unwrap();
    let nobody = rollout.reason("edge", "fleet-default", reason::NO_TARGET_MATCHED).await.unwrap();
    assert_eq!(condition(&nobody, condition_type::STALLED)["status"], "True");
    assert_eq!(nobody["status"]["display"]["readyClusters"], "0/0");

    let patch = json!({"spec": {"targets": [{"clusterName": "shop"}]}});
    rollout.patch("edge", "fleet-default", &patch).unwrap();
    let bundle = rollout.bundle_where("edge", "fleet-default", "/spec/targets/0/clusterName", "shop").await.unwrap();
    deploy_bundle(&rollout.world.cluster, &bundle, &["shop"]).unwrap();
    let paused = rollout.reason("edge", "fleet-default", reason::PAUSED).await.unwrap();
    assert_eq!(paused["status"]["counts"], json!({"desired": 1, "done": 0, "updating": 0, "failed": 0}));
    assert_eq!(condition(&paused, condition_type::READY)["status"], "False");

    rollout.patch("edge", "fleet-default", &json!({"spec": {"concurrency": 1}})).unwrap();
    let next = rollout.bundle_where("edge", "fleet-default", "/metadata/generation", "3").await.unwrap();
    assert_eq!(only_difference(&bundle, &next), ["plan.yaml"]);
    deploy_bundle(&rollout.world.cluster, &next, &["shop"]).unwrap();
    rollout.reason("edge", "fleet-default", reason::APPLIED_NOT_UPGRADED).await.unwrap();

    rollout.report("a", json!({"version": "0.2.0", "slot": "B", "healthy": false})).unwrap();
    let proving = rollout.reason("edge", "fleet-default", reason::PROGRESSING).await.unwrap();
    assert_eq!(proving["status"]["nodes"][0]["phase"], "Proving");
    rollout.report("a", json!({"version": "0.1.0", "slot": "A", "healthy": true})).unwrap();
    let failed = rollout.reason("edge", "fleet-default", reason::FAILED).await.unwrap();
    assert!(message(&failed).contains("FellBack"), "{}", message(&failed));
    assert_eq!(failed["status"]["counts"]["failed"], 1);
    rollout.metrics_say(r#"rancheros_upgrade_nodes{phase="failed"} 1"#).await.unwrap();

    rollout.report("a", json!({"version": "0.2.0", "slot": "B", "healthy": true})).unwrap();
    let done = rollout.reason("edge", "fleet-default", reason::UPGRADED).await.unwrap();
    assert_eq!(done["status"]["observedGeneration"], done["metadata"]["generation"]);
    let ready = format!("--for=condition={}", condition_type::READY);
    let image = kubectl_name::<ManagedOSImage>("edge");
    let wait = ["wait", &image, &ready, "--timeout=10s", "--namespace", "fleet-default"];
    rollout.world.cluster.kubectl(&wait, "").unwrap();
    rollout.metrics_say(r#"rancheros_upgrade_nodes{phase="done"} 1"#).await.unwrap();
    // After five reports the Bundle is still as it was when its spec last changed.
    let last = rollout.bundle("edge", "fleet-default").await.unwrap();
    assert_eq!(last["metadata"]["generation"], next["metadata"]["generation"]);
    assert_eq!(
        last["metadata"]["managedFields"],
        rollout.get("bundles.fleet.cattle.io", "fleet-default", "mos-edge").unwrap().unwrap()["metadata"]["managedFields"]
    );

    // Beside Fleet, a machine that belongs to no cluster upgrades itself.
    rollout.world.create_inventory("kiosk", json!({})).unwrap();
    rollout.report("kiosk", json!({"version": "0.1.0", "slot": "A", "healthy": true, "selfUpgrading": true})).unwrap();
    let both = rollout.image_where("edge", "fleet-default", "/status/engines/1/engine", "Machine").await.unwrap();
    assert_eq!(both["status"]["engines"][0]["counts"]["done"], 1, "{}", both["status"]);
    let not_used = condition(&both, condition_type::FIELDS_NOT_USED);
    assert!(not_used["message"].as_str().is_some_and(|text| text.contains("kiosk") && text.contains("spec.targets")));
    let has_turn = |machine: &Value| machine["status"]["upgrade"]["managedOSImage"] == "edge";
    rollout.found("machineinventories.rancheros.cattle.io", "fleet-default", "kiosk", has_turn).await.unwrap();
    rollout.report("kiosk", json!({"version": "0.2.0", "slot": "B", "healthy": true, "selfUpgrading": true})).unwrap();
    let done = rollout.reason("edge", "fleet-default", reason::UPGRADED).await.unwrap();
    assert_eq!(done["status"]["counts"]["done"], 2, "{}", done["status"]);

    rollout.delete("edge", "fleet-default").unwrap();
    rollout.metrics_say(r#"rancheros_upgrade_nodes{phase="done"} 0"#).await.unwrap();
    rollout.gone("bundles.fleet.cattle.io", "fleet-default", "mos-edge").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_this_cluster_are_counted_without_an_inventory() {
    let rollout = Rollout::start("os-image-local", Controllers::Absent).await.unwrap();
    rollout.image("default-os-image", "fleet-local", json!({"osImage": "rancher/os2:v0.2.0"})).unwrap();
    let nobody = rollout.reason("default-os-image", "fleet-local", reason::NO_NODE_MATCHED).await.unwrap();
    assert_eq!(nobody["status"]["engine"], "Operator");

    Kinds::Strict.install_fleet(&rollout.world.cluster).unwrap();
    Kinds::Strict.install_plans(&rollout.world.cluster).unwrap();
    let bundle = rollout.bundle("default-os-image", "fleet-local").await.unwrap();
    assert_eq!(bundle["spec"]["targets"], json!([{"clusterName": "local"}]));
    rollout.node("n1", "RancherOS 0.1.0").unwrap();
    rollout.node("n2", "RancherOS 0.1.0").unwrap();
    deploy_bundle(&rollout.world.cluster, &bundle, &["local"]).unwrap();
    let applied = rollout.reason("default-os-image", "fleet-local", reason::APPLIED_NOT_UPGRADED).await.unwrap();
    assert_eq!(applied["status"]["counts"]["desired"], 2);

    let trouble = json!({"conditions": [{"type": "LatestResolved", "status": "False", "reason": "Error",
        "message": "secret not found"}]});
    rollout.plan_status(&trouble).unwrap();
    let refused = rollout.reason("default-os-image", "fleet-local", reason::NOT_APPLIED).await.unwrap();
    assert!(message(&refused).contains("secret not found"), "{}", message(&refused));

    // A failed Job does not change the Bundle's Ready, and is deleted after a while.
    let plan = rollout.get("plans.upgrade.cattle.io", "cattle-system", "mos-default-os-image").unwrap().unwrap();
    let version = plan["spec"]["version"].clone();
    let plan_status = |applying: &[&str]| {
        json!({"latestVersion": version, "latestHash": "hash", "applying": applying,
            "conditions": [{"type": "Validated", "status": "True"}]})
    };
    rollout.plan_status(&plan_status(&["n1"])).unwrap();
    rollout.reason("default-os-image", "fleet-local", reason::PROGRESSING).await.unwrap();
    rollout.failed_job("n1").unwrap();
    let failed = rollout.reason("default-os-image", "fleet-local", reason::FAILED).await.unwrap();
    assert!(message(&failed).contains("BackoffLimitExceeded"), "{}", message(&failed));
    rollout.world.cluster.kubectl(&["delete", "job", "apply-n1", "--namespace", "cattle-system"], "").unwrap();

    rollout.node("n2", "RancherOS 0.2.0").unwrap();
    rollout.carried_out("n2").unwrap();
    let one = rollout.image_where("default-os-image", "fleet-local", "/status/counts/done", "1").await.unwrap();
    assert_eq!(condition(&one, condition_type::READY)["reason"], reason::FAILED, "{}", one["status"]);
    assert!(
        rollout
            .world
            .cluster
            .kubectl(&["get", "jobs", "--namespace", "cattle-system", "--output=name"], "")
            .unwrap()
            .is_empty()
    );
    let before = rollout.bundle("default-os-image", "fleet-local").await.unwrap();
    rollout.node("n1", "RancherOS 0.2.0").unwrap();
    rollout.carried_out("n1").unwrap();
    rollout.reason("default-os-image", "fleet-local", reason::UPGRADED).await.unwrap();
    let after = rollout.bundle("default-os-image", "fleet-local").await.unwrap();
    assert_eq!(before["metadata"]["resourceVersion"], after["metadata"]["resourceVersion"]);

    // The same release with another cloud-config: the labels of the nodes belong to the earlier Plan.
    let patch = json!({"spec": {"cloudConfig": {"timezone": "Europe/Berlin"}}});
    rollout.patch("default-os-image", "fleet-local", &patch).unwrap();
    let edited =
        rollout.image_where("default-os-image", "fleet-local", "/status/observedGeneration", "2").await.unwrap();
    assert_eq!(condition(&edited, condition_type::READY)["status"], "False", "{}", edited["status"]);
    let bundle = rollout.bundle("default-os-image", "fleet-local").await.unwrap();
    deploy_bundle(&rollout.world.cluster, &bundle, &["local"]).unwrap();
    let waiting = rollout.reason("default-os-image", "fleet-local", reason::APPLIED_NOT_UPGRADED).await.unwrap();
    assert_eq!(waiting["status"]["counts"]["done"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_fleet_the_plan_is_applied_here_and_taken_away_again() {
    let rollout = Rollout::start("os-image-plan", Controllers::Absent).await.unwrap();
    rollout.world.cluster.ensure_namespace("system-upgrade").unwrap();
    Kinds::Strict.install_plans(&rollout.world.cluster).unwrap();
    // Without Plans the operator would upgrade the node by itself, and its Job must end before Plans take over.
    rollout.operator_found("plans=Served").await.unwrap();
    rollout.node("n1", "RancherOS 0.1.0").unwrap();
    let spec = json!({"osImage": "a:v0.2.0", "cloudConfig": {"rancherd": {"token": "secret"}}, "drain": {}});
    rollout.image("x", "fleet-local", spec).unwrap();
    let applied = rollout.reason("x", "fleet-local", reason::APPLIED_NOT_UPGRADED).await.unwrap();
    assert_eq!(applied["status"]["engine"], "Plan");
    assert_eq!(applied["status"]["plan"], "system-upgrade/mos-x");
    let plan = rollout.get("plans.upgrade.cattle.io", "system-upgrade", "mos-x").unwrap().unwrap();
    assert_eq!(plan["spec"]["secrets"], json!([{"name": "mos-x", "path": "/run/data"}]));
    for kind in OBJECTS {
        assert!(rollout.get(kind, "system-upgrade", "mos-x").unwrap().is_some(), "{kind}");
    }

    // The spec needs less: unneeded objects are deleted, the others are not changed.
    let account = rollout.get("serviceaccount", "system-upgrade", "mos-x").unwrap();
    rollout.patch("x", "fleet-local", &json!({"spec": {"cloudConfig": null, "drain": null, "cordon": false}})).unwrap();
    for kind in ["secret", "clusterrole", "clusterrolebinding"] {
        rollout.gone(kind, "system-upgrade", "mos-x").await.unwrap();
    }
    let changed = rollout.image_where("x", "fleet-local", "/status/observedGeneration", "2").await.unwrap();
    assert_ne!(changed["status"]["version"], applied["status"]["version"], "other cloud-config runs again");
    assert_eq!(account, rollout.get("serviceaccount", "system-upgrade", "mos-x").unwrap());

    // Rancher is installed and sets a default registry. The image is the same, so no Job runs again.
    let rancher = Rancher::install(&rollout.world.cluster).unwrap();
    rancher.set("system-default-registry", "mirror.example.org:5000").unwrap();
    let mirrored = |plan: &Value| says(plan, "/spec/upgrade/image", "mirror.example.org:5000/a:v0.2.0");
    let plan = rollout.found("plans.upgrade.cattle.io", "system-upgrade", "mos-x", mirrored).await.unwrap();
    assert_eq!(plan["spec"]["version"], changed["status"]["version"]);

    // Fleet is installed, and the Plan stays until the spec asks for Fleet. Then its objects are deleted.
    Kinds::Strict.install_fleet(&rollout.world.cluster).unwrap();
    rollout.patch("x", "fleet-local", &json!({"spec": {"cloudConfig": null, "engine": "Fleet"}})).unwrap();
    rollout.bundle("x", "fleet-local").await.unwrap();
    for kind in OBJECTS {
        assert_eq!(rollout.get(kind, "system-upgrade", "mos-x").unwrap(), None, "{kind}");
    }
    let fleets = rollout.image_where("x", "fleet-local", "/status/engine", "Fleet").await.unwrap();
    assert!(fleets["metadata"].get("finalizers").is_none());

    // The spec chooses the Plan again.
    rollout.patch("x", "fleet-local", &json!({"spec": {"engine": "Plan"}})).unwrap();
    rollout.gone("bundles.fleet.cattle.io", "fleet-local", "mos-x").await.unwrap();
    rollout.image_where("x", "fleet-local", "/status/engine", "Plan").await.unwrap();
    assert!(rollout.get("plans.upgrade.cattle.io", "system-upgrade", "mos-x").unwrap().is_some());
    rollout.delete("x", "fleet-local").unwrap();
    for kind in OBJECTS {
        assert_eq!(rollout.get(kind, "system-upgrade", "mos-x").unwrap(), None, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_is_taken_by_the_kinds_it_is_made_for() {
    for kinds in Kinds::available() {
        let rollout = Rollout::start("os-image-kinds", Controllers::Absent).await.unwrap();
        kinds.install_fleet(&rollout.world.cluster).unwrap();
        kinds.install_plans(&rollout.world.cluster).unwrap();
        let folder = paths::workspace().join("operator/testdata/os-image");
        for (case, name, strict) in [
            ("default", "default-os-image", true),
            ("reference", "arbitrary", true),
            ("downstream", "edge", false),
            ("registry", "a-name-of-fifty-nine-characters-the-longest-that-is-allowed", true),
        ] {
            let manifest = std::fs::read_to_string(folder.join(format!("{case}.yaml"))).unwrap();
            let object: Value = serde_yaml::from_str(&manifest).unwrap();
            let namespace = object["metadata"]["namespace"].as_str().unwrap();
            rollout.world.cluster.kubectl(&["apply", "-f", "-"], &manifest).unwrap();
            if matches!(kinds, Kinds::Strict) && !strict {
                // The spec has a field of Fleet's that the strict kind does not know, so the Bundle is refused.
                let refused = rollout.reason(name, namespace, reason::NOT_ACCEPTED).await.unwrap();
                assert!(message(&refused).contains("helm"), "{}", message(&refused));
                continue;
            }
            let bundle = rollout.bundle(name, namespace).await.unwrap();
            let kept = std::fs::read_to_string(folder.join(format!("{case}.bundle.yaml"))).unwrap();
            let kept: Value = serde_yaml::from_str(&kept).unwrap();
            // The real kinds add their own defaults.
            assert!(contains(&bundle["spec"], &kept["spec"]), "{kinds:?} {case}: {}", bundle["spec"]);
            deploy_bundle(&rollout.world.cluster, &bundle, &["far"]).unwrap();
        }
        let unknown = json!({"osImage": "a:1", "targets": [{"clusterNam": "typo"}]});
        rollout.image("typo", "fleet-default", unknown).unwrap();
        let refused = rollout.reason("typo", "fleet-default", reason::NOT_ACCEPTED).await.unwrap();
        assert!(message(&refused).contains("clusterNam"), "{}", message(&refused));
        assert_eq!(rollout.get("bundles.fleet.cattle.io", "fleet-default", "mos-typo").unwrap(), None);
    }
}

/// All kinds of objects that are created for a ManagedOSImage without Fleet.
const OBJECTS: [&str; 5] = ["plans.upgrade.cattle.io", "serviceaccount", "secret", "clusterrole", "clusterrolebinding"];

/// A world in which people, machines, nodes and engines take part in a roll-out.
struct Rollout {
    world: World,
}

impl Rollout {
    async fn start(name: &str, controllers: Controllers) -> Result<Self> {
        Ok(Self { world: World::builder(name)?.controllers(controllers).start().await? })
    }

    /// Waits until the operator has found these kinds, as it says in its log.
    async fn operator_found(&self, kinds: &str) -> Result<()> {
        until(&format!("the operator to find {kinds}"), TIMEOUT, async || {
            let log = self.world.operator_log()?;
            let last = log.lines().rfind(|line| line.contains("found the upgrade engines")).unwrap_or_default();
            Ok(if last.contains(kinds) { Poll::Ready(()) } else { Poll::Pending(last.to_owned()) })
        })
        .await
    }

    fn image(&self, name: &str, namespace: &str, spec: Value) -> Result<()> {
        self.world.cluster.apply(&manifest::<ManagedOSImage>(namespace, name, &spec))
    }

    fn apply(&self, api_version: &str, kind: &str, name: &str, namespace: &str, rest: Value) -> Result<()> {
        let mut object = rest;
        object["apiVersion"] = json!(api_version);
        object["kind"] = json!(kind);
        object["metadata"]["name"] = json!(name);
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = json!(namespace);
        }
        self.world.cluster.apply(&object)
    }

    fn patch(&self, name: &str, namespace: &str, patch: &Value) -> Result<()> {
        self.world.cluster.patch(&kubectl_name::<ManagedOSImage>(name), namespace, patch)
    }

    fn delete(&self, name: &str, namespace: &str) -> Result<()> {
        let object = kubectl_name::<ManagedOSImage>(name);
        self.world.cluster.kubectl(&["delete", &object, "--namespace", namespace, "--timeout=60s"], "").map(drop)
    }

    fn machine(&self, name: &str, cluster: &str, os: Value) -> Result<()> {
        self.world.create_inventory(name, json!({"clusterName": cluster}))?;
        self.report(name, os)
    }

    /// Sets the status as if the machine had reported this.
    fn report(&self, name: &str, os: Value) -> Result<()> {
        let status = json!({"phase": Phase::Ready, "lastSeen": Timestamp::now().to_string(), "os": os});
        self.world.cluster.patch_status(&kubectl_name::<MachineInventory>(name), NAMESPACE, &status)
    }

    /// Creates a Node as its kubelet would.
    fn node(&self, name: &str, os_image: &str) -> Result<()> {
        self.apply("v1", "Node", name, "", json!({"metadata": {"labels": {"kubernetes.io/hostname": name}}}))?;
        let info = ["machineID", "systemUUID", "bootID", "kernelVersion", "containerRuntimeVersion", "kubeletVersion"];
        let mut info: Value = info.map(|key| (key.to_owned(), json!("x"))).into_iter().collect();
        for key in ["kubeProxyVersion", "operatingSystem", "architecture"] {
            info[key] = json!("x");
        }
        info["osImage"] = json!(os_image);
        let status = json!({"nodeInfo": info, "conditions": [{"type": "Ready", "status": "True"}]});
        self.world.cluster.patch_status(&format!("node/{name}"), "", &status)
    }

    /// Labels a node as the upgrade controller does after the Job with the hash `hash` has succeeded.
    fn carried_out(&self, node: &str) -> Result<()> {
        let labels = json!({"metadata": {"labels": {"plan.upgrade.cattle.io/mos-default-os-image": "hash"}}});
        self.world.cluster.patch(&format!("node/{node}"), "", &labels)
    }

    fn plan_status(&self, status: &Value) -> Result<()> {
        self.world.cluster.patch_status("plans.upgrade.cattle.io/mos-default-os-image", "cattle-system", status)
    }

    /// Creates the upgrade controller's Job for a node, after its last pod has failed.
    fn failed_job(&self, node: &str) -> Result<()> {
        let labels = json!({
            "upgrade.cattle.io/plan": "mos-default-os-image",
            "upgrade.cattle.io/node": node,
            "plan.upgrade.cattle.io/mos-default-os-image": "hash",
        });
        let container = json!({"name": "upgrade", "image": "rancher/os2:v0.2.0"});
        let job = json!({"metadata": {"labels": labels}, "spec": {"template": {"spec": {
            "containers": [container], "restartPolicy": "Never"}}}});
        let name = format!("apply-{node}");
        self.apply("batch/v1", "Job", &name, "cattle-system", job)?;
        let time = "2026-11-23T00:00:00Z";
        let failed = |type_: &str| {
            json!({"type": type_, "status": "True", "reason": "BackoffLimitExceeded",
                "message": "three pods failed", "lastTransitionTime": time})
        };
        let status = json!({"failed": 3, "startTime": time, "conditions": [failed("FailureTarget"), failed("Failed")]});
        self.world.cluster.patch_status(&format!("job/{name}"), "cattle-system", &status)
    }

    fn get(&self, kind: &str, namespace: &str, name: &str) -> Result<Option<Value>> {
        let arguments = ["get", kind, name, "--namespace", namespace, "--ignore-not-found", "--output=json"];
        let found = self.world.cluster.kubectl(&[&arguments[..], &["--show-managed-fields"]].concat(), "")?;
        if found.trim().is_empty() {
            return Ok(None);
        }
        serde_json::from_str(&found).with_context(|| format!("reading {kind} {name}"))
    }

    async fn bundle(&self, image: &str, namespace: &str) -> Result<Value> {
        self.found("bundles.fleet.cattle.io", namespace, &format!("mos-{image}"), |_| true).await
    }

    async fn bundle_where(&self, image: &str, namespace: &str, pointer: &str, value: &str) -> Result<Value> {
        let name = format!("mos-{image}");
        self.found("bundles.fleet.cattle.io", namespace, &name, |object| says(object, pointer, value)).await
    }

    async fn image_where(&self, name: &str, namespace: &str, pointer: &str, value: &str) -> Result<Value> {
        let kind = kubectl_kind::<ManagedOSImage>();
        self.found(&kind, namespace, name, |object| says(object, pointer, value)).await
    }

    /// Waits until the condition `Ready` of a ManagedOSImage has this reason. Gives the object.
    async fn reason(&self, name: &str, namespace: &str, reason: &str) -> Result<Value> {
        let kind = kubectl_kind::<ManagedOSImage>();
        let right = |object: &Value| condition(object, condition_type::READY)["reason"] == reason;
        self.found(&kind, namespace, name, right).await.with_context(|| format!("waiting for {reason}"))
    }

    async fn found(&self, kind: &str, namespace: &str, name: &str, right: impl Fn(&Value) -> bool) -> Result<Value> {
        until(&format!("{kind} {namespace}/{name}"), TIMEOUT, async || {
            Ok(match self.get(kind, namespace, name) {
                Ok(Some(object)) if right(&object) => Poll::Ready(object),
                Ok(object) => Poll::Pending(object.unwrap_or_default()["status"].to_string()),
                // The kind is not served yet.
                Err(error) => Poll::Pending(error.to_string()),
            })
        })
        .await
    }

    async fn metrics_say(&self, line: &str) -> Result<()> {
        until(&format!("{line} in the metrics"), TIMEOUT, async || {
            let text = self.world.operator.metrics().await?;
            let lines = || text.lines().filter(|line| line.contains("upgrade_nodes")).collect::<Vec<_>>().join("\n");
            Ok(if text.lines().any(|one| one == line) { Poll::Ready(()) } else { Poll::Pending(lines()) })
        })
        .await
    }

    async fn gone(&self, kind: &str, namespace: &str, name: &str) -> Result<()> {
        until(&format!("the end of {kind} {namespace}/{name}"), TIMEOUT, async || {
            Ok(match self.get(kind, namespace, name)? {
                None => Poll::Ready(()),
                Some(_) => Poll::Pending("it is there".to_owned()),
            })
        })
        .await
    }
}

fn says(object: &Value, pointer: &str, value: &str) -> bool {
    match object.pointer(pointer) {
        Some(Value::String(text)) => text == value,
        Some(Value::Number(number)) => number.to_string() == value,
        Some(_) => false,
        None => false,
    }
}

fn message(object: &Value) -> String {
    condition(object, condition_type::READY)["message"].as_str().unwrap_or_default().to_owned()
}

/// The names of the resources that differ between two Bundles.
fn only_difference(a: &Value, b: &Value) -> Vec<String> {
    let resources = |bundle: &Value| bundle["spec"]["resources"].as_array().cloned().unwrap_or_default();
    let (a, b) = (resources(a), resources(b));
    assert_eq!(a.len(), b.len());
    let differ = b.iter().zip(&a).filter(|(b, a)| b != a);
    differ.map(|(b, _)| b["name"].as_str().unwrap_or_default().to_owned()).collect()
}
