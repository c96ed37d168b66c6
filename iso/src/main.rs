//! The program `ros-image`: parses the options, runs the command and prints the chain of errors.

use std::process::ExitCode;

use clap::Parser;
use iso::cli::{Cli, Command};
use iso::{build, chart, customize, keygen, operator_image, push, serve, show, verify};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Build(options) => build::run(&options),
        Command::Keygen(options) => keygen::run(&options),
        Command::Push(options) => push::run(&options),
        Command::Operator(options) => operator_image::run(&options),
        Command::Chart(options) => chart::run(&options),
        Command::Customize(options) => customize::run(&options),
        Command::Show(options) => show::run(&options),
        Command::Verify(options) => verify::run(&options),
        Command::Serve(options) => serve::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ros-image: {error:#}");
            ExitCode::FAILURE
        }
    }
}
