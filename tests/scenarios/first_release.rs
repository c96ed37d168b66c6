//! Machines of the first release register with today's operator.

use anyhow::Result;
use api::{MachineInventory, MachineRegistration};
use harness::clients::first_release::FirstReleaseMachine;
use harness::clusters::registration::NAMESPACE;
use harness::objects::kubectl_kind;
use harness::world::World;
use qemu::swtpm::EkCertificate;
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);

async fn start(name: &str, certificate: EkCertificate) -> Result<(World, FirstReleaseMachine)> {
    let spec = json!({"machineInventoryLabels": {"vendor": "acme"}, "cloudConfig": {"hostname": "edge"}});
    let world = World::start(name, spec).await?;
    let machine = FirstReleaseMachine::new(&world, certificate).await?;
    Ok((world, machine))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_release_machine_is_registered_once_and_configured() {
    let (world, machine) = start("first-release", EkCertificate::Present).await.unwrap();
    let registered = machine.register(&[]).await.unwrap();

    let config = &registered["config"];
    assert_eq!(config["hostname"], "edge");
    assert_eq!(config["rancherd"]["token"], "tpm://");
    assert_eq!(config["rancherd"]["server"], world.operator.url());
    assert_eq!(config["rancheros"]["install"]["automatic"], true);

    let [inventory] = &world.inventories().unwrap()[..] else { panic!("one machine, one inventory") };
    assert_eq!(inventory["spec"]["tpmHash"], registered["tpmHash"], "the client's own hash of its key");
    assert_eq!(inventory["spec"]["smbios"]["System Information"]["Serial Number"], "FR-0001");
    assert_eq!(inventory["metadata"]["labels"]["vendor"], "acme");
    let name = inventory["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("m-acme-anvil-fr-0001-"), "{name}");

    let again = machine.register(&[]).await.unwrap();
    assert_eq!(again, registered);
    assert_eq!(world.inventories().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_release_machine_needs_neither_certificate_nor_smbios() {
    let (world, mut machine) = start("first-release-bare", EkCertificate::Absent).await.unwrap();
    machine.smbios = None;
    let registered = machine.register(&[]).await.unwrap();
    let [inventory] = &world.inventories().unwrap()[..] else { panic!("one machine, one inventory") };
    assert_eq!(inventory["spec"]["tpmHash"], registered["tpmHash"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_release_machine_without_proof_gets_nothing() {
    let (world, machine) = start("first-release-refused", EkCertificate::Present).await.unwrap();
    let error = machine.register(&["-wrong-secret"]).await.unwrap_err().to_string();
    assert!(error.contains("receiving the configuration"), "{error}");

    let unknown = format!("{}x", machine.url);
    let error = machine.register_at(&unknown, &[]).await.unwrap_err().to_string();
    assert!(error.contains("HTTP 4"), "{error}");
    assert_eq!(world.inventories().unwrap(), [] as [Value; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_release_machine_is_told_how_it_joins_by_the_inventory_that_knows_it() {
    let (world, mut machine) = start("first-release-join", EkCertificate::Present).await.unwrap();
    let registered = machine.register(&[]).await.unwrap();
    machine.smbios = None;
    let endpoint = world.operator.local_url("/v1-rancheros/inventory");
    let refused = async |code: &str| {
        let error = machine.register_at(&endpoint, &[]).await.unwrap_err().to_string();
        assert!(error.contains(code), "{error}");
    };
    refused("NotAssigned").await;

    // Registration and inventory are deleted. A new inventory expects the machine by its hash.
    for kind in [kubectl_kind::<MachineRegistration>(), kubectl_kind::<MachineInventory>()] {
        world.cluster.kubectl(&["delete", &kind, "--all", "--namespace", NAMESPACE], "").unwrap();
    }
    until("the machine to be unknown", TIMEOUT, async || {
        let error = machine.register_at(&endpoint, &[]).await.unwrap_err().to_string();
        Ok(if error.contains("UnknownMachine") { Poll::Ready(()) } else { Poll::Pending(error) })
    })
    .await
    .unwrap();
    let spec = json!({"tpm": registered["tpmHash"], "config": {"role": "server", "nodeName": "one"}});
    world.create_inventory("expected", spec).unwrap();
    let told = until("the machine to be known again", TIMEOUT, async || {
        let told = machine.register_at(&endpoint, &[]).await;
        Ok(told.map_or_else(|error| Poll::Pending(error.to_string()), Poll::Ready))
    })
    .await
    .unwrap();
    assert_eq!(told["config"], json!({"role": "server", "nodeName": "one"}));
    let error = machine.register_at(&endpoint, &["-wrong-secret"]).await.unwrap_err().to_string();
    assert!(error.contains("ProofRejected"), "{error}");
    let error = machine.register(&[]).await.unwrap_err().to_string();
    assert!(error.contains("UnknownToken"), "a registration that is deleted is closed: {error}");
}
