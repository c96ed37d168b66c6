//! Machines of the first release register with the operator of today. Their part is played by that release's own
//! libraries, in `tests/go/first-release-client/`, on a TPM in software.

use anyhow::{Context, Result, bail};
use harness::clusters::go_program::GoProgram;
use harness::clusters::registration::NAMESPACE;
use harness::world::World;
use qemu::swtpm::{EkCertificate, Tpm};
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tokio::process::Command;

const TIMEOUT: Duration = Duration::from_secs(60);

const CLIENT: GoProgram = GoProgram {
    name: "first-release-client",
    package: ".",
    linker_flags: "-s -w",
    links: &["first-release-client"],
    effort: "some seconds",
};

#[tokio::test(flavor = "multi_thread")]
async fn a_first_release_machine_is_registered_once_and_configured() {
    let field = Field::new("first-release", EkCertificate::Present).await.unwrap();
    let registered = field.register(&[]).await.unwrap();

    let config = &registered["config"];
    assert_eq!(config["hostname"], "edge");
    assert_eq!(config["rancherd"]["token"], "tpm://");
    assert_eq!(config["rancherd"]["server"], field.world.operator.url());
    assert_eq!(config["rancheros"]["install"]["automatic"], true);

    let [inventory] = &field.world.inventories().unwrap()[..] else { panic!("one machine, one inventory") };
    assert_eq!(inventory["spec"]["tpmHash"], registered["tpmHash"], "the client's own hash of its key");
    assert_eq!(inventory["spec"]["smbios"]["System Information"]["Serial Number"], "FR-0001");
    assert_eq!(inventory["metadata"]["labels"]["vendor"], "acme");
    let name = inventory["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("m-acme-anvil-fr-0001-"), "{name}");

    let again = field.register(&[]).await.unwrap();
    assert_eq!(again, registered);
    assert_eq!(field.world.inventories().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_release_machine_needs_neither_certificate_nor_smbios() {
    let mut field = Field::new("first-release-bare", EkCertificate::Absent).await.unwrap();
    field.smbios = None;
    let registered = field.register(&[]).await.unwrap();
    let [inventory] = &field.world.inventories().unwrap()[..] else { panic!("one machine, one inventory") };
    assert_eq!(inventory["spec"]["tpmHash"], registered["tpmHash"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_release_machine_without_proof_gets_nothing() {
    let field = Field::new("first-release-refused", EkCertificate::Present).await.unwrap();
    let error = field.register(&["-wrong-secret"]).await.unwrap_err().to_string();
    assert!(error.contains("receiving the configuration"), "{error}");

    let unknown = format!("{}x", field.url);
    let error = field.register_at(&unknown, &[]).await.unwrap_err().to_string();
    assert!(error.contains("HTTP 4"), "{error}");
    assert_eq!(field.world.inventories().unwrap(), [] as [Value; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_release_machine_is_told_how_it_joins_by_the_inventory_that_knows_it() {
    let mut field = Field::new("first-release-join", EkCertificate::Present).await.unwrap();
    let registered = field.register(&[]).await.unwrap();
    field.smbios = None;
    let endpoint = field.world.operator.local_url("/v1-rancheros/inventory");
    let refused = async |code: &str| {
        let error = field.register_at(&endpoint, &[]).await.unwrap_err().to_string();
        assert!(error.contains(code), "{error}");
    };
    refused("NotAssigned").await;

    // Registration and inventory are deleted; the machine is expected by its hash alone.
    let kinds = ["machineregistrations.rancheros.cattle.io", "machineinventories.rancheros.cattle.io"];
    for kind in kinds {
        field.world.cluster.kubectl(&["delete", kind, "--all", "--namespace", NAMESPACE], "").unwrap();
    }
    until("the machine to be unknown", TIMEOUT, async || {
        let error = field.register_at(&endpoint, &[]).await.unwrap_err().to_string();
        Ok(if error.contains("UnknownMachine") { Poll::Ready(()) } else { Poll::Pending(error) })
    })
    .await
    .unwrap();
    let object = json!({
        "apiVersion": "rancheros.cattle.io/v1", "kind": "MachineInventory",
        "metadata": {"name": "expected", "namespace": NAMESPACE},
        "spec": {"tpm": registered["tpmHash"], "config": {"role": "server", "nodeName": "one"}},
    });
    field.world.cluster.kubectl(&["apply", "--filename", "-"], &object.to_string()).unwrap();
    let told = until("the machine to be known again", TIMEOUT, async || {
        let told = field.register_at(&endpoint, &[]).await;
        Ok(told.map_or_else(|error| Poll::Pending(error.to_string()), Poll::Ready))
    })
    .await
    .unwrap();
    assert_eq!(told["config"], json!({"role": "server", "nodeName": "one"}));
    let error = field.register_at(&endpoint, &["-wrong-secret"]).await.unwrap_err().to_string();
    assert!(error.contains("ProofRejected"), "{error}");
    let error = field.register(&[]).await.unwrap_err().to_string();
    assert!(error.contains("UnknownToken"), "a registration that is deleted is closed: {error}");
}

/// A machine in the field, and where it registers.
struct Field {
    world: World,
    tpm: Tpm,
    client: PathBuf,
    url: String,
    authority: PathBuf,
    smbios: Option<PathBuf>,
}

impl Field {
    async fn new(name: &str, certificate: EkCertificate) -> Result<Self> {
        let client = tokio::task::spawn_blocking(|| CLIENT.folder()).await.context("building the client")??;
        let spec = json!({"machineInventoryLabels": {"vendor": "acme"}, "cloudConfig": {"hostname": "edge"}});
        let world = World::start(name, spec).await?;
        let tpm = Tpm::for_programs(&world.folder("tpm")?, certificate).await?;
        let authority = world.path().join("ca.pem");
        fs::write(&authority, world.operator.ca().await?).context("writing the operator's CA")?;
        let smbios = world.path().join("smbios.json");
        let document = json!({
            "System Information": {"Manufacturer": "ACME", "Product Name": "Anvil", "Serial Number": "FR-0001"},
            // As its dmidecode parser leaves lists.
            "BIOS Information": {"Vendor": "SeaBIOS", "Characteristics": ["PCI is supported", "ACPI is supported"]},
        });
        fs::write(&smbios, document.to_string()).context("writing an SMBIOS document")?;
        let client = client.join("first-release-client");
        Ok(Self { url: world.url()?, world, tpm, client, authority, smbios: Some(smbios) })
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
}
