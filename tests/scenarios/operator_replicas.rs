//! Two replicas of the operator: both serve machines, one runs the controllers, and either may end at any time.

use anyhow::{Context, Result};
use api::MachineRegistration;
use futures::StreamExt;
use harness::clusters::operator::{NAMESPACE, Operator};
use harness::clusters::registration::Registration;
use harness::fakes::software_machine::{Endpoint, NoAnswer, usual_report};
use harness::fakes::software_tpm::{KeyKind, SoftwareTpm};
use harness::objects::kubectl_name;
use harness::world::World;
use qemu::wait::{Poll, until};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const MACHINES: usize = 80;
const PARALLEL: usize = 16;
/// From a leader's kill to its successor's start, with a reserve for a busy host.
const TAKEN_OVER: Duration = Duration::from_secs(25);
/// Another replica finds a released Lease within 2 s.
const HANDED_OVER: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_leader_in_a_herd_loses_nothing_and_doubles_nothing() {
    let spec = json!({"machineName": "${System Information/Serial Number}-", "cloudConfig": {"hostname": "edge"}});
    let mut world = World::start("leader-killed", spec).await.unwrap();
    leads(&world, &world.operator, TAKEN_OVER).await.unwrap();
    let second = world.operator.start_replica(&world.folder("second").unwrap()).await.unwrap();
    let authority = world.operator.ca().await.unwrap();
    let endpoints = [&world.operator, &second].map(|operator| {
        let url = world.registration().local_url(operator).unwrap();
        Endpoint::new(&url, &authority).unwrap()
    });

    let machines: Vec<(String, SoftwareTpm)> =
        (0..MACHINES).map(|number| (format!("SN{number:03}"), SoftwareTpm::new(KeyKind::P256).unwrap())).collect();
    let registered = AtomicUsize::new(0);
    let herd = futures::stream::iter(&machines).map(async |(serial, tpm)| {
        let name = register_anywhere(&endpoints, tpm, serial).await.unwrap();
        registered.fetch_add(1, Ordering::Relaxed);
        name
    });
    let herd = herd.buffer_unordered(PARALLEL).collect::<BTreeSet<String>>();
    let killing = async {
        until("a quarter of the herd", Duration::from_secs(60), async || {
            let registered = registered.load(Ordering::Relaxed);
            Ok(if registered < MACHINES / 4 { Poll::Pending(registered.to_string()) } else { Poll::Ready(()) })
        })
        .await
        .unwrap();
        world.operator.kill();
        Instant::now()
    };
    let (names, killed) = futures::join!(herd, killing);
    assert_eq!(names.len(), MACHINES, "each machine was told of an inventory of its own");

    leads(&world, &second, TAKEN_OVER).await.unwrap();
    eprintln!("the second replica leads {:.1} s after the first was killed", killed.elapsed().as_secs_f64());
    let inventories = world.inventories().unwrap();
    let hashes: BTreeSet<&str> = inventories.iter().filter_map(|each| each["spec"]["tpmHash"].as_str()).collect();
    assert_eq!((inventories.len(), hashes.len()), (MACHINES, MACHINES));
    // The remaining replica runs the controllers.
    Registration::apply(&world.cluster, "another", json!({})).unwrap();
    counted(&world, MACHINES).await.unwrap();

    // A replica that is stopped releases the Lease, so the other one need not wait until it expires.
    world.operator.resume().await.unwrap();
    let mut second = second;
    second.stop();
    leads(&world, &world.operator, HANDED_OVER).await.unwrap();
    Registration::apply(&world.cluster, "third", json!({})).unwrap();
}

/// Registers as a machine with several addresses does: at the first one that answers. A refusal is an error.
async fn register_anywhere(endpoints: &[Endpoint], tpm: &SoftwareTpm, serial: &str) -> Result<String> {
    let what = format!("machine {serial} registered");
    until(&what, Duration::from_secs(60), async || {
        let mut last = String::new();
        for endpoint in endpoints {
            match endpoint.register(tpm, usual_report(serial)).await {
                Ok(config) => return Ok(Poll::Ready(config.inventory)),
                Err(NoAnswer::Broken(error)) => last = format!("{error:#}"),
                Err(NoAnswer::Refused(refusal)) => return Err(refusal.into()),
            }
        }
        Ok(Poll::Pending(last))
    })
    .await
}

/// Waits until this replica holds the Lease.
async fn leads(world: &World, operator: &Operator, limit: Duration) -> Result<()> {
    let what = format!("replica {} leads", operator.replica());
    until(&what, limit, async || {
        let path = "--output=jsonpath={.spec.holderIdentity}";
        let holder = world
            .cluster
            .kubectl(&["get", "--ignore-not-found", "lease", "ros-operator", "-n", NAMESPACE, path], "")?;
        Ok(if holder.starts_with(&operator.replica()) { Poll::Ready(()) } else { Poll::Pending(holder) })
    })
    .await
}

/// Waits until the registration's status counts this many machines, which shows that its controller runs.
async fn counted(world: &World, machines: usize) -> Result<()> {
    let path = format!("jsonpath={{.status.machines}}={machines}");
    let wait = ["wait", "--timeout=30s", &kubectl_name::<MachineRegistration>("edge"), "--for", &path];
    world
        .cluster
        .kubectl(&[&wait[..], &["-n", harness::clusters::registration::NAMESPACE]].concat(), "")
        .context("waiting for status.machines")?;
    Ok(())
}
