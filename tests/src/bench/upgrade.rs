//! An upgrade of an installed machine by the operator, from a registry on this host.

use super::figure::{Figure, Sample};
use super::installation::{TIMEOUT, dd_seconds, writing_speed};
use crate::clusters::image_registry::{self, ImageRegistry, REPOSITORY};
use crate::other_release::{OtherRelease, next_version, original};
use crate::world::World;
use anyhow::{Context, Result};
use api::reason;
use boot_contract::Milestone;
use qemu::machine::Machine;
use serde_json::json;
use std::time::{Duration, Instant};

static BEGUN: Figure =
    Figure::new("upgrade-edit-to-begun", "edit of osImage until the machine fetches", "s").at_most(60.0);
static FETCHED: Figure =
    Figure::new("upgrade-fetched", "bytes of layers that an upgrade fetches", "% of the image").at_most(100.0);
static WRITING: Figure = Figure::new("upgrade-writing", "writing the root image to a slot", "MiB/s")
    .yardstick("dd of the same bytes to the same slot")
    .at_least_of_yardstick(0.9);
static HEALTHY: Figure =
    Figure::new("upgrade-restart-to-healthy", "restart until the new release is marked as good", "s").at_most(40.0);
static UPGRADED: Figure =
    Figure::new("upgrade-edit-to-upgraded", "edit of osImage until the operator says Upgraded", "s");

pub static FIGURES: &[&Figure] = &[&BEGUN, &FETCHED, &WRITING, &HEALTHY, &UPGRADED];

const OS_IMAGE: &str = "bench";
const SOON: Duration = Duration::from_secs(300);

/// Applies the ManagedOSImage, with the release that the machine is installed with. To do before the machine reports.
pub fn adopt(world: &World) -> Result<()> {
    let (manifest, _) = release::read_manifest(&original())?;
    let image = format!("{REPOSITORY}:{}", manifest.version);
    world.apply_os_image(OS_IMAGE, &json!({"engine": "Machine", "osImage": image}))
}

/// The machine runs from slot A. In the end it runs the next release from slot B.
pub async fn measure(world: &World, machine: &mut Machine, registry: &ImageRegistry) -> Result<Vec<Sample>> {
    let (manifest, _) = release::read_manifest(&original())?;
    let version = next_version(&manifest.version).context("counting the release's version on")?;
    let other = OtherRelease { of: &original(), version: &version, initrd: None, mok_manager: None, signed_by: None };
    image_registry::push(&other.image(&world.folder("releases")?)?, registry.port(), &version).await?;
    let image = format!("{REPOSITORY}:{version}");
    let size = image_registry::inspect(registry.port(), &version).await?.bytes;

    // `--check` leaves the files of the release on the machine.
    let root = async |command: &str| world.key.run("root", machine.ssh_port(), command, SOON).await;
    let copy = format!(
        "ros-installer upgrade {image} --check >&2 && cd /var/lib/ros/upgrade && LC_ALL=C dd if={} \
         of=/dev/disk/by-partlabel/COS_STATE_B bs=4M oflag=direct conv=fsync 2>&1",
        manifest.root.name
    );
    let copying = manifest.root.size as f64 / f64::from(1 << 20) / dd_seconds(&root(&copy).await?)?;

    let sent = registry.layer_bytes_sent();
    world.os_image_with_reason(OS_IMAGE, reason::UPGRADED, SOON).await?;
    world.patch_os_image(OS_IMAGE, &json!({"osImage": image}))?;
    let edited = Instant::now();
    let console = machine.console();
    console.wait_for_text(&format!("fetching {image}"), TIMEOUT).await?;
    let begun = edited.elapsed();
    let verified = machine.wait_for_milestone(Milestone::Verified, TIMEOUT).await?;
    let sent = registry.layer_bytes_sent() - sent;
    let restarted = machine.wait_for_milestone(Milestone::Rebooting, TIMEOUT).await?.at;
    let healthy = machine.console().wait_for_text("healthy: slot B is good", TIMEOUT).await?.at;
    world.os_image_with_reason(OS_IMAGE, reason::UPGRADED, SOON).await?;
    Ok(vec![
        BEGUN.is(begun.as_secs_f64()),
        FETCHED.is(100.0 * sent as f64 / size as f64),
        WRITING.beside(writing_speed(&verified.text)?, copying),
        HEALTHY.is((healthy - restarted).as_secs_f64()),
        UPGRADED.is(edited.elapsed().as_secs_f64()),
    ])
}
