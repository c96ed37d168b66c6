//! The API for users: it takes the examples of the first release's reference, and refuses wrong objects with advice.
//!
//! Names of the API are written out here, because they are what users write: the test must fail if one changes.

use anyhow::{Context, Result};
use harness::clusters::cluster::Cluster;
use harness::world::World;
use serde_json::{Value, json};

/// The examples of the first release's reference, word for word, ellipsis included.
const REFERENCE: [&str; 4] = [
    r#"
apiVersion: rancheros.cattle.io/v1
kind: ManagedOSImage
metadata:
  name: default-os-image
  namespace: fleet-local
spec:
  osImage: rancher/os2:v0.0.0
"#,
    r#"
apiVersion: rancheros.cattle.io/v1
kind: ManagedOSImage
metadata:
  name: arbitrary
  namespace: fleet-local
spec:
  osImage: rancher/os2:v0.0.0
  nodeSelector:
    matchLabels: {}
  concurrency: 2
  prepare:
    image: ubuntu
    command: ["/bin/sh"]
    args: ["-c", "true"]
    env:
    - name: TEST_ENV
      value: testValue
  drain:
    timeout: 5m
    gracePeriod: 5m
    deleteLocalData: false
    ignoreDaemonSets: true
    force: false
    disableEviction: false
    skipWaitForDeleteTimeout: 5
  targets: []
  upgradeContainer:
    image: ubuntu
    command: ["/bin/sh"]
    args: ["-c", "true"]
    env:
    - name: TEST_ENV
      value: testValue
"#,
    r#"
apiVersion: rancheros.cattle.io/v1
kind: MachineInventory
metadata:
  name: machine-a
  namespace: fleet-default
spec:
  clusterName: some-cluster
  tpm: d68795c6192af9922692f050b...
  smbios: {}
  machineTokenSecretName: some-secret-name
  config:
    role: server
"#,
    r#"
apiVersion: rancheros.cattle.io/v1
kind: MachineRegistration
metadata:
  name: machine-registration
  namespace: fleet-default
spec:
  machineInventoryLabels: {}
  machineInventoryAnnotations: {}
  cloudConfig: {}
"#,
];

#[tokio::test(flavor = "multi_thread")]
async fn the_references_examples_are_accepted_unchanged() {
    let world = start("api-reference").await;
    let cluster = &world.cluster;
    for example in REFERENCE {
        cluster.kubectl(&["apply", "--filename", "-"], example).unwrap();
        let given: Value = serde_yaml::from_str(example).unwrap();
        let kept = get(cluster, &given).unwrap();
        assert_eq!(kept["spec"], given["spec"], "{example}");
    }
}

/// Kind, spec, and a part of the message.
const REFUSED: [(&str, &str, &str); 7] = [
    ("MachineInventory", r#"{"tpm": "a", "tpmHash": "b"}"#, "two names of the same field"),
    (
        "ManagedOSImage",
        r#"{"targets": [{"clusterName": "a"}], "clusterTargets": [{"clusterName": "b"}]}"#,
        "two names of the same field",
    ),
    ("ManagedOSImage", r#"{"concurrency": -1}"#, "greater than or equal to 0"),
    ("ManagedOSImage", r#"{"drain": {"timeout": "soon"}}"#, "spec.drain.timeout"),
    ("ManagedOSImage", r#"{"engine": "Diesel"}"#, r#"supported values: "Auto", "Fleet", "Plan", "Operator""#),
    ("MachineRegistration", r#"{"approval": "Maybe"}"#, r#"supported values: "Automatic", "Manual""#),
    (
        "MachineRegistration",
        r#"{"attestation": {"ekCertificate": "Ignored", "trustedCAs": {"secretName": "s"}}}"#,
        "has no effect",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn contradictory_objects_are_refused_with_advice() {
    let world = start("api-refused").await;
    let cluster = &world.cluster;
    for (kind, spec, advice) in REFUSED {
        let error = cluster.kubectl(&["apply", "--filename", "-"], &object(kind, "refused", spec)).unwrap_err();
        assert!(error.to_string().contains(advice), "{spec}: {error}");
    }
    // Two spellings that agree, durations in both forms, and fields that only Fleet knows are accepted.
    for (kind, spec) in [
        ("MachineInventory", r#"{"tpm": "a", "tpmHash": "a"}"#),
        (
            "ManagedOSImage",
            r#"{"targets": [{"clusterName": "a", "helm": {"force": true}}], "drain": {"timeout": 300}}"#,
        ),
    ] {
        cluster.kubectl(&["apply", "--filename", "-"], &object(kind, "taken", spec)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_is_set_once() {
    let world = start("api-identity").await;
    let cluster = &world.cluster;
    let patch = |spec: Value| {
        cluster.patch("machineinventories.rancheros.cattle.io/m", "fleet-default", &json!({"spec": spec}))
    };
    cluster.kubectl(&["apply", "--filename", "-"], &object("MachineInventory", "m", "{}")).unwrap();
    patch(json!({"tpm": "aa"})).unwrap();
    for spec in [json!({"tpm": "bb"}), json!({"tpm": null}), json!({"tpm": null, "tpmHash": "bb"})] {
        let error = patch(spec.clone()).unwrap_err().to_string();
        assert!(error.contains("cannot be changed"), "{spec}: {error}");
    }
    patch(json!({"tpm": null, "tpmHash": "aa"})).unwrap();
}

async fn start(name: &str) -> World {
    World::builder(name).unwrap().start().await.unwrap()
}

fn object(kind: &str, name: &str, spec: &str) -> String {
    let metadata = format!(r#"{{"name": "{name}", "namespace": "fleet-default"}}"#);
    format!(r#"{{"apiVersion": "rancheros.cattle.io/v1", "kind": "{kind}", "metadata": {metadata}, "spec": {spec}}}"#)
}

fn get(cluster: &Cluster, given: &Value) -> Result<Value> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, name) = (text(&given["kind"]), text(&given["metadata"]["name"]));
    let namespace = text(&given["metadata"]["namespace"]);
    let kept = cluster.kubectl(&["get", &kind, &name, "--namespace", &namespace, "--output", "json"], "")?;
    serde_json::from_str(&kept).with_context(|| format!("reading {kind} {name}"))
}
