//! Parse, log, run, print the chain of causes, exit.

use clap::Parser;
use installer::cli::{Cli, Command, SettingsOptions};
use installer::commands::{install, probe, register, report, status, tpm_hash};
use installer::console::{self, Milestone, announce};
use installer::exit_code::ExitCode;
use installer::{apply, healthy};
use std::path::Path;
use tracing_subscriber::EnvFilter;

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    log(&cli.command);
    let outcome = run(&cli.command, Path::new("/"));
    let Err(error) = outcome else { return ExitCode::Success.into() };
    let code = ExitCode::of(&error);
    match (&cli.command, code) {
        (Command::Install(_) | Command::Report(_), ExitCode::Refused) => {
            announce(Milestone::Refused, format!("{error:#}"))
        }
        (Command::Install(_) | Command::Report(_) | Command::Apply(_) | Command::Healthy, _) => {
            announce(Milestone::Failed, format!("{error:#}"));
        }
        _ => console::note(format!("{error:#}")),
    }
    code.into()
}

fn run(command: &Command, root: &Path) -> anyhow::Result<()> {
    match command {
        Command::Install(options) => block_on(install::run(options, root)),
        Command::Register(options) => block_on(register::run(options, root)),
        Command::Report(options) => block_on(report::run(options, root)),
        Command::TpmHash(options) => tpm_hash::run(options),
        Command::Probe(options) => probe::run(options, root),
        Command::Status(options) => status::run(options),
        Command::Apply(options) => apply::run(options.stage.into()).map(|_| ()),
        Command::Healthy => healthy::run(),
    }
}

/// One thread is enough for one connection; what blocks has threads of its own.
fn block_on<R>(command: impl Future<Output = anyhow::Result<R>>) -> anyhow::Result<R> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

fn log(command: &Command) {
    let is_debug = matches!(
        command,
        Command::Install(installer::cli::InstallOptions { settings: SettingsOptions { debug: true, .. }, .. })
            | Command::Register(installer::cli::RegisterOptions { settings: SettingsOptions { debug: true, .. }, .. })
    );
    let default = if is_debug { "installer=debug,warn" } else { "warn,tss_esapi=off" };
    let filter = EnvFilter::try_from_env("ROS_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
}
