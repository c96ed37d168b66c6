//! Machines of the first release register with the operator of today. Their part is played by that release's own
//! libraries, in `tests/first-release-client/`, on a TPM in software.

use anyhow::{Context, Result, bail};
use harness::cluster::{Cluster, Controllers};
use harness::go_program::GoProgram;
use harness::operator::Operator;
use harness::registration::{NAMESPACE, Registration};
use harness::scratch::Scratch;
use harness::swtpm::{EkCertificate, Tpm};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use tokio::process::Command;

const CLIENT: GoProgram = GoProgram {
    name: "first-release-client",
    linker_flags: "-s -w",
    links: &["first-release-client"],
    effort: "some seconds",
};

#[tokio::test(flavor = "multi_thread")]
async fn a_first_release_machine_is_registered_once_and_configured() {
    let world = World::start("first-release", EkCertificate::Present).await.unwrap();
    let registered = world.register(&[]).await.unwrap();

    let config = &registered["config"];
    assert_eq!(config["hostname"], "edge");
    assert_eq!(config["rancherd"]["token"], "tpm://");
    assert_eq!(config["rancherd"]["server"], world.operator.url());
    assert_eq!(config["rancheros"]["install"]["automatic"], true);

    let [inventory] = &world.inventories().unwrap()[..] else { panic!("one machine, one inventory") };
    assert_eq!(inventory["spec"]["tpmHash"], registered["tpmHash"], "the client's own hash of its key");
    assert_eq!(inventory["spec"]["smbios"]["System Information"]["Serial Number"], "FR-0001");
    assert_eq!(inventory["metadata"]["labels"]["vendor"], "acme");
    let name = inventory["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("m-acme-anvil-fr-0001-"), "{name}");

    let again = world.register(&[]).await.unwrap();
    assert_eq!(again, registered);
    assert_eq!(world.inventories().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_release_machine_needs_neither_certificate_nor_smbios() {
    let mut world = World::start("first-release-bare", EkCertificate::Absent).await.unwrap();
    world.smbios = None;
    let registered = world.register(&[]).await.unwrap();
    let [inventory] = &world.inventories().unwrap()[..] else { panic!("one machine, one inventory") };
    assert_eq!(inventory["spec"]["tpmHash"], registered["tpmHash"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_release_machine_without_proof_gets_nothing() {
    let world = World::start("first-release-refused", EkCertificate::Present).await.unwrap();
    let error = world.register(&["-wrong-secret"]).await.unwrap_err().to_string();
    assert!(error.contains("receiving the configuration"), "{error}");

    let unknown = format!("{}x", world.url);
    let error = world.register_at(&unknown, &[]).await.unwrap_err().to_string();
    assert!(error.contains("HTTP 4"), "{error}");
    assert_eq!(world.inventories().unwrap(), [] as [Value; 0]);
}

/// A cluster with the operator and one registration, and a machine.
struct World {
    operator: Operator,
    cluster: Cluster,
    tpm: Tpm,
    client: PathBuf,
    url: String,
    authority: PathBuf,
    smbios: Option<PathBuf>,
    /// Goes last: everything else lies in it.
    _scratch: Scratch,
}

impl World {
    async fn start(name: &str, certificate: EkCertificate) -> Result<Self> {
        let client = tokio::task::spawn_blocking(|| CLIENT.folder()).await.context("building the client")??;
        let scratch = Scratch::new(name)?;
        let tpm = Tpm::for_programs(&scratch.folder("tpm")?, certificate).await?;
        let cluster = Cluster::start(&scratch.folder("cluster")?, Controllers::Absent).await?;
        let operator = Operator::start(&cluster, &scratch.folder("operator")?).await?;
        let registration = Registration::apply(
            &cluster,
            "edge",
            json!({"machineInventoryLabels": {"vendor": "acme"}, "cloudConfig": {"hostname": "edge"}}),
        )?;
        let authority = scratch.path().join("ca.pem");
        fs::write(&authority, operator.ca().await?).context("writing the operator's CA")?;
        let smbios = scratch.path().join("smbios.json");
        let document = json!({
            "System Information": {"Manufacturer": "ACME", "Product Name": "Anvil", "Serial Number": "FR-0001"},
            // As its dmidecode parser leaves lists.
            "BIOS Information": {"Vendor": "SeaBIOS", "Characteristics": ["PCI is supported", "ACPI is supported"]},
        });
        fs::write(&smbios, document.to_string()).context("writing an SMBIOS document")?;
        Ok(Self {
            url: registration.local_url(&operator)?,
            operator,
            cluster,
            tpm,
            client: client.join("first-release-client"),
            authority,
            smbios: Some(smbios),
            _scratch: scratch,
        })
    }

    async fn register(&self, arguments: &[&str]) -> Result<Value> {
        self.register_at(&self.url, arguments).await
    }

    /// What the client prints, or its error.
    async fn register_at(&self, url: &str, arguments: &[&str]) -> Result<Value> {
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

    fn inventories(&self) -> Result<Vec<Value>> {
        let kind = "machineinventories.rancheros.cattle.io";
        let list = self.cluster.kubectl(&["get", kind, "--namespace", NAMESPACE, "--output", "json"], "")?;
        let list: Value = serde_json::from_str(&list).context("reading the inventories")?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }
}
