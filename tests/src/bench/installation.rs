//! From power-on of an empty machine to its first report, and a later power-on. UEFI, virtio, and the least memory that
//! the live system supports.

use super::figure::{Figure, Sample};
use super::upgrade;
use crate::clusters::image_registry::ImageRegistry;
use crate::world::World;
use anyhow::{Context, Result};
use boot_contract::Milestone;
use qemu::disk::{Disk, GIB};
use qemu::firmware::Firmware;
use qemu::machine::{BootFirst, Drive, Machine, MachineSpec, Medium};
use qemu::paths;
use qemu::timeline::timeline;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Duration;

static MEMORY: Figure = Figure::new("installation-memory", "memory of the machine installed", "MiB").at_most(512.0);
static KERNEL: Figure = Figure::new("power-on-to-kernel", "power-on to the live kernel", "s");
static NETWORK: Figure = Figure::new("power-on-to-network", "power-on to an address", "s");
static REGISTERED: Figure = Figure::new("power-on-to-registered", "power-on to registered", "s").at_most(30.0);
static WRITING: Figure = Figure::new("image-writing", "writing the root images", "MiB/s")
    .yardstick("dd of the same bytes from the same medium")
    .at_least_of_yardstick(0.8);
static INSTALLED: Figure = Figure::new("power-on-to-first-report", "power-on to the installed system's report", "s");
static BOOTED: Figure = Figure::new("disk-to-booted", "power-on of the disk to booted", "s").at_most(30.0);

static IMAGE: Figure = Figure::new("disk-image-to-booted", "first power-on of a disk image to booted", "s")
    .yardstick("power-on of an installed disk to booted")
    .at_most_of_yardstick(1.4);

pub static FIGURES: &[&Figure] = &[&MEMORY, &KERNEL, &NETWORK, &REGISTERED, &WRITING, &INSTALLED, &BOOTED, &IMAGE];

const MEMORY_MIB: u32 = 512;
/// Too small for an installation, so that the other disk is chosen.
const SPARE_BYTES: u64 = GIB / 4;
pub(super) const TIMEOUT: Duration = Duration::from_secs(1800);

/// One run, with a machine, a cluster and an operator of its own.
pub async fn measure() -> Result<Vec<Sample>> {
    let world = World::builder("bench-installation")?.start().await?;
    let mut registration = world.example_registration()?;
    registration["cloudConfig"]["users"] = json!([{"name": "root", "ssh_authorized_keys": [world.key.public]}]);
    let registry = ImageRegistry::start(&world.folder("registry")?).await?;
    let files = registration["cloudConfig"]["write_files"].as_array_mut();
    files.context("finding write_files of the example")?.push(registry.for_machines());
    let medium = world.medium(registration.clone()).await?;
    upgrade::adopt(&world)?;
    let image = Extent::of_root_image(&medium)?;

    let folder = world.folder("machine")?;
    let mut spec = MachineSpec::new(Firmware::Uefi, "BENCH-0001");
    spec.processors = 2;
    spec.memory_mib = MEMORY_MIB;
    spec.disks = vec![Disk::empty(&folder, "root", 8 * GIB)?, Disk::empty(&folder, "spare", SPARE_BYTES)?];
    spec.medium = Some(Medium { file: medium, drive: Drive::Cd });
    spec.first = BootFirst::Disk;
    let mut machine = world.machine(spec).await?;
    machine.power_on().await?;
    let writing = machine.wait_for_milestone(Milestone::Verified, TIMEOUT).await?.text;
    machine.wait_for_milestone(Milestone::Booted, TIMEOUT).await?;
    let times = timeline(&machine.console().lines());
    let at = |row: &str| {
        let found = times.iter().find(|(name, _)| *name == row);
        found.map(|(_, at)| at.as_secs_f64()).with_context(|| format!("the console does not show {row:?}"))
    };
    let copying = copying_speed(&world, &machine, &image).await?;

    machine.cut_power();
    machine.spec.medium = None;
    machine.power_on().await?;
    let booted = machine.wait_for_milestone(Milestone::Booted, TIMEOUT).await?.at;
    let upgraded = upgrade::measure(&world, &mut machine, &registry).await?;
    machine.cut_power();
    let image_booted = first_boot(&world, registration).await?;
    let installed = vec![
        MEMORY.is(f64::from(MEMORY_MIB)),
        KERNEL.is(at("firmware")?),
        NETWORK.is(at("network")?),
        REGISTERED.is(at("registered")?),
        WRITING.beside(writing_speed(&writing)?, copying),
        INSTALLED.is(at("booted")?),
        BOOTED.is(booted.as_secs_f64()),
        IMAGE.beside(image_booted.as_secs_f64(), booted.as_secs_f64()),
    ];
    Ok([installed, upgraded].concat())
}

/// From power-on of a machine that was made from a disk image until the operator has recorded its first boot.
async fn first_boot(world: &World, registration: Value) -> Result<Duration> {
    let image = world.medium_from(&paths::disk_image("raw")?, registration).await?;
    let mut spec = MachineSpec::new(Firmware::Uefi, "BENCH-0002");
    spec.processors = 2;
    spec.memory_mib = MEMORY_MIB;
    spec.disks = vec![Disk::of_image(&image, "root", 8 * GIB)?];
    let mut machine = Machine::assemble(&world.folder("image-machine")?, spec).await?;
    machine.power_on().await?;
    Ok(machine.wait_for_milestone(Milestone::Booted, TIMEOUT).await?.at)
}

/// MiB/s, from the installer's message: `123.0 MiB written in 5.2 s (23.6 MiB/s), read back in 2.0 s`.
pub(super) fn writing_speed(line: &str) -> Result<f64> {
    let number = || line.split_once(" s (")?.1.split_once(" MiB/s)")?.0.parse().ok();
    number().with_context(|| format!("finding a speed in {line:?}"))
}

/// MiB/s of `dd` from the same medium to a disk of the same kind, with direct I/O like the installer. Twice, because
/// the installer writes the image to two slots and reads it from the medium for one of them.
async fn copying_speed(world: &World, machine: &Machine, image: &Extent) -> Result<f64> {
    let Extent { offset, size } = image;
    let mut seconds = 0.0;
    for place in [0, *size] {
        let command = format!(
            "LC_ALL=C dd if=/dev/sr0 of=/dev/vdb bs=1M iflag=skip_bytes,count_bytes oflag=seek_bytes,direct conv=fsync \
             skip={offset} count={size} seek={place} 2>&1"
        );
        let said = world.key.run("root", machine.ssh_port(), &command, Duration::from_secs(300)).await?;
        seconds += dd_seconds(&said)?;
    }
    Ok((2 * size) as f64 / f64::from(1 << 20) / seconds)
}

/// The bytes of a file on the medium. A file of an ISO is contiguous.
struct Extent {
    offset: u64,
    size: u64,
}

impl Extent {
    /// The extent of the root image that `make image` put onto the ISO.
    fn of_root_image(medium: &Path) -> Result<Self> {
        /// Logical blocks of ISO 9660.
        const BLOCK: usize = 2048;
        let file = paths::output().join("image/release/root.erofs");
        let image = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        let bytes = fs::read(medium).with_context(|| format!("reading {}", medium.display()))?;
        let found = (0..bytes.len()).step_by(BLOCK).find(|&offset| bytes[offset..].starts_with(&image));
        let offset = found.with_context(|| format!("finding {} on {}", file.display(), medium.display()))?;
        Ok(Self { offset: offset as u64, size: image.len() as u64 })
    }
}

/// From `62914560 bytes (63 MB, 60 MiB) copied, 1.23 s, 51.1 MB/s`.
pub(super) fn dd_seconds(said: &str) -> Result<f64> {
    let number = || said.split_once("copied, ")?.1.split_once(" s,")?.0.parse().ok();
    number().with_context(|| format!("finding the seconds in {said:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_read_from_what_is_printed() {
        let line = "ros-installer: verified: 123.0 MiB written in 5.2 s (23.6 MiB/s), read back in 2.0 s";
        assert_eq!(writing_speed(line).unwrap(), 23.6);
        let said = "60+0 records in\n60+0 records out\n62914560 bytes (63 MB, 60 MiB) copied, 1.23 s, 51.1 MB/s\n";
        assert_eq!(dd_seconds(said).unwrap(), 1.23);
        assert!(writing_speed("nothing").is_err() && dd_seconds("nothing").is_err());
    }
}
