//! `make demo`: an empty machine is powered on and gets installed, configured and inventoried without being touched.
//! `make demo-upgrade`: it runs another release because somebody edits a ManagedOSImage.

mod upgrade;

use anyhow::{Context, Result, bail};
use api::Phase;
use boot_contract::Milestone;
use clap::{Parser, Subcommand};
use harness::clusters::cluster::Controllers;
use harness::clusters::image_registry::ImageRegistry;
use harness::interruption::interruption;
use harness::world::{USER, World};
use qemu::console::Line;
use qemu::disk::{Disk, GIB};
use qemu::firmware::Firmware;
use qemu::machine::{Drive, MachineSpec, Medium};
use qemu::paths;
use qemu::process::KeptProcess;
use qemu::timeline::timeline;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Install a virtual machine with an operator on this host, and leave everything running
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start everything and wait until the machine is installed
    Start {
        /// Firmware of the machine: bios, uefi or secureboot
        #[arg(long, default_value = "uefi")]
        firmware: Firmware,
    },
    /// Upgrade the machine that `start` left running to a release with a higher version
    Upgrade,
    /// Stop everything that `start` left running
    Stop,
}

/// The kept processes, in the order of ending.
const PROCESSES: &str = "processes.json";
/// What `upgrade` has to know about the demo.
const DEMO: &str = "demo.json";
const SERIAL: &str = "DEMO-0001";
/// An idle host takes two minutes under translation.
const INSTALLED: Duration = Duration::from_secs(1800);

#[tokio::main]
async fn main() -> Result<()> {
    let folder = paths::output().join("demo");
    match Options::parse().command {
        Action::Stop => stop(&folder),
        Action::Upgrade => upgrade::upgrade(&folder, &running(&folder)?).await,
        Action::Start { firmware } => tokio::select! {
            outcome = start(&folder, firmware) => outcome,
            // Dropping the other branch ends what it started.
            () = interruption()? => bail!("interrupted; everything that was started has been stopped"),
        },
    }
}

/// A demo that runs.
#[derive(Serialize, Deserialize)]
struct Demo {
    registry_port: u16,
    kubeconfig: PathBuf,
    /// The programs of Kubernetes.
    programs: PathBuf,
    /// What the machine prints, as it comes.
    console: PathBuf,
}

async fn start(folder: &Path, firmware: Firmware) -> Result<()> {
    fs::create_dir_all(paths::output()).context("creating out/")?;
    let lock = File::create(paths::output().join("demo.lock")).context("creating out/demo.lock")?;
    lock.try_lock().context("locking out/demo.lock; another demo may be starting")?;
    if kept_processes(folder)?.iter().any(KeptProcess::is_running) {
        bail!("a demo is running; stop it with: make demo-stop");
    }
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing the last demo's {}", folder.display()))?;
    }

    let progress = Progress::begin();
    progress.step("starting etcd, Kubernetes and the operator");
    let world = World::builder_in(folder).controllers(Controllers::Running).start().await?;

    progress.step("applying examples/machine-registration.yaml and putting its URL into the ISO");
    let registry = ImageRegistry::start(&world.folder("registry")?).await?;
    let mut registration = world.example_registration()?;
    let files = registration["cloudConfig"]["write_files"].as_array_mut();
    files.context("finding write_files of the example")?.push(registry.for_machines());
    let medium = world.medium(registration).await?;
    upgrade::adopt(&world)?;

    progress.step(&format!("powering on a machine with an empty disk, a TPM and {} firmware", firmware.name()));
    let machine_folder = world.folder("machine")?;
    let mut spec = MachineSpec::new(firmware, SERIAL);
    spec.processors = 2;
    spec.disks.push(Disk::empty(&machine_folder, "root", 8 * GIB)?);
    spec.medium = Some(Medium { file: medium, drive: Drive::Cd });
    spec.on_line = Some(show);
    let mut machine = world.machine(spec).await?;
    machine.power_on().await?;
    machine
        .wait_for_milestone(Milestone::Booted, INSTALLED)
        .await
        .with_context(|| format!("installing the machine; its console is in {}", machine.console_log().display()))?;

    progress.step("logging in over SSH with the key from the registration");
    let greeting =
        "echo \"$(hostname) runs $(. /etc/os-release; echo $PRETTY_NAME)\"; cat /etc/motd /var/lib/installed-at";
    print!("{}", world.key.run(USER, machine.ssh_port(), greeting, Duration::from_secs(300)).await?);

    progress.step("waiting for the inventory to say Ready");
    let machines = world.inventory_names()?;
    let [inventory] = &machines[..] else { bail!("one inventory was expected for the machine; found {machines:?}") };
    world.inventory_in_phase(inventory, Phase::Ready, Duration::from_secs(300)).await?;
    print!("{}", world.cluster.kubectl(&["get", "machineinventory", "-A", "-o", "wide"], "")?);

    println!("\nseconds since power-on:");
    for (name, at) in timeline(&machine.console().lines()) {
        println!("  {name:<11}{:7.1}", at.as_secs_f64());
    }
    println!("\nEverything is still running. To look around:");
    println!("  export KUBECONFIG={}", world.cluster.kubeconfig().display());
    println!("  export PATH={}:$PATH", world.cluster.programs().display());
    println!("  kubectl describe machineinventory -n fleet-default {inventory}");
    println!("  {}", world.key.login(USER, machine.ssh_port()).join(" "));
    println!("  less {}", machine.console_log().display());
    println!("To upgrade it:\n  make demo-upgrade");
    println!("To stop it:\n  make demo-stop");

    let demo = Demo {
        registry_port: registry.port(),
        kubeconfig: world.cluster.kubeconfig(),
        programs: world.cluster.programs().to_owned(),
        console: machine.raw_console_log(),
    };
    let text = serde_json::to_string_pretty(&demo).context("describing the demo")?;
    fs::write(folder.join(DEMO), text).with_context(|| format!("writing {}/{DEMO}", folder.display()))?;
    let processes = [machine.processes()?, vec![registry.process()?], world.processes()?].concat();
    let text = serde_json::to_string_pretty(&processes).context("listing the running processes")?;
    fs::write(folder.join(PROCESSES), text).with_context(|| format!("writing {}/{PROCESSES}", folder.display()))?;
    // Dropping them would end the processes.
    std::mem::forget((machine, registry, world));
    Ok(())
}

fn stop(folder: &Path) -> Result<()> {
    let kept = kept_processes(folder)?;
    for process in &kept {
        if process.stop()? {
            println!("stopped {} (pid {})", process.name, process.pid);
        }
    }
    match fs::remove_file(folder.join(PROCESSES)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}/{PROCESSES}", folder.display()))
        }
        _ if kept.is_empty() => {
            println!("no demo is running");
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The demo that `start` left running.
fn running(folder: &Path) -> Result<Demo> {
    let all = kept_processes(folder)?;
    if all.is_empty() || !all.iter().all(KeptProcess::is_running) {
        bail!("no demo is running, or not all of it; start one with: make demo-stop demo");
    }
    let file = folder.join(DEMO);
    let text = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("parsing {}", file.display()))
}

fn kept_processes(folder: &Path) -> Result<Vec<KeptProcess>> {
    let file: PathBuf = folder.join(PROCESSES);
    match fs::read(&file) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| format!("parsing {}", file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
    }
}

/// Prints each step with the seconds since the start.
struct Progress {
    began: Instant,
}

impl Progress {
    fn begin() -> Self {
        Self { began: Instant::now() }
    }

    fn step(&self, what: &str) {
        println!("\n[{:4} s] {what}", self.began.elapsed().as_secs());
    }
}

/// Prints a line of the machine's console. On a terminal the states of a progress bar overwrite each other.
fn show(line: &Line) {
    let mut out = std::io::stdout().lock();
    let redrawn = out.is_terminal() && line.text.contains("MiB/s");
    let (start, end) = if redrawn { ("\r\x1b[K", "") } else { ("", "\n") };
    // A closed pipe must not end the machine.
    let _ = write!(out, "{start}{:7.1} | {}{end}", line.at.as_secs_f64(), line.text);
    let _ = out.flush();
}
