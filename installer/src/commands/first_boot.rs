//! `first-boot`: a system that came with a disk image becomes the machine's own.

use super::documents::add_config_url;
use super::grow::grow;
use super::install::request;
use super::network::{self, wait_for_network};
use super::operator::{self, PendingIdentity};
use super::probe;
use crate::boot::state_file;
use crate::cli::FirstBootOptions;
use crate::console::{self, announce};
use crate::exit_code::{ExitCode, OrExit};
use crate::installed::files::{remove_if_present, sync_folder, write_secret};
use crate::installed::own_disk::OwnDisk;
use crate::path_error::PathError;
use crate::session::Backoff;
use crate::settings::document::read_reserved;
use crate::settings::seed::{self, Seed};
use crate::settings::{Gathered, Layer, Settings, Source};
use anyhow::Context;
use boot_contract::paths::{OEM, OEM_FIRST_BOOT, below};
use boot_contract::{Milestone, Slot};
use cloud_config::normal_key;
use machine::Machine;
use protocol::error_chain;
use protocol::message::Done;
use std::fs;
use std::path::Path;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;

/// Prepares the disk, then registers until that succeeds. Returns when the configuration is stored.
pub async fn run(options: &FirstBootOptions, root: &Path) -> anyhow::Result<()> {
    let mut disk = OwnDisk::open()?;
    prepare(&mut disk, root).context("preparing the disk")?;
    // A machine that waits for its operator is no failed start, however often it is switched off meanwhile.
    state_file::change(|state| {
        state.choose(Slot::A);
    })?;
    let mut backoff = Backoff::remote();
    loop {
        let Err(error) = attempt(&mut disk, Preparations::begin(options, root), root).await else { return Ok(()) };
        let code = ExitCode::of(&error);
        if !code.may_change() || code == ExitCode::Failed {
            return Err(error);
        }
        let wait = backoff.next(None, operator::jitter());
        let milestone = if code == ExitCode::Refused { Milestone::Refused } else { Milestone::Failed };
        announce(milestone, format!("{error:#}\nnext attempt in {} s", wait.as_secs_f64().ceil()));
        sleep(wait).await;
    }
}

/// Makes the identifiers of the disk, unless that was done before, and lets its last partition grow.
fn prepare(disk: &mut OwnDisk, root: &Path) -> anyhow::Result<()> {
    let file = below(root, OEM_FIRST_BOOT);
    let text = fs::read_to_string(&file).map_err(PathError::of("reading", &file))?;
    // The file holds the GUID that the disk has in the image.
    if disk.guid()?.is_some_and(|guid| text.trim().parse() == Ok(guid)) {
        disk.make_identifiers()?;
        console::note("the disk has identifiers of its own");
    }
    grow(disk)
}

/// Work that takes seconds, each part on a thread of its own. The identity and the machine are needed only if the settings name an
/// operator, which they nearly always do.
struct Preparations {
    identity: PendingIdentity,
    machine: JoinHandle<Machine>,
    seed: JoinHandle<Seed>,
}

impl Preparations {
    fn begin(options: &FirstBootOptions, root: &Path) -> Self {
        let probed = root.to_owned();
        Self {
            identity: PendingIdentity::begin(options.tpm.tcti.clone(), root.to_owned()),
            machine: spawn_blocking(move || Machine::probe(&probed)),
            seed: spawn_blocking(seed::find),
        }
    }
}

async fn attempt(disk: &mut OwnDisk, begun: Preparations, root: &Path) -> anyhow::Result<()> {
    let reserved = read_reserved(&disk.settings()?).or_exit(ExitCode::Settings)?;
    let is_own = |key: &String| normal_key(key) == "rancheros";
    let mut is_configured = reserved.as_ref().is_some_and(|document| !document.0.keys().all(is_own));
    let mut gathered = Gathered::with_document(root, reserved, Layer::new(Source::Flag)).or_exit(ExitCode::Settings)?;
    let seed = begun.seed.await.context("looking for NoCloud and ConfigDrive")?;
    seed.left_out.iter().for_each(console::note);
    is_configured |= seed.has_user_data;
    gathered.add_document(Source::Seed, seed.document).or_exit(ExitCode::Settings)?;
    network::configure(root, gathered.cloud_config()).or_exit(ExitCode::Failed)?;
    let mut network_is_up = false;
    if let Some(url) = gathered.settings().config_url.clone().value {
        add_config_url(&mut gathered, &url, &mut network_is_up).await?;
        is_configured = true;
    }
    gathered.left_out().iter().for_each(console::note);
    note_ignored(gathered.settings());
    let Some(mut transport) = operator::transport(gathered.settings())? else {
        return without_operator(disk, &gathered, is_configured, root);
    };
    let machine = begun.machine.await.context("probing the machine")?;
    announce(Milestone::Probed, probe::describe(&machine));
    wait_for_network(&mut network_is_up).await;
    let identity = begun.identity.ready(gathered.settings()).await?;
    let (exchange, config) =
        operator::register(&mut transport, &identity, &machine, Some(operator::note_retry_on_console)).await?;
    announce(Milestone::Attested, format!("{identity}, exchange {}", exchange.correlation()));
    announce(Milestone::Registered, format!("as {}", config.inventory));
    gathered.add_document(Source::Operator, config.cloud_config).or_exit(ExitCode::Configuration)?;
    store(&gathered, root)?;
    disk.set_identity(identity.name())?;
    if let Err(error) = exchange.finish(Done { failure: None }).await {
        console::note(format!("the result could not be reported to the operator: {}", error_chain(&error)));
    }
    // The network runs already, and is not started again with the rest of the system.
    network::configure(root, gathered.cloud_config()).or_exit(ExitCode::Failed)?;
    end(disk, root)
}

/// Names the settings that only an installation can apply.
fn note_ignored(settings: &Settings) {
    let given = [
        ("device", settings.device.is_some()),
        ("deviceSelector", !settings.device_selector.is_empty()),
        ("forceEFI", *settings.force_efi),
        ("isoURL", settings.iso_url.is_some()),
        ("noFormat", *settings.no_format),
        ("powerOff", *settings.power_off),
        ("tty", settings.tty.is_some()),
        ("wipe", *settings.wipe),
    ];
    for (name, _) in given.iter().filter(|(_, is_given)| *is_given) {
        console::note(format!("{name} has no effect: a disk image is not installed"));
    }
}

/// A machine without any configuration looks for one again at its next start.
fn without_operator(disk: &mut OwnDisk, gathered: &Gathered, is_configured: bool, root: &Path) -> anyhow::Result<()> {
    if !is_configured {
        console::note(
            "this disk image has no settings: put some into it with `ros-image customize`, or attach a volume of NoCloud or \
             ConfigDrive, and start it again",
        );
        return Ok(());
    }
    store(gathered, root)?;
    end(disk, root)
}

/// Stores the configuration where an installation would.
fn store(gathered: &Gathered, root: &Path) -> anyhow::Result<()> {
    let request = request::on_machine(root, gathered.settings(), gathered.cloud_config());
    request.warnings.iter().for_each(console::note);
    for file in &request.configuration {
        let path = below(root, OEM).join(&file.name);
        write_secret(&path, file.content().as_bytes()).map_err(PathError::of("writing", &path))?;
    }
    Ok(())
}

/// From now on the system starts as an installed one. The settings in the image are erased after that, so that a power cut
/// never leaves a machine without any.
fn end(disk: &mut OwnDisk, root: &Path) -> anyhow::Result<()> {
    let file = below(root, OEM_FIRST_BOOT);
    remove_if_present(&file).map_err(PathError::of("removing", &file))?;
    let folder = below(root, OEM);
    sync_folder(&folder).map_err(PathError::of("writing", &folder))?;
    if let Err(error) = disk.clear_settings() {
        console::note(format!("{}; the next start tries again", error_chain(&error)));
    }
    Ok(())
}
