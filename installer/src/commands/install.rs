//! `install`: registers and installs this machine, and reboots it into its own system.

mod disk_watch;
mod job;
pub(super) mod request;

use super::documents::{add_config_url, retry_download};
use super::network::{self, wait_for_network};
use super::operator::{self, PendingIdentity};
use super::probe;
use crate::boot::start;
use crate::cli::{InstallOptions, Output};
use crate::console::consoles::Heading;
use crate::console::log;
use crate::console::questions::{self, Terminal, is_public_key};
use crate::console::{self, announce};
use crate::exit_code::{ExitCode, OrExit};
use crate::session::identity::Identity;
use crate::session::relay::Relay;
use crate::session::websocket::WebSocketTransport;
use crate::session::{Backoff, Exchange};
use crate::settings::sources;
use crate::settings::{Gathered, Source};
use anyhow::Context;
use boot_contract::{Milestone, paths::MEDIUM_RELEASE};
use cloud_config::CloudConfig;
use command::Command;
use disk::plan::{InstallPlan, plan};
use disk_watch::DiskWatch;
use job::{InstallError, Job};
use machine::Machine;
use protocol::error_chain;
use protocol::hardware::FirmwareKind;
use protocol::message::{Done, Failure};
use registry::Proxy;
use release::read_manifest;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use uuid::Uuid;

/// Installs this machine. Retries after an error that can be corrected while the machine is on. Returns when the
/// machine restarts, or with an error that cannot be corrected or needs a new process.
pub async fn run(options: &InstallOptions, root: &Path) -> anyhow::Result<()> {
    if options.all_consoles {
        console::take_all(root);
        console::head(Heading::System, format!("{} installer", release_name(root)));
        console::note("probing this machine");
    }
    let gathered = gather(options, root)?;
    log::begin(*gathered.settings().debug);
    let release = options.release.clone().unwrap_or_else(|| PathBuf::from(MEDIUM_RELEASE));
    if options.dry_run {
        return dry_run(&gathered, &Machine::probe(root), &release, options.output);
    }
    let mut backoff = Backoff::remote();
    loop {
        let Err(error) = attempt(gather(options, root)?, options, root, release.clone()).await else { return Ok(()) };
        let code = ExitCode::of(&error);
        // After a failure of unknown cause the unit restarts the installer in a new process.
        if !code.may_change() || code == ExitCode::Failed {
            return Err(error);
        }
        let wait = backoff.next(None, operator::jitter());
        let seconds = wait.as_secs_f64().ceil();
        let milestone = if code == ExitCode::Refused { Milestone::Refused } else { Milestone::Failed };
        announce(milestone, format!("{error:#}\nThe installer tries again in {seconds} s, or when a disk appears"));
        pause(DiskWatch::begin(root), wait).await;
    }
}

/// Waits until a disk appears or disappears, for `wait` at most.
async fn pause(mut disks: DiskWatch, wait: Duration) {
    let end = Instant::now() + wait;
    let watching = tokio::task::spawn_blocking(move || disks.wait_for_change(end));
    // If the watch fails, the wait is only shorter.
    let _ = watching.await;
}

fn gather(options: &InstallOptions, root: &Path) -> anyhow::Result<Gathered> {
    let flags = options.settings.layer().or_exit(ExitCode::Settings)?;
    let gathered = Gathered::from_machine(root, options.settings.settings_file.as_deref(), flags);
    gathered.or_exit(ExitCode::Settings).context("resolving the settings")
}

async fn attempt(
    mut gathered: Gathered,
    options: &InstallOptions,
    root: &Path,
    release: PathBuf,
) -> anyhow::Result<()> {
    // The TPM is started early, because it takes seconds on hardware, as the network does.
    let begin_identity = || PendingIdentity::begin(options.tpm.tcti.clone(), root.to_owned());
    let mut identity = gathered.settings().registration_url.is_some().then(begin_identity);
    let disks = DiskWatch::begin(root);
    let mut machine = Machine::probe(root);
    console::head(Heading::Machine, probe::name(&machine));
    announce(Milestone::Probed, probe::describe(&machine));
    if machine.disks.iter().any(|disk| disk.installed.is_some()) {
        machine.identities = identity.get_or_insert_with(begin_identity).names(gathered.settings()).await;
    }
    // This comes before any question: neither the operator nor a network is needed, and the inventory does not change.
    if let Some((disk, system)) = start::own_system(&machine, gathered.settings().device.as_deref()) {
        let choice = questions::offer_again(&mut *person(), disk, &system.version);
        let Some(again) = choice else { return Ok(start::start(&machine, disk, system, root)?) };
        gathered.add(Source::Answer, again).or_exit(ExitCode::Settings)?;
    }

    network::configure(root, gathered.cloud_config()).or_exit(ExitCode::Failed)?;
    let mut network_is_up = false;
    if let Some(url) = gathered.settings().config_url.clone().value {
        add_config_url(&mut gathered, &url, &mut network_is_up).await?;
    }
    if gathered.settings().registration_url.is_none() && !*gathered.settings().automatic {
        ask(&mut gathered, &machine, &mut network_is_up).await?;
    }
    gathered.left_out().iter().for_each(console::note);
    let Some(mut transport) = operator::transport(gathered.settings())? else {
        let job = Job { gathered, root: root.to_owned(), release, identities: machine.identities.clone(), disks };
        return without_operator(job, &machine, root).await;
    };
    let identity = identity.take().unwrap_or_else(begin_identity);
    wait_for_network(&mut network_is_up).await;
    let identity = identity.ready(gathered.settings()).await?;
    console::note("asking the operator for this machine's configuration");
    let (exchange, config) =
        operator::register(&mut transport, &identity, &machine, Some(operator::note_retry_on_console)).await?;
    announce(Milestone::Attested, format!("{identity}, exchange {}", exchange.correlation()));
    announce(Milestone::Registered, format!("as {}", config.inventory));
    let added = gathered.add_document(Source::Operator, config.cloud_config);
    let name = identity.name();
    machine.identities.retain(|other| *other != name);
    machine.identities.insert(0, name);
    let identities = machine.identities.clone();
    let job =
        added.map(|()| Job { gathered, root: root.to_owned(), release, identities, disks }).map_err(InstallError::from);
    with_operator(job, transport, identity, exchange, &machine, root).await
}

/// Installs and reports progress, success or failure to the operator.
async fn with_operator(
    job: Result<Job, InstallError>,
    transport: WebSocketTransport,
    identity: Identity,
    exchange: Exchange<crate::session::websocket::WebSocketConnection>,
    machine: &Machine,
    root: &Path,
) -> anyhow::Result<()> {
    let mut relay = Relay::new(transport, identity, exchange, operator::jitter);
    let result = match job {
        Ok(job) => {
            let (sender, updates) = watch::channel(None);
            let ((), result) = tokio::join!(relay.run(updates), job.run(sender));
            result
        }
        Err(error) => Err(error),
    };
    if result.as_ref().is_err_and(InstallError::is_installed) {
        return start_late(machine, root);
    }
    let failure =
        result.as_ref().err().map(|error| Failure { reason: error.reason().to_owned(), message: error_chain(error) });
    if let Err(error) = relay.finish(Done { failure }).await {
        console::note(format!("the result could not be reported to the operator: {}", error_chain(&error)));
    }
    leave(result, machine.hardware.firmware.kind, root)
}

async fn without_operator(job: Job, machine: &Machine, root: &Path) -> anyhow::Result<()> {
    let (sender, _) = watch::channel(None);
    match job.run(sender).await {
        Err(error) if error.is_installed() => start_late(machine, root),
        result => leave(result, machine.hardware.firmware.kind, root),
    }
}

/// Boots this machine's system from a disk that appeared only after the configuration was requested.
fn start_late(before: &Machine, root: &Path) -> anyhow::Result<()> {
    let machine = Machine { identities: before.identities.clone(), ..Machine::probe(root) };
    let (disk, system) =
        start::own_system(&machine, None).context("the disk with this machine's system has disappeared")?;
    Ok(start::start(&machine, disk, system, root)?)
}

/// Reboots or powers off after a success.
fn leave(result: Result<InstallPlan, InstallError>, firmware: FirmwareKind, root: &Path) -> anyhow::Result<()> {
    let plan = result.map_err(|error| ExitCode::from(&error).with(error))?;
    start::put_first(&plan, firmware, root);
    let (verb, text) = if plan.power_off { ("poweroff", "powering off") } else { ("reboot", "into the new system") };
    announce(Milestone::Rebooting, text);
    console::flush();
    // Services need not be stopped one by one: nothing here has anything to save, and everything written was synced and
    // read back.
    Command::new("systemctl").args([verb, "--force"]).run().context("leaving the live system")?;
    Ok(())
}

fn dry_run(gathered: &Gathered, machine: &Machine, release: &Path, output: Output) -> anyhow::Result<()> {
    gathered.left_out().iter().for_each(console::note);
    let (manifest, _) = read_manifest(release).context("reading the release")?;
    let request = request::request(gathered.settings(), gathered.cloud_config(), &[], &CloudConfig::default());
    let plan = plan(&request, machine.host(), &manifest, Uuid::new_v4);
    let plan = plan.or_exit(ExitCode::NoTarget).context("planning the installation")?;
    match output {
        Output::Text => console::print(&plan)?,
        Output::Json => console::print(serde_json::to_string_pretty(&plan).context("writing the plan")?)?,
    }
    if let Some(url) = &*gathered.settings().config_url {
        console::note(format!("a dry run does not download {}", sources::without_secrets(url)));
    }
    if gathered.settings().registration_url.is_some() {
        console::note("a dry run does not contact the operator, whose configuration may change this plan");
    }
    Ok(())
}

/// Name of the running system (os-release(5)).
fn release_name(root: &Path) -> String {
    let text = std::fs::read_to_string(root.join("usr/lib/os-release")).unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("RancherOS").trim_matches('"').to_owned()
}

/// The person at the consoles of this machine, or at the terminal where this was started.
fn person() -> Box<dyn questions::Console> {
    match console::all() {
        Some(consoles) => Box::new(consoles),
        None => Box::new(Terminal::open()),
    }
}

async fn ask(gathered: &mut Gathered, machine: &Machine, network_is_up: &mut bool) -> anyhow::Result<()> {
    let answers = questions::ask(&mut *person(), machine, gathered.settings());
    let answers = answers.map_err(|error| ExitCode::from(&error).with(error))?;
    gathered.add(Source::Answer, answers.settings).or_exit(ExitCode::Configuration)?;
    if let Some(url) = gathered.settings().config_url.clone().value
        && gathered.settings().config_url.source == Source::Answer
    {
        add_config_url(gathered, &url, network_is_up).await?;
    }
    let mut config = answers.cloud_config;
    if !answers.github_users.is_empty() {
        wait_for_network(network_is_up).await;
        let mut keys: Vec<Value> = match config.0.remove("ssh_authorized_keys") {
            Some(Value::Array(keys)) => keys,
            _ => Vec::new(),
        };
        let proxy = operator::proxy(gathered.settings())?;
        for user in &answers.github_users {
            keys.extend(github_keys(user, proxy.as_ref()).await?.into_iter().map(Value::from));
        }
        config.0.insert("ssh_authorized_keys".to_owned(), keys.into());
    }
    gathered.add_document(Source::Answer, config).or_exit(ExitCode::Configuration)
}

/// The public keys of a GitHub account.
async fn github_keys(user: &str, proxy: Option<&Proxy>) -> anyhow::Result<Vec<String>> {
    let url = format!("https://github.com/{user}.keys");
    let text = retry_download(ExitCode::Configuration, async || sources::download_text(&url, proxy).await).await?;
    let keys: Vec<String> = text.lines().map(str::trim).filter(|line| is_public_key(line)).map(str::to_owned).collect();
    if keys.is_empty() { Err(anyhow::anyhow!("GitHub has no SSH key of the user {user}")) } else { Ok(keys) }
}
