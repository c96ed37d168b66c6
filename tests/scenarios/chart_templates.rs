//! What the chart's templates render, and which values they refuse. With Helm alone, without a cluster.

use anyhow::Result;
use harness::clusters::chart::{EVERYTHING, RELEASE, folder};
use harness::clusters::helm::helm_alone;
use harness::clusters::operator::NAMESPACE;
use qemu::paths;
use qemu::scratch::Scratch;
use serde_json::{Value, json};
use std::path::Path;

#[test]
fn what_is_rendered_is_what_is_committed() {
    let scratch = Scratch::new("chart-golden").unwrap();
    for (name, values) in [("default", ""), ("everything", EVERYTHING)] {
        let rendered = render(scratch.path(), values).unwrap();
        let path = paths::workspace().join(format!("tests/golden/chart-{name}.yaml"));
        if std::env::var_os("ROS_WRITE_GOLDEN").is_some() {
            std::fs::write(&path, &rendered).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        let difference = committed.lines().zip(rendered.lines()).find(|(committed, rendered)| committed != rendered);
        assert!(
            committed == rendered,
            "{} is not what the chart renders; first difference {difference:?}; if the change is meant, write it with \
             ROS_WRITE_GOLDEN=1",
            path.display()
        );
    }
    helm_alone(scratch.path(), &["lint", "--strict", &folder()]).unwrap();
}

#[test]
fn wrong_values_are_refused_by_name() {
    let scratch = Scratch::new("chart-values").unwrap();
    for (values, told) in [
        ("serverURL=http://ros.example.org", "serverURL"),
        ("ingress.enabled=true", "ingress.host"),
        ("ingress.host=https://ros.example.org", "host"),
        ("service.type=Loadbalancer", "type"),
        ("replica=2", "replica"),
        ("tls.ca=PEM", "ca"),
        ("media.url=ftp://example.org/ros.iso", "url"),
        ("media.url=https://example.org/ros.iso", "media.sha256"),
        ("networkBoot.enabled=true", "media.volume or media.url"),
        ("networkBoot.url=https://ros.example.org", "url"),
        ("media.url=https://example.org/ros.iso,media.volume.hostPath.path=/srv", "leave the other out"),
    ] {
        let error = format!("{:#}", render(scratch.path(), values).unwrap_err());
        assert!(error.contains(told), "{values}: {error}");
    }
}

#[test]
fn media_come_from_any_volume() {
    let scratch = Scratch::new("chart-media").unwrap();
    let rendered = render(scratch.path(), "media.volume.persistentVolumeClaim.claimName=isos").unwrap();
    let documents = rendered.split("\n---\n").map(|text| serde_yaml::from_str::<Value>(text).unwrap());
    let deployment = documents.into_iter().find(|object| object["kind"] == "Deployment").unwrap();
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["volumes"], json!([{"name": "media", "persistentVolumeClaim": {"claimName": "isos"}}]));
    let mount = &pod["containers"][0]["volumeMounts"][0];
    assert_eq!((&mount["name"], &mount["readOnly"]), (&json!("media"), &json!(true)));
    let told = json!({"name": "ROS_MEDIA", "value": mount["mountPath"]});
    assert!(pod["containers"][0]["env"].as_array().unwrap().contains(&told), "{pod}");
}

fn render(scratch: &Path, values: &str) -> Result<String> {
    helm_alone(scratch, &["template", "--namespace", NAMESPACE, RELEASE, &folder(), "--set", values])
}
