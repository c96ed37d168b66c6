//! Power cuts of a machine whose writes were recorded (`docs/power-cuts.md`). Every state of its disk is checked in this
//! process, and some are started for real.

use anyhow::{Context, Result, ensure};
use boot_contract::{Milestone, Slot};
use harness::power_cut::{Check, Recording, Sample, check_ext4};
use harness::world::World;
use qemu::disk::{Disk, GIB};
use qemu::firmware::Firmware;
use qemu::machine::{Drive, Machine, MachineSpec, Medium};
use qemu::paths;
use release::digest;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime};

/// A busy host takes several times as long as an idle one.
const LIMIT: Duration = Duration::from_secs(900);
/// With this in the environment, the recording of a test stays in `out/power-cut/` for [`samples`].
const KEEP: &str = "ROS_POWER_CUT_KEEP";
/// What `make test` does with the recording of an installation and its upgrades.
const STATES: usize = 500;
const EXT4_IMAGES: usize = 10;
const STARTS: usize = 2;
/// A first boot changes little that decides what starts.
const IMAGE_STATES: usize = 100;
/// In the table of starts, what begins the end of one that went wrong. It is started again by the next run.
const FAILED: &str = "**failed**";

/// Whether recordings are kept, which then hold more.
pub fn keeps() -> bool {
    std::env::var_os(KEEP).is_some()
}

/// Checks the recording of `disk`, to which `root` was written, and starts two of its states on the machine, which is off.
/// Systems of the versions `broken` do not come up.
pub async fn survives(machine: &mut Machine, folder: &Path, disk: &Disk, root: &Path, broken: &[&str]) -> Result<()> {
    let log = disk.log.as_ref().context("a disk that is recorded")?;
    if keeps() {
        let kept = Kept::of(machine.spec.firmware);
        fs::create_dir_all(Kept::folder()).context("creating out/power-cut")?;
        fs::copy(root, kept.root()).and_then(|_| fs::copy(log, kept.log())).context("keeping the recording")?;
    }
    let seed = setting("SEED", seed_of_the_clock());
    println!("power cuts: seed {seed}");
    let recording = Recording::read(log, 4 * GIB, &[root.to_owned()])?;
    let figures = Check { states: STATES, seed, sample: STARTS }.run(&recording)?;
    println!("power cuts: {figures}");
    figures.expect_none_bad(STATES)?;
    println!("power cuts: {}", check_ext4(&recording, EXT4_IMAGES, seed)?);
    for sample in &figures.sample {
        println!(
            "power cuts: {} ends with {}",
            sample.name(),
            start(machine, folder, &recording, sample, broken).await?
        );
    }
    Ok(())
}

/// Checks the recording of `disk`, which began with the disk image `image`: its first boots and its growth.
pub fn survives_on_image(image: &Path, disk: &Disk, bytes: u64, root: &Path) -> Result<()> {
    let log = disk.log.as_ref().context("a disk that is recorded")?;
    let seed = setting("SEED", seed_of_the_clock());
    let recording = Recording::read_on(Some(image), log, bytes, &[root.to_owned()])?;
    let figures = Check { states: IMAGE_STATES, seed, sample: 0 }.run(&recording)?;
    println!("power cuts of a disk image: seed {seed}; {figures}");
    figures.expect_none_bad(IMAGE_STATES)?;
    println!("power cuts of a disk image: {}", check_ext4(&recording, EXT4_IMAGES, seed)?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes hours: make power-cut"]
async fn sampled_power_cuts_on_uefi() {
    samples(Firmware::Uefi, &["0.3.0"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes hours: make power-cut"]
async fn sampled_power_cuts_on_bios() {
    samples(Firmware::Bios, &["0.2.0"]).await;
}

/// All states of a recording in `out/power-cut/`, and a sample of them for real: `make power-cut`. What was started before
/// with the same seed is not started again.
async fn samples(firmware: Firmware, broken: &[&str]) {
    let kept = Kept::of(firmware);
    // Each recording gets a half.
    let half = |name: &str, default: usize| setting(name, default) / 2;
    let (seed, sample) = (setting("SEED", 1), half("SAMPLE", 200));
    let recording = Recording::read(&kept.log(), 4 * GIB, &[kept.root()]).unwrap();
    let check = Check { states: half("STATES", 250_000), seed, sample };
    let figures = check.run(&recording).unwrap();
    println!("power cuts on {}: {figures}", firmware.name());
    figures.expect_none_bad(check.states).unwrap();
    println!("power cuts on {}: {}", firmware.name(), check_ext4(&recording, half("EXT4", 2000), seed).unwrap());
    if sample == 0 {
        return;
    }
    let starts = Starts::open(&kept.log(), firmware, seed).unwrap();
    let world =
        World::builder(&format!("power-cut-{}", firmware.name()).to_lowercase()).unwrap().start().await.unwrap();
    let registration = world.example_registration().unwrap();
    let medium = world.medium(registration).await.unwrap();
    let mut spec = MachineSpec::new(firmware, "POWER-CUT");
    spec.medium = Some(Medium { file: medium, drive: Drive::Cd });
    spec.disks.push(Disk::empty(world.path(), "root", 4 * GIB).unwrap());
    let mut machine = world.machine(spec).await.unwrap();
    for (number, sample) in figures.sample.iter().enumerate() {
        if starts.is_done(number) {
            continue;
        }
        let begun = Instant::now();
        let outcome = start(&mut machine, world.path(), &recording, sample, broken).await;
        starts.add(number, &sample.name(), &outcome, begun.elapsed()).unwrap();
        outcome.unwrap();
    }
}

/// Starts a machine from a state, and says how it ended: with the system that boot selection finds, or with an installation
/// that began by itself.
async fn start(
    machine: &mut Machine,
    folder: &Path,
    recording: &Recording,
    sample: &Sample,
    broken: &[&str],
) -> Result<String> {
    machine.cut_power();
    let file = folder.join("power-cut.img");
    sample.write_file(recording, &file)?;
    machine.spec.disks = vec![Disk { file, serial: "root".into(), fault: None, log: None }];
    machine.power_on().await?;
    let expected = sample.selection.comes_up(broken);
    let good = format!("slot {} is good", expected.unwrap_or(Slot::A));
    machine.console().wait_for_text(&good, LIMIT).await?;
    let lines = machine.console().lines();
    let was_installed = lines.iter().any(|line| Milestone::Planned.text_in(&line.text).is_some());
    ensure!(was_installed == expected.is_none(), "was installed: {was_installed}; expected: {expected:?}");
    machine.cut_power();
    Ok(if was_installed { format!("an installation; {good}") } else { good })
}

fn setting<T: FromStr>(name: &str, default: T) -> T {
    let name = format!("ROS_POWER_CUT_{name}");
    let Ok(value) = std::env::var(&name) else { return default };
    value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number"))
}

fn seed_of_the_clock() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

/// The recording of a machine, in `out/power-cut/`.
struct Kept {
    firmware: String,
}

impl Kept {
    fn of(firmware: Firmware) -> Self {
        Self { firmware: firmware.name().to_lowercase() }
    }

    fn folder() -> PathBuf {
        paths::output().join("power-cut")
    }

    fn log(&self) -> PathBuf {
        Self::folder().join(format!("{}.writes", self.firmware))
    }

    fn root(&self) -> PathBuf {
        Self::folder().join(format!("{}.root.erofs", self.firmware))
    }
}

/// The table of what was started, a Markdown file.
struct Starts {
    file: PathBuf,
    /// How the rows of this recording and this seed begin.
    row: String,
}

impl Starts {
    const TITLE: &str = "# States of a disk after a power cut that were started\n\n\
        Written by `make power-cut`; `docs/power-cuts.md` says what it is.\n\n\
        | firmware | recording | seed | number | state | ended with | seconds |\n|---|---|---|---|---|---|---|\n";

    fn open(log: &Path, firmware: Firmware, seed: u64) -> Result<Self> {
        let file = paths::workspace().join("docs/power-cut-starts.md");
        if !file.exists() {
            fs::write(&file, Self::TITLE).with_context(|| format!("creating {}", file.display()))?;
        }
        let (recording, _) = digest::of_file(log).with_context(|| format!("reading {}", log.display()))?;
        Ok(Self { file, row: format!("| {} | {} | {seed} |", firmware.name(), &recording[..8]) })
    }

    fn is_done(&self, number: usize) -> bool {
        let begin = format!("{} {number} |", self.row);
        let ended = |line: &str| line.starts_with(&begin) && !line.contains(FAILED);
        fs::read_to_string(&self.file).is_ok_and(|text| text.lines().any(ended))
    }

    fn add(&self, number: usize, state: &str, outcome: &Result<String>, took: Duration) -> Result<()> {
        let ended = match outcome {
            Ok(ended) => ended.clone(),
            Err(error) => format!("{FAILED}: {}", format!("{error:#}").replace(['\n', '|'], " ")),
        };
        let row = format!("{} {number} | {state} | {ended} | {} |\n", self.row, took.as_secs());
        let mut file = fs::OpenOptions::new().append(true).open(&self.file).context("opening the table of starts")?;
        file.write_all(row.as_bytes()).context("writing the table of starts")
    }
}
