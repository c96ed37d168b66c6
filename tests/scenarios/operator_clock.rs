//! The operator's clock jumps by an hour, forwards and back, as it does when somebody sets it.

use anyhow::{Context, Result};
use api::{MachineRegistration, condition_type, reason};
use harness::clusters::cluster::Cluster;
use harness::clusters::operator::{NAMESPACE as OWN_NAMESPACE, Operator};
use harness::clusters::registration::{NAMESPACE, Registration};
use harness::fakes::software_machine::{Endpoint, usual_report};
use harness::fakes::software_tpm::{KeyKind, SoftwareTpm};
use harness::objects::{condition, kubectl_name};
use harness::world::World;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use protocol::RefusalCode;
use qemu::wait::{Poll, until};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);
const HOUR: i64 = 3600;

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_by_an_hour_costs_no_lead_and_no_machine() {
    let mut world = World::builder("clock").unwrap().prepare().await.unwrap();
    let folder = world.path().to_owned();
    let clock = Clock::of(&mut world.operator, &folder).unwrap();
    world.operator.resume().await.unwrap();
    let (operator, cluster) = (&world.operator, &world.cluster);
    let open = Registration::apply(cluster, "open", json!({})).unwrap();
    let half_an_hour = Timestamp::now() + SignedDuration::from_mins(30);
    let expires = json!({"expiresAt": half_an_hour.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()});
    let closing = Registration::apply(cluster, "closing", expires).unwrap();
    let authority = operator.ca().await.unwrap();
    let endpoint =
        |registration: &Registration| Endpoint::new(&registration.local_url(operator).unwrap(), &authority).unwrap();
    let (open, closing) = (endpoint(&open), endpoint(&closing));
    let old = SoftwareTpm::new(KeyKind::P256).unwrap();
    open.register(&old, usual_report("SN-1")).await.unwrap();
    let (holder, first_renewal) = lease(cluster).unwrap();

    for (round, jump) in [HOUR, -HOUR, 0].into_iter().enumerate() {
        clock.set(jump).unwrap();
        // The clock has jumped, and the replica is still the leader.
        until("a renewal at the new time", TIMEOUT, async || {
            let (now_held_by, renewed) = lease(cluster)?;
            anyhow::ensure!(now_held_by == holder, "{now_held_by} leads in place of {holder}");
            let off = renewed.duration_since(Timestamp::now()).as_secs() - jump;
            Ok(if off.abs() < HOUR / 2 { Poll::Ready(()) } else { Poll::Pending(format!("{off} s off")) })
        })
        .await
        .unwrap();
        let new = SoftwareTpm::new(KeyKind::P256).unwrap();
        for tpm in [&old, &new] {
            open.register(tpm, usual_report("SN-1")).await.unwrap();
        }
        assert_eq!(world.inventories().unwrap().len(), round + 2);
        // By this clock the registration has expired, or has not.
        let outcome = closing.register(&new, usual_report("SN-1")).await;
        let reason = if jump == HOUR { reason::EXPIRED } else { reason::AVAILABLE };
        match outcome {
            Err(error) if jump == HOUR => assert_eq!(error.refusal().unwrap().code, RefusalCode::RegistrationExpired),
            outcome => drop(outcome.unwrap()),
        }
        assert_eq!(operator.ca().await.unwrap(), authority);
        ready(cluster, "closing", reason).await.unwrap();
    }
    let (_, last_renewal) = lease(cluster).unwrap();
    assert!(last_renewal > first_renewal);
    // `lastSeen` is not in the future.
    let machines = world.inventories().unwrap();
    let seen = machines.iter().find(|machine| machine["spec"]["tpmHash"] == old.hash().as_str()).unwrap();
    let seen: Timestamp = seen["status"]["lastSeen"].as_str().unwrap().parse().unwrap();
    assert!(seen <= Timestamp::now(), "{seen}");
}

/// The wall clock of a program, by Debian's libfaketime. Its monotonic clock is not changed.
struct Clock {
    file: PathBuf,
}

impl Clock {
    fn of(operator: &mut Operator, folder: &Path) -> Result<Self> {
        let clock = Self { file: folder.join("clock") };
        clock.set(0)?;
        let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH);
        anyhow::ensure!(Path::new(&library).exists(), "{library} is missing; tools/install-packages installs it");
        operator.set("LD_PRELOAD", &library);
        operator.set("FAKETIME_TIMESTAMP_FILE", &clock.file.display().to_string());
        operator.set("FAKETIME_NO_CACHE", "1");
        operator.set("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        Ok(clock)
    }

    /// Sets the offset from the true time, in seconds.
    fn set(&self, seconds: i64) -> Result<()> {
        // The file is replaced by a rename, because the program reads it whenever it reads the clock.
        let next = self.file.with_extension("next");
        std::fs::write(&next, format!("{seconds:+}\n")).context("writing the next time")?;
        std::fs::rename(&next, &self.file).context("setting the clock")
    }
}

/// The leader, and the time of its last renewal.
fn lease(cluster: &Cluster) -> Result<(String, Timestamp)> {
    let lease = cluster.get("lease/ros-operator", OWN_NAMESPACE)?;
    let renewed = lease["spec"]["renewTime"].as_str().context("finding the time in the Lease")?;
    let renewed = renewed.parse().context("reading the time in the Lease")?;
    Ok((lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned(), renewed))
}

/// Waits until the registration's condition `Ready` has this reason.
async fn ready(cluster: &Cluster, registration: &str, reason: &str) -> Result<()> {
    until(&format!("{registration} to be {reason}"), TIMEOUT, async || {
        let object = cluster.get(&kubectl_name::<MachineRegistration>(registration), NAMESPACE)?;
        let ready = condition(&object, condition_type::READY);
        Ok(if ready["reason"] == reason { Poll::Ready(()) } else { Poll::Pending(ready.to_string()) })
    })
    .await
}
