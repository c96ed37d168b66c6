//! `ros-installer register` as a process on this host, which stands for a machine in the live system.

use crate::world::World;
use anyhow::{Context, Result};
use qemu::paths;
use qemu::swtpm::{EkCertificate, Tpm};
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

/// The installer with a TPM, or without one and with a shared secret on its medium.
pub struct InstallerProcess {
    tpm: Option<Tpm>,
    /// PEM of the authority that it trusts.
    pub authority: PathBuf,
    /// The medium's `registration.yaml`.
    settings: PathBuf,
}

impl InstallerProcess {
    /// With a new TPM from the factory.
    pub async fn with_tpm(world: &World) -> Result<Self> {
        let tpm = Tpm::for_programs(&world.folder("tpm")?, EkCertificate::Present).await?;
        let this = Self::new(world, Some(tpm))?;
        fs::write(&this.authority, world.operator.ca().await?).context("writing the operator's authority")?;
        Ok(this)
    }

    /// Without a TPM. The medium names the world's registration and this secret.
    pub async fn with_secret(world: &World, secret: &str) -> Result<Self> {
        let this = Self::new(world, None)?;
        let authority = world.operator.ca().await?;
        let install =
            json!({"registrationURL": world.url()?, "registrationCACert": authority, "registrationSecret": secret});
        fs::write(&this.settings, json!({"rancheros": {"install": install}}).to_string())
            .context("writing the medium's settings")?;
        Ok(this)
    }

    fn new(world: &World, tpm: Option<Tpm>) -> Result<Self> {
        let folder = world.folder("installer")?;
        Ok(Self { tpm, authority: folder.join("ca.pem"), settings: folder.join("registration.yaml") })
    }

    /// The command `ros-installer` with the machine's TPM.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(paths::program("ros-installer")?);
        let tcti = self.tpm.as_ref().map_or_else(|| "device:/nonexistent/tpmrm0".to_owned(), Tpm::tcti);
        command.args(arguments).env("TCTI", tcti);
        Ok(command)
    }

    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.command(arguments)?.output().context("running ros-installer")
    }

    /// Tries once to register at a URL.
    pub fn register(&self, url: &str, more: &[&str]) -> Result<Output> {
        let mut command = self.command(&["register", "--once", "--registration-url", url])?;
        command.arg("--registration-ca-cert").arg(&self.authority).args(more);
        command.output().context("running ros-installer register")
    }

    /// Tries once to register as the medium's settings say.
    pub fn register_from_medium(&self, more: &[&str]) -> Result<Output> {
        let mut command = self.command(&["register", "--once"])?;
        command.arg("--settings-file").arg(&self.settings).args(more);
        command.output().context("running ros-installer register")
    }
}
