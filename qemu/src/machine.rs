//! A virtual machine as a person in front of it knows it: consoles, a screen, a keyboard, a power button.

mod arguments;
mod hardware;
mod spec;

pub use hardware::{Chipset, Controller, Hardware};
pub use spec::{BootFile, BootFirst, Drive, MachineSpec, Medium, Network};

use crate::console::{Console, Line};
use crate::disk::Disk;
use crate::lan;
use crate::port::Port;
use crate::process::{KeptProcess, Process};
use crate::qmp;
use crate::stall::{self, Stall};
use crate::swtpm::Tpm;
use crate::vm_slot::VmSlot;
use crate::wait::{Poll, until};
use anyhow::{Context, Error, Result, bail};
use boot_contract::Milestone;
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// One machine, on or off. Its folder holds the TPM, the firmware's variables and the console's log per power-on.
pub struct Machine {
    folder: PathBuf,
    /// May be changed while the machine is off.
    pub spec: MachineSpec,
    tpm: Option<Tpm>,
    ssh_port: Port,
    running: Option<Running>,
    power_ons: usize,
    /// A kernel hung before its init, and the power was switched off and on.
    power_cycled: bool,
    _slot: VmSlot,
}

struct Running {
    console: Console,
    second_port: Option<Console>,
    qemu: Process,
}

const QEMU: &str = "qemu-system-x86_64";
const CONTROL: &str = "qmp.sock";
/// What the console prints, as QEMU keeps it.
const RAW_LOG: &str = "console.log";
const SERIAL: &str = "serial.sock";
const SECOND_PORT: &str = "second-port.sock";
/// The PCIe port at which a machine without disks takes one while it is on.
const HOTPLUG_PORT: &str = "hotplug-port";
/// QEMU makes its sockets within milliseconds of an idle host's time.
const READY: Duration = Duration::from_secs(60);

impl Machine {
    /// Assembles a machine. It is off. Waits while as many machines run on this host as it takes.
    pub async fn assemble(folder: &Path, spec: MachineSpec) -> Result<Self> {
        let slot = VmSlot::acquire().await?;
        let tpm = match spec.tpm {
            None => None,
            Some(certificate) => {
                let tpm_folder = folder.join("tpm");
                std::fs::create_dir_all(&tpm_folder).with_context(|| format!("creating {}", tpm_folder.display()))?;
                Some(Tpm::for_machine(&tpm_folder, certificate).await?)
            }
        };
        let ssh_port = Port::reserve()?;
        Ok(Self {
            folder: folder.to_owned(),
            spec,
            tpm,
            ssh_port,
            running: None,
            power_ons: 0,
            power_cycled: false,
            _slot: slot,
        })
    }

    pub async fn power_on(&mut self) -> Result<()> {
        if self.running.is_some() {
            bail!("machine {} is already powered on", self.spec.serial);
        }
        let serial = self.folder.join(SERIAL);
        for socket in [CONTROL, SERIAL, SECOND_PORT] {
            let _ = std::fs::remove_file(self.folder.join(socket));
        }
        if let Some(tpm) = &mut self.tpm {
            tpm.resume_for_machine().await?;
        }
        let arguments = self.arguments()?;
        self.power_ons += 1;
        let mut qemu = match &self.spec.network {
            Network::User => Command::new(QEMU),
            Network::Lan { namespace, .. } => lan::command_in(namespace, QEMU),
        };
        let mut qemu = Process::start(qemu.args(arguments).current_dir(&self.folder), &self.log("qemu"))?;
        let (socket, power_on) = until("the machine's serial line", READY, async || {
            qemu.check_running()?;
            // QEMU waits for this connection before the machine runs: here is power-on.
            Ok(match UnixStream::connect(&serial) {
                Ok(socket) => Poll::Ready((socket, Instant::now())),
                Err(error) => Poll::Pending(error.to_string()),
            })
        })
        .await?;
        let console = Console::open(socket, &self.log("serial"), power_on, self.spec.on_line)?;
        let second_port = match self.spec.screen {
            true => {
                let socket =
                    UnixStream::connect(self.folder.join(SECOND_PORT)).context("connecting to the second port")?;
                Some(Console::open(socket, &self.log("second-port"), power_on, None)?)
            }
            false => None,
        };
        self.running = Some(Running { console, second_port, qemu });
        Ok(())
    }

    /// Where the console's lines since the last power-on are written.
    pub fn console_log(&self) -> PathBuf {
        self.log("serial")
    }

    /// What the console prints, byte by byte, since the machine was assembled. QEMU writes it, also when this program has
    /// ended.
    pub fn raw_console_log(&self) -> PathBuf {
        self.folder.join(RAW_LOG)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}-{}.log", self.power_ons))
    }

    /// The console since the last power-on.
    ///
    /// # Panics
    /// While the machine is off.
    pub fn console(&mut self) -> &mut Console {
        &mut self.running.as_mut().expect("the machine is on").console
    }

    /// The second serial port since the last power-on.
    ///
    /// # Panics
    /// While the machine is off, and on one without a screen, which has no such port.
    pub fn second_port(&mut self) -> &mut Console {
        let running = self.running.as_mut().expect("the machine is on");
        running.second_port.as_mut().expect("the machine has a second port")
    }

    /// Writes what the screen shows into `NAME.png`, and what a terminal at the first serial port shows into
    /// `NAME.txt`.
    ///
    /// # Panics
    /// While the machine is off.
    pub fn screenshot(&mut self, name: &str) -> Result<PathBuf> {
        let (picture, text) = (self.folder.join(format!("{name}.png")), self.folder.join(format!("{name}.txt")));
        self.control("screendump", json!({"filename": picture, "format": "png"}))?;
        std::fs::write(&text, self.console().screen()).with_context(|| format!("writing {}", text.display()))?;
        Ok(picture)
    }

    /// The memory of a screen in text mode, as BIOS firmware uses it: the text that is shown, and lines that were
    /// scrolled away lately.
    pub fn screen_text(&self) -> Result<String> {
        let file = self.folder.join("screen-memory");
        // The text memory of a VGA adapter: one byte for a character, one for its colour.
        self.control("pmemsave", json!({"val": 0xb8000, "size": 0x8000, "filename": file}))?;
        let memory = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        Ok(memory.iter().step_by(2).map(|&byte| char::from(byte)).collect())
    }

    /// Types small letters, digits and Enter on the keyboard.
    pub fn type_on_keyboard(&self, text: &str) -> Result<()> {
        for character in text.chars() {
            let key = if character == '\n' { "ret".to_owned() } else { character.to_string() };
            self.control("send-key", json!({"keys": [{"type": "qcode", "data": key}]}))?;
        }
        Ok(())
    }

    /// Waits until a program on the machine announces the milestone, and gives that line. An announced failure ends the
    /// waiting with an error.
    ///
    /// If the kernel hangs before the first init since power-on, the machine is powered off and on, once per machine,
    /// and a message on the standard error tells it: nothing of this project had started yet.
    ///
    /// # Panics
    /// While the machine is off.
    pub async fn wait_for_milestone(&mut self, milestone: Milestone, limit: Duration) -> Result<Line> {
        let line = self.wait_for_either([milestone, Milestone::Failed], limit).await?;
        if milestone.text_in(&line.text).is_none() {
            bail!("waiting for the milestone {milestone}: {}", line.text);
        }
        Ok(line)
    }

    /// Waits until the machine announces a failure. A machine that gets installed is an error. Otherwise like
    /// `wait_for_milestone`.
    ///
    /// # Panics
    /// While the machine is off.
    pub async fn wait_for_failure(&mut self, limit: Duration) -> Result<()> {
        let line = self.wait_for_either([Milestone::Failed, Milestone::Rebooting], limit).await?;
        if Milestone::Failed.text_in(&line.text).is_none() {
            bail!("waiting for the machine to fail: it was installed: {}", line.text);
        }
        Ok(())
    }

    async fn wait_for_either(&mut self, milestones: [Milestone; 2], limit: Duration) -> Result<Line> {
        let matches = |line: &str| milestones.iter().any(|milestone| milestone.text_in(line).is_some());
        let what = format!("the milestone {}", milestones[0]);
        let deadline = Instant::now() + limit;
        match self.console().wait_for(&what, limit, matches).await {
            Err(error) if error.is::<Stall>() && !self.power_cycled => {
                self.power_cycle(&error).await?;
                let left = deadline.saturating_duration_since(Instant::now());
                self.console().wait_for(&what, left, matches).await
            }
            outcome => outcome,
        }
    }

    async fn power_cycle(&mut self, stall: &Error) -> Result<()> {
        self.power_cycled = true;
        let log = self.log("stall");
        let registers = match stall::keep_evidence(&self.folder.join(CONTROL), &log) {
            Ok(()) => format!("in {}, beside the console's log", log.file_name().unwrap_or_default().display()),
            Err(error) => format!("not known: {error:#}"),
        };
        let serial = &self.spec.serial;
        // Not `eprintln`, which the test harness keeps to itself when the test passes.
        let _ = writeln!(
            std::io::stderr(),
            "machine {serial}: {stall:#}\nmachine {serial} is powered off and on again; its registers: {registers}"
        );
        self.cut_power();
        self.power_on().await
    }

    /// Cuts the power at once. Disks and TPM keep what they had.
    pub fn cut_power(&mut self) {
        if let Some(running) = self.running.take() {
            running.qemu.kill();
        }
    }

    /// Presses the reset button: the machine restarts without a shutdown.
    pub fn reset(&self) -> Result<()> {
        self.control("system_reset", json!({})).map(drop)
    }

    /// Waits until the machine has switched itself off.
    pub async fn wait_for_power_off(&mut self, limit: Duration) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        until("the machine's power-off", limit, async || {
            Ok(match running.qemu.check_running() {
                Err(_) => Poll::Ready(()),
                Ok(()) => Poll::Pending("it is powered on".to_owned()),
            })
        })
        .await?;
        self.running = None;
        Ok(())
    }

    /// Adds a disk to a machine that was assembled without one, while it is on.
    pub fn hotplug(&self, disk: &Disk) -> Result<()> {
        self.control("blockdev-add", disk.block_device("plugged-in"))?;
        let device =
            json!({"driver": "virtio-blk-pci", "bus": HOTPLUG_PORT, "drive": "plugged-in", "serial": disk.serial});
        self.control("device_add", device).map(drop)
    }

    /// Sends a command to QEMU (docs/interop/qmp-ref).
    pub fn control(&self, command: &str, arguments: Value) -> Result<Value> {
        qmp::execute(&self.folder.join(CONTROL), command, arguments)
    }

    /// The port of this host's loopback interface behind which the machine's sshd listens.
    pub fn ssh_port(&self) -> u16 {
        self.ssh_port.number()
    }

    /// The processes of this machine, in the order of ending.
    pub fn processes(&self) -> Result<Vec<KeptProcess>> {
        let qemu = self.running.iter().map(|running| running.qemu.identity());
        qemu.chain(self.tpm.iter().map(Tpm::process)).collect()
    }
}
