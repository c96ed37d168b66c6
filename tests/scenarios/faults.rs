//! An API server that has bad days: watches break and cannot be resumed, requests are refused, slow, or answered too
//! late. Nothing is made twice, nothing is missed, and no honest machine is sent away for good.

use anyhow::{Context, Result};
use harness::clusters::cluster::{Cluster, Controllers};
use harness::clusters::operator::Operator;
use harness::clusters::registration::{NAMESPACE, Registration};
use harness::fakes::fault_proxy::{Fault, FaultProxy};
use harness::fakes::software_machine::{Endpoint, usual_report};
use harness::fakes::software_tpm::{KeyKind, SoftwareTpm};
use harness::story::Story;
use protocol::RefusalCode;
use qemu::scratch::Scratch;
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A watch that fails is begun again after 30 s at most.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How watches are lost.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// The connection breaks, and can be made again from where it was.
    Connection,
    /// The API server says in an event that what was seen last is forgotten.
    GoneInEvent,
    /// It says so in place of an answer.
    Gone,
    /// The API server is restarted, etcd is compacted meanwhile, and nobody has what was missed.
    Compaction,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_while_watches_are_broken_is_known_after() {
    let mut place = Place::open("faults-watches").await.unwrap();
    let tpm = SoftwareTpm::new(KeyKind::P256).unwrap();
    let mut before = place.register("first", &tpm).await.unwrap();
    for loss in [Loss::Connection, Loss::GoneInEvent, Loss::Gone, Loss::Compaction] {
        let broken = Arc::new(AtomicBool::new(true));
        let script = broken.clone();
        let mut told = BTreeMap::<String, usize>::new();
        place.proxy.script(move |asked| {
            if !asked.is_watch {
                return Fault::None;
            }
            if script.load(Ordering::Relaxed) {
                return Fault::Refused(500);
            }
            let first = std::mem::replace(told.entry(asked.kind.clone()).or_default(), 1) == 0;
            match loss {
                Loss::GoneInEvent if first => Fault::RefusedInEvent(410),
                Loss::Gone if first => Fault::Refused(410),
                _ => Fault::None,
            }
        });
        place.proxy.cut_watches();
        // What is missed: a machine that is forgotten, and another way in.
        let object = format!("machineinventories.rancheros.cattle.io/{}", before["metadata"]["name"].as_str().unwrap());
        place.cluster.kubectl(&["delete", &object, "--namespace", NAMESPACE], "").unwrap();
        let name = format!("{loss:?}").to_lowercase();
        place.make_registration(&name).unwrap();
        if matches!(loss, Loss::Compaction) {
            place.cluster.etcd().compact().await.unwrap();
            place.cluster.stop_api_server();
            place.cluster.start_api_server().await.unwrap();
        }
        broken.store(false, Ordering::Relaxed);
        let after = place.register(&name, &tpm).await.with_context(|| format!("after {loss:?}")).unwrap();
        assert_eq!(after["metadata"]["name"], before["metadata"]["name"], "{loss:?}");
        assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"], "{loss:?}");
        before = after;
    }
    let log = std::fs::read_to_string(place.scratch.path().join("operator/ros-operator.log")).unwrap();
    assert!(log.contains("too old resource version"), "the API server could still tell what was missed");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_may_be_refused_twice_and_answered_too_late() {
    // In the order in which they must not end.
    let Place { scratch: _scratch, cluster, proxy, mut operator } = Place::prepare("faults-writes").await.unwrap();
    let story = Story::prepare(&cluster, operator.local_url("")).await.unwrap();
    let mut asked_before = BTreeMap::<String, usize>::new();
    proxy.script(move |asked| {
        let times = asked_before.entry(asked.to_string()).or_default();
        *times += usize::from(asked.is_write());
        match times {
            1 => Fault::Refused(429),
            2 => Fault::Refused(409),
            // Controllers wait; a machine is not let wait for so long.
            3 if asked.kind.starts_with("machineinventories") => Fault::Late(Duration::from_secs(6)),
            _ => Fault::None,
        }
    });
    operator.resume().await.unwrap();
    story.tell().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_takes_effect_too_late_for_its_machine_is_made_once() {
    let place = Place::open("faults-late").await.unwrap();
    let endpoint = place.endpoint("first").await.unwrap();
    let tpm = SoftwareTpm::new(KeyKind::P256).unwrap();
    place.proxy.script(|asked| match asked.to_string().as_str() {
        "POST machineinventories" => Fault::Late(Duration::from_secs(20)),
        _ => Fault::None,
    });
    let refusal = endpoint.register(&tpm, usual_report("SN-1")).await.unwrap_err().refusal().unwrap();
    assert_eq!((refusal.code, refusal.retry_after.is_some()), (RefusalCode::Unavailable, true), "{refusal}");
    // It was made, which the watch has told meanwhile.
    endpoint.register(&tpm, usual_report("SN-1")).await.unwrap();
    let [inventory] = &place.inventories().unwrap()[..] else { panic!("one machine, one inventory") };
    assert_eq!(inventory["status"]["phase"], "Installed");
}

/// A cluster, and the operator on it with the faults between them.
struct Place {
    operator: Operator,
    proxy: FaultProxy,
    cluster: Cluster,
    scratch: Scratch,
}

impl Place {
    /// The operator runs, and there is a registration called `first`.
    async fn open(name: &str) -> Result<Self> {
        let mut place = Self::prepare(name).await?;
        place.operator.resume().await?;
        place.make_registration("first")?;
        Ok(place)
    }

    async fn prepare(name: &str) -> Result<Self> {
        let scratch = Scratch::new(name)?;
        let cluster = Cluster::start(&scratch.folder("cluster")?, Controllers::Absent).await?;
        let proxy = FaultProxy::start(&cluster, scratch.path()).await?;
        let operator = Operator::prepare(&cluster, proxy.kubeconfig(), &scratch.folder("operator")?)?;
        Ok(Self { operator, proxy, cluster, scratch })
    }

    fn make_registration(&self, name: &str) -> Result<()> {
        let metadata = json!({"name": name, "namespace": NAMESPACE});
        let object = json!({
            "apiVersion": "rancheros.cattle.io/v1", "kind": "MachineRegistration", "metadata": metadata, "spec": {},
        });
        self.cluster.kubectl(&["apply", "--server-side", "-f", "-"], &object.to_string()).map(drop)
    }

    /// Of a registration that is there, as soon as the operator has seen it.
    async fn endpoint(&self, registration: &str) -> Result<Endpoint> {
        let registration = Registration::apply(&self.cluster, registration, json!({}))?;
        Endpoint::new(&registration.local_url(&self.operator)?, &self.operator.ca().await?)
    }

    /// Registers a machine, which comes back until it is told an inventory that is there. Gives the only one.
    async fn register(&self, registration: &str, tpm: &SoftwareTpm) -> Result<Value> {
        let endpoint = self.endpoint(registration).await?;
        until("the machine registered", TIMEOUT, async || {
            if let Err(error) = endpoint.register(tpm, usual_report("SN-1")).await {
                return Ok(Poll::Pending(error.to_string()));
            }
            match <[Value; 1]>::try_from(self.inventories()?) {
                Ok([inventory]) => Ok(Poll::Ready(inventory)),
                Err(inventories) => anyhow::bail!("one machine, {} inventories", inventories.len()),
            }
        })
        .await
    }

    fn inventories(&self) -> Result<Vec<Value>> {
        let kind = "machineinventories.rancheros.cattle.io";
        let list = self.cluster.kubectl(&["get", kind, "--all-namespaces", "--output", "json"], "")?;
        let list: Value = serde_json::from_str(&list).context("reading the inventories")?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }
}
