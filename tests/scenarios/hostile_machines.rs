//! Hostile machines with a leaked token, beside honest machines with another token.

use api::{MachineInventory, MachineRegistration, condition_type};
use harness::clusters::etcd;
use harness::clusters::registration::{NAMESPACE, Registration};
use harness::fakes::software_machine::{Endpoint, NoAnswer, largest_report, usual_report};
use harness::fakes::software_tpm::{KeyKind, SoftwareTpm};
use harness::objects::{condition, kubectl_name};
use harness::world::World;
use protocol::RefusalCode;
use qemu::wait::{Poll, until};
use serde_json::json;
use std::time::Duration;

/// The largest size of an inventory in etcd, in bytes.
const LARGEST: usize = 64 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn one_token_fills_its_own_share_and_nothing_else() {
    let world = World::builder("hostile").unwrap().registration(json!({}));
    let world = world.setting("ROS_MAX_MACHINES", "10").setting("ROS_EXCHANGES", "9").start().await.unwrap();
    let leaked = Registration::apply(&world.cluster, "leaked", json!({})).unwrap();
    let leaked =
        Endpoint::new(&leaked.local_url(&world.operator).unwrap(), &world.operator.ca().await.unwrap()).unwrap();
    let honest = world.endpoint().await.unwrap();

    // Exchanges stay open as long as the operator allows.
    let mut held = Vec::new();
    let full = loop {
        match leaked.connect().await {
            Ok(exchange) => held.push(exchange),
            Err(NoAnswer::Refused(refusal)) => break refusal,
            Err(error) => panic!("{error}"),
        }
    };
    // Eight of nine. More if connecting took so long that the operator closed the first ones.
    assert!(full.code == RefusalCode::Busy && held.len() >= 8, "{full} {}", held.len());
    honest.register(&SoftwareTpm::new(KeyKind::P256).unwrap(), usual_report("SN")).await.unwrap();
    drop(held);

    let mut largest = 0;
    for machine in 0..11 {
        let tpm = SoftwareTpm::new(KeyKind::P256).unwrap();
        let config = until("a place", Duration::from_secs(30), async || match come(&leaked, &tpm).await {
            Err(NoAnswer::Refused(refusal)) if refusal.code == RefusalCode::Busy => {
                Ok(Poll::Pending(refusal.to_string()))
            }
            answer => Ok(Poll::Ready(answer)),
        });
        match config.await.unwrap() {
            Ok(config) => {
                let key = etcd::key::<MachineInventory>(&config.inventory);
                largest = largest.max(world.cluster.etcd().get(&key).await.unwrap().len());
            }
            Err(error) => {
                assert_eq!((machine, error.refusal().unwrap().code), (10, RefusalCode::TooManyMachines));
            }
        }
    }
    assert!((20_000..LARGEST).contains(&largest), "{largest}");
    let stored = world.inventories().unwrap();
    let text = serde_json::to_string(&stored).unwrap();
    assert!(stored.len() == 11 && !text.contains("\\u001b") && !text.contains("\\n"), "{}", stored.len());
    until("the condition", Duration::from_secs(30), async || {
        let registration = world.cluster.get(&kubectl_name::<MachineRegistration>("leaked"), NAMESPACE)?;
        let nearly_full = condition(&registration, condition_type::NEARLY_FULL);
        Ok(if nearly_full.is_null() { Poll::Pending(registration["status"].to_string()) } else { Poll::Ready(()) })
    })
    .await
    .unwrap();
    honest.register(&SoftwareTpm::new(KeyKind::P256).unwrap(), usual_report("SN")).await.unwrap();
}

/// A whole exchange with the largest report.
async fn come(endpoint: &Endpoint, tpm: &SoftwareTpm) -> Result<protocol::message::Config, NoAnswer> {
    endpoint.register(tpm, largest_report()).await
}
