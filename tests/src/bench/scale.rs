//! The operator with a large fleet: a herd of machines at once, then 10,000 and 50,000 inventories. What they cost in
//! memory and for each registration, and how long a restart takes with them.

use super::figure::{Figure, Sample};
use super::population::populate;
use super::process_cost::{processor_time, resident_memory, until_still, wait_until_idle};
use super::registrations::registration_spec;
use super::round::Round;
use crate::clusters::registration::NAMESPACE;
use crate::fakes::software_machine::{Endpoint, Exchange, usual_report};
use crate::fakes::software_tpm::{KeyKind, SoftwareTpm, Vendor};
use crate::world::World;
use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use qemu::wait::{Poll, until};
use std::time::{Duration, Instant};

/// Machines of the herd, and how many of them register at once.
const HERD: usize = 2_000;
const HERD_PARALLEL: usize = 200;
/// Machines that register for the comparison of costs, and how many at once.
const SAMPLE: usize = 600;
const SAMPLE_PARALLEL: usize = 16;
/// Sizes of the inventory.
const SOME: usize = 10_000;
const MANY: usize = 50_000;
/// How long the idle operator is measured.
const IDLE: Duration = Duration::from_secs(60);
/// The operator's counter of its requests to the API server.
const REQUESTS: &str = "rancheros_api_request_seconds_count{";
/// The label of requests that write events.
const EVENTS: &str = r#"resource="events""#;
const MIB: f64 = 1048576.0;

static IDLE_MEMORY: Figure = Figure::new("idle-memory", "operator's memory, idle", "MiB").at_most(40.0);
static HERD_FAILURES: Figure = Figure::new("herd-failures", "2,000 machines, 200 at once: failures", "").at_most(0.0);
static HERD_TAIL: Figure =
    Figure::new("herd-p99", "2,000 machines, 200 at once: one exchange, 99 of 100", "ms").at_most(2000.0);
static HERD_MEMORY: Figure = Figure::new("herd-memory", "operator's memory at its highest, herd", "MiB").at_most(96.0);
static SOME_MEMORY: Figure = Figure::new("memory-10k", "operator's memory, 10,000 inventories", "MiB").at_most(64.0);
static MANY_MEMORY: Figure = Figure::new("memory-50k", "operator's memory, 50,000 inventories", "MiB").at_most(200.0);
static NEW_CPU: Figure =
    Figure::new("new-cpu-50k", "operator's processor time for a new machine, 50,000 inventories", "ms").at_most(1.5);
static AGAIN_CPU: Figure =
    Figure::new("again-cpu-50k", "operator's processor time for a known machine, 50,000 inventories", "ms")
        .at_most(1.5);
static IDLE_CPU: Figure =
    Figure::new("idle-cpu-50k", "operator's processor time, idle, 50,000 inventories", "% of a core").at_most(1.0);
static IDLE_REQUESTS: Figure =
    Figure::new("idle-requests-50k", "operator's API requests, idle, 50,000 inventories", "/s").at_most(1.0);
static INSTALLING_MEMORY: Figure =
    Figure::new("installing-memory-50k", "operator's memory, 2,000 machines installing, 50,000 inventories", "MiB");
static RESTART: Figure =
    Figure::new("restart-50k", "restart until everything is read, 50,000 inventories", "s").at_most(10.0);
static FIRST_SERVED: Figure =
    Figure::new("restart-first-50k", "restart until a new machine has its configuration, 50,000 inventories", "s")
        .at_most(10.0);
static RESTART_MEMORY: Figure =
    Figure::new("restart-memory-50k", "operator's memory at its highest after a restart, 50,000 inventories", "MiB");

pub static FIGURES: &[&Figure] = &[
    &IDLE_MEMORY,
    &HERD_FAILURES,
    &HERD_TAIL,
    &HERD_MEMORY,
    &SOME_MEMORY,
    &MANY_MEMORY,
    &NEW_CPU,
    &AGAIN_CPU,
    &IDLE_CPU,
    &IDLE_REQUESTS,
    &INSTALLING_MEMORY,
    &RESTART,
    &FIRST_SERVED,
    &RESTART_MEMORY,
];

/// One run, with a cluster and an operator of its own.
pub async fn measure() -> Result<Vec<Sample>> {
    // All machines use one registration, so it must have no limit.
    let world = World::builder("bench-scale")?.registration(registration_spec());
    let mut world = world.setting("ROS_MAX_MACHINES", "0").start().await?;
    let (client, endpoint) = (world.cluster.client().await?, world.endpoint().await?);
    let vendor = Vendor::new("TPM works")?;
    let machines = |prefix: &str, count: usize| -> Result<Vec<Machine>> {
        (0..count).map(|number| Machine::new(format!("{prefix}{number:06}"), &vendor)).collect()
    };
    let register = async |machine: &Machine| machine.register(&endpoint).await;
    let pid = world.operator.pid()?;
    wait_until_idle(pid).await?;
    let mut samples = vec![IDLE_MEMORY.is(memory_now(pid)?)];

    let members = machines("HERD", HERD)?;
    let herd = Round::take(&client, pid, &members, HERD_PARALLEL, register).await?;
    if let Some(first) = herd.run.failures.first() {
        eprintln!("  {} of the herd failed; the first: {first}", herd.run.failures.len());
    }
    let [_, highest] = resident_memory(pid)?;
    samples.push(HERD_FAILURES.is(herd.run.failures.len() as f64));
    samples.push(HERD_TAIL.is(herd.run.latency(0.99)?));
    samples.push(HERD_MEMORY.is(highest as f64 / MIB));

    let etcd = world.cluster.etcd();
    let original =
        world.inventories()?.first().and_then(|object| Some(object["metadata"]["name"].as_str()?.to_owned()));
    let original = original.context("the herd left no inventory")?;
    populate(&etcd, &original, 0..SOME - HERD).await?;
    wait_until_read(&world, SOME).await?;
    samples.push(SOME_MEMORY.is(memory_now(pid)?));
    populate(&etcd, &original, SOME - HERD..MANY - HERD).await?;
    wait_until_read(&world, MANY).await?;
    samples.push(MANY_MEMORY.is(memory_now(pid)?));

    let sample = machines("SN", SAMPLE)?;
    let new = Round::take(&client, pid, &sample, SAMPLE_PARALLEL, register).await?;
    samples.push(NEW_CPU.is(new.processor_per_success()));
    let again = Round::take(&client, pid, &sample, SAMPLE_PARALLEL, register).await?;
    samples.push(AGAIN_CPU.is(again.processor_per_success()));

    wait_until_told(&world).await?;
    let (processor, before) = (processor_time(pid)?, world.operator.metrics().await?);
    tokio::time::sleep(IDLE).await;
    let (processor, after) = (processor_time(pid)? - processor, world.operator.metrics().await?);
    samples.push(IDLE_CPU.is(100.0 * processor.as_secs_f64() / IDLE.as_secs_f64()));
    for line in after.lines().filter(|line| line.starts_with(REQUESTS) && !before.contains(*line)) {
        eprintln!("  while idle, in all: {}", line.trim_start_matches(REQUESTS));
    }
    samples.push(IDLE_REQUESTS.is((sum(&after, REQUESTS) - sum(&before, REQUESTS)) / IDLE.as_secs_f64()));

    samples.push(INSTALLING_MEMORY.is(memory_while_installing(pid, &endpoint, &members).await?));

    samples.extend(restart(&mut world, &Machine::new("LATE".to_owned(), &vendor)?).await?);
    Ok(samples)
}

/// Kills and starts the operator. A new machine tries to register from the moment of the start.
async fn restart(world: &mut World, late: &Machine) -> Result<Vec<Sample>> {
    let endpoint = world.endpoint().await?;
    world.operator.kill();
    let begun = Instant::now();
    let served = async {
        until("a new machine's configuration", Duration::from_secs(60), async || {
            Ok(match late.register(&endpoint).await {
                Ok(()) => Poll::Ready(begun.elapsed()),
                Err(error) => Poll::Pending(format!("{error:#}")),
            })
        })
        .await
    };
    let (served, resumed) = tokio::join!(served, world.operator.resume());
    resumed?;
    let read = begun.elapsed();
    let [_, highest] = resident_memory(world.operator.pid()?)?;
    Ok(vec![
        RESTART.is(read.as_secs_f64()),
        FIRST_SERVED.is(served?.as_secs_f64()),
        RESTART_MEMORY.is(highest as f64 / MIB),
    ])
}

/// A machine with its serial number.
struct Machine {
    serial: String,
    tpm: SoftwareTpm,
}

impl Machine {
    fn new(serial: String, vendor: &Vendor) -> Result<Self> {
        Ok(Self { serial, tpm: SoftwareTpm::new(KeyKind::P256)?.certified_by(vendor)? })
    }

    async fn register(&self, endpoint: &Endpoint) -> Result<()> {
        endpoint.register(&self.tpm, usual_report(&self.serial)).await?;
        Ok(())
    }

    /// Registers up to the configuration, with which an installation would begin. The exchange stays open.
    async fn begin(&self, endpoint: &Endpoint) -> Result<Exchange> {
        let mut exchange = endpoint.connect().await?;
        exchange.prove(&self.tpm).await?;
        exchange.ask_for_config(usual_report(&self.serial)).await?;
        Ok(exchange)
    }
}

/// The memory while all machines hold the connection on which they would report progress.
async fn memory_while_installing(pid: u32, endpoint: &Endpoint, machines: &[Machine]) -> Result<f64> {
    let begin = stream::iter(machines).map(|machine| machine.begin(endpoint)).buffer_unordered(HERD_PARALLEL);
    let exchanges: Vec<Exchange> = begin.try_collect().await.context("beginning an installation")?;
    wait_until_idle(pid).await?;
    let memory = memory_now(pid)?;
    drop(exchanges);
    wait_until_idle(pid).await?;
    Ok(memory)
}

fn memory_now(pid: u32) -> Result<f64> {
    let [now, _] = resident_memory(pid)?;
    Ok(now as f64 / MIB)
}

/// Waits until the operator knows this many inventories and is idle.
async fn wait_until_read(world: &World, count: usize) -> Result<()> {
    until(&format!("{count} inventories in {NAMESPACE} known"), Duration::from_secs(300), async || {
        let known = sum(&world.operator.metrics().await?, "rancheros_machine_inventories{");
        Ok(if known >= count as f64 { Poll::Ready(()) } else { Poll::Pending(format!("{known} known")) })
    })
    .await?;
    wait_until_idle(world.operator.pid()?).await
}

/// Waits until the last event is written. The operator writes a few events a second, which cost too little processor
/// time to count as work.
async fn wait_until_told(world: &World) -> Result<()> {
    until_still("the last event", "events", 0.0, async || {
        let metrics = world.operator.metrics().await?;
        Ok(metrics.lines().filter(|line| line.contains(EVENTS)).map(|line| sum(line, REQUESTS)).sum())
    })
    .await
}

/// The sum of all series whose name begins so.
fn sum(metrics: &str, series: &str) -> f64 {
    let values = metrics.lines().filter(|line| line.starts_with(series));
    values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}
