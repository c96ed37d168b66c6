//! `spec.reinstall`: a machine in memory that is asked to install itself again.

use super::inventory::patch;
use anyhow::{Context, Result};
use harness::clusters::registration::NAMESPACE;
use harness::fakes::software_machine::{Endpoint, usual_report};
use harness::fakes::software_tpm::{KeyKind, SoftwareTpm};
use harness::world::World;
use protocol::message::{Done, OsReport};
use protocol::{FromMachine, FromOperator, ReinstallReport, ReinstallRequest};
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(30);
const INVENTORIES: &str = "machineinventories.rancheros.cattle.io";

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_asked_to_install_again_once_for_each_text() {
    let world = World::start("reinstall", json!({})).await.unwrap();
    let endpoint = world.endpoint().await.unwrap();
    let tpm = SoftwareTpm::new(KeyKind::P256).unwrap();
    let registered = endpoint.register(&tpm, usual_report("SN-1")).await.unwrap();
    let name = registered.inventory.split_once('/').unwrap().1.to_owned();
    let told = async |honoured: &[&str]| report(&endpoint, &tpm, honoured).await.unwrap();
    assert_eq!(told(&[]).await, None);

    for unfit in ["x".repeat(257), "a\nb".to_owned(), "\u{85}".to_owned()] {
        let error = patch(&world.cluster, &name, &json!({"reinstall": unfit})).unwrap_err().to_string();
        assert!(error.contains("spec.reinstall"), "{error}");
    }
    let text = "2026-12-01 new disk layout";
    patch(&world.cluster, &name, &json!({"reinstall": text})).unwrap();
    let announced = condition(&world, &name, "Requested").await.unwrap();
    assert!(announced["status"] == "True" && announced["message"].as_str().unwrap().contains("erases COS_PERSISTENT"));
    assert_eq!(told(&[]).await.as_deref(), Some(text));
    assert_eq!(told(&[]).await.as_deref(), Some(text), "the answer may have been lost");
    condition(&world, &name, "Sent").await.unwrap();
    assert_eq!(told(&[text]).await, None);
    let wait = ["wait", INVENTORIES, "--all", "--for=condition=Reinstall=False", "--timeout=10s"];
    world.cluster.kubectl(&[&wait[..], &["--namespace", NAMESPACE]].concat(), "").unwrap();
    condition(&world, &name, "Done").await.unwrap();
    assert_eq!(told(&[]).await, None, "the inventory remembers it, too");

    // Withdrawn before the machine comes.
    patch(&world.cluster, &name, &json!({"reinstall": "another"})).unwrap();
    condition(&world, &name, "Requested").await.unwrap();
    patch(&world.cluster, &name, &json!({"reinstall": null})).unwrap();
    condition(&world, &name, "").await.unwrap();
    assert_eq!(told(&[text]).await, None);

    // Recreated without its status, as from a backup, with a text that the machine never honoured.
    let [mut object] = <[Value; 1]>::try_from(world.inventories().unwrap()).unwrap();
    world.cluster.kubectl(&["delete", &format!("{INVENTORIES}/{name}"), "--namespace", NAMESPACE], "").unwrap();
    let parts = object.as_object_mut().unwrap();
    parts.remove("status");
    parts["spec"]["reinstall"] = json!("never honoured");
    let annotations = parts["metadata"]["annotations"].take();
    parts["metadata"] = json!({"name": name, "namespace": NAMESPACE, "annotations": annotations});
    world.cluster.kubectl(&["create", "--filename", "-"], &object.to_string()).unwrap();
    for _ in 0..2 {
        assert_eq!(recognised(&endpoint, &tpm).await.unwrap(), None);
    }
    condition(&world, &name, "AlreadyHonoured").await.unwrap();
    patch(&world.cluster, &name, &json!({"reinstall": "one more"})).unwrap();
    condition(&world, &name, "Requested").await.unwrap();
    assert_eq!(told(&[text]).await.as_deref(), Some("one more"));
}

/// What the answer to a report asks for, of a machine that honoured these texts.
async fn report(endpoint: &Endpoint, tpm: &SoftwareTpm, honoured: &[&str]) -> Result<Option<String>> {
    let honoured = honoured.iter().map(|text| text.parse()).collect::<Result<Vec<ReinstallRequest>, _>>()?;
    let reinstall = Some(ReinstallReport { honoured, failure: None });
    let mut exchange = endpoint.connect().await?;
    exchange.prove(tpm).await?;
    exchange.say(&FromMachine::Report(Box::new(OsReport { healthy: true, reinstall, ..OsReport::default() }))).await?;
    exchange.say(&FromMachine::Done(Done::default())).await?;
    match exchange.hear().await? {
        FromOperator::Done(recorded) => Ok(recorded.reinstall.map(String::from)),
        other => anyhow::bail!("expected done, got {other:?}"),
    }
}

/// The same of a machine whose inventory the operator may not have seen yet.
async fn recognised(endpoint: &Endpoint, tpm: &SoftwareTpm) -> Result<Option<String>> {
    until("the machine to be known", TIMEOUT, async || {
        Ok(match report(endpoint, tpm, &[]).await {
            Ok(told) => Poll::Ready(told),
            Err(error) => Poll::Pending(format!("{error:#}")),
        })
    })
    .await
}

/// Waits for the condition `Reinstall` of this reason; an empty one stands for none.
async fn condition(world: &World, name: &str, reason: &str) -> Result<Value> {
    until(&format!("Reinstall: {reason:?}"), TIMEOUT, async || {
        let inventories = world.inventories()?;
        let found = inventories.iter().find(|found| found["metadata"]["name"] == name).context("no inventory")?;
        let conditions = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let told = conditions.into_iter().find(|told| told["type"] == "Reinstall").unwrap_or_default();
        let current = told.is_null() || told["observedGeneration"] == found["metadata"]["generation"];
        let there = current && told["reason"].as_str().unwrap_or_default() == reason;
        Ok(if there { Poll::Ready(told) } else { Poll::Pending(told.to_string()) })
    })
    .await
}
