//! How machines join the clusters that they are assigned to, with a fake Rancher and without one.

use anyhow::{Context, Result};
use api::{MachineInventory, Phase, condition_type, reason};
use aws_lc_rs::{digest, hmac};
use base64::{Engine, engine::general_purpose::STANDARD};
use harness::clusters::registration::NAMESPACE;
use harness::fakes::rancher::Rancher;
use harness::fakes::software_machine::{Endpoint, usual_report};
use harness::fakes::software_tpm::{KeyKind, SoftwareTpm};
use harness::objects::kubectl_name;
use harness::world::World;
use protocol::message::{OsReport, Slot};
use protocol::{Join, Refusal, RefusalCode};
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_handed_over_moved_and_forgotten() {
    let world = World::start("inventory-cluster", json!({})).await.unwrap();
    let endpoint = world.endpoint().await.unwrap();
    let tpm = SoftwareTpm::new(KeyKind::P256).unwrap();
    let registered = endpoint.register(&tpm, usual_report("SN-1")).await.unwrap();
    let name = registered.inventory.split_once('/').unwrap().1.to_owned();
    assert_eq!(registered.cloud_config.0["hostname"], name.as_str());
    let nothing = report(&endpoint, &tpm).await.unwrap();
    assert!(nothing.configuration.unwrap().is_empty(), "it is assigned to nothing");

    let rancher = Rancher::install(&world.cluster).unwrap();
    let taint = json!({"key": "k", "value": "v", "effect": "NoSchedule"});
    world
        .patch_inventory(&name, &json!({"clusterName": "one", "config": {"role": "agent", "taints": [taint]}}))
        .unwrap();
    world.inventory_condition(&name, condition_type::ASSIGNED, reason::CLUSTER_NOT_FOUND).await.unwrap();
    rancher.make_cluster("one").unwrap();
    world.inventory_condition(&name, condition_type::ASSIGNED, reason::CLUSTER_NOT_READY).await.unwrap();
    let waiting = report(&endpoint, &tpm).await.unwrap();
    assert_eq!((waiting.configuration, waiting.pending.unwrap().code), (None, RefusalCode::ClusterTokenPending));
    rancher.manage_cluster("one", "c-m-one").unwrap();
    let token = rancher.issue_token("c-m-one", "token-one").await.unwrap();
    assert_eq!(token["spec"], json!({"clusterName": "c-m-one"}));
    world.inventory_condition(&name, condition_type::ASSIGNED, reason::TOKEN_ISSUED).await.unwrap();

    let join = report(&endpoint, &tpm).await.unwrap();
    let expected = json!({"role": "agent", "nodeName": name, "taints": ["k=v:NoSchedule"], "token": "token-one"});
    assert_eq!(serde_json::to_value(join.configuration.as_ref().unwrap()).unwrap(), expected);
    let root = world.folder("root").unwrap();
    std::fs::create_dir_all(root.join("oem")).unwrap();
    let cloud_config = registered.cloud_config.to_yaml();
    std::fs::write(root.join("oem/cloud-config.yaml"), cloud_config).unwrap();
    let news = installer::join::answer::take(&root, &join).unwrap().unwrap().to_string();
    assert!(news.starts_with("to cluster one; changed: nodeName, role, taints, token;"), "{news}");
    let written = std::fs::read_to_string(root.join("etc/rancher/rancherd/config.yaml")).unwrap();
    let written: Value = serde_yaml::from_str(&written).unwrap();
    assert_eq!((&written["token"], &written["role"]), (&json!("token-one"), &json!("agent")));
    assert_eq!(written["server"], world.operator.url());

    // Moved to another cluster.
    rancher.make_cluster("two").unwrap();
    rancher.manage_cluster("two", "c-m-two").unwrap();
    world.patch_inventory(&name, &json!({"clusterName": "two"})).unwrap();
    rancher.issue_token("c-m-two", "token-two").await.unwrap();
    world.inventory_condition(&name, condition_type::ASSIGNED, reason::TOKEN_ISSUED).await.unwrap();
    assert_eq!(rancher.tokens("c-m-one").unwrap(), [] as [Value; 0]);
    let join = report(&endpoint, &tpm).await.unwrap();
    assert_eq!(join.configuration.as_ref().unwrap().0["token"], "token-two");
    let news = installer::join::answer::take(&root, &join).unwrap().unwrap().to_string();
    assert!(news.starts_with("to cluster two; changed: token;"), "{news}");

    let before = world.inventories().unwrap();
    report(&endpoint, &tpm).await.unwrap();
    assert_eq!(world.inventories().unwrap(), before, "nothing new is nothing written");

    // Deleted: the token goes with the inventory.
    let object = kubectl_name::<MachineInventory>(&name);
    world.cluster.kubectl(&["delete", &object, "--namespace", NAMESPACE, "--timeout=60s"], "").unwrap();
    assert_eq!(rancher.tokens("c-m-two").unwrap(), [] as [Value; 0]);
    let log = world.operator_log().unwrap();
    assert!(!log.contains("token-one") && !log.contains("token-two"), "a token was logged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_secret_opens_while_it_is_one_machines() {
    let world = World::start("inventory-secret", json!({})).await.unwrap();
    world.create_inventory("a", json!({"machineTokenSecretName": "secret-a", "config": {"role": "server"}})).unwrap();
    world.inventory_condition("a", condition_type::SHARED_SECRET, reason::SECRET_MISSING).await.unwrap();
    let ask = async |secret: &str| ask(&world, secret).await.unwrap();
    world.apply_token_secret("secret-a", "known to one").unwrap();
    until("the secret to be known", TIMEOUT, async || {
        Ok(ask("known to one").await.map_or_else(|refusal| Poll::Pending(refusal.to_string()), Poll::Ready))
    })
    .await
    .unwrap();
    assert_eq!(ask("known to one").await, Ok(json!({"role": "server", "nodeName": "a"})));
    assert_eq!(ask("guessed").await.unwrap_err().code, RefusalCode::UnknownSecret);
    vouched(&world, "known to one").await.unwrap();
    let [inventory] = &world.inventories().unwrap()[..] else { panic!("one inventory") };
    assert_eq!(inventory["status"]["phase"], json!(Phase::Registered));

    // Without Rancher the cluster cannot be found. The condition says so, and other inventories are not affected.
    world.create_inventory("b", json!({"machineTokenSecretName": "secret-b", "clusterName": "c"})).unwrap();
    world.apply_token_secret("secret-b", "known to two").unwrap();
    world.inventory_condition("b", condition_type::ASSIGNED, reason::RANCHER_NOT_INSTALLED).await.unwrap();
    until("the machine to be known and wait for its cluster", TIMEOUT, async || {
        let refusal = ask("known to two").await.unwrap_err();
        let waits = refusal.code == RefusalCode::ClusterTokenPending;
        Ok(if waits { Poll::Ready(()) } else { Poll::Pending(refusal.to_string()) })
    })
    .await
    .unwrap();

    // Two inventories with one secret: both are refused, and both conditions say why.
    world.apply_token_secret("secret-b", "known to one").unwrap();
    world.patch_inventory("b", &json!({"config": {"role": "agent"}})).unwrap();
    for name in ["a", "b"] {
        world.inventory_condition(name, condition_type::SHARED_SECRET, reason::SECRET_NOT_UNIQUE).await.unwrap();
    }
    assert_eq!(ask("known to one").await.unwrap_err().code, RefusalCode::SecretNotUnique);
    world.cluster.kubectl(&["delete", &kubectl_name::<MachineInventory>("b"), "--namespace", NAMESPACE], "").unwrap();
    until("the secret to be one machine's again", TIMEOUT, async || {
        Ok(ask("known to one").await.map_or_else(|refusal| Poll::Pending(refusal.to_string()), Poll::Ready))
    })
    .await
    .unwrap();

    world.cluster.kubectl(&["delete", "secret/secret-a", "--namespace", NAMESPACE], "").unwrap();
    assert_eq!(ask("known to one").await.unwrap_err().code, RefusalCode::UnknownSecret, "at once");
    let log = world.operator_log().unwrap();
    assert!(!log.contains("known to") && !log.contains(&STANDARD.encode("known to one")), "a secret was logged");
}

/// The part of the answer to a report that is about joining.
async fn report(endpoint: &Endpoint, tpm: &SoftwareTpm) -> Result<Join> {
    let system = OsReport { version: "0.1.0".into(), slot: Slot::A, healthy: true, ..OsReport::default() };
    endpoint.report(tpm, system).await?.join.context("the operator says nothing of joining")
}

/// Makes the request that rancherd makes with a shared secret.
async fn ask(world: &World, secret: &str) -> Result<Result<Value, Refusal>> {
    let request = client(world).await?.get(world.operator.local_url("/v1-rancheros/inventory"));
    let response = request.header("authorization", format!("Bearer {}", STANDARD.encode(secret))).send().await?;
    let status = response.status();
    let body = response.text().await?;
    if status.is_success() {
        return Ok(Ok(serde_json::from_str(&body)?));
    }
    let refusal: Refusal = serde_json::from_str(&body).with_context(|| format!("reading a refusal: {body}"))?;
    anyhow::ensure!(refusal.code.http_status() == status.as_u16(), "{status} for {refusal}");
    Ok(Err(refusal))
}

/// Checks the operator's authority as rancherd does: `hash` in its `pkg/cacerts/cacerts.go`.
async fn vouched(world: &World, secret: &str) -> Result<()> {
    let question = STANDARD.encode(digest::digest(&digest::SHA256, secret.as_bytes()));
    let request = client(world).await?.get(world.operator.local_url("/v1-rancheros/cacerts"));
    let request = request.header("authorization", format!("Bearer {question}")).header("x-cattle-nonce", "nonce");
    let response = request.send().await?.error_for_status()?;
    let hash = response.headers().get("x-cattle-hash").context("the answer has no X-Cattle-Hash")?.to_str()?.to_owned();
    let signed = [b"nonce\0", &response.bytes().await?[..], b"\0"].concat();
    let key = hmac::Key::new(hmac::HMAC_SHA512, secret.as_bytes());
    anyhow::ensure!(hash == STANDARD.encode(hmac::sign(&key, &signed)), "another hash");
    Ok(())
}

async fn client(world: &World) -> Result<reqwest::Client> {
    let authority = reqwest::Certificate::from_pem(world.operator.ca().await?.as_bytes())?;
    Ok(reqwest::Client::builder().tls_certs_only([authority]).timeout(TIMEOUT).build()?)
}
