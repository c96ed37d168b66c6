//! Upgrades the machine of the demo: a release with a higher version is made and pushed, and a ManagedOSImage is edited. The
//! machine does the rest.

use super::{Demo, Progress};
use anyhow::{Context, Result, bail};
use api::{Conditions, ManagedOSImage, condition_type, reason};
use boot_contract::Milestone;
use harness::clusters::cluster;
use harness::clusters::image_registry::{self, REPOSITORY};
use harness::clusters::registration::NAMESPACE;
use harness::other_release::{OtherRelease, next_version, original};
use harness::world::World;
use kube::Api;
use kube::api::{Patch, PatchParams};
use qemu::log_tail::LogTail;
use qemu::wait::{Poll, until};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The ManagedOSImage of the demo.
const NAME: &str = "demo";
/// An idle host takes a minute and a half.
const UPGRADED: Duration = Duration::from_secs(1200);

/// Applies the ManagedOSImage, with the release that the machine is installed with.
pub fn adopt(world: &World) -> Result<()> {
    let (manifest, _) = release::read_manifest(&original())?;
    world.apply_os_image(NAME, &json!({"engine": "Machine", "osImage": format!("{REPOSITORY}:{}", manifest.version)}))
}

pub async fn upgrade(folder: &Path, demo: &Demo) -> Result<()> {
    let progress = Progress::begin();
    let images: Api<ManagedOSImage> = Api::namespaced(cluster::client_of(&demo.kubeconfig).await?, NAMESPACE);
    let image = images.get(NAME).await.with_context(|| format!("reading the ManagedOSImage {NAME}"))?;
    let current = image.spec.os_image.unwrap_or_default();
    let (_, version) = current.rsplit_once(':').with_context(|| format!("finding a version in {current:?}"))?;
    let version = next_version(version).with_context(|| format!("counting on from {version:?}"))?;

    progress.step(&format!("making release {version} out of the demo's, and pushing it to the registry on this host"));
    let releases = folder.join("releases");
    fs::create_dir_all(&releases).with_context(|| format!("creating {}", releases.display()))?;
    let other = OtherRelease { of: &original(), version: &version, initrd: None, mok_manager: None, signed_by: None };
    image_registry::push(&other.image(&releases)?, demo.registry_port, &version).await?;

    let wanted = format!("{REPOSITORY}:{version}");
    progress.step(&format!("editing the ManagedOSImage {NAME}: osImage is {wanted}"));
    let mut console = LogTail::open(&demo.console)?;
    let patch = Patch::Merge(json!({"spec": {"osImage": wanted}}));
    let edited = images.patch(NAME, &PatchParams::default(), &patch).await.context("editing the ManagedOSImage")?;
    let begun = Instant::now();
    println!("\nseconds since the edit:");
    let row = |what: &str| println!("  {what:<36}{:7.1}", begun.elapsed().as_secs_f64());
    let verdict = until("the upgrade", UPGRADED, async || {
        for line in console.lines()? {
            STEPS.iter().filter(|(_, has)| has(&line)).for_each(|(what, _)| row(what));
        }
        let image = images.get(NAME).await.context("reading the ManagedOSImage")?;
        let conditions = image.status.unwrap_or_default().conditions;
        let ready = conditions.find(condition_type::READY).cloned();
        let ready = ready.filter(|ready| ready.observed_generation >= edited.metadata.generation);
        let Some(ready) = ready else { return Ok(Poll::Pending("the operator has not seen the edit".to_owned())) };
        let over = ready.reason == reason::UPGRADED || conditions.holds(condition_type::STALLED);
        Ok(if over { Poll::Ready(ready) } else { Poll::Pending(ready.message.to_string()) })
    })
    .await
    .with_context(|| format!("upgrading the machine; its console is in {}", demo.console.display()))?;
    row(&verdict.reason);

    println!();
    for kind in ["managedosimages", "machineinventories"] {
        let arguments = ["get", kind, "--namespace", NAMESPACE, "--output=wide"];
        let mut kubectl = Command::new(demo.programs.join("kubectl"));
        let status = kubectl.arg("--kubeconfig").arg(&demo.kubeconfig).args(arguments).status();
        status.with_context(|| format!("running kubectl get {kind}"))?;
        println!();
    }
    if verdict.reason != reason::UPGRADED {
        bail!("{}: {}", verdict.reason, verdict.message);
    }
    Ok(())
}

/// Recognizes a step by a line of the console.
type Has = fn(&str) -> bool;

/// The steps of the machine, in their order.
const STEPS: &[(&str, Has)] = &[
    ("told, and fetches the release", |line| line.contains("ros-installer: fetching ")),
    ("everything is there", |line| line.contains("ros-installer: fetched 100 %")),
    ("written, and read back", |line| Milestone::Verified.text_in(line).is_some()),
    ("restarts", |line| Milestone::Rebooting.text_in(line).is_some()),
    ("the other slot starts", |line| line.contains("ros-boot: starting ")),
    ("reports", |line| Milestone::Booted.text_in(line).is_some()),
    ("healthy", |line| Milestone::Healthy.text_in(line).is_some()),
];
