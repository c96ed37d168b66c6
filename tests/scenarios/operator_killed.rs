//! The operator is killed before and after each of its writes, and at each step of an exchange.

use anyhow::{Context, Result};
use api::Phase;
use harness::clusters::operator::{NAMESPACE, Operator};
use harness::fakes::fault_proxy::{Fault, FaultProxy, ProxiedRequest};
use harness::fakes::software_machine::{Endpoint, Exchange, NoAnswer, usual_report};
use harness::fakes::software_tpm::{KeyKind, SoftwareTpm};
use harness::lifecycle::Lifecycle;
use harness::world::World;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::DeleteParams;
use protocol::FromMachine;
use protocol::message::{Done, InstallPhase, Progress};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// The operator must be killed at least at these writes, which shows that the whole lifecycle ran. It is also killed at
/// new writes that are not listed here. The list is written out, because it says what goes over the wire.
const WRITES: [&str; 14] = [
    "POST secrets",
    "POST leases",
    "PATCH machineregistrations/status",
    "POST machineinventories",
    "PATCH machineinventories/status Registered",
    "PATCH machineinventories/status Installing",
    "PATCH machineinventories/status Installed",
    "PATCH machineinventories/status Ready",
    "POST clusterregistrationtokens",
    "PATCH bundles",
    "PATCH managedosimages",
    "PATCH managedosimages/status",
    "PATCH plans",
    "DELETE clusterregistrationtokens",
];

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_and_after_every_write_it_makes_nothing_twice_and_loses_nothing() {
    let world = World::builder("killed-at-writes").unwrap().faults().prepare().await.unwrap();
    let (operator, proxy, cluster) = (world.operator, world.proxy.unwrap(), world.cluster);
    let lifecycle = Lifecycle::prepare(&cluster, operator.local_url("")).await.unwrap();

    let killed_at = Arc::<Mutex<BTreeMap<String, usize>>>::default();
    let script = killed_at.clone();
    proxy.script(move |request| stop_each_write_twice(&mut script.lock().unwrap(), request));
    let client = cluster.client().await.unwrap();
    let (finished, end) = oneshot::channel();
    // The kills run on a separate thread, because the lifecycle blocks its thread while it waits for kubectl.
    let killing = tokio::task::spawn_blocking(|| {
        Handle::current().block_on(async {
            tokio::select! {
                ended = kill_and_start(operator, proxy, client) => ended,
                _ = end => Ok(()),
            }
        })
    });
    let told = lifecycle.run().await;
    drop::<oneshot::Sender<()>>(finished);
    killing.await.unwrap().unwrap();
    told.unwrap();
    let kills = killed_at.lock().unwrap().clone();
    let writes: BTreeSet<&str> = kills.keys().map(String::as_str).collect();
    println!("killed before and after each of {} writes: {writes:?}", writes.len());
    let missing: Vec<_> = WRITES.iter().filter(|write| !writes.contains(**write)).collect();
    assert!(missing.is_empty(), "not among the writes: {missing:?}");
}

/// Stops each write twice: the first time before it takes effect, the second time after.
fn stop_each_write_twice(killed_at: &mut BTreeMap<String, usize>, request: &ProxiedRequest) -> Fault {
    if !request.is_write() {
        return Fault::None;
    }
    let times = killed_at.entry(request.to_string()).or_default();
    *times += 1;
    match times {
        1 => Fault::StoppedBefore,
        2 => Fault::StoppedAfter,
        _ => Fault::None,
    }
}

/// Kills the operator when the proxy stops a request, and starts it again. Returns only errors.
async fn kill_and_start(mut operator: Operator, mut proxy: FaultProxy, client: kube::Client) -> Result<()> {
    let leases = kube::Api::<Lease>::namespaced(client, NAMESPACE);
    loop {
        operator.launch()?;
        tokio::select! {
            ready = operator.ready() => {
                ready?;
                proxy.stopped().await?;
            }
            stopped = proxy.stopped() => drop(stopped?),
        }
        operator.kill();
        proxy.forget_stopped();
        // `operator_replicas` tests that another leader follows within 15 s. Here it would take most of the time.
        match leases.delete("ros-operator", &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            deleted => drop(deleted.context("deleting the dead leader's Lease")?),
        }
    }
}

/// The steps of an exchange, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Connected,
    Hello,
    Challenged,
    Proved,
    Asked,
    Configured,
    Progressed,
    Done,
}

const STEPS: [Step; 8] = [
    Step::Connected,
    Step::Hello,
    Step::Challenged,
    Step::Proved,
    Step::Asked,
    Step::Configured,
    Step::Progressed,
    Step::Done,
];

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_step_of_an_exchange_it_knows_the_machine_when_it_comes_again() {
    let mut world = World::start("killed-in-exchange", json!({})).await.unwrap();
    let endpoint = world.endpoint().await.unwrap();
    for (number, step) in STEPS.into_iter().enumerate() {
        let tpm = SoftwareTpm::new(KeyKind::P256).unwrap();
        let coming = up_to(step, &endpoint, &tpm).await;
        let (exchange, told) = coming.with_context(|| format!("coming to {step:?}")).unwrap();
        world.operator.kill();
        drop(exchange);
        world.operator.resume().await.unwrap();
        let again = endpoint.register(&tpm, usual_report("SN-1")).await.unwrap().inventory;
        assert!(told.is_none_or(|told| told == again), "{step:?}: another inventory, {again}");
        let inventories = world.inventories().unwrap();
        assert_eq!(inventories.len(), number + 1, "{step:?}");
        let own = inventories.iter().find(|inventory| inventory["spec"]["tpmHash"] == tpm.hash().as_str()).unwrap();
        assert_eq!(own["status"]["phase"], json!(Phase::Installed), "{step:?}");
        assert!(own["status"]["hardware"].is_object(), "{step:?}: {}", own["status"]);
    }
}

/// Runs an honest exchange up to this step. Gives the exchange, and the inventory if the machine was told it.
async fn up_to(last: Step, endpoint: &Endpoint, tpm: &SoftwareTpm) -> Result<(Exchange, Option<String>), NoAnswer> {
    let (mut challenge, mut inventory) = (None, None);
    let mut exchange = endpoint.connect().await?;
    for step in STEPS.into_iter().skip(1).take_while(|step| *step <= last) {
        match step {
            Step::Connected => {}
            Step::Hello => exchange.say(&FromMachine::Hello(tpm.hello())).await?,
            Step::Challenged => challenge = Some(exchange.hear_challenge().await?),
            Step::Proved => {
                let challenge = challenge.as_ref().context("proving without a challenge")?;
                exchange.say(&FromMachine::Proof(tpm.proof(challenge)?)).await?;
            }
            Step::Asked => exchange.say(&FromMachine::Machine(Box::new(usual_report("SN-1")))).await?,
            Step::Configured => inventory = Some(exchange.hear_config().await?.inventory),
            Step::Progressed => {
                let message = String::new();
                let progress = Progress { phase: InstallPhase::Writing, bytes: 1, total_bytes: 2, message };
                exchange.say(&FromMachine::Progress(progress)).await?;
            }
            Step::Done => exchange.say(&FromMachine::Done(Done::default())).await?,
        }
    }
    Ok((exchange, inventory))
}
