//! `spec.reinstall` and `spec.reset`: a machine in memory is asked to erase its data.

use anyhow::Result;
use api::{MachineInventory, condition_type, reason};
use harness::clusters::registration::NAMESPACE;
use harness::fakes::software_machine::{Endpoint, usual_report};
use harness::fakes::software_tpm::{KeyKind, SoftwareTpm};
use harness::objects::{kubectl_kind, kubectl_name};
use harness::world::World;
use protocol::message::OsReport;
use protocol::{RequestReport, RequestText};
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_asked_to_install_or_to_reset_itself_once_for_each_text() {
    let world = World::start("erase-requests", json!({})).await.unwrap();
    let endpoint = world.endpoint().await.unwrap();
    let tpm = SoftwareTpm::new(KeyKind::P256).unwrap();
    let registered = endpoint.register(&tpm, usual_report("SN-1")).await.unwrap();
    let name = registered.inventory.split_once('/').unwrap().1.to_owned();
    let told = async |honoured: &[&str]| report(&endpoint, &tpm, honoured).await.unwrap();
    assert_eq!(told(&[]).await, None);

    for unfit in ["x".repeat(257), "a\nb".to_owned(), "\u{85}".to_owned()] {
        let error = world.patch_inventory(&name, &json!({"reinstall": unfit})).unwrap_err().to_string();
        assert!(error.contains("spec.reinstall"), "{error}");
    }
    let text = "2026-12-01 new disk layout";
    world.patch_inventory(&name, &json!({"reinstall": text})).unwrap();
    let announced = world.inventory_condition(&name, condition_type::REINSTALL, reason::REQUESTED).await.unwrap();
    assert!(announced["status"] == "True" && announced["message"].as_str().unwrap().contains("erases COS_PERSISTENT"));
    assert_eq!(told(&[]).await.as_deref(), Some(text));
    assert_eq!(told(&[]).await.as_deref(), Some(text), "the answer may have been lost");
    world.inventory_condition(&name, condition_type::REINSTALL, reason::REQUEST_SENT).await.unwrap();
    assert_eq!(told(&[text]).await, None);
    let done = format!("--for=condition={}=False", condition_type::REINSTALL);
    let wait = ["wait", &kubectl_kind::<MachineInventory>(), "--all", &done, "--timeout=10s", "--namespace", NAMESPACE];
    world.cluster.kubectl(&wait, "").unwrap();
    world.inventory_condition(&name, condition_type::REINSTALL, reason::REQUEST_DONE).await.unwrap();
    assert_eq!(told(&[]).await, None, "the inventory remembers it, too");

    // The request is withdrawn before the machine reports.
    world.patch_inventory(&name, &json!({"reinstall": "another"})).unwrap();
    world.inventory_condition(&name, condition_type::REINSTALL, reason::REQUESTED).await.unwrap();
    world.patch_inventory(&name, &json!({"reinstall": null})).unwrap();
    world.inventory_condition(&name, condition_type::REINSTALL, "").await.unwrap();
    assert_eq!(told(&[text]).await, None);

    for unfit in [json!({"scope": "Everything", "request": "a"}), json!({"scope": "All"}), json!({"request": "a"})] {
        let error = world.patch_inventory(&name, &json!({"reset": unfit})).unwrap_err().to_string();
        assert!(error.contains("spec.reset"), "{error}");
    }
    let reset = json!({"scope": "All", "request": "2026-12-02 sold"});
    world.patch_inventory(&name, &json!({"reset": reset})).unwrap();
    let announced = world.inventory_condition(&name, condition_type::RESET, reason::REQUESTED).await.unwrap();
    assert!(announced["message"].as_str().unwrap().contains("its cloud-config"), "{announced}");
    let told_to_reset = async |honoured: &[&str]| {
        let report = OsReport { reset: Some(honoured_report(honoured)?), ..system(&[text])? };
        anyhow::Ok(endpoint.report(&tpm, report).await?.reset)
    };
    let asked = told_to_reset(&[]).await.unwrap().unwrap();
    assert_eq!(serde_json::to_value(asked).unwrap(), reset);
    world.inventory_condition(&name, condition_type::RESET, reason::REQUEST_SENT).await.unwrap();
    assert_eq!(told_to_reset(&["2026-12-02 sold"]).await.unwrap(), None);
    world.inventory_condition(&name, condition_type::RESET, reason::REQUEST_DONE).await.unwrap();

    // The inventory is recreated without its status, as from a backup, with a text that the machine has never honoured.
    let [mut object] = <[Value; 1]>::try_from(world.inventories().unwrap()).unwrap();
    world.cluster.kubectl(&["delete", &kubectl_name::<MachineInventory>(&name), "--namespace", NAMESPACE], "").unwrap();
    let parts = object.as_object_mut().unwrap();
    parts.remove("status");
    parts["spec"]["reinstall"] = json!("never honoured");
    let annotations = parts["metadata"]["annotations"].take();
    parts["metadata"] = json!({"name": name, "namespace": NAMESPACE, "annotations": annotations});
    world.cluster.kubectl(&["create", "--filename", "-"], &object.to_string()).unwrap();
    for _ in 0..2 {
        assert_eq!(recognised(&endpoint, &tpm).await.unwrap(), None);
    }
    world.inventory_condition(&name, condition_type::REINSTALL, reason::ALREADY_HONOURED).await.unwrap();
    world.patch_inventory(&name, &json!({"reinstall": "one more"})).unwrap();
    world.inventory_condition(&name, condition_type::REINSTALL, reason::REQUESTED).await.unwrap();
    assert_eq!(told(&[text]).await.as_deref(), Some("one more"));
}

/// The request in the answer to a report of a machine that has honoured these texts.
async fn report(endpoint: &Endpoint, tpm: &SoftwareTpm, honoured: &[&str]) -> Result<Option<String>> {
    Ok(endpoint.report(tpm, system(honoured)?).await?.reinstall.map(String::from))
}

/// The report of a machine that has honoured these texts of `spec.reinstall`.
fn system(honoured: &[&str]) -> Result<OsReport> {
    Ok(OsReport { healthy: true, reinstall: Some(honoured_report(honoured)?), ..OsReport::default() })
}

fn honoured_report(honoured: &[&str]) -> Result<RequestReport> {
    let honoured = honoured.iter().map(|text| text.parse()).collect::<Result<Vec<RequestText>, _>>()?;
    Ok(RequestReport { honoured, failure: None })
}

/// The same for a machine whose inventory the operator may not have seen yet.
async fn recognised(endpoint: &Endpoint, tpm: &SoftwareTpm) -> Result<Option<String>> {
    until("the machine to be known", TIMEOUT, async || {
        Ok(match report(endpoint, tpm, &[]).await {
            Ok(told) => Poll::Ready(told),
            Err(error) => Poll::Pending(format!("{error:#}")),
        })
    })
    .await
}
