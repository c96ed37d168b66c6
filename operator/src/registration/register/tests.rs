//! Tests of `registration::register`.

use super::*;
use crate::context::Context;
use crate::fixtures::{self, FakeApi};
use api::AttestationStatus;
use api::Phase;
use protocol::EraseRequest;
use protocol::hardware::Hardware;
use protocol::message::Failure;
use protocol::message::OsReport;
use serde_json::{Value, json};

struct Scene {
    api: FakeApi,
    context: Context,
    registration: Registration,
}

impl Scene {
    fn new(spec: Value) -> Self {
        let api = FakeApi::default();
        let context = fixtures::context(&api);
        let registration = Registration::of(&fixtures::registration(spec, &"t".repeat(54)));
        Self { api, context, registration }
    }

    /// Registers a machine and writes its status. Returns the inventory, or the code of the refusal.
    async fn register(&self, machine: &str, serial: &str) -> Result<String, RefusalCode> {
        let result = register(&self.context.inventory, &self.registration, &identity(machine), &report(serial)).await;
        let mut writer = result.map_err(|refusal| refusal.code)?;
        writer.write(&self.context.inventory).await.map_err(|refusal| refusal.code)?;
        Ok(writer.name())
    }

    fn inventories(&self) -> Vec<Value> {
        self.api.objects("machineinventories")
    }
}

fn identity(machine: &str) -> Identity {
    Identity { hash: TpmHash::of_public_key(machine.as_bytes()), attestation: AttestationStatus::default() }
}
fn report(serial: &str) -> MachineReport {
    MachineReport {
        smbios: serde_json::from_value(json!({"System Information": {"Serial Number": serial}})).unwrap(),
        hardware: Hardware { memory_bytes: 1 << 30, ..Hardware::default() },
        addresses: Vec::new(),
    }
}

#[tokio::test]
async fn a_new_machine_costs_two_writes_and_a_known_one_none() {
    let scene = Scene::new(json!({"machineInventoryLabels": {"serial": "${System Information/Serial Number}"}}));
    let inventory = scene.register("a", "1").await.unwrap();
    assert_eq!(scene.api.take_requests(), ["POST machineinventories", "PATCH status"]);
    let [object] = &scene.inventories()[..] else { panic!("one inventory") };
    assert_eq!(object["metadata"]["labels"]["serial"], "1");
    assert_eq!(object["status"]["phase"], "Registered");
    assert_eq!(object["status"]["hardware"]["memoryBytes"], 1 << 30);

    assert_eq!(scene.register("a", "1").await.as_ref(), Ok(&inventory));
    assert_eq!(scene.api.take_requests(), [] as [&str; 0]);
    assert_eq!(scene.register("a", "2").await.as_ref(), Ok(&inventory));
    assert_eq!(scene.api.take_requests(), ["PATCH machineinventories"]);
}

#[tokio::test]
async fn steps_in_quick_succession_are_one_write() {
    let scene = Scene::new(json!({}));
    let mut writer =
        register(&scene.context.inventory, &scene.registration, &identity("a"), &report("1")).await.unwrap();
    writer.note(&scene.context.inventory, Step::Installed);
    writer.write(&scene.context.inventory).await.unwrap();
    assert_eq!(scene.api.take_requests(), ["POST machineinventories", "PATCH status"]);
    assert_eq!(scene.inventories()[0]["status"]["phase"], "Installed");

    let mut again =
        register(&scene.context.inventory, &scene.registration, &identity("a"), &report("1")).await.unwrap();
    again.note(&scene.context.inventory, Step::Installed);
    again.write(&scene.context.inventory).await.unwrap();
    assert_eq!(scene.api.take_requests(), [] as [&str; 0]);
}

#[tokio::test]
async fn two_replicas_at_once_create_one_inventory() {
    let scene = Scene::new(json!({}));
    let other = Scene { context: fixtures::context(&scene.api), ..Scene::new(json!({})) };
    let first = scene.register("a", "1").await.unwrap();
    // The watch of the other replica has not delivered the inventory yet.
    assert_eq!(other.register("a", "1").await.unwrap(), first);
    assert_eq!(scene.inventories().len(), 1);
}

#[tokio::test]
async fn a_name_of_another_machine_gets_a_longer_suffix() {
    let scene = Scene::new(json!({"machineName": "edge"}));
    let first = scene.register("a", "1").await.unwrap();
    let (namespace, name) = first.split_once('/').unwrap();
    // Another machine has the name.
    let mut theirs = fixtures::inventory(name, json!({"tpmHash": TpmHash::of_public_key(b"b").as_str()}));
    theirs.metadata.resource_version = None;
    let scene = Scene::new(json!({"machineName": "edge"}));
    scene.context.inventory.store.make(theirs).await.unwrap();
    let second = scene.register("a", "1").await.unwrap();
    assert!(second.starts_with(&format!("{namespace}/edge-")) && second.len() > first.len(), "{first} {second}");
}

#[tokio::test]
async fn an_inventory_created_by_hand_is_adopted() {
    let scene = Scene::new(json!({"machineInventoryLabels": {"rack": "7"}}));
    let expected = fixtures::inventory("expected", json!({"tpm": TpmHash::of_public_key(b"a").as_str()}));
    let Created::New(expected) = scene.context.inventory.store.make(expected).await.unwrap() else {
        panic!("it is new")
    };
    scene.context.inventory.index.enter(*expected);
    assert_eq!(scene.register("a", "1").await.unwrap(), "n/expected");
    let [object] = &scene.inventories()[..] else { panic!("one inventory") };
    assert_eq!(object["metadata"]["labels"]["rack"], "7");
    assert_eq!(object["spec"]["tpm"], TpmHash::of_public_key(b"a").as_str());
}

#[tokio::test]
async fn the_inventory_of_the_last_registration_counts() {
    let scene = Scene::new(json!({"machineName": "first"}));
    let elsewhere = {
        let mut object = fixtures::registration(json!({"machineName": "second"}), &"u".repeat(54));
        object.metadata.namespace = Some("m".to_owned());
        Registration::of(&object)
    };
    let hash = TpmHash::of_public_key(b"a");
    let owner = async || scene.context.inventory.find(&hash).await.unwrap().map(|machine| machine.namespace.clone());
    // Somebody wrote the machine's hash into an inventory before the machine registered.
    let mut claim = fixtures::inventory("claim", json!({"tpm": hash.as_str(), "clusterName": "theirs"}));
    claim.metadata.namespace = Some("tenant".to_owned());
    scene.context.inventory.index.enter(claim);
    assert_eq!(owner().await.as_deref(), Some("tenant"), "nobody knows better");
    scene.register("a", "1").await.unwrap();
    assert_eq!(owner().await.as_deref(), Some("n"));

    // All registrations are in one second.
    let register_elsewhere = async || {
        let mut writer = register(&scene.context.inventory, &elsewhere, &identity("a"), &report("1")).await.unwrap();
        writer.write(&scene.context.inventory).await.unwrap();
    };
    for _ in 0..2 {
        register_elsewhere().await;
        assert_eq!(owner().await.as_deref(), Some("m"));
        scene.register("a", "1").await.unwrap();
        assert_eq!(owner().await.as_deref(), Some("n"));
    }
    scene.api.take_requests();
    scene.register("a", "1").await.unwrap();
    assert_eq!(scene.api.take_requests(), [] as [&str; 0], "it has it already");
}

#[tokio::test]
async fn a_machine_is_refused_as_unavailable_without_an_api_server() {
    let scene = Scene::new(json!({}));
    scene.api.set_away(true);
    assert_eq!(scene.register("a", "1").await, Err(RefusalCode::Unavailable));
    scene.api.set_away(false);
    assert!(scene.register("a", "1").await.is_ok());
}

#[tokio::test]
async fn an_inventory_deleted_meanwhile_is_created_again() {
    let scene = Scene::new(json!({}));
    scene.register("a", "1").await.unwrap();
    scene.api.delete_all();
    // The watch has not delivered the deletion, so the patch of SMBIOS finds no object.
    assert!(scene.register("a", "2").await.unwrap().starts_with("n/m-2-"));
    assert_eq!(scene.inventories().len(), 1);
}

#[tokio::test]
async fn a_machine_that_waits_for_approval_is_recorded_and_refused() {
    let scene = Scene::new(json!({"approval": "Manual"}));
    assert_eq!(scene.register("a", "1").await, Err(RefusalCode::ApprovalPending));
    let [object] = &scene.inventories()[..] else { panic!("one inventory") };
    assert_eq!((&object["spec"]["approved"], &object["status"]["phase"]), (&json!(false), &json!("ApprovalPending")));
}

#[tokio::test]
async fn messages_of_an_unknown_machine_are_refused_and_a_failure_is_recorded() {
    let scene = Scene::new(json!({}));
    let unknown =
        find(&scene.context.inventory, &scene.registration, &identity("a").hash).await.map(|_| ()).unwrap_err();
    assert_eq!(unknown.code, RefusalCode::UnknownMachine);
    scene.register("a", "1").await.unwrap();
    let mut writer = find(&scene.context.inventory, &scene.registration, &identity("a").hash).await.ok().unwrap();
    let failure = Failure { reason: "NoDisk".into(), message: "no disk is there".into() };
    writer.note(&scene.context.inventory, Step::Failed(failure));
    writer.write(&scene.context.inventory).await.unwrap();
    assert_eq!(scene.inventories()[0]["status"]["failure"]["reason"], "NoDisk");
    scene.register("a", "1").await.unwrap();
    assert!(scene.inventories()[0]["status"].get("failure").is_none());
}

#[tokio::test]
async fn the_limit_holds_for_many_machines_at_once() {
    let scene = Scene::new(json!({"maxMachines": 3}));
    let at_once = futures::future::join_all((0..20).map(|n| {
        let scene = &scene;
        async move { scene.register(&format!("machine {n}"), "1").await }
    }));
    let refused = at_once.await.into_iter().filter_map(Result::err).collect::<Vec<_>>();
    assert!(refused.iter().all(|code| *code == RefusalCode::TooManyMachines));
    assert!(scene.inventories().len() <= 3, "{}", scene.inventories().len());
}

#[tokio::test]
async fn a_machine_with_a_shared_secret_is_recognised_and_never_created() {
    let scene = Scene::new(json!({"machineInventoryLabels": {"serial": "${System Information/Serial Number}"}}));
    let object = fixtures::inventory("by-hand", json!({"machineTokenSecretName": "s"}));
    let path = "/apis/rancheros.cattle.io/v1/namespaces/n/machineinventories/by-hand";
    scene.api.put(path, serde_json::to_value(&object).unwrap());
    let machine = scene.context.inventory.index.enter(object);
    let register = async || {
        let result = register_known(&scene.context.inventory, &scene.registration, &machine, &report("1")).await;
        let mut writer = result.map_err(|refusal| refusal.code)?;
        writer.write(&scene.context.inventory).await.map_err(|refusal| refusal.code)
    };
    register().await.unwrap();
    let [recorded] = &scene.inventories()[..] else { panic!("the one that was there") };
    assert_eq!(
        (&recorded["metadata"]["labels"]["serial"], &recorded["status"]["phase"]),
        (&json!("1"), &json!("Registered"))
    );
    assert_eq!((recorded["spec"].get("tpmHash"), recorded["status"].get("attestation")), (None, None));
    scene.api.take_requests();
    register().await.unwrap();
    assert_eq!(scene.api.take_requests(), [] as [&str; 0], "nothing new");

    let stranger = Arc::new(KnownMachine { namespace: "other".into(), ..(*machine).clone() });
    assert_eq!(find_known(&scene.registration, &stranger).map(drop).unwrap_err().code, RefusalCode::UnknownMachine);
    let mut without = fixtures::inventory("by-hand", json!({}));
    without.metadata.resource_version = Some("9999".to_owned());
    scene.context.inventory.index.enter(without);
    assert_eq!(register().await, Err(RefusalCode::UnknownMachine), "its inventory names no Secret any more");
}

#[tokio::test]
async fn an_object_changed_by_another_writer_is_read_again() {
    let scene = Scene::new(json!({}));
    let mut writer =
        register(&scene.context.inventory, &scene.registration, &identity("a"), &report("1")).await.unwrap();
    let path = format!("/apis/rancheros.cattle.io/v1/namespaces/n/machineinventories/{}", writer.machine().name);
    scene.api.change(&path, json!({"spec": {"clusterName": "c"}, "metadata": {"generation": 2}}));
    scene.api.take_requests();
    writer.write(&scene.context.inventory).await.unwrap();
    // The first write is refused because it was decided on another version.
    assert_eq!(scene.api.take_requests(), ["PATCH status", "GET machineinventories", "PATCH status"]);
    let known = scene.context.inventory.index.get("n", &writer.machine().name).unwrap();
    assert_eq!((known.cluster(), known.status.phase), (Some("c"), Some(Phase::Registered)));
    assert_eq!(writer.machine().cluster(), Some("c"));
}

#[tokio::test]
async fn an_inventory_recreated_under_the_same_name_is_not_the_machines() {
    let scene = Scene::new(json!({}));
    let mut writer =
        register(&scene.context.inventory, &scene.registration, &identity("a"), &report("1")).await.unwrap();
    let mut successor = fixtures::inventory(&writer.machine().name, json!({"tpmHash": "b".repeat(64)}));
    successor.metadata.resource_version = Some("9999".to_owned());
    scene.context.inventory.index.enter(successor);
    scene.api.take_requests();
    let refusal = writer.write(&scene.context.inventory).await.unwrap_err();
    assert_eq!((refusal.code, writer.is_written()), (RefusalCode::UnknownMachine, true), "it is not tried again");
    writer.note(&scene.context.inventory, Step::Installed);
    assert_eq!(writer.write(&scene.context.inventory).await.unwrap_err().code, RefusalCode::UnknownMachine);
    assert_eq!(scene.api.take_requests(), [] as [&str; 0]);
}

const INVENTORY: &str = "/apis/rancheros.cattle.io/v1/namespaces/n/machineinventories/";

#[tokio::test]
async fn conditions_of_another_writer_are_kept() {
    let scene = Scene::new(json!({}));
    let mut writer =
        register(&scene.context.inventory, &scene.registration, &identity("a"), &report("1")).await.unwrap();
    writer.write(&scene.context.inventory).await.unwrap();
    let name = writer.name().replace("n/", INVENTORY);
    let mut conditions = scene.inventories()[0]["status"]["conditions"].clone();
    let other = json!({"type": "SharedSecret", "status": "True", "reason": "SecretReadable", "message": ""});
    conditions.as_array_mut().unwrap().push(other);
    // The index does not contain this change.
    scene.api.change(&name, json!({"status": {"conditions": conditions}}));
    scene.api.take_requests();
    writer.note(&scene.context.inventory, Step::Installed);
    writer.write(&scene.context.inventory).await.unwrap();
    assert_eq!(scene.api.take_requests(), ["PATCH status", "GET machineinventories", "PATCH status"]);
    let status = scene.inventories().remove(0)["status"].take();
    let types = status["conditions"].as_array().unwrap().iter().map(|condition| condition["type"].as_str().unwrap());
    let types: Vec<&str> = types.collect();
    assert!(types.contains(&"SharedSecret") && types.contains(&"Installed"), "{types:?}");
    assert_eq!(status["phase"], "Installed");
}

#[tokio::test]
async fn values_that_a_machine_no_longer_has_are_removed_from_its_status() {
    let scene = Scene::new(json!({}));
    let come = async |authority: Option<&str>, disks: Value| {
        let mut identity = identity("a");
        identity.attestation.ek_certificate_authority = authority.map(Into::into);
        let hardware = serde_json::from_value(json!({"disks": disks, "memoryBytes": 1})).unwrap();
        let report = MachineReport { hardware, ..report("1") };
        let mut writer = register(&scene.context.inventory, &scene.registration, &identity, &report).await.unwrap();
        writer.write(&scene.context.inventory).await.unwrap();
    };
    come(Some("CN=vendor"), json!([{"path": "/dev/sda"}])).await;
    scene.api.take_requests();
    come(None, json!([])).await;
    assert_eq!(scene.api.take_requests(), ["GET machineinventories", "PATCH status"]);
    let status = scene.inventories().remove(0)["status"].take();
    assert_eq!(
        (&status["attestation"]["ekCertificateAuthority"], &status["hardware"]["disks"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(status["hardware"]["memoryBytes"], 1);
}

/// The writer of a running machine whose inventory announces a request to reinstall, and the machine's report.
async fn asked(scene: &Scene) -> (InventoryWriter, OsReport) {
    let report = OsReport { reinstall: Some(Default::default()), ..OsReport::default() };
    let mut writer =
        register(&scene.context.inventory, &scene.registration, &identity("a"), &self::report("1")).await.unwrap();
    writer.note(&scene.context.inventory, Step::Reported(Box::new(report.clone())));
    writer.write(&scene.context.inventory).await.unwrap();
    let path = writer.name().replace("n/", INVENTORY);
    let condition = json!({"type": "Reinstall", "status": "True", "reason": "Requested", "message": "erases"});
    scene.api.change(&path, json!({"spec": {"reinstall": "again"}, "metadata": {"generation": 2}}));
    let mut conditions = scene.inventories()[0]["status"]["conditions"].clone();
    conditions.as_array_mut().unwrap().push(condition);
    scene.api.change(&path, json!({"status": {"conditions": conditions, "reinstall": {"announced": "again"}}}));
    let seen = serde_json::from_value(scene.inventories().remove(0)).unwrap();
    (InventoryWriter::new(scene.context.inventory.index.enter(seen)), report)
}

#[tokio::test]
async fn a_request_is_read_and_recorded_before_it_is_sent() {
    let scene = Scene::new(json!({}));
    let (mut writer, report) = asked(&scene).await;
    scene.api.take_requests();
    let sent = writer.send_request(&scene.context.inventory, &report).await;
    assert_eq!(sent, Some(EraseRequest::Reinstall("again".parse().unwrap())));
    assert_eq!(scene.api.take_requests(), ["GET machineinventories", "PATCH status"]);
    let conditions = scene.inventories()[0]["status"]["conditions"].clone();
    assert!(conditions.as_array().unwrap().iter().any(|condition| condition["reason"] == "Sent"), "{conditions}");
    assert_eq!(writer.send_request(&scene.context.inventory, &OsReport::default()).await, None, "an older release");
}

#[tokio::test]
async fn a_request_that_is_withdrawn_or_unreadable_is_not_sent() {
    for case in ["away", "withdrawn", "recreated", "elsewhere", "starting"] {
        let scene = Scene::new(json!({}));
        let (mut writer, report) = asked(&scene).await;
        let path = writer.name().replace("n/", INVENTORY);
        // The index does not contain the change.
        match case {
            "away" => scene.api.set_away(true),
            "withdrawn" => scene.api.change(&path, json!({"spec": {"reinstall": null}})),
            "recreated" => scene.api.change(&path, json!({"metadata": {"uid": "another"}})),
            "elsewhere" => {
                let mut object = fixtures::inventory("b", json!({"tpmHash": identity("a").hash.as_str()}));
                object.metadata.namespace = Some("m".into());
                let proved = json!({"attestation": {"time": "2030-01-01T00:00:00Z"}});
                object.status = serde_json::from_value(proved).unwrap();
                scene.context.inventory.index.enter(object);
            }
            _ => {}
        }
        let mut starting = fixtures::context(&scene.api);
        starting.inventory.index = Default::default();
        let context = if case == "starting" { &starting } else { &scene.context };
        assert_eq!(writer.send_request(&context.inventory, &report).await, None, "{case}");
    }
}
