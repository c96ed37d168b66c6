//! The chart installed as the reference says. The operator has only the rights that the chart gives.

use anyhow::{Context, Result};
use api::{GROUP, MachineInventory, MachineRegistration, ManagedOSImage, Phase, condition_type};
use harness::clusters::certificates::Authority;
use harness::clusters::chart::{EVERYTHING, RELEASE, package};
use harness::clusters::cluster::{Cluster, Controllers};
use harness::clusters::helm::helm;
use harness::clusters::operator::{NAMESPACE, Operator};
use harness::clusters::registration::{self, Registration};
use harness::fakes::nodes::{FakeNodes, Fate};
use harness::fakes::rancher::Rancher;
use harness::fakes::software_machine::{Endpoint, usual_report};
use harness::fakes::software_tpm::{KeyKind, SoftwareTpm};
use harness::objects::{condition, contains, kubectl_name};
use kube::Resource;
use qemu::paths;
use qemu::scratch::Scratch;
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn it_installs_as_the_reference_says_and_its_rights_suffice_and_are_no_more() {
    let scratch = Scratch::new("chart-install").unwrap();
    let cluster = Cluster::start(&scratch.folder("cluster").unwrap(), Controllers::Absent).await.unwrap();
    let chart = package(&scratch.folder("chart").unwrap()).unwrap();
    let chart = chart.to_str().unwrap();

    helm(&cluster, &["-n", NAMESPACE, "install", "--create-namespace", RELEASE, chart]).unwrap();
    cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"], "").unwrap();
    let account = account_kubeconfig(&cluster, &scratch.path().join("account")).unwrap();
    let mut environment = environment(&cluster).unwrap();
    // As if Rancher was removed after the installation: the API server does not know its kinds.
    environment.push(("ROS_BESIDE_RANCHER".to_owned(), "true".to_owned()));
    let url = format!("https://{RELEASE}.{NAMESPACE}.svc");
    let folder = scratch.folder("operator").unwrap();
    let operator = Operator::start_deployed(&account, environment, &url, &folder).await.unwrap();

    // The operator was not told its URL for machines, and its condition says so.
    let registration = Registration::apply(&cluster, "edge", json!({})).unwrap();
    assert!(registration.url.starts_with(&url), "{}", registration.url);
    let ready = condition(&get::<MachineRegistration>(&cluster, "edge").unwrap(), condition_type::READY);
    assert!(ready["message"].as_str().unwrap().contains("serverURL"), "{ready}");
    let endpoint = Endpoint::new(&registration.local_url(&operator).unwrap(), &operator.ca().await.unwrap()).unwrap();
    let tpm = SoftwareTpm::new(KeyKind::P256).unwrap();
    let config = endpoint.register(&tpm, usual_report("SN-1")).await.unwrap();
    let name = config.inventory.rsplit('/').next().unwrap().to_owned();
    let inventory = get::<MachineInventory>(&cluster, &name).unwrap();
    assert_eq!(inventory["status"]["phase"], json!(Phase::Installed));

    // Dashboards and alerts of others are made of these names, so they are written out.
    let metrics = operator.metrics().await.unwrap();
    for line in [
        r#"rancheros_exchanges_total{request="register",result="ok",code=""} 1"#,
        r#"rancheros_exchange_phase_seconds_count{phase="proof"} 1"#,
        r#"rancheros_attestations_total{certificate="Absent"} 1"#,
        r#"rancheros_machine_inventories{phase="Installed"} 1"#,
        r#"rancheros_api_request_seconds_count{method="POST",resource="machineinventories",status="201"} 1"#,
        r#"rancheros_reconcile_seconds_count{kind="MachineRegistration",result="ok"}"#,
        "rancheros_leader 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    assert!(!metrics.contains(&name), "a machine's name in {metrics}");

    // A load balancer gives the Service an address.
    let status = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}});
    cluster.patch_status(&format!("service/{RELEASE}"), NAMESPACE, &status).unwrap();
    until("the load balancer's address in the URL", Duration::from_secs(60), async || {
        let registration = get::<MachineRegistration>(&cluster, "edge")?;
        let url = registration["status"]["registrationURL"].as_str().unwrap_or_default();
        Ok(if url.starts_with("https://192.0.2.7/") { Poll::Ready(()) } else { Poll::Pending(url.to_owned()) })
    })
    .await
    .unwrap();
    upgrades_a_node(&cluster).await.unwrap();
    let log = std::fs::read_to_string(folder.join("ros-operator.log")).unwrap();
    // A forbidden deletion is only logged: what could not be made need not be deleted.
    let wrong = log.lines().find(|line| line.contains("forbidden") && !line.contains("not deleted"));
    assert_eq!(wrong, None, "{log}");
    refuses_the_rest(&cluster);

    let values = ["--set", "replicas=2,serverURL=https://ros.example.org"];
    helm(&cluster, &[&["-n", NAMESPACE, "upgrade", RELEASE, chart][..], &values].concat()).unwrap();
    let replicas = ["get", "deployment", RELEASE, "-n", NAMESPACE, "-o", "jsonpath={.spec.replicas}"];
    assert_eq!(cluster.kubectl(&replicas, "").unwrap(), "2");
    cluster.kubectl(&["get", "poddisruptionbudget", RELEASE, "-n", NAMESPACE], "").unwrap();
    helm(&cluster, &["-n", NAMESPACE, "rollback", RELEASE, "1"]).unwrap();

    drop(operator);
    helm(&cluster, &["-n", NAMESPACE, "uninstall", RELEASE]).unwrap();
    assert!(cluster.kubectl(&["get", "deployment,service,clusterrole", RELEASE, "-n", NAMESPACE], "").is_err());
    // Objects that users and machines created stay, and so do those that they may have edited.
    cluster.get(&kubectl_name::<ManagedOSImage>("default-os-image"), "fleet-local").unwrap();
    get::<MachineInventory>(&cluster, &name).unwrap();
    get::<MachineRegistration>(&cluster, "edge").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_can_be_switched_on_is_taken_by_the_api_server_as_it_is_written() {
    let scratch = Scratch::new("chart-everything").unwrap();
    let cluster = Cluster::start(&scratch.folder("cluster").unwrap(), Controllers::Absent).await.unwrap();
    cluster.ensure_namespace("system-upgrade").unwrap();
    let monitors = paths::workspace().join("tests/fixtures/crds/service-monitor.yaml");
    cluster.apply_definitions(&std::fs::read_to_string(monitors).unwrap()).unwrap();
    let chart = package(&scratch.folder("chart").unwrap()).unwrap();
    let chart = chart.to_str().unwrap();
    let install = ["-n", NAMESPACE, "install", "--create-namespace", RELEASE, chart, "--set", EVERYTHING];
    helm(&cluster, &install).unwrap();

    // A field that its kind does not know would be missing when the object is read back.
    let manifest = helm(&cluster, &["-n", NAMESPACE, "get", "manifest", RELEASE]).unwrap();
    let written = cluster.kubectl(&["create", "--dry-run=client", "-o", "json", "-f", "-"], &manifest).unwrap();
    let mut kinds = BTreeSet::new();
    for written in serde_json::Deserializer::from_str(&written).into_iter::<Value>() {
        let written = written.unwrap();
        let objects = written["items"].as_array().cloned().unwrap_or_else(|| vec![written.clone()]);
        for object in objects {
            let one = object.to_string();
            let there = cluster.kubectl(&["get", "-o", "json", "-f", "-"], &one).unwrap();
            let there: Value = serde_json::from_str(&there).unwrap();
            let there = &there["items"][0];
            assert!(contains(there, &object), "written: {object}\nread: {there}");
            kinds.insert(object["kind"].as_str().unwrap().to_owned());
        }
    }
    let extras = ["Ingress", "NetworkPolicy", "PodDisruptionBudget", "ServiceMonitor"];
    assert!(extras.iter().all(|kind| kinds.contains(*kind)) && kinds.contains("Deployment"), "{kinds:?}");
    let selected = |kind: &str, path: &str| {
        let path = format!("jsonpath={path}");
        cluster.kubectl(&["get", kind, RELEASE, "-n", NAMESPACE, "-o", &path], "").unwrap()
    };
    let pods = selected("deployment", "{.spec.template.metadata.labels.app}");
    for kind in ["networkpolicy", "poddisruptionbudget", "servicemonitor"] {
        let path = if kind == "networkpolicy" {
            "{.spec.podSelector.matchLabels.app}"
        } else {
            "{.spec.selector.matchLabels.app}"
        };
        assert_eq!(selected(kind, path), pods, "{kind}");
    }
    // Ports are referred to by name, so the names must match.
    assert_eq!(selected("service", "{.spec.ports[0].name}"), selected("servicemonitor", "{.spec.endpoints[0].port}"));
    assert_eq!(
        selected("service", "{.spec.ports[0].name}"),
        selected("ingress", "{.spec.rules[0].http.paths[0].backend.service.port.name}")
    );
    let container_port = selected("deployment", "{.spec.template.spec.containers[0].ports[0].name}");
    assert_eq!(selected("networkpolicy", "{.spec.ingress[0].ports[0].port}"), container_port);
    assert_eq!(selected("service", "{.spec.ports[0].targetPort}"), container_port);

    let less =
        ["-n", NAMESPACE, "upgrade", RELEASE, chart, "--reset-values", "--set", "serverURL=https://ros.example.org"];
    helm(&cluster, &less).unwrap();
    let extras = ["get", "ingress,networkpolicy,poddisruptionbudget,servicemonitor", "-n", NAMESPACE, "-o", "name"];
    assert_eq!(cluster.kubectl(&extras, "").unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_rancher_it_takes_ranchers_url_and_authorities() {
    let scratch = Scratch::new("chart-rancher").unwrap();
    let cluster = Cluster::start(&scratch.folder("cluster").unwrap(), Controllers::Absent).await.unwrap();
    let settings =
        [("server-url", "https://rancher.example.org"), ("cacerts", "-----BEGIN CERTIFICATE-----\nrancher\n")];
    let rancher = Rancher::install(&cluster).unwrap();
    settings.into_iter().for_each(|(name, value)| rancher.set(name, value).unwrap());
    let chart = package(&scratch.folder("chart").unwrap()).unwrap();
    helm(&cluster, &["-n", NAMESPACE, "install", "--create-namespace", RELEASE, chart.to_str().unwrap()]).unwrap();
    let rule = ["get", "ingress", RELEASE, "-n", NAMESPACE, "-o", "jsonpath={.spec.rules[0]}"];
    let rule: Value = serde_json::from_str(&cluster.kubectl(&rule, "").unwrap()).unwrap();
    assert_eq!(
        (&rule["host"], &rule["http"]["paths"][0]["path"]),
        (&json!("rancher.example.org"), &json!("/v1-rancheros"))
    );

    let account = account_kubeconfig(&cluster, &scratch.path().join("account")).unwrap();
    let folder = scratch.folder("operator").unwrap();
    let environment = environment(&cluster).unwrap();
    let operator = Operator::start_deployed(&account, environment, settings[0].1, &folder).await.unwrap();
    let registration = Registration::apply(&cluster, "edge", json!({})).unwrap();
    assert!(registration.url.starts_with("https://rancher.example.org/v1-rancheros/"), "{}", registration.url);
    let medium = operator.fetch(&registration.local_url(&operator).unwrap()).await.unwrap();
    assert!(medium.contains("registrationCACert") && medium.contains("rancher.example.org"), "{medium}");
    assert_eq!(operator.ca().await.unwrap(), settings[1].1);

    // A Rancher without an ingress: the operator has an address of its own.
    rancher.set("server-url", "https://192.0.2.1:8443").unwrap();
    let chart = chart.to_str().unwrap();
    let rendered = ["-n", NAMESPACE, "upgrade", RELEASE, chart, "--dry-run=server"];
    let rendered = helm(&cluster, &rendered).unwrap();
    assert!(!rendered.contains("kind: Ingress") && !rendered.contains("ROS_BESIDE_RANCHER"), "{rendered}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_given_is_served_and_its_authority_is_handed_out() {
    let scratch = Scratch::new("chart-certificate").unwrap();
    let cluster = Cluster::start(&scratch.folder("cluster").unwrap(), Controllers::Absent).await.unwrap();
    let chart = package(&scratch.folder("chart").unwrap()).unwrap();
    let values = "tls.secretName=own,serverURL=https://ros.example.org";
    let install = ["-n", NAMESPACE, "install", "--create-namespace", RELEASE, chart.to_str().unwrap(), "--set", values];
    helm(&cluster, &install).unwrap();
    // The files that the kubelet would mount.
    let authority = Authority::new("somebody's").unwrap();
    let server = authority.server(&["ros.example.org", "127.0.0.1"]).unwrap();
    let mounted = scratch.folder("mounted").unwrap();
    let files = [("tls.crt", server.certificate), ("tls.key", server.key), ("ca.crt", authority.certificate())];
    for (name, content) in files {
        std::fs::write(mounted.join(name), content).unwrap();
    }
    let mut environment = environment(&cluster).unwrap();
    let folder = environment.iter_mut().find(|(name, _)| name == "ROS_CERTIFICATE").unwrap();
    folder.1 = mounted.display().to_string();

    let account = account_kubeconfig(&cluster, &scratch.path().join("account")).unwrap();
    let log = scratch.folder("operator").unwrap();
    let operator = Operator::start_deployed(&account, environment, "https://ros.example.org", &log).await.unwrap();
    assert_eq!(operator.ca().await.unwrap(), authority.certificate());
    let registration = Registration::apply(&cluster, "edge", json!({})).unwrap();
    let endpoint = Endpoint::new(&registration.local_url(&operator).unwrap(), &authority.certificate()).unwrap();
    endpoint.register(&SoftwareTpm::new(KeyKind::P256).unwrap(), usual_report("SN-1")).await.unwrap();
    // The operator created no certificate of its own.
    assert!(cluster.kubectl(&["get", "secret", "ros-operator-tls", "-n", NAMESPACE], "").is_err());
}

/// A node is drained by both ways, and its Job begins and is deleted, with the rights that the chart gives.
async fn upgrades_a_node(cluster: &Cluster) -> Result<()> {
    let nodes = FakeNodes::start(cluster).await?;
    nodes.fate(Fate::Runs);
    nodes.node("n1", json!({}), "RancherOS 0.1.0").await?;
    let image = kubectl_name::<ManagedOSImage>("default-os-image");
    let drained = |number: usize, drain: Value| {
        let nodes = &nodes;
        let image = &image;
        async move {
            nodes.pod(&format!("web-{number}"), "n1").await?;
            let spec = json!({"osImage": format!("r.example.org/os2:v{number}"), "drain": drain,
                "cloudConfig": {"hostname": format!("h{number}")}});
            cluster.patch(image, "fleet-local", &json!({"spec": spec}))?;
            until("a Job on a drained node", Duration::from_secs(60), async || {
                let begun = nodes.seen.lock().unwrap().begun.len();
                let image = || cluster.get(image, "fleet-local").map(|image| image["status"].to_string());
                Ok(if begun == number { Poll::Ready(()) } else { Poll::Pending(image()?) })
            })
            .await
        }
    };
    drained(1, json!({})).await?;
    // Its Job ends, and the next spec deletes pods in place of evicting them.
    nodes.fate(Fate::Succeeds);
    until("the end of the Job", Duration::from_secs(60), async || {
        let image = cluster.get(&image, "fleet-local")?;
        let done = image["status"]["counts"]["done"] == 1;
        Ok(if done { Poll::Ready(()) } else { Poll::Pending(image["status"].to_string()) })
    })
    .await?;
    nodes.fate(Fate::Runs);
    drained(2, json!({"disableEviction": true})).await?;
    anyhow::ensure!(nodes.seen.lock().unwrap().wrong.is_empty(), "{:?}", nodes.seen.lock().unwrap().wrong);
    cluster.patch(&image, "fleet-local", &json!({"spec": {"osImage": ""}}))?;
    cluster.kubectl(&["delete", "node", "n1"], "").map(drop)
}

/// A kubeconfig of the chart's ServiceAccount.
fn account_kubeconfig(cluster: &Cluster, path: &Path) -> Result<PathBuf> {
    let token = cluster.kubectl(&["create", "token", RELEASE, "-n", NAMESPACE], "")?;
    let text = std::fs::read_to_string(cluster.kubeconfig()).context("reading the admin's kubeconfig")?;
    let mut kubeconfig: Value = serde_yaml::from_str(&text).context("parsing the admin's kubeconfig")?;
    kubeconfig["users"][0]["user"] = json!({"token": token.trim()});
    std::fs::write(path, kubeconfig.to_string()).context("writing the account's kubeconfig")?;
    Ok(path.to_owned())
}

/// The container's environment in the Deployment, with the fields of the pod filled in.
fn environment(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let path = "jsonpath={.spec.template.spec.containers[0].env}";
    let variables = cluster.kubectl(&["get", "deployment", RELEASE, "-n", NAMESPACE, "-o", path], "")?;
    let variables: Vec<Value> = serde_json::from_str(&variables).context("reading the container's environment")?;
    variables
        .iter()
        .map(|variable| {
            let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                None => variable["value"].as_str().context("a variable without a value")?,
                Some("metadata.name") => "pod-1",
                Some("metadata.namespace") => NAMESPACE,
                Some(other) => anyhow::bail!("the pod's {other} is not known here"),
            };
            Ok((variable["name"].as_str().unwrap_or_default().to_owned(), value.to_owned()))
        })
        .collect()
}

fn get<K: Resource<DynamicType = ()>>(cluster: &Cluster, name: &str) -> Result<Value> {
    cluster.get(&kubectl_name::<K>(name), registration::NAMESPACE)
}

/// What the operator's ServiceAccount must not be allowed to do.
fn refuses_the_rest(cluster: &Cluster) {
    let own = Some(NAMESPACE);
    let (registrations, inventories) = (MachineRegistration::plural(&()), MachineInventory::plural(&()));
    let refused = [
        ("get", "", "secrets", Some("somebody-elses"), own),
        ("list", "", "secrets", None, own),
        ("watch", "", "secrets", None, own),
        ("delete", "", "secrets", Some("ros-operator-tls"), own),
        ("patch", "", "secrets", Some("ros-operator-tls"), own),
        ("get", "", "secrets", Some("ros-operator-cloud-configs"), own),
        ("get", "", "secrets", Some("any"), Some("kube-system")),
        ("list", "", "secrets", None, Some(registration::NAMESPACE)),
        ("list", "", "secrets", None, None),
        ("create", "", "secrets", None, Some("kube-system")),
        ("update", "coordination.k8s.io", "leases", Some("somebody-elses"), own),
        ("update", "coordination.k8s.io", "leases", Some("ros-operator"), Some("kube-system")),
        ("get", "", "services", Some("somebody-elses"), own),
        ("patch", GROUP, &*registrations, None, None),
        ("delete", GROUP, &*registrations, None, None),
        ("delete", GROUP, &*inventories, None, None),
        ("get", "management.cattle.io", "settings", Some("auth-token-max-ttl-minutes"), None),
        ("patch", "management.cattle.io", "settings", Some("server-url"), None),
        ("create", "", "pods", None, own),
        ("create", "", "serviceaccounts", None, own),
        ("create", "rbac.authorization.k8s.io", "clusterrolebindings", None, None),
        ("escalate", "rbac.authorization.k8s.io", "clusterroles", None, None),
        ("patch", "apiextensions.k8s.io", "customresourcedefinitions", None, None),
        ("impersonate", "", "users", Some("admin"), None),
        ("delete", "", "nodes", None, None),
        ("create", "batch", "jobs", None, Some("kube-system")),
        ("patch", "batch", "jobs", None, own),
        ("create", "upgrade.cattle.io", "plans", None, Some("kube-system")),
        ("create", "fleet.cattle.io", "bundles", None, Some("kube-system")),
        ("list", "management.cattle.io", "clusterregistrationtokens", None, None),
    ];
    for question in refused {
        assert!(!may(cluster, question).unwrap(), "the chart allows {question:?}");
    }
    // The questions themselves are right: these are allowed.
    assert!(may(cluster, ("get", "", "secrets", Some("ros-operator-tls"), own)).unwrap());
    assert!(may(cluster, ("patch", "", "secrets", Some("ros-operator-cloud-configs"), own)).unwrap());
    for kind in [&registrations, &inventories] {
        assert!(may(cluster, ("list", GROUP, kind, None, None)).unwrap());
    }
}

/// Asks what `kubectl auth can-i` asks: verb, group, resource, name, namespace.
fn may(
    cluster: &Cluster,
    (verb, group, resource, name, namespace): (&str, &str, &str, Option<&str>, Option<&str>),
) -> Result<bool> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": format!("system:serviceaccount:{NAMESPACE}:{RELEASE}"),
            "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{NAMESPACE}"), "system:authenticated"],
            "resourceAttributes": {
                "verb": verb, "group": group, "resource": resource, "name": name, "namespace": namespace,
            },
        },
    });
    let answer = cluster.kubectl(&["create", "-f", "-", "-o", "jsonpath={.status.allowed}"], &review.to_string())?;
    Ok(answer == "true")
}
