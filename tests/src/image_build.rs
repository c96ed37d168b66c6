//! `ros-image build` with the programs of this build, as the Makefile runs it.

use anyhow::Result;
use qemu::paths;
use std::path::Path;
use std::process::Command;

/// The command, to which overlays are to be added. The first one must be that of the project.
pub fn command(version: &str, output: &Path) -> Result<Command> {
    let mut build = Command::new(paths::program("ros-image")?);
    build.args(["build", "--version", version, "--output"]).arg(output);
    for (option, program) in
        [("--installer", "ros-installer"), ("--init", "ros-init"), ("--container-installer", "container-installer")]
    {
        build.arg(option).arg(paths::program(program)?);
    }
    Ok(build)
}
