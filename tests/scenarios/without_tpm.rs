//! A machine without a TPM. A secret identifies it, which an inventory names that was created by hand. It registers,
//! reports, and is told how it joins its cluster, like any other machine.

use api::Phase;
use boot_contract::Milestone;
use harness::clients::installer::InstallerProcess;
use harness::clusters::registration::{NAMESPACE, Registration};
use harness::fakes::software_machine::NoAnswer;
use harness::world::World;
use installer::session::Exchange;
use installer::session::identity::{Identity, SecretIdentity};
use installer::session::websocket::WebSocketTransport;
use installer::settings::Secret;
use protocol::message::{Done, OsReport, SecretHello, SecretProof, Slot};
use protocol::{FromMachine, FromOperator, RefusalCode, SharedSecret};
use qemu::disk::{Disk, GIB};
use qemu::firmware::Firmware;
use qemu::machine::{Drive, MachineSpec, Medium};
use qemu::paths;
use qemu::process::printed;
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::time::Duration;

/// A busy host takes several times as long as an idle one.
const INSTALLED: Duration = Duration::from_secs(900);
const SHORT: Duration = Duration::from_secs(300);
const SECRET: &str = "4b1d-known-to-the-till-and-to-the-inventory";

#[tokio::test(flavor = "multi_thread")]
async fn it_registers_by_its_secret_reports_and_is_told_how_it_joins() {
    let spec = json!({
        "cloudConfig": {"hostname": "till-7", "rancherd": {"labels": ["from=registration"]}},
        "machineInventoryLabels": {"site": "shop"},
    });
    let world = World::start("without-tpm", spec).await.unwrap();
    let machine = InstallerProcess::with_secret(&world, SECRET).await.unwrap();

    // A secret without an inventory is refused. When the inventory is created later, the machine need not be touched.
    let refused = machine.register_from_medium(&[]).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", printed(&refused));
    for expected in ["UnknownSecret", "machineTokenSecretName", "keeps asking"] {
        assert!(printed(&refused).contains(expected), "no {expected:?} in {}", printed(&refused));
    }
    assert_eq!(world.inventories().unwrap(), [] as [Value; 0]);
    world.apply_token_secret("till-7", SECRET).unwrap();
    let config = json!({"role": "agent", "token": "joins-the-cluster"});
    world.create_inventory("till-7", json!({"machineTokenSecretName": "till-7", "config": config})).unwrap();

    let registered = until("the secret to be known", Duration::from_secs(60), async || {
        let output = machine.register_from_medium(&["--output", "json", "--debug"]).unwrap();
        let text = printed(&output);
        Ok(if output.status.success() { Poll::Ready(output) } else { Poll::Pending(text) })
    });
    let registered = registered.await.unwrap();
    let answer: Value = serde_json::from_slice(&registered.stdout).unwrap();
    assert_eq!(answer["inventory"], format!("{NAMESPACE}/till-7"));
    assert_eq!(
        (&answer["cloudConfig"]["hostname"], &answer["cloudConfig"]["rancherd"]["token"]),
        (&json!("till-7"), &json!(SECRET))
    );
    assert!(!String::from_utf8_lossy(&registered.stderr).contains(SECRET), "the secret was shown");
    let [inventory] = &world.inventories().unwrap()[..] else { panic!("the one that was made by hand") };
    assert_eq!(
        (&inventory["status"]["phase"], &inventory["metadata"]["labels"]["site"]),
        (&json!(Phase::Registered), &json!("shop"))
    );
    assert_eq!((inventory["spec"].get("tpmHash"), inventory["status"].get("attestation")), (None, None));

    // The installed system: `report` without its check of the disk that it runs from.
    let identity = Identity::SharedSecret(SecretIdentity::new(Secret::new(SECRET), "test".to_owned()));
    let mut transport =
        WebSocketTransport::new(&world.url().unwrap(), Some(&world.operator.ca().await.unwrap()), None).unwrap();
    let mut exchange = Exchange::open(&mut transport, &identity).await.unwrap();
    let system = OsReport { version: "0.1.0".into(), slot: Slot::A, healthy: true, ..OsReport::default() };
    exchange.say(&FromMachine::Booted(Box::new(system))).await.unwrap();
    let join = exchange.finish(Done::default()).await.unwrap().join.unwrap();
    let root = world.folder("root").unwrap();
    std::fs::create_dir_all(root.join("oem")).unwrap();
    std::fs::write(root.join("oem/cloud-config.yaml"), serde_yaml::to_string(&answer["cloudConfig"]).unwrap()).unwrap();
    installer::join::answer::take(&root, &join).unwrap().unwrap();
    let written = std::fs::read_to_string(root.join("etc/rancher/rancherd/config.yaml")).unwrap();
    let written: Value = serde_yaml::from_str(&written).unwrap();
    assert_eq!((&written["role"], &written["token"]), (&json!("agent"), &json!("joins-the-cluster")));
    let [inventory] = &world.inventories().unwrap()[..] else { panic!("one inventory") };
    assert_eq!(
        (&inventory["status"]["phase"], &inventory["status"]["os"]["version"]),
        (&json!(Phase::Ready), &json!("0.1.0"))
    );

    let log = world.operator_log().unwrap();
    assert!(!log.contains(SECRET) && !log.contains("joins-the-cluster"), "a secret was logged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_not_proved_or_stands_in_for_a_tpm_opens_nothing() {
    let world = World::start("without-tpm-refused", json!({})).await.unwrap();
    world.apply_token_secret("till-7", SECRET).unwrap();
    world.create_inventory("till-7", json!({"machineTokenSecretName": "till-7"})).unwrap();
    let machine = InstallerProcess::with_secret(&world, SECRET).await.unwrap();
    until("the secret to be known", Duration::from_secs(60), async || {
        let output = machine.register_from_medium(&[]).unwrap();
        Ok(if output.status.success() { Poll::Ready(()) } else { Poll::Pending(printed(&output)) })
    })
    .await
    .unwrap();

    // A client that knows the digest but not the secret, and one that repeats an answer to another nonce.
    for answer in [SharedSecret::new("guessed").prove(&[0; 32]), SharedSecret::new(SECRET).prove(&[0; 32]), Vec::new()]
    {
        let mut exchange = world.endpoint().await.unwrap().connect().await.unwrap();
        let digest = SharedSecret::new(SECRET).digest().to_vec();
        exchange.say(&FromMachine::SecretHello(SecretHello { versions: vec![1], digest, client: None })).await.unwrap();
        let FromOperator::SecretChallenge(challenge) = exchange.hear().await.unwrap() else { panic!("a challenge") };
        assert_eq!(challenge.nonce.len(), 32);
        exchange.say(&FromMachine::SecretProof(SecretProof { answer })).await.unwrap();
        match exchange.hear().await {
            Err(NoAnswer::Refused(refusal)) => assert_eq!(refusal.code, RefusalCode::SharedSecretRejected),
            other => panic!("{other:?} is no refusal"),
        }
    }

    // A registration that requires a vendor's certificate, and an inventory that names a TPM.
    let strict = json!({"attestation": {"ekCertificate": "Required"}});
    let strict = Registration::apply(&world.cluster, "strict", strict).unwrap().local_url(&world.operator).unwrap();
    let refused = machine.register_from_medium(&["--registration-url", &strict]).unwrap();
    assert!(
        printed(&refused).contains("SharedSecretNotAccepted") && printed(&refused).contains("ekCertificate"),
        "{}",
        printed(&refused)
    );
    world.patch_inventory("till-7", &json!({"tpm": "ab".repeat(32)})).unwrap();
    until("the inventory's TPM to count", Duration::from_secs(60), async || {
        let text = printed(&machine.register_from_medium(&[]).unwrap());
        let counts = text.contains("SharedSecretNotAccepted") && text.contains("tpmHash");
        Ok(if counts { Poll::Ready(()) } else { Poll::Pending(text) })
    })
    .await
    .unwrap();
    assert_eq!(world.inventories().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_without_a_tpm_is_installed_by_its_secret_and_told_how_it_joins() {
    let world = World::builder("install-without-tpm").unwrap().start().await.unwrap();
    world.apply_token_secret("till-7", SECRET).unwrap();
    let config = json!({"role": "agent", "token": "joins-the-cluster"});
    let inventory = json!({"machineTokenSecretName": "till-7", "config": config});
    world.create_inventory("till-7", inventory).unwrap();
    let mut registration = world.example_registration().unwrap();
    registration["cloudConfig"]["ssh_authorized_keys"] = json!([world.key.public]);
    let install = json!({"registrationSecret": SECRET});
    let medium = world.medium_with(&paths::iso().unwrap(), registration, install).await.unwrap();

    let mut spec = MachineSpec::new(Firmware::Uefi, "TILL-7");
    spec.tpm = None;
    spec.disks.push(Disk::empty(world.path(), "root", 4 * GIB).unwrap());
    spec.medium = Some(Medium { file: medium, drive: Drive::Cd });
    let mut machine = world.machine(spec).await.unwrap();
    machine.power_on().await.unwrap();
    machine.wait_for_milestone(Milestone::Booted, INSTALLED).await.unwrap();
    let inventory = world.inventory_in_phase("till-7", Phase::Ready, SHORT).await.unwrap();
    assert_eq!(inventory["status"]["os"]["slot"], "A");
    assert_eq!(world.inventory_names().unwrap(), ["till-7"]);

    let root = async |command: &str| world.key.run("root", machine.ssh_port(), command, SHORT).await;
    until("the word of the operator in rancherd's configuration", SHORT, async || {
        let text = root("cat /etc/rancher/rancherd/config.yaml").await?;
        Ok(if text.contains("joins-the-cluster") { Poll::Ready(()) } else { Poll::Pending("another token".to_owned()) })
    })
    .await
    .unwrap();
    assert_eq!(root("stat --format %a:%u /oem/registration.yaml").await.unwrap().trim(), "600:0");
    let shown = root("ros-installer status; ros-installer probe; journalctl --boot; cat /proc/cmdline").await.unwrap();
    let console = machine.console().lines().iter().map(|line| line.text.clone()).collect::<String>();
    assert!(!shown.contains(SECRET) && !console.contains(SECRET), "the secret was shown");
}
