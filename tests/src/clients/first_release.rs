//! A machine of the first release: that release's own libraries, in `tests/go/first-release-client/`, on a TPM in
//! software.

use crate::clusters::go_program::GoProgram;
use crate::world::World;
use anyhow::{Context, Result, bail};
use qemu::swtpm::{EkCertificate, Tpm};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use tokio::process::Command;

const CLIENT: GoProgram = GoProgram {
    name: "first-release-client",
    package: ".",
    linker_flags: "-s -w",
    links: &["first-release-client"],
    effort: "some seconds",
};

pub struct FirstReleaseMachine {
    tpm: Tpm,
    client: PathBuf,
    /// The registration URL.
    pub url: String,
    authority: PathBuf,
    /// The SMBIOS document that it sends; none if this is `None`.
    pub smbios: Option<PathBuf>,
}

impl FirstReleaseMachine {
    /// A new machine with the serial number `FR-0001`, which knows the world's registration.
    pub async fn new(world: &World, certificate: EkCertificate) -> Result<Self> {
        let client = tokio::task::spawn_blocking(|| CLIENT.folder()).await.context("building the client")??;
        let tpm = Tpm::for_programs(&world.folder("tpm")?, certificate).await?;
        let authority = world.path().join("ca.pem");
        fs::write(&authority, world.operator.ca().await?).context("writing the operator's CA")?;
        let smbios = world.path().join("smbios.json");
        let document = json!({
            "System Information": {"Manufacturer": "ACME", "Product Name": "Anvil", "Serial Number": "FR-0001"},
            // The dmidecode parser of the first release leaves lists like this.
            "BIOS Information": {"Vendor": "SeaBIOS", "Characteristics": ["PCI is supported", "ACPI is supported"]},
        });
        fs::write(&smbios, document.to_string()).context("writing an SMBIOS document")?;
        let client = client.join("first-release-client");
        Ok(Self { url: world.url()?, tpm, client, authority, smbios: Some(smbios) })
    }

    pub async fn register(&self, arguments: &[&str]) -> Result<Value> {
        self.register_at(&self.url, arguments).await
    }

    /// What the client prints, or its error.
    pub async fn register_at(&self, url: &str, arguments: &[&str]) -> Result<Value> {
        let mut command = Command::new(&self.client);
        command.args(["-url", url, "-tpm", &format!("127.0.0.1:{}", self.tpm.command_port())]);
        command.arg("-ca").arg(&self.authority).args(arguments);
        if let Some(smbios) = &self.smbios {
            command.arg("-smbios").arg(smbios);
        }
        let output = command.kill_on_drop(true).output().await.context("running the first release's client")?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).context("reading what the first release's client printed")
    }
}
