//! The phases of a machine in its MachineInventory, with machines in memory and a running operator.

use anyhow::{Context, Result};
use api::{MachineInventory, MachineRegistration, Phase, condition_type};
use harness::clusters::registration::NAMESPACE;
use harness::fakes::software_machine::{Endpoint, Exchange, usual_report};
use harness::fakes::software_tpm::{KeyKind, SoftwareTpm};
use harness::objects::{condition, kubectl_kind, kubectl_name};
use harness::world::World;
use protocol::message::{Done, Failure, InstallPhase, OsReport, Progress, Slot};
use protocol::{FromMachine, FromOperator, OperatorSettings, RefusalCode};
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn every_step_is_shown_and_nothing_is_written_twice() {
    let world = World::start("life-steps", json!({})).await.unwrap();
    let endpoint = world.endpoint().await.unwrap();
    let tpm = SoftwareTpm::new(KeyKind::P256).unwrap();

    let mut exchange = proven(&endpoint, &tpm).await.unwrap();
    exchange.ask_for_config(usual_report("SN-1")).await.unwrap();
    phase(&world, Phase::Registered).await.unwrap();
    exchange.say(&progress()).await.unwrap();
    let installing = phase(&world, Phase::Installing).await.unwrap();
    assert_eq!(ready_message(&installing), "writing, 3 of 9 MiB");
    exchange.finish().await.unwrap();
    phase(&world, Phase::Installed).await.unwrap();

    let mut booted = proven(&endpoint, &tpm).await.unwrap();
    booted.say(&FromMachine::Booted(Box::new(system(false)))).await.unwrap();
    booted.finish().await.unwrap();
    phase(&world, Phase::Booted).await.unwrap();
    endpoint.report(&tpm, system(true)).await.unwrap();
    let ready = phase(&world, Phase::Ready).await.unwrap();
    assert_eq!(ready["status"]["os"]["version"], "0.1.0");
    assert_eq!(ready["status"]["hardware"]["memoryBytes"], 128u64 << 30);
    assert_eq!(ready["status"]["observedGeneration"], ready["metadata"]["generation"]);
    let is_ready = format!("--for=condition={}", condition_type::READY);
    let kind = kubectl_kind::<MachineInventory>();
    let wait = ["wait", &kind, "--all", &is_ready, "--timeout=10s", "--namespace", NAMESPACE];
    world.cluster.kubectl(&wait, "").unwrap();

    endpoint.report(&tpm, system(true)).await.unwrap();
    let again = phase(&world, Phase::Ready).await.unwrap();
    assert_eq!(again["metadata"]["resourceVersion"], ready["metadata"]["resourceVersion"]);
    events(&world, &["Registered", "Installing", "Installed", "Booted", "Ready"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_shown_with_its_reason_and_another_attempt_clears_it() {
    let world = World::start("life-failure", json!({})).await.unwrap();
    let endpoint = world.endpoint().await.unwrap();
    let tpm = SoftwareTpm::new(KeyKind::P256).unwrap();
    let mut exchange = proven(&endpoint, &tpm).await.unwrap();
    exchange.ask_for_config(usual_report("SN-1")).await.unwrap();
    let failure = Failure { reason: "NoEligibleDisk".into(), message: "/dev/sda has somebody's partitions".into() };
    exchange.say(&FromMachine::Done(Done { failure: Some(failure) })).await.unwrap();
    assert!(matches!(exchange.hear().await.unwrap(), FromOperator::Done(_)));
    let failed = phase(&world, Phase::Failed).await.unwrap();
    assert_eq!(failed["status"]["failure"]["reason"], "NoEligibleDisk");
    assert!(ready_message(&failed).contains("somebody's partitions"));

    endpoint.register(&tpm, usual_report("SN-1")).await.unwrap();
    let installed = phase(&world, Phase::Installed).await.unwrap();
    assert!(installed["status"].get("failure").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_made_by_hand_is_recognised() {
    let world = World::start("life-by-hand", json!({"maxMachines": 1})).await.unwrap();
    let endpoint = world.endpoint().await.unwrap();
    let tpm = SoftwareTpm::new(KeyKind::Rsa2048).unwrap();
    world.create_inventory("expected", json!({"tpm": tpm.hash().as_str()})).unwrap();
    phase(&world, Phase::Expected).await.unwrap();
    let config = endpoint.register(&tpm, usual_report("SN-1")).await.unwrap();
    assert_eq!(config.inventory, format!("{NAMESPACE}/expected"));

    let other = SoftwareTpm::new(KeyKind::P256).unwrap();
    let refusal = endpoint.register(&other, usual_report("SN-2")).await.unwrap_err().refusal().unwrap();
    assert_eq!(refusal.code, RefusalCode::TooManyMachines);
    assert_eq!(world.inventories().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_waits_until_somebody_approves() {
    let world = World::start("life-approval", json!({"approval": "Manual"})).await.unwrap();
    let endpoint = world.endpoint().await.unwrap();
    let tpm = SoftwareTpm::new(KeyKind::P256).unwrap();
    let refusal = endpoint.register(&tpm, usual_report("SN-1")).await.unwrap_err().refusal().unwrap();
    assert_eq!(refusal.code, RefusalCode::ApprovalPending);
    assert!(refusal.message.contains("spec.approved"), "{refusal}");
    let waiting = phase(&world, Phase::ApprovalPending).await.unwrap();

    let name = waiting["metadata"]["name"].as_str().unwrap();
    world.patch_inventory(name, &json!({"approved": true})).unwrap();
    phase(&world, Phase::Registered).await.unwrap();
    endpoint.register(&tpm, usual_report("SN-1")).await.unwrap();
    phase(&world, Phase::Installed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_outlives_the_operator() {
    let mut world = World::start("life-operator-stops", json!({})).await.unwrap();
    let endpoint = world.endpoint().await.unwrap();
    let tpm = SoftwareTpm::new(KeyKind::P256).unwrap();
    let mut exchange = proven(&endpoint, &tpm).await.unwrap();
    exchange.ask_for_config(usual_report("SN-1")).await.unwrap();
    exchange.say(&progress()).await.unwrap();
    phase(&world, Phase::Installing).await.unwrap();

    world.operator.stop();
    let refusal = exchange.hear().await.unwrap_err().refusal().unwrap();
    assert_eq!(refusal.code, RefusalCode::ShuttingDown);
    assert!(refusal.retry_after.is_some());

    world.operator.resume().await.unwrap();
    let mut again = proven(&endpoint, &tpm).await.unwrap();
    again.say(&progress()).await.unwrap();
    again.finish().await.unwrap();
    phase(&world, Phase::Installed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_media_is_revoked_and_installed_machines_go_on() {
    let world = World::start("life-revoked-token", json!({})).await.unwrap();
    let medium = world.endpoint().await.unwrap();
    let (tpm, stranger) = (SoftwareTpm::new(KeyKind::P256).unwrap(), SoftwareTpm::new(KeyKind::P256).unwrap());
    medium.register(&tpm, usual_report("SN-1")).await.unwrap();

    // The machine was installed with the token of its medium.
    let told = settings(&medium, &tpm, None).await.unwrap();
    behind(&world, 1).await.unwrap();
    assert_eq!(settings(&medium, &tpm, Some(&told)).await.unwrap(), told);
    behind(&world, 0).await.unwrap();

    let registration = kubectl_name::<MachineRegistration>("edge");
    world.cluster.patch_status(&registration, NAMESPACE, &json!({"registrationToken": null})).unwrap();
    until("the token of media to be revoked", TIMEOUT, async || {
        Ok(match medium.register(&stranger, usual_report("SN-2")).await {
            Err(error) => {
                assert_eq!(error.refusal()?.code, RefusalCode::UnknownToken);
                Poll::Ready(())
            }
            Ok(_) => Poll::Pending("it still admits machines".to_owned()),
        })
    })
    .await
    .unwrap();

    let url = world.url().unwrap();
    let (start, _) = url.rsplit_once('/').unwrap();
    let token = told.registration_url.rsplit('/').next().unwrap();
    let installed = Endpoint::new(&format!("{start}/{token}"), &told.authorities.concat()).unwrap();
    assert_eq!(settings(&installed, &tpm, Some(&told)).await.unwrap(), told, "the same as before");
    let another = SoftwareTpm::new(KeyKind::P256).unwrap();
    let refusal = installed.register(&another, usual_report("SN-3")).await.unwrap_err().refusal().unwrap();
    assert_eq!(refusal.code, RefusalCode::UnknownMachine, "{refusal}");
    installed.register(&tpm, usual_report("SN-1")).await.unwrap();
}

/// The settings in the answer to a report of a machine that has these settings already.
async fn settings(endpoint: &Endpoint, tpm: &SoftwareTpm, kept: Option<&OperatorSettings>) -> Result<OperatorSettings> {
    let settings_revision = kept.map(|kept| kept.revision.clone());
    let recorded = endpoint.report(tpm, OsReport { settings_revision, ..system(true) }).await?;
    recorded.settings.context("the answer holds no settings")
}

/// Waits until the status counts this many machines without the newest settings.
async fn behind(world: &World, count: u32) -> Result<()> {
    until(&format!("{count} machines behind"), TIMEOUT, async || {
        let registration = world.cluster.get(&kubectl_name::<MachineRegistration>("edge"), NAMESPACE)?;
        let shown = &registration["status"]["machinesBehind"];
        Ok(if *shown == count { Poll::Ready(()) } else { Poll::Pending(shown.to_string()) })
    })
    .await
}

async fn proven(endpoint: &Endpoint, tpm: &SoftwareTpm) -> Result<Exchange> {
    let mut exchange = endpoint.connect().await?;
    exchange.prove(tpm).await?;
    Ok(exchange)
}

fn progress() -> FromMachine {
    FromMachine::Progress(Progress {
        phase: InstallPhase::Writing,
        bytes: 3 << 20,
        total_bytes: 9 << 20,
        message: String::new(),
    })
}

fn system(healthy: bool) -> OsReport {
    OsReport {
        version: "0.1.0".to_owned(),
        release: format!("sha256:{}", "0".repeat(64)),
        slot: Slot::A,
        healthy,
        boot_id: "3c1b0a00-1d8e-11ec-8000-3cecef000000".to_owned(),
        addresses: Vec::new(),
        hostname: Some("edge".to_owned()),
        settings_revision: None,
        recovery: None,
        reinstall: None,
        reset: None,
        last_failure: None,
        upgrade: None,
    }
}

/// Waits until the only inventory is in this phase.
async fn phase(world: &World, phase: Phase) -> Result<Value> {
    until(&format!("the phase {phase:?}"), TIMEOUT, async || {
        let inventories = world.inventories()?;
        let found = inventories.into_iter().find(|inventory| inventory["status"]["phase"] == json!(phase));
        Ok(found.map_or_else(|| Poll::Pending("another phase".to_owned()), Poll::Ready))
    })
    .await
}

fn ready_message(inventory: &Value) -> String {
    condition(inventory, condition_type::READY)["message"].as_str().unwrap_or_default().to_owned()
}

async fn events(world: &World, reasons: &[&str]) -> Result<()> {
    until("an event for each phase", TIMEOUT, async || {
        let list = world.cluster.get("events", NAMESPACE)?;
        let told =
            |reason: &&str| list["items"].as_array().is_some_and(|all| all.iter().any(|e| e["reason"] == **reason));
        let missing: Vec<_> = reasons.iter().filter(|reason| !told(reason)).collect();
        Ok(if missing.is_empty() { Poll::Ready(()) } else { Poll::Pending(format!("{missing:?}")) })
    })
    .await
}
