//! An API server with faults: watches break and cannot resume, requests are refused, slow, or answered too late. The
//! operator creates nothing twice, misses nothing, and refuses no honest machine for good.

use anyhow::{Context, Result};
use api::{MachineInventory, MachineRegistration, Phase};
use harness::clusters::registration::{NAMESPACE, Registration};
use harness::fakes::fault_proxy::{Fault, ProxiedRequest};
use harness::fakes::software_machine::{Endpoint, usual_report};
use harness::fakes::software_tpm::{KeyKind, SoftwareTpm};
use harness::lifecycle::Lifecycle;
use harness::objects::{kubectl_name, manifest};
use harness::world::World;
use kube::Resource;
use protocol::RefusalCode;
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The operator starts a failed watch again within 30 s.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How watches are lost.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// The connection breaks. The watch can resume where it was.
    Connection,
    /// The API server sends an error event: the last revision that was seen is compacted.
    GoneInEvent,
    /// It answers so in place of a watch.
    Gone,
    /// The API server restarts and etcd is compacted meanwhile, so the missed events are lost.
    Compaction,
}

#[tokio::test(flavor = "multi_thread")]
async fn events_missed_by_broken_watches_are_known_afterwards() {
    let mut world = start("faults-watches").await.unwrap();
    let tpm = SoftwareTpm::new(KeyKind::P256).unwrap();
    let mut before = register(&world, "first", &tpm).await.unwrap();
    for loss in [Loss::Connection, Loss::GoneInEvent, Loss::Gone, Loss::Compaction] {
        let broken = Arc::new(AtomicBool::new(true));
        let is_broken = broken.clone();
        let mut told = BTreeMap::<String, usize>::new();
        script(&world, move |request| {
            if !request.is_watch {
                return Fault::None;
            }
            if is_broken.load(Ordering::Relaxed) {
                return Fault::Refused(500);
            }
            let first = std::mem::replace(told.entry(request.kind.clone()).or_default(), 1) == 0;
            match loss {
                Loss::GoneInEvent if first => Fault::RefusedInEvent(410),
                Loss::Gone if first => Fault::Refused(410),
                _ => Fault::None,
            }
        });
        world.proxy.as_ref().unwrap().cut_watches();
        // The missed events: a deleted inventory and a new registration.
        let object = kubectl_name::<MachineInventory>(before["metadata"]["name"].as_str().unwrap());
        world.cluster.kubectl(&["delete", &object, "--namespace", NAMESPACE], "").unwrap();
        let name = format!("{loss:?}").to_lowercase();
        make_registration(&world, &name).unwrap();
        if matches!(loss, Loss::Compaction) {
            world.cluster.etcd().compact().await.unwrap();
            world.cluster.stop_api_server();
            world.cluster.start_api_server().await.unwrap();
        }
        broken.store(false, Ordering::Relaxed);
        let after = register(&world, &name, &tpm).await.with_context(|| format!("after {loss:?}")).unwrap();
        assert_eq!(after["metadata"]["name"], before["metadata"]["name"], "{loss:?}");
        assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"], "{loss:?}");
        before = after;
    }
    let log = world.operator_log().unwrap();
    assert!(log.contains("too old resource version"), "the API server could still tell what was missed");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_may_be_refused_twice_and_answered_too_late() {
    let mut world = World::builder("faults-writes").unwrap().faults().prepare().await.unwrap();
    let lifecycle = Lifecycle::prepare(&world.cluster, world.operator.local_url("")).await.unwrap();
    let mut seen_before = BTreeMap::<String, usize>::new();
    script(&world, move |request| {
        let times = seen_before.entry(request.to_string()).or_default();
        *times += usize::from(request.is_write());
        match times {
            1 => Fault::Refused(429),
            2 => Fault::Refused(409),
            // Controllers wait for the answer. A machine is not kept waiting for so long.
            3 if request.kind.starts_with(&*MachineInventory::plural(&())) => Fault::Late(Duration::from_secs(6)),
            _ => Fault::None,
        }
    });
    world.operator.resume().await.unwrap();
    lifecycle.run().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_takes_effect_too_late_for_its_machine_is_made_once() {
    let world = start("faults-late").await.unwrap();
    let endpoint = endpoint(&world, "first").await.unwrap();
    let tpm = SoftwareTpm::new(KeyKind::P256).unwrap();
    script(&world, |request| {
        let creates = request.method == http::Method::POST && request.kind == MachineInventory::plural(&());
        if creates { Fault::Late(Duration::from_secs(20)) } else { Fault::None }
    });
    let refusal = endpoint.register(&tpm, usual_report("SN-1")).await.unwrap_err().refusal().unwrap();
    assert_eq!((refusal.code, refusal.retry_after.is_some()), (RefusalCode::Unavailable, true), "{refusal}");
    // The inventory was created, and the watch has reported it meanwhile.
    endpoint.register(&tpm, usual_report("SN-1")).await.unwrap();
    let [inventory] = &world.inventories().unwrap()[..] else { panic!("one machine, one inventory") };
    assert_eq!(inventory["status"]["phase"], json!(Phase::Installed));
}

/// A world whose operator runs behind a proxy with faults, with a registration `first`.
async fn start(name: &str) -> Result<World> {
    let mut world = World::builder(name)?.faults().prepare().await?;
    world.operator.resume().await?;
    make_registration(&world, "first")?;
    Ok(world)
}

fn script(world: &World, script: impl FnMut(&ProxiedRequest) -> Fault + Send + 'static) {
    world.proxy.as_ref().expect("a world with faults").script(script);
}

fn make_registration(world: &World, name: &str) -> Result<()> {
    world.cluster.apply(&manifest::<MachineRegistration>(NAMESPACE, name, &json!({})))
}

/// The endpoint of a registration, when the operator has seen it.
async fn endpoint(world: &World, registration: &str) -> Result<Endpoint> {
    let registration = Registration::apply(&world.cluster, registration, json!({}))?;
    Endpoint::new(&registration.local_url(&world.operator)?, &world.operator.ca().await?)
}

/// Registers a machine, which tries again until it succeeds. Gives its inventory, which must be the only one.
async fn register(world: &World, registration: &str, tpm: &SoftwareTpm) -> Result<Value> {
    let endpoint = endpoint(world, registration).await?;
    until("the machine registered", TIMEOUT, async || {
        if let Err(error) = endpoint.register(tpm, usual_report("SN-1")).await {
            return Ok(Poll::Pending(error.to_string()));
        }
        match <[Value; 1]>::try_from(world.inventories()?) {
            Ok([inventory]) => Ok(Poll::Ready(inventory)),
            Err(inventories) => anyhow::bail!("one machine, {} inventories", inventories.len()),
        }
    })
    .await
}
