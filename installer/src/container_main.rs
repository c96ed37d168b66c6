//! `ros-installer` in the upgrade image: parses the command line, upgrades the host, and leaves the reason of a failure
//! where the kubelet finds it.

use boot_contract::Milestone;
use clap::Parser;
use installer::console::{self, announce, log};
use installer::container::cli::{self, Cli, Command};
use installer::container::{TerminationMessage, upgrade};
use installer::exit_code::ExitCode;
use protocol::error_chain;

fn main() -> std::process::ExitCode {
    let Command::Upgrade(options) = Cli::parse_from(cli::words(std::env::args_os())).command;
    log::begin(false);
    let termination = TerminationMessage::open(&options.termination_message);
    let Err(error) = upgrade(&options) else { return ExitCode::Success.into() };
    let reason = error_chain(&error);
    announce(Milestone::Failed, &reason);
    if let Err(lost) = termination.and_then(|mut message| message.write(&reason)) {
        console::note(format!("writing {}: {lost}", options.termination_message.display()));
    }
    ExitCode::from(&error).into()
}
