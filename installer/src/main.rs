//! Parses the command line, starts the log, runs the command, prints the chain of causes of an error, and exits.

use boot_contract::Milestone;
use clap::Parser;
use installer::cli::{Cli, Command};
use installer::commands::{
    boot, first_boot, grow, install, probe, register, report, reset, rollback, status, tpm_hash, upgrade,
};
use installer::console::{self, announce, log};
use installer::exit_code::ExitCode;
use installer::installed::{healthy, issue, recovery, trial};
use installer::join;
use installer::provision;
use std::path::Path;

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    let outcome = run(&cli.command, Path::new("/"));
    let Err(error) = outcome else { return ExitCode::Success.into() };
    let code = ExitCode::of(&error);
    match (&cli.command, code) {
        (Command::Install(_) | Command::FirstBoot(_) | Command::Report(_), ExitCode::Refused) => {
            announce(Milestone::Refused, format!("{error:#}"))
        }
        (
            Command::Install(_)
            | Command::FirstBoot(_)
            | Command::Report(_)
            | Command::Apply(_)
            | Command::Join(_)
            | Command::Healthy(_)
            | Command::Recover
            | Command::Upgrade(_),
            _,
        ) => {
            announce(Milestone::Failed, format!("{error:#}"));
        }
        _ => console::note(format!("{error:#}")),
    }
    if console::all().is_some() {
        console::note(code.next_step());
    }
    console::flush();
    code.into()
}

fn run(command: &Command, root: &Path) -> anyhow::Result<()> {
    // These two commands learn only from their settings how much to log.
    if !matches!(command, Command::Install(_) | Command::Register(_)) {
        log::begin(false);
    }
    match command {
        Command::Install(options) => block_on(install::run(options, root)),
        Command::FirstBoot(options) => block_on(first_boot::run(options, root)),
        Command::Grow => grow::run(root),
        Command::Register(options) => block_on(register::run(options, root)),
        Command::Report(options) => block_on(report::run(options, root)),
        Command::TpmHash(options) => tpm_hash::run(options),
        Command::Probe(options) => probe::run(options, root),
        Command::Status(options) => status::run(options),
        Command::Apply(options) => Ok(provision::run(options.stage.into()).map(|_| ())?),
        Command::Join(options) => Ok(join::run(root, options.again)?),
        Command::Healthy(options) if options.deadline => Ok(trial::end()?),
        Command::Healthy(_) => Ok(healthy::run()?),
        Command::Upgrade(options) => block_on(upgrade::run(options)),
        Command::Rollback(options) => rollback::run(options),
        Command::Boot(options) => boot::run(options, root),
        Command::Reset(options) => reset::run(options, root),
        Command::Recover => Ok(recovery::run()?),
        Command::Issue => Ok(issue::write(root)?),
    }
}

/// Runs a command on one thread, which is enough for one connection. Blocking work has separate threads.
fn block_on<R>(command: impl Future<Output = anyhow::Result<R>>) -> anyhow::Result<R> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}
