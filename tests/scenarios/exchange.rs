//! The registration exchange with a running operator: honest machines, dishonest ones, and machines that send malformed
//! messages.

use anyhow::Result;
use futures::future::join_all;
use harness::clusters::registration::NAMESPACE;
use harness::fakes::software_machine::{Endpoint, NoAnswer, usual_report};
use harness::fakes::software_tpm::{KeyKind, Liar, Lie, SoftwareTpm, Vendor};
use harness::world::World;
use protocol::message::{Hello, MAX_FRAME, Proof};
use protocol::{FromMachine, Refusal, RefusalCode};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_registers_many_times_at_once_has_one_inventory() {
    let serial = "${System Information/Serial Number}";
    let config = json!({"hostname": format!("edge-{serial}")});
    let spec = json!({"machineName": format!("{serial}-"), "cloudConfig": config});
    let world = World::start("exchange-at-once", spec).await.unwrap();
    let endpoint = world.endpoint().await.unwrap();
    let tpm = SoftwareTpm::new(KeyKind::Rsa2048).unwrap();

    let at_once = join_all((0..8).map(|_| endpoint.register(&tpm, usual_report("SN-1")))).await;
    let names: Vec<String> = at_once.into_iter().map(|config| config.unwrap().inventory).collect();
    assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
    assert!(names[0].starts_with(&format!("{NAMESPACE}/sn-1-")), "{names:?}");

    // After a reinstallation and with another mainboard, the TPM still identifies the machine.
    let config = endpoint.register(&tpm, usual_report("SN-2")).await.unwrap();
    assert_eq!(config.inventory, names[0]);
    assert_eq!(config.cloud_config.0["hostname"], "edge-SN-2");
    let [inventory] = &world.inventories().unwrap()[..] else { panic!("one machine, one inventory") };
    assert_eq!(inventory["spec"]["tpmHash"], tpm.hash().as_str());
    assert_eq!(inventory["spec"]["smbios"]["System Information"]["Serial Number"], "SN-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_registers_with_two_operators_at_once_has_one_inventory() {
    let world = World::start("exchange-two-operators", json!({})).await.unwrap();
    let replica = world.operator.start_replica(&world.folder("replica").unwrap()).await.unwrap();
    let ca = world.operator.ca().await.unwrap();
    assert_eq!(replica.ca().await.unwrap(), ca, "one authority for both");
    let endpoints = [&world.operator, &replica]
        .map(|operator| Endpoint::new(&world.registration().local_url(operator).unwrap(), &ca).unwrap());

    for machines in 1..=5 {
        let tpm = SoftwareTpm::new(KeyKind::P256).unwrap();
        let at_once = join_all((0..8).map(|n| endpoints[n % 2].register(&tpm, usual_report("SN-1")))).await;
        let names: Vec<String> = at_once.into_iter().map(|config| config.unwrap().inventory).collect();
        assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
        assert_eq!(world.inventories().unwrap().len(), machines);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_lie_is_refused_with_its_code_and_leaves_nothing_behind() {
    let world = World::start("exchange-lies", json!({})).await.unwrap();
    let endpoint = world.endpoint().await.unwrap();
    let vendor = Vendor::new("TPM works").unwrap();
    for &lie in Lie::ALL {
        let refusal = lie_to(&endpoint, &Liar::new(lie, &vendor).unwrap()).await.unwrap_err().refusal().unwrap();
        assert_eq!(refusal.code, lie.refusal(), "{lie:?}: {refusal}");
    }
    assert_eq!(world.inventories().unwrap(), [] as [Value; 0]);
}

/// Runs an exchange up to the operator's answer to the proof.
async fn lie_to(endpoint: &Endpoint, liar: &Liar) -> Result<(), NoAnswer> {
    let mut earlier = endpoint.connect().await?;
    earlier.say(&FromMachine::Hello(liar.hello())).await?;
    let earlier = earlier.hear_challenge().await?;

    let mut exchange = endpoint.connect().await?;
    exchange.say(&FromMachine::Hello(liar.hello())).await?;
    let challenge = exchange.hear_challenge().await?;
    exchange.say(&FromMachine::Proof(liar.proof(&challenge, &earlier)?)).await?;
    exchange.hear().await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_and_misplaced_messages_are_refused_with_a_reason() {
    let world = World::start("exchange-malformed", json!({})).await.unwrap();
    let endpoint = world.endpoint().await.unwrap();
    let hello = SoftwareTpm::new(KeyKind::P256).unwrap().hello();
    let text = |message: &FromMachine| serde_json::to_string(message).unwrap();
    let proof = Proof { secret: vec![0; 32], quote: vec![], signature: vec![], event_log: None };
    let cases = [
        (RefusalCode::MalformedMessage, text(&FromMachine::Hello(hello.clone())).split_at(100).0.to_owned()),
        (RefusalCode::MalformedMessage, r#"{"type":"hello"}"#.to_owned()),
        (RefusalCode::UnknownMessage, r#"{"type":"greeting"}"#.to_owned()),
        (RefusalCode::UnexpectedMessage, text(&FromMachine::Proof(proof))),
        (RefusalCode::UnsupportedVersion, text(&FromMachine::Hello(Hello { versions: vec![99], ..hello.clone() }))),
        (
            RefusalCode::UnsupportedEndorsementKey,
            text(&FromMachine::Hello(Hello { ek_public: vec![1], ..hello.clone() })),
        ),
        (RefusalCode::MessageTooBig, " ".repeat(MAX_FRAME + 1)),
    ];
    for (code, frame) in cases {
        let start: String = frame.chars().take(60).collect();
        let refusal = refusal_of(&endpoint, frame).await.unwrap();
        assert_eq!(refusal.code, code, "{start}: {refusal}");
        assert!(!refusal.message.is_empty());
    }
}

async fn refusal_of(endpoint: &Endpoint, frame: String) -> Result<Refusal> {
    let answer = async {
        let mut exchange = endpoint.connect().await?;
        exchange.say_raw(frame).await?;
        exchange.hear().await
    };
    match answer.await {
        Ok(message) => anyhow::bail!("expected a refusal, got {message:?}"),
        Err(error) => error.refusal(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_must_be_complete_known_and_not_expired() {
    let world = World::start("exchange-tokens", json!({"expiresAt": "2020-01-01T00:00:00Z"})).await.unwrap();
    let ca = world.operator.ca().await.unwrap();
    let url = world.url().unwrap();
    let (start, token) = url.rsplit_once('/').unwrap();
    let tpm = SoftwareTpm::new(KeyKind::P256).unwrap();
    for (code, token) in [
        (RefusalCode::RegistrationExpired, token),
        (RefusalCode::UnknownToken, &*"a".repeat(token.len())),
        (RefusalCode::MalformedToken, &token[..20]),
    ] {
        let endpoint = Endpoint::new(&format!("{start}/{token}"), &ca).unwrap();
        let refusal = endpoint.register(&tpm, usual_report("SN-1")).await.unwrap_err().refusal().unwrap();
        assert_eq!(refusal.code, code, "{refusal}");
        assert!(!refusal.message.contains(token), "the token is not repeated");
    }
    assert_eq!(world.inventories().unwrap(), [] as [Value; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_api_server_the_operator_says_so_and_recovers() {
    let mut world = World::start("exchange-api-down", json!({})).await.unwrap();
    let endpoint = world.endpoint().await.unwrap();
    let tpm = SoftwareTpm::new(KeyKind::P256).unwrap();

    world.cluster.stop_api_server();
    let refusal = endpoint.register(&tpm, usual_report("SN-1")).await.unwrap_err().refusal().unwrap();
    assert_eq!(refusal.code, RefusalCode::Unavailable, "{refusal}");
    assert!(refusal.code.may_succeed_later());

    world.cluster.start_api_server().await.unwrap();
    endpoint.register(&tpm, usual_report("SN-1")).await.unwrap();
    assert_eq!(world.inventories().unwrap().len(), 1);
}
