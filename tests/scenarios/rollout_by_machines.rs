//! `engine: Machine`: machines in memory are told one after the other to run another release.

use anyhow::{Context, Result};
use harness::clusters::operator::NAMESPACE as OPERATOR_NAMESPACE;
use harness::fakes::software_machine::{Endpoint, usual_report};
use harness::fakes::software_tpm::{KeyKind, SoftwareTpm};
use harness::objects::condition;
use harness::world::World;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::DeleteParams;
use protocol::message::{Failure, OsReport, Recorded};
use protocol::{UpgradeOrder, UpgradeReport};
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::time::Duration;

const IMAGE: &str = "edge";
const TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn machines_are_told_one_after_the_other_and_a_failure_stops_it() {
    let mut world = World::start("rollout-by-machines", json!({})).await.unwrap();
    let endpoint = world.endpoint().await.unwrap();
    let mut machines = Vec::new();
    for serial in ["SN-1", "SN-2", "SN-3"] {
        machines.push(Machine::register(&endpoint, serial).await.unwrap());
    }
    for machine in &mut machines {
        let answer = machine.report(&endpoint).await.unwrap();
        assert_eq!((answer.upgrade, answer.report_seconds), (None, None), "nothing goes on");
    }
    let spec = json!({"osImage": "registry.example.org/os2:v0.2.0", "engine": "Machine", "drain": {}});
    world.apply_os_image(IMAGE, &spec).unwrap();
    let refused = reason(&world, "InvalidSpec").await.unwrap();
    assert!(message(&refused).contains("spec.drain"), "{}", message(&refused));
    world.patch_os_image(IMAGE, &json!({"drain": null})).unwrap();

    // One machine is told, and the others report more often meanwhile.
    let first = told(&mut machines, &endpoint).await.unwrap();
    for _ in 0..2 {
        assert_eq!(orders(&mut machines, &endpoint).await.unwrap(), [first]);
    }
    let order = machines[first].order.clone().unwrap();
    assert_eq!((order.image.as_str(), order.release.as_str()), ("registry.example.org/os2:v0.2.0", "v0.2.0"));
    let status = reason(&world, "Progressing").await.unwrap();
    assert_eq!(status["status"]["engine"], "Machine");
    assert_eq!(status["status"]["counts"], json!({"desired": 3, "done": 0, "updating": 1, "failed": 0}));

    // The operator is killed. It still knows what it told, and nobody else is told anything.
    restart(&mut world).await.unwrap();
    let endpoint = world.endpoint().await.unwrap();
    for _ in 0..3 {
        assert_eq!(orders(&mut machines, &endpoint).await.unwrap(), [first]);
    }

    // It runs the release, which is not healthy yet: still nobody else. Then it is.
    machines[first].version = "0.2.0";
    machines[first].healthy = false;
    assert_eq!(orders(&mut machines, &endpoint).await.unwrap(), [0; 0]);
    assert_eq!(orders(&mut machines, &endpoint).await.unwrap(), [0; 0]);
    machines[first].healthy = true;
    let second = told(&mut machines, &endpoint).await.unwrap();
    assert_ne!(second, first);
    let status = counts(&world, json!({"desired": 3, "done": 1, "updating": 1, "failed": 0})).await.unwrap();
    assert_eq!(status["status"]["nodes"][0]["phase"], "Upgrading");
    assert_eq!(status["status"]["nodes"][0]["from"], "0.1.0");

    // The second one cannot do it. The third is not begun, also not by a new operator.
    let reason_of_failure = "NotARelease";
    machines[second].failure = Some(Failure { reason: reason_of_failure.into(), message: "no release.json".into() });
    assert_eq!(orders(&mut machines, &endpoint).await.unwrap(), [0; 0]);
    let stopped = reason(&world, "Failed").await.unwrap();
    assert!(message(&stopped).contains("NotARelease: no release.json"), "{}", message(&stopped));
    assert_eq!(condition(&stopped, "Stalled")["status"], "True");
    restart(&mut world).await.unwrap();
    let endpoint = world.endpoint().await.unwrap();
    for _ in 0..3 {
        assert_eq!(orders(&mut machines, &endpoint).await.unwrap(), [0; 0]);
    }

    // Another text lets it try once more, and the roll-out ends.
    world.patch_os_image(IMAGE, &json!({"retry": "the image is there now"})).unwrap();
    for _ in 0..2 {
        let next = told(&mut machines, &endpoint).await.unwrap();
        let order = machines[next].order.clone().unwrap();
        assert_eq!(order.retry.as_deref(), Some("the image is there now"));
        (machines[next].version, machines[next].failure) = ("0.2.0", None);
        assert_eq!(machines[next].report(&endpoint).await.unwrap().upgrade, None);
    }
    let done = reason(&world, "Upgraded").await.unwrap();
    assert_eq!(done["status"]["counts"]["done"], 3);
    let answer = machines[0].report(&endpoint).await.unwrap();
    assert_eq!((answer.upgrade, answer.report_seconds), (None, Some(45)), "it waits for an edit");
}

/// A machine in memory. It acts on an order when the test says so.
struct Machine {
    tpm: SoftwareTpm,
    version: &'static str,
    healthy: bool,
    order: Option<UpgradeOrder>,
    failure: Option<Failure>,
}

impl Machine {
    async fn register(endpoint: &Endpoint, serial: &str) -> Result<Self> {
        let tpm = SoftwareTpm::new(KeyKind::P256)?;
        endpoint.register(&tpm, usual_report(serial)).await?;
        Ok(Self { tpm, version: "0.1.0", healthy: true, order: None, failure: None })
    }

    async fn report(&mut self, endpoint: &Endpoint) -> Result<Recorded> {
        let upgrade = Some(UpgradeReport { order: self.order.clone(), failure: self.failure.clone() });
        let (version, healthy) = (self.version.to_owned(), self.healthy);
        let answer = endpoint.report(&self.tpm, OsReport { version, healthy, upgrade, ..OsReport::default() }).await?;
        if let Some(order) = &answer.upgrade {
            self.order = Some(order.clone());
        }
        Ok(answer)
    }
}

/// All machines report. Gives those that are told to upgrade.
async fn orders(machines: &mut [Machine], endpoint: &Endpoint) -> Result<Vec<usize>> {
    let mut told = Vec::new();
    for (number, machine) in machines.iter_mut().enumerate() {
        if machine.report(endpoint).await?.upgrade.is_some() {
            told.push(number);
        }
    }
    Ok(told)
}

/// All machines report until one is told to upgrade. Others must report again soon.
async fn told(machines: &mut [Machine], endpoint: &Endpoint) -> Result<usize> {
    until("a machine that is told to upgrade", TIMEOUT, async || {
        let (mut told, mut hurried) = (None, 0);
        for (number, machine) in machines.iter_mut().enumerate() {
            let answer = machine.report(endpoint).await?;
            hurried += usize::from(answer.report_seconds == Some(30));
            if answer.upgrade.is_some() {
                anyhow::ensure!(told.is_none(), "two are told at once");
                told = Some(number);
            }
        }
        Ok(match told {
            Some(number) if hurried > 0 => Poll::Ready(number),
            told => Poll::Pending(format!("told: {told:?}; {hurried} are to report soon")),
        })
    })
    .await
}

async fn restart(world: &mut World) -> Result<()> {
    world.operator.kill();
    let leases = Api::<Lease>::namespaced(world.cluster.client().await?, OPERATOR_NAMESPACE);
    leases.delete("ros-operator", &DeleteParams::default()).await.context("deleting the dead leader's Lease")?;
    world.operator.resume().await?;
    // Only the leader reconciles. Before it has, it could not tell anybody anything, and silence would show nothing.
    until("the new operator to reconcile the ManagedOSImage", TIMEOUT, async || {
        let metrics = world.operator.metrics().await?;
        let count = r#"rancheros_reconcile_seconds_count{kind="ManagedOSImage",result="ok"}"#;
        let reconciled = metrics.lines().any(|line| line.starts_with(count) && !line.ends_with(" 0"));
        Ok(if reconciled { Poll::Ready(()) } else { Poll::Pending("it has not yet".to_owned()) })
    })
    .await
}

/// Waits until the ManagedOSImage is Ready, or not, for this reason.
async fn reason(world: &World, reason: &str) -> Result<Value> {
    world.os_image_with_reason(IMAGE, reason, TIMEOUT).await
}

async fn counts(world: &World, counts: Value) -> Result<Value> {
    let right = |object: &Value| object["status"]["counts"] == counts;
    world.os_image_when(IMAGE, &format!("the counts {counts}"), TIMEOUT, right).await
}

fn message(object: &Value) -> String {
    condition(object, "Ready")["message"].as_str().unwrap_or_default().to_owned()
}
