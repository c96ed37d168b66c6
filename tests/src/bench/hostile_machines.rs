//! Hostile machines with one token send the largest report, beside honest machines with another token. The operator has
//! its defaults, and the honest registration has many inventories already.

use super::figure::{Figure, Sample};
use super::population::{populate, stored_size};
use super::process_cost::{resident_memory, wait_until_idle};
use super::registrations::registration_spec;
use super::round::Run;
use crate::clusters::registration::Registration;
use crate::fakes::software_machine::{Endpoint, NoAnswer, largest_report, usual_report};
use crate::fakes::software_tpm::{KeyKind, SoftwareTpm};
use crate::world::World;
use anyhow::{Context, Result};
use protocol::RefusalCode;
use protocol::message::Config;
use qemu::wait::{Poll, until};
use serde_json::json;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Honest machines, and how many of them register at once.
const HONEST: usize = 200;
const HONEST_PARALLEL: usize = 4;
/// Hostile machines at once: more than the operator has permits.
const HOSTILE_PARALLEL: usize = 300;
/// How long a refused hostile machine waits.
const IMPATIENCE: Duration = Duration::from_millis(200);
/// Honest inventories that exist before.
const FULL: usize = 10_000;
/// The chart's memory limit, in MiB.
const MEMORY_LIMIT: f64 = 256.0;
const MIB: f64 = 1048576.0;

static TAKEN_IN: Figure = Figure::new("hostile-taken-in", "hostile machines that were taken in", "").at_most(10_000.0);
static SIZE: Figure = Figure::new("hostile-size", "a hostile machine's inventory in etcd", "KiB").at_most(64.0);
static MEMORY: Figure =
    Figure::new("hostile-memory", "operator's memory at its highest, hostile machines", "MiB").at_most(MEMORY_LIMIT);
static FAILURES: Figure =
    Figure::new("hostile-honest-failures", "honest machines beside hostile ones: failures", "").at_most(0.0);
static TAIL: Figure =
    Figure::new("hostile-honest-p99", "honest machines beside hostile ones: one exchange, 99 of 100", "ms")
        .at_most(5000.0);
static RESTART: Figure =
    Figure::new("hostile-restart", "restart until everything is read, hostile machines", "s").at_most(20.0);
static RESTART_MEMORY: Figure =
    Figure::new("hostile-restart-memory", "operator's memory at its highest after that restart", "MiB")
        .at_most(MEMORY_LIMIT);

pub static FIGURES: &[&Figure] = &[&TAKEN_IN, &SIZE, &MEMORY, &FAILURES, &TAIL, &RESTART, &RESTART_MEMORY];

/// One run with this many hostile machines.
pub async fn measure(hostile: usize) -> Result<Vec<Sample>> {
    let mut spec = registration_spec();
    spec["maxMachines"] = json!(10 * FULL);
    let mut world = World::start("bench-hostile", spec).await?;
    let leaked = Registration::apply(&world.cluster, "leaked", registration_spec())?;
    let leaked = Endpoint::new(&leaked.local_url(&world.operator)?, &world.operator.ca().await?)?;
    let honest = world.endpoint().await?;
    let machines = |count: usize| (0..count).map(|_| SoftwareTpm::new(KeyKind::P256)).collect::<Result<Vec<_>>>();
    let first = honest.register(&SoftwareTpm::new(KeyKind::P256)?, usual_report("FIRST")).await?;
    let etcd = world.cluster.etcd();
    populate(&etcd, name_of(&first)?, 0..FULL).await?;
    wait_until_idle(world.operator.pid()?).await?;

    let (members, crowd) = (machines(HONEST)?, machines(hostile)?);
    let (taken_in, inventory) = (AtomicUsize::new(0), OnceLock::new());
    let press = async |tpm: &SoftwareTpm| {
        if let Some(config) = press(&leaked, tpm).await {
            taken_in.fetch_add(1, Ordering::Relaxed);
            inventory.get_or_init(|| config);
        }
        Ok(())
    };
    let served = async {
        until("the hostile machines", Duration::from_secs(60), async || {
            let begun = taken_in.load(Ordering::Relaxed);
            Ok(if begun >= HOSTILE_PARALLEL.min(hostile) / 2 {
                Poll::Ready(())
            } else {
                Poll::Pending(format!("{begun}"))
            })
        })
        .await?;
        let register = async |tpm: &SoftwareTpm| Ok(honest.register(tpm, usual_report("SN")).await.map(drop)?);
        anyhow::Ok(Run::take(&members, HONEST_PARALLEL, register).await)
    };
    let (_, served) = tokio::join!(Run::take(&crowd, HOSTILE_PARALLEL, press), served);
    let served = served?;
    if let Some(first) = served.failures.first() {
        eprintln!("  {} honest machines failed; the first: {first}", served.failures.len());
    }
    let inventory = inventory.get().context("no hostile machine was taken in")?;
    let size = stored_size(&etcd, name_of(inventory)?).await?;
    wait_until_idle(world.operator.pid()?).await?;
    let [_, highest] = resident_memory(world.operator.pid()?)?;

    world.operator.kill();
    let begun = Instant::now();
    world.operator.resume().await?;
    let read = begun.elapsed();
    let [_, highest_again] = resident_memory(world.operator.pid()?)?;
    Ok(vec![
        TAKEN_IN.is(taken_in.load(Ordering::Relaxed) as f64),
        SIZE.is(size as f64 / 1024.0),
        MEMORY.is(highest as f64 / MIB),
        FAILURES.is(served.failures.len() as f64),
        TAIL.is(served.latency(0.99)?),
        RESTART.is(read.as_secs_f64()),
        RESTART_MEMORY.is(highest_again as f64 / MIB),
    ])
}

/// Tries until the machine is registered, or until the registration is full (`None`). Ignores `retry_after`.
async fn press(endpoint: &Endpoint, tpm: &SoftwareTpm) -> Option<Config> {
    loop {
        let begin = async {
            let mut exchange = endpoint.connect().await?;
            exchange.prove(tpm).await?;
            exchange.ask_for_config(largest_report()).await
        };
        match begin.await {
            Ok(config) => return Some(config),
            Err(NoAnswer::Refused(refusal)) if refusal.code == RefusalCode::TooManyMachines => return None,
            Err(_) => tokio::time::sleep(IMPATIENCE).await,
        }
    }
}

fn name_of(config: &Config) -> Result<&str> {
    let (_, name) = config.inventory.split_once('/').context("an inventory without a namespace")?;
    Ok(name)
}
