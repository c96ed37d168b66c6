//! `ros-image build` with the programs of this build, as the Makefile runs it.

use anyhow::Result;
use qemu::paths;
use std::path::Path;
use std::process::Command;

/// What a build needs, `ros-image` itself first.
pub const PROGRAMS: [&str; 4] = ["ros-image", "ros-installer", "ros-init", "container-installer"];

/// The command, to which overlays are to be added. The first one must be that of the project.
pub fn command(version: &str, output: &Path) -> Result<Command> {
    let program = paths::program(PROGRAMS[0])?;
    Ok(command_with(program.parent().unwrap_or(Path::new(".")), version, output))
}

/// The same with the programs in a folder.
pub fn command_with(programs: &Path, version: &str, output: &Path) -> Command {
    let [image, installer, init, container_installer] = PROGRAMS.map(|program| programs.join(program));
    let mut build = Command::new(image);
    build.args(["build", "--version", version, "--output"]).arg(output);
    for (option, program) in
        [("--installer", installer), ("--init", init), ("--container-installer", container_installer)]
    {
        build.arg(option).arg(program);
    }
    build
}
