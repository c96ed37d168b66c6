//! Many machines in memory that upgrade themselves (`engine: Machine`): how long the operator takes to tell them all, and
//! what it costs. A machine runs the release with the report after the one in whose answer it was told.

use super::figure::{Figure, Sample};
use super::process_cost::{resident_memory, wait_until_idle};
use super::registrations::registration_spec;
use super::round::{Round, Run};
use crate::fakes::software_machine::{Endpoint, usual_report};
use crate::fakes::software_tpm::{KeyKind, SoftwareTpm, Vendor};
use crate::world::World;
use anyhow::{Result, bail};
use api::reason;
use protocol::message::OsReport;
use protocol::{UpgradeOrder, UpgradeReport};
use serde_json::json;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const MACHINES: usize = 10_000;
/// Machines that may be told and not be done.
const CONCURRENCY: usize = 500;
/// Exchanges at once.
const PARALLEL: usize = 16;
const TIMEOUT: Duration = Duration::from_secs(1800);
const OS_IMAGE: &str = "fleet";
const MIB: f64 = 1048576.0;

static TIME: Figure = Figure::new("fleet-upgrade-time", "10,000 machines upgrade themselves, 500 at once", "s");
static WRITES: Figure =
    Figure::new("fleet-upgrade-writes", "writes of inventories for a machine that upgrades itself", "").at_most(6.0);
static PROCESSOR: Figure =
    Figure::new("fleet-upgrade-cpu", "operator's processor time for a machine that upgrades itself", "ms");
static MEMORY: Figure =
    Figure::new("fleet-upgrade-memory", "operator's memory at its highest, 10,000 machines upgrade themselves", "MiB");

pub static FIGURES: &[&Figure] = &[&TIME, &WRITES, &PROCESSOR, &MEMORY];

/// One run, with a cluster and an operator of its own.
pub async fn measure() -> Result<Vec<Sample>> {
    let world = World::builder("bench-self-upgrades")?.registration(registration_spec());
    let world = world.setting("ROS_MAX_MACHINES", "0").start().await?;
    let (client, endpoint) = (world.cluster.client().await?, world.endpoint().await?);
    let vendor = Vendor::new("TPM works")?;
    let machines = (0..MACHINES).map(|number| Machine::new(number, &vendor)).collect::<Result<Vec<_>>>()?;
    let registered = Run::take(&machines, PARALLEL, async |machine| machine.register(&endpoint).await).await;
    no_failures(&registered)?;
    let pid = world.operator.pid()?;
    wait_until_idle(pid).await?;

    let image = json!({"engine": "Machine", "osImage": "registry.example.org/os:2", "concurrency": CONCURRENCY});
    let begun = Instant::now();
    let whole = Round::take(&client, pid, &[()], 1, async |()| {
        world.apply_os_image(OS_IMAGE, &image)?;
        all_report_until_done(&machines, &endpoint, pid).await?;
        world.os_image_with_reason(OS_IMAGE, reason::UPGRADED, TIMEOUT).await.map(drop)
    })
    .await?;
    no_failures(&whole.run)?;
    let [_, highest] = resident_memory(pid)?;
    Ok(vec![
        TIME.is(begun.elapsed().as_secs_f64()),
        WRITES.is(whole.writes_per_success() / MACHINES as f64),
        PROCESSOR.is(whole.processor_per_success() / MACHINES as f64),
        MEMORY.is(highest as f64 / MIB),
    ])
}

/// Machines report one round after the other. Before the next round the operator ends its work, as it does between the
/// reports of real machines.
async fn all_report_until_done(machines: &[Machine], endpoint: &Endpoint, pid: u32) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let waiting: Vec<&Machine> = machines.iter().filter(|machine| !machine.is_done()).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("{} of {} machines were not upgraded within {} s", waiting.len(), MACHINES, TIMEOUT.as_secs());
        }
        let reported = Run::take(&waiting, PARALLEL, async |machine| machine.report(endpoint).await).await;
        no_failures(&reported)?;
        wait_until_idle(pid).await?;
    }
}

fn no_failures(run: &Run) -> Result<()> {
    match run.failures.first() {
        Some(first) => bail!("{} failed; the first: {first}", run.failures.len()),
        None => Ok(()),
    }
}

/// A machine in memory.
struct Machine {
    serial: String,
    tpm: SoftwareTpm,
    state: Mutex<State>,
}

#[derive(Clone, Default)]
struct State {
    order: Option<UpgradeOrder>,
    /// It has reported that it runs the release.
    is_done: bool,
}

impl Machine {
    fn new(number: usize, vendor: &Vendor) -> Result<Self> {
        let tpm = SoftwareTpm::new(KeyKind::P256)?.certified_by(vendor)?;
        Ok(Self { serial: format!("SELF{number:06}"), tpm, state: Mutex::default() })
    }

    async fn register(&self, endpoint: &Endpoint) -> Result<()> {
        endpoint.register(&self.tpm, usual_report(&self.serial)).await?;
        self.report(endpoint).await
    }

    async fn report(&self, endpoint: &Endpoint) -> Result<()> {
        let order = self.state().order.clone();
        let version = if order.is_some() { "2" } else { "1" };
        let report = OsReport {
            version: version.to_owned(),
            healthy: true,
            upgrade: Some(UpgradeReport { order: order.clone(), failure: None }),
            ..OsReport::default()
        };
        let answer = endpoint.report(&self.tpm, report).await?;
        let mut state = self.state();
        state.is_done = order.is_some();
        state.order = answer.upgrade.or(order);
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.state().is_done
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
