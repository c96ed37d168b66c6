//! A container as a cluster would run it: umoci unpacks the image, runc runs it. Neither shares code with the program
//! that built the image.

use anyhow::{Context, Result, ensure};
use qemu::process::Process;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs as the chart's Deployment demands: not root, a read-only root, no capabilities, no new privileges. It shares
/// this host's network, so that it reaches a cluster on loopback.
pub struct Container {
    bundle: PathBuf,
    /// runc's own records.
    state: PathBuf,
    id: String,
}

impl Container {
    /// Unpacks an image of an OCI layout into a folder of its own.
    pub fn unpack(layout: &Path, tag: &str, folder: &Path) -> Result<Self> {
        let bundle = folder.join("bundle");
        let image = format!("{}:{tag}", layout.display());
        let output = Command::new("umoci")
            .args(["unpack", "--image", &image])
            .arg(&bundle)
            .output()
            .context("running umoci; is it installed?")?;
        ensure!(output.status.success(), "umoci: {}", String::from_utf8_lossy(&output.stderr));
        let container = Self { bundle, state: folder.join("state"), id: format!("ros-test-{}", std::process::id()) };
        container.configure(|config| {
            config["process"]["terminal"] = json!(false);
            config["process"]["noNewPrivileges"] = json!(true);
            config["process"]["capabilities"] = json!({});
            config["root"]["readonly"] = json!(true);
            if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
                namespaces.retain(|namespace| namespace["type"] != "network");
            }
        })?;
        Ok(container)
    }

    /// Mounts a folder of this host read-only.
    pub fn mount(&self, folder: &Path, at: &str) -> Result<()> {
        let mount = json!({"destination": at, "type": "bind", "source": folder, "options": ["bind", "ro"]});
        self.configure(|config| {
            if let Some(mounts) = config["mounts"].as_array_mut() {
                mounts.push(mount);
            }
        })
    }

    /// Runs the image's entry point with these arguments to its end.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.command(arguments, &[])?.output().context("running runc; is it installed?")
    }

    /// Starts the image's entry point and leaves it running.
    pub fn start(&self, arguments: &[&str], environment: &[(&str, &str)], log: &Path) -> Result<Process> {
        Process::start(&mut self.command(arguments, environment)?, log)
    }

    /// What `/proc/PID/NAME` of the running program says.
    pub fn proc(&self, name: &str) -> Result<String> {
        let state = self.runc().args(["state", &self.id]).output().context("running runc state")?;
        ensure!(state.status.success(), "runc state: {}", String::from_utf8_lossy(&state.stderr));
        let state: Value = serde_json::from_slice(&state.stdout).context("reading runc's state")?;
        let path = format!("/proc/{}/{name}", state["pid"]);
        fs::read_to_string(&path).with_context(|| format!("reading {path}"))
    }

    fn command(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Command> {
        self.configure(|config| {
            let process = &mut config["process"];
            let entry_point = process["args"][0].clone();
            process["args"] = json!([entry_point]);
            if let Some(all) = process["args"].as_array_mut() {
                all.extend(arguments.iter().map(|argument| json!(argument)));
            }
            if let Some(all) = process["env"].as_array_mut() {
                all.extend(environment.iter().map(|(name, value)| json!(format!("{name}={value}"))));
            }
        })?;
        let mut command = self.runc();
        command.args(["run", "--bundle"]).arg(&self.bundle).arg(&self.id);
        Ok(command)
    }

    fn runc(&self) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(&self.state);
        command
    }

    fn configure(&self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let path = self.bundle.join("config.json");
        let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let mut config: Value = serde_json::from_slice(&text).context("reading the container's configuration")?;
        change(&mut config);
        fs::write(&path, config.to_string()).with_context(|| format!("writing {}", path.display()))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // runc fails if the container has ended by itself. That is no error here.
        let _ = self.runc().args(["delete", "--force", &self.id]).output();
    }
}
