//! The operator under load: machines with TPMs in memory register over the whole exchange, against a real API server,
//! first as new and then as known machines. The yardstick is the API server alone: bare creates of the same objects.

use super::figure::{Figure, Sample};
use super::process_cost::{resident_memory, wait_until_idle};
use super::round::{Round, Run};
use crate::clusters::registration::NAMESPACE;
use crate::fakes::software_machine::usual_report;
use crate::fakes::software_tpm::{KeyKind, SoftwareTpm, Vendor};
use crate::world::World;
use anyhow::{Context, Result, bail};
use api::MachineInventory;
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::core::ApiResource;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

/// The load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Machines that register.
    pub machines: usize,
    /// Machines that register at the same time.
    pub parallel: usize,
    /// A P-256 endorsement key costs the operator more than an RSA key (twice the time for a challenge), and the load
    /// generator less. Both share the processors.
    pub endorsement_keys: KeyKind,
}

const CREATES: &str = "bare creates of the same object";
static NEW_RATE: Figure =
    Figure::new("registrations-new", "registrations of new machines", "/s").at_least(150.0).yardstick(CREATES);
static NEW_MEDIAN: Figure =
    Figure::new("registration-new-p50", "one registration of a new machine, median", "ms").yardstick(CREATES);
static NEW_TAIL: Figure =
    Figure::new("registration-new-p99", "one registration of a new machine, 99 of 100", "ms").yardstick(CREATES);
static NEW_CPU: Figure =
    Figure::new("registration-new-cpu", "operator's processor time for a new machine", "ms").at_most(1.5);
static NEW_WRITES: Figure =
    Figure::new("registration-new-writes", "writes of inventories for a new machine", "").at_most(2.0);
static NEW_OTHER_WRITES: Figure =
    Figure::new("registration-other-writes", "other writes meanwhile: events, lease", "/s");
static AGAIN_RATE: Figure = Figure::new("registrations-again", "registrations of known machines", "/s").at_least(300.0);
static AGAIN_MEDIAN: Figure =
    Figure::new("registration-again-p50", "one registration of a known machine, median", "ms");
static AGAIN_TAIL: Figure =
    Figure::new("registration-again-p99", "one registration of a known machine, 99 of 100", "ms");
static AGAIN_CPU: Figure =
    Figure::new("registration-again-cpu", "operator's processor time for a known machine", "ms").at_most(1.5);
static AGAIN_WRITES: Figure =
    Figure::new("registration-again-writes", "writes of inventories for a known machine", "").at_most(0.0);
static FAILURES: Figure = Figure::new("registration-failures", "registrations that failed", "").at_most(0.0);
static MEMORY: Figure = Figure::new("operator-memory", "operator's memory at its highest", "MiB");

pub static FIGURES: &[&Figure] = &[
    &NEW_RATE,
    &NEW_MEDIAN,
    &NEW_TAIL,
    &NEW_CPU,
    &NEW_WRITES,
    &NEW_OTHER_WRITES,
    &AGAIN_RATE,
    &AGAIN_MEDIAN,
    &AGAIN_TAIL,
    &AGAIN_CPU,
    &AGAIN_WRITES,
    &FAILURES,
    &MEMORY,
];

/// One run, with a cluster and an operator of its own.
pub async fn measure(load: &Load) -> Result<Vec<Sample>> {
    let mut world = World::start("bench-registrations", registration_spec()).await?;
    let (client, endpoint) = (world.cluster.client().await?, world.endpoint().await?);
    let vendor = Vendor::new("TPM works")?;
    let machines: Vec<(String, SoftwareTpm)> = (0..load.machines)
        .map(|number| Ok((format!("SN{number:06}"), SoftwareTpm::new(load.endorsement_keys)?.certified_by(&vendor)?)))
        .collect::<Result<_>>()?;
    let pid = world.operator.pid()?;

    let register = async |(serial, tpm): &(String, SoftwareTpm)| {
        endpoint.register(tpm, usual_report(serial)).await?;
        Ok(())
    };
    wait_until_idle(pid).await?;
    let new = Round::take(&client, pid, &machines, load.parallel, register).await?;
    let again = Round::take(&client, pid, &machines, load.parallel, register).await?;
    let [_, highest] = resident_memory(pid)?;
    let failures: Vec<&String> = [&new, &again].into_iter().flat_map(|round| &round.run.failures).collect();
    if let Some(first) = failures.first() {
        eprintln!("  {} registrations failed; the first: {first}", failures.len());
    }

    world.operator.stop();
    let bare = bare_creates(&client, load).await?;
    Ok(vec![
        NEW_RATE.beside(new.run.rate(), bare.rate()),
        NEW_MEDIAN.beside(new.run.latency(0.5)?, bare.latency(0.5)?),
        NEW_TAIL.beside(new.run.latency(0.99)?, bare.latency(0.99)?),
        NEW_CPU.is(new.processor_per_success()),
        NEW_WRITES.is(new.writes_per_success()),
        NEW_OTHER_WRITES.is(new.other_writes_per_second()),
        AGAIN_RATE.is(again.run.rate()),
        AGAIN_MEDIAN.is(again.run.latency(0.5)?),
        AGAIN_TAIL.is(again.run.latency(0.99)?),
        AGAIN_CPU.is(again.processor_per_success()),
        AGAIN_WRITES.is(again.writes_per_success()),
        FAILURES.is(failures.len() as f64),
        MEMORY.is(highest as f64 / f64::from(1 << 20)),
    ])
}

/// A registration of usual size.
pub fn registration_spec() -> Value {
    json!({
        "machineName": "${System Information/Serial Number}-",
        "machineInventoryLabels": {"location": "lab", "serial": "${System Information/Serial Number}"},
        "cloudConfig": {
            "hostname": "bench",
            "users": [{"name": "admin", "ssh_authorized_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMq bench"]}],
            "write_files": [{"path": "/etc/motd", "content": "measured\n".repeat(40)}],
        },
    })
}

/// Creates as many objects as there were machines, without any watch: copies of one that the operator created, each
/// with its own name and identity.
async fn bare_creates(client: &kube::Client, load: &Load) -> Result<Run> {
    let resource = ApiResource::erase::<MachineInventory>(&());
    let inventories: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &resource);
    let made = inventories.list(&ListParams::default().limit(1)).await.context("listing machine inventories")?;
    let template = made.items.into_iter().next().context("the operator made no machine inventory")?;
    let copies: Vec<DynamicObject> = (0..load.machines)
        .map(|number| {
            let mut copy = DynamicObject::new("", &resource);
            copy.metadata.name = Some(format!("bare-{number:06}"));
            copy.metadata.labels = template.metadata.labels.clone();
            copy.metadata.annotations = Some(template.annotations().clone());
            copy.data = json!({"spec": template.data["spec"]});
            copy.data["spec"]["tpmHash"] = json!(format!("{number:064x}"));
            copy
        })
        .collect();
    let run = Run::take(&copies, load.parallel, async |copy| {
        inventories.create(&PostParams::default(), copy).await.context("creating an object")?;
        Ok(())
    })
    .await;
    match run.failures.first() {
        None => Ok(run),
        Some(failure) => bail!("{} of the bare creates failed; the first: {failure}", run.failures.len()),
    }
}
