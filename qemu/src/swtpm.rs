//! A software TPM (swtpm) as it leaves the factory: with an endorsement key and, on request, a certificate for it.

use crate::port::Port;
use crate::process::{KeptProcess, Process};
use crate::wait::{Poll, until};
use anyhow::{Context, Result, bail};
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// One TPM. Its state is in its folder and survives a power cut of the machine.
pub struct Tpm {
    folder: PathBuf,
    process: Process,
    ports: Option<[Port; 2]>,
}

/// Whether the factory put a certificate of the endorsement key into the TPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EkCertificate {
    Present,
    Absent,
}

const SOCKET: &str = "tpm.sock";
const READY: Duration = Duration::from_secs(30);

impl Tpm {
    /// For a virtual machine, which initialises it at each of its starts.
    pub async fn for_machine(folder: &Path, certificate: EkCertificate) -> Result<Self> {
        manufacture(folder, certificate)?;
        Ok(Self { folder: folder.to_owned(), process: start_for_machine(folder).await?, ports: None })
    }

    /// Starts swtpm again if its machine has ended it. QEMU does so when it ends in an orderly way.
    pub async fn resume_for_machine(&mut self) -> Result<()> {
        if self.process.check_running().is_err() {
            self.process = start_for_machine(&self.folder).await?;
        }
        Ok(())
    }

    /// For a program on this host: see `tcti`.
    pub async fn for_programs(folder: &Path, certificate: EkCertificate) -> Result<Self> {
        manufacture(folder, certificate)?;
        // The TCTI takes the command port only and expects control at the next one.
        let ports = Port::reserve_pair()?;
        let [command, control] =
            ports.each_ref().map(|port| format!("type=tcp,port={},bindaddr=127.0.0.1", port.number()));
        let flags = "not-need-init,startup-clear";
        let mut process = start(folder, &["--server", &command, "--ctrl", &control, "--flags", flags])?;
        until("the TPM's control port", READY, async || {
            process.check_running()?;
            Ok(match TcpStream::connect(("127.0.0.1", ports[1].number())) {
                Ok(_) => Poll::Ready(()),
                Err(error) => Poll::Pending(error.to_string()),
            })
        })
        .await?;
        Ok(Self { folder: folder.to_owned(), process, ports: Some(ports) })
    }

    /// The TCTI string for tpm2-tss and `ros-installer --tcti`.
    ///
    /// # Panics
    /// For a TPM made for a virtual machine.
    pub fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.command_port())
    }

    /// The port of the loopback interface that takes bare TPM commands.
    ///
    /// # Panics
    /// For a TPM made for a virtual machine.
    pub fn command_port(&self) -> u16 {
        let [command, _] = self.ports.as_ref().expect("a TPM made for programs");
        command.number()
    }

    /// The control socket for QEMU's emulator backend.
    pub fn socket(&self) -> PathBuf {
        self.folder.join(SOCKET)
    }

    /// PEM of the certificate chain above the endorsement key's certificate, the root last.
    pub fn issuers(&self) -> Result<String> {
        let mut pem = String::new();
        for name in ["issuer.pem", "swtpm-localca-rootca-cert.pem"] {
            let path = self.folder.join("factory").join(name);
            pem.push_str(&fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?);
        }
        Ok(pem)
    }

    pub fn process(&self) -> Result<KeptProcess> {
        self.process.identity()
    }
}

async fn start_for_machine(folder: &Path) -> Result<Process> {
    let socket = folder.join(SOCKET);
    // The socket of an earlier process would be taken for the new one's.
    let _ = fs::remove_file(&socket);
    let mut process = start(folder, &["--ctrl", &format!("type=unixio,path={}", socket.display())])?;
    until("the TPM's socket", READY, async || {
        process.check_running()?;
        // A connection would count as the machine's, so the socket's existence must do.
        Ok(if socket.exists() { Poll::Ready(()) } else { Poll::Pending(format!("no {}", socket.display())) })
    })
    .await?;
    Ok(process)
}

fn start(folder: &Path, arguments: &[&str]) -> Result<Process> {
    let state = format!("dir={}", folder.join("state").display());
    Process::start(
        Command::new("swtpm").args(["socket", "--tpm2", "--tpmstate", &state]).args(arguments),
        &folder.join("swtpm.log"),
    )
}

/// Makes keys and certificates with a CA of this TPM's own in `factory/`, and the TPM's state in `state/`.
fn manufacture(folder: &Path, certificate: EkCertificate) -> Result<()> {
    let (factory, state) = (folder.join("factory"), folder.join("state"));
    for path in [&factory, &state] {
        fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))?;
    }
    // swtpm's programs take absolute paths only: they change their folder.
    let at = |name: &str| factory.join(name).display().to_string();
    let files = [
        (
            "localca.conf",
            format!(
                "statedir = {}\nsigningkey = {}\nissuercert = {}\ncertserial = {}\n",
                factory.display(),
                at("issuer.key"),
                at("issuer.pem"),
                at("serial")
            ),
        ),
        ("localca.options", "--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n".to_owned()),
        (
            "setup.conf",
            format!(
                "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {}\n\
                 create_certs_tool_options = {}\nactive_pcr_banks = sha256\n",
                at("localca.conf"),
                at("localca.options")
            ),
        ),
    ];
    for (name, content) in files {
        fs::write(factory.join(name), content).with_context(|| format!("writing {}", at(name)))?;
    }
    let mut command = Command::new("swtpm_setup");
    command.args(["--tpm2", "--lock-nvram", "--overwrite", "--config", &at("setup.conf")]);
    command.arg("--tpmstate").arg(&state);
    if certificate == EkCertificate::Present {
        command.args(["--create-ek-cert", "--create-platform-cert"]);
    }
    let output = command.output().context("running swtpm_setup of the packages swtpm and swtpm-tools")?;
    if !output.status.success() {
        bail!("creating a TPM: swtpm_setup ended with {}:\n{}", output.status, String::from_utf8_lossy(&output.stdout));
    }
    Ok(())
}
