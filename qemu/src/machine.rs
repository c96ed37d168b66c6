//! A virtual machine as a person in front of it knows it: firmware, disks, a medium, a TPM, a power button.

use crate::accelerator::Accelerator;
use crate::console::{Console, Line};
use crate::disk::Disk;
use crate::firmware::Firmware;
use crate::milestone::Milestone;
use crate::port::Port;
use crate::process::{KeptProcess, Process};
use crate::qmp;
use crate::stall::{self, Stall};
use crate::swtpm::{EkCertificate, Tpm};
use crate::vm_slot::VmSlot;
use crate::wait::{Poll, until};
use anyhow::{Context, Error, Result, bail};
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct MachineSpec {
    pub firmware: Firmware,
    pub memory_mib: u32,
    /// SMBIOS, System Information.
    pub manufacturer: String,
    pub product: String,
    pub serial: String,
    pub disks: Vec<Disk>,
    pub medium: Option<Medium>,
    pub tpm: Option<EkCertificate>,
    pub first: BootFirst,
    /// A screen, beside the keyboard that every machine has, and a second serial port that is no console of the kernel.
    pub screen: bool,
    /// Told of each line on the console as it comes.
    pub on_line: Option<fn(&Line)>,
}

/// What the firmware tries first; the other one is tried when the first cannot boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootFirst {
    Disk,
    Medium,
    /// The firmware starts nothing else.
    MediumAlone,
}

/// Something to install from.
#[derive(Clone, Debug)]
pub struct Medium {
    pub file: PathBuf,
    pub drive: Drive,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drive {
    /// Read-only, SATA.
    Cd,
    /// A disk, SATA; what is written to it is forgotten at power-off.
    Disk,
    /// A stick at a USB 3 port; what is written to it is forgotten at power-off. Only the kernel for real hardware can
    /// read one.
    UsbStick,
}

impl MachineSpec {
    /// 1 GiB of memory, a TPM with certificate, no screen, no disk and no medium; boots from the disk where that is possible.
    pub fn new(firmware: Firmware, serial: &str) -> Self {
        Self {
            firmware,
            memory_mib: 1024,
            manufacturer: "Example Systems".to_owned(),
            product: "Edge 100".to_owned(),
            serial: serial.to_owned(),
            disks: Vec::new(),
            medium: None,
            tpm: Some(EkCertificate::Present),
            first: BootFirst::Disk,
            screen: false,
            on_line: None,
        }
    }
}

/// One machine, on or off. Its folder holds the TPM, the firmware's variables and the console's log per power-on.
pub struct Machine {
    folder: PathBuf,
    /// May be changed while the machine is off.
    pub spec: MachineSpec,
    tpm: Option<Tpm>,
    ssh_port: Port,
    running: Option<Running>,
    power_ons: usize,
    /// A kernel stood still before its init, and the power was switched off and on.
    started_again: bool,
    _slot: VmSlot,
}

struct Running {
    console: Console,
    second_port: Option<Console>,
    qemu: Process,
}

const CONTROL: &str = "qmp.sock";
const SERIAL: &str = "serial.sock";
const SECOND_PORT: &str = "second-port.sock";
/// Where a machine without disks takes one while it is on.
const FREE_PLACE: &str = "free-place";
/// QEMU makes its sockets within milliseconds of an idle host's time.
const READY: Duration = Duration::from_secs(60);

impl Machine {
    /// Puts a machine together; it is off. Waits while others run as many machines as this host takes.
    pub async fn assemble(folder: &Path, spec: MachineSpec) -> Result<Self> {
        let slot = VmSlot::acquire().await?;
        let tpm = match spec.tpm {
            None => None,
            Some(certificate) => {
                let tpm_folder = folder.join("tpm");
                std::fs::create_dir_all(&tpm_folder).with_context(|| format!("making {}", tpm_folder.display()))?;
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
            started_again: false,
            _slot: slot,
        })
    }

    pub async fn power_on(&mut self) -> Result<()> {
        if self.running.is_some() {
            bail!("machine {} is on already", self.spec.serial);
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
        let mut qemu = Process::start(
            Command::new("qemu-system-x86_64").args(arguments).current_dir(&self.folder),
            &self.log("qemu"),
        )?;
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

    /// Writes what the screen shows into `NAME.png`, and what a terminal at the first serial port shows into `NAME.txt`.
    ///
    /// # Panics
    /// While the machine is off.
    pub fn photograph(&mut self, name: &str) -> Result<PathBuf> {
        let (picture, text) = (self.folder.join(format!("{name}.png")), self.folder.join(format!("{name}.txt")));
        self.control("screendump", json!({"filename": picture, "format": "png"}))?;
        std::fs::write(&text, self.console().screen()).with_context(|| format!("writing {}", text.display()))?;
        Ok(picture)
    }

    /// All that the memory of a screen in text mode holds, which is how a machine with BIOS firmware uses it: what is
    /// shown, and lines that were scrolled away lately.
    pub fn screen_text(&self) -> Result<String> {
        let file = self.folder.join("screen-memory");
        // Where a VGA adapter has it; a character and its colour in turn.
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

    /// Waits until a program on the machine says so; gives the line that does. A failure told meanwhile ends the waiting.
    ///
    /// A kernel that stands still before the first init since power-on is given one more power-on per machine, and a word
    /// on the standard error: nothing of this project had begun.
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

    /// Waits until the machine gives up; one that is installed instead is an error. Otherwise like
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
        let fits = |line: &str| milestones.iter().any(|milestone| milestone.text_in(line).is_some());
        let what = format!("the milestone {}", milestones[0]);
        let deadline = Instant::now() + limit;
        match self.console().wait_for(&what, limit, fits).await {
            Err(error) if error.is::<Stall>() && !self.started_again => {
                self.start_again(&error).await?;
                let left = deadline.saturating_duration_since(Instant::now());
                self.console().wait_for(&what, left, fits).await
            }
            outcome => outcome,
        }
    }

    async fn start_again(&mut self, stall: &Error) -> Result<()> {
        self.started_again = true;
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

    /// From one moment to the next. Disks and TPM keep what they had.
    pub fn cut_power(&mut self) {
        if let Some(running) = self.running.take() {
            running.qemu.kill();
        }
    }

    /// As with the button on the front: a restart without any warning to what runs.
    pub fn reset(&self) -> Result<()> {
        self.control("system_reset", json!({})).map(drop)
    }

    /// Whether the machine has ended by itself, for example at its own power-off.
    pub async fn wait_for_power_off(&mut self, limit: Duration) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        until("the machine's power-off", limit, async || {
            Ok(match running.qemu.check_running() {
                Err(_) => Poll::Ready(()),
                Ok(()) => Poll::Pending("it is on".to_owned()),
            })
        })
        .await?;
        self.running = None;
        Ok(())
    }

    /// Puts a disk into a machine that was assembled without one, while it is on.
    pub fn plug_in(&self, disk: &Disk) -> Result<()> {
        self.control("blockdev-add", disk.block_device("plugged-in"))?;
        let device =
            json!({"driver": "virtio-blk-pci", "bus": FREE_PLACE, "drive": "plugged-in", "serial": disk.serial});
        self.control("device_add", device).map(drop)
    }

    /// A command of QEMU's own (docs/interop/qmp-ref).
    pub fn control(&self, command: &str, arguments: Value) -> Result<Value> {
        qmp::execute(&self.folder.join(CONTROL), command, arguments)
    }

    /// The port of this host's loopback interface behind which the machine's sshd listens.
    pub fn ssh_port(&self) -> u16 {
        self.ssh_port.number()
    }

    /// What runs for this machine, in the order of ending.
    pub fn processes(&self) -> Result<Vec<KeptProcess>> {
        let qemu = self.running.iter().map(|running| running.qemu.identity());
        qemu.chain(self.tpm.iter().map(Tpm::process)).collect()
    }

    fn arguments(&self) -> Result<Vec<String>> {
        let spec = &self.spec;
        let mut arguments: Vec<String> = Vec::new();
        let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
        add("-machine", spec.firmware.machine_type().to_owned());
        add("-m", spec.memory_mib.to_string());
        add("-smp", "2".to_owned());
        add("-display", "none".to_owned());
        add("-boot", "strict=on".to_owned());
        add("-smbios", smbios(spec));
        if spec.screen {
            add("-vga", "std".to_owned());
            // Before the first port: its socket is there when the first one's is.
            add("-chardev", format!("socket,id=second,path={SECOND_PORT},server=on,wait=off"));
        }
        // The guest starts when somebody listens, so that no line is lost; the raw log goes on without us.
        add("-chardev", format!("socket,id=serial,path={SERIAL},server=on,wait=on,logfile=console.log,logappend=on"));
        add("-serial", "chardev:serial".to_owned());
        if spec.screen {
            add("-serial", "chardev:second".to_owned());
        }
        add("-qmp", format!("unix:{CONTROL},server=on,wait=off"));
        add("-device", "virtio-rng-pci".to_owned());
        add("-netdev", format!("user,id=network,hostfwd=tcp:127.0.0.1:{}-:22", self.ssh_port.number()));
        // Without QEMU's own boot ROM: it is not signed, and nothing here boots from the network.
        add("-device", "virtio-net-pci,netdev=network,romfile=".to_owned());
        let (disk_index, medium_index) = match spec.first {
            BootFirst::Disk => (Some(1), 50),
            BootFirst::Medium => (Some(50), 1),
            BootFirst::MediumAlone => (None, 1),
        };
        for (number, disk) in spec.disks.iter().enumerate() {
            let node = format!("disk{number}");
            add("-blockdev", disk.block_device(&node).to_string());
            let index = disk_index.map(|first| format!(",bootindex={}", first + number)).unwrap_or_default();
            add("-device", format!("virtio-blk-pci,drive={node},serial={}{index}", disk.serial));
        }
        if spec.disks.is_empty() {
            add("-device", format!("pcie-root-port,id={FREE_PLACE},chassis=1"));
        }
        if let Some(medium) = &spec.medium {
            let file = medium.file.display();
            match medium.drive {
                Drive::Cd => {
                    add("-drive", format!("if=none,id=medium,format=raw,readonly=on,file={file}"));
                    add("-device", format!("ide-cd,drive=medium,bootindex={medium_index}"));
                }
                Drive::Disk => {
                    add("-drive", format!("if=none,id=medium,format=raw,snapshot=on,file={file}"));
                    add("-device", format!("ide-hd,drive=medium,bootindex={medium_index}"));
                }
                Drive::UsbStick => {
                    add("-drive", format!("if=none,id=medium,format=raw,snapshot=on,file={file}"));
                    add("-device", "qemu-xhci".to_owned());
                    add("-device", format!("usb-storage,drive=medium,bootindex={medium_index}"));
                }
            }
        }
        if let Some(tpm) = &self.tpm {
            add("-chardev", format!("socket,id=tpm,path={}", tpm.socket().display()));
            add("-tpmdev", "emulator,id=tpm,chardev=tpm".to_owned());
            add("-device", "tpm-crb,tpmdev=tpm".to_owned());
        }
        arguments.push("-nodefaults".to_owned());
        arguments.extend(Accelerator::best().arguments().map(str::to_owned));
        arguments.extend(spec.firmware.arguments(&self.folder.join("firmware-variables.img"))?);
        Ok(arguments)
    }
}

/// QEMU's options are separated by commas; a comma in a value is doubled.
fn smbios(spec: &MachineSpec) -> String {
    let escaped = |text: &str| text.replace(',', ",,");
    format!(
        "type=1,manufacturer={},product={},serial={}",
        escaped(&spec.manufacturer),
        escaped(&spec.product),
        escaped(&spec.serial)
    )
}
