//! The command line: what can be asked of `ros-installer`, and the help that says so.

use crate::provision;
use crate::settings::{Layer, Source};
use anyhow::Context;
use attest::DeviceTpm;
use boot_contract::Slot;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Probes a machine, registers it with its operator, installs RancherOS on it, and looks after the installed system.
#[derive(Debug, Parser)]
#[command(name = "ros-installer", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Install this machine
    ///
    /// Learns what the machine is, registers it with the operator that the medium names, takes its configuration
    /// from there, writes the system to a disk, reads it back, and reboots. Without a registration it asks at the
    /// console. A disk with content is only written to when `wipe` is set or its name was typed.
    Install(InstallOptions),
    /// Register this machine and print what the operator answers, without installing
    ///
    /// The answer holds the machine's whole configuration, secrets included.
    Register(RegisterOptions),
    /// Show which system runs, from which slot, and whether it has proved itself
    Status(OutputOptions),
    /// Tell the operator that this installed system runs
    Report(ReportOptions),
    /// Apply the cloud-config in /oem to this system
    Apply(ApplyOptions),
    /// Wait until this system is up, and tell the boot loader to keep it
    Healthy(HealthyOptions),
    /// Choose what is started next: a slot, or the recovery system
    ///
    /// A slot that had failed gets its starts back. Nothing is restarted.
    Boot(BootOptions),
    /// In the recovery system: say why it runs, and go back to the slot after a while if that may help
    Recover,
    /// Write what stands above the login of an installed system: its address, slot and state
    Issue,
    /// Print the hash of this machine's endorsement key, its identity in the inventory
    TpmHash(TpmOptions),
    /// Print what is known about this machine
    Probe(ProbeOptions),
}

#[derive(Debug, Args)]
pub struct InstallOptions {
    #[command(flatten)]
    pub settings: SettingsOptions,
    #[command(flatten)]
    pub tpm: TpmOptions,
    /// Print what would be done; ask no operator, and open disks only for reading
    #[arg(long)]
    pub dry_run: bool,
    /// Form of the plan that --dry-run prints
    #[arg(long, value_enum, default_value_t, requires = "dry_run")]
    pub output: Output,
    /// Show what happens on every console of this machine, and ask there, instead of where this was started
    #[arg(long, conflicts_with = "dry_run")]
    pub all_consoles: bool,
    /// Folder of the release to install [default: the medium's]
    #[arg(long, value_name = "FOLDER")]
    pub release: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct RegisterOptions {
    #[command(flatten)]
    pub settings: SettingsOptions,
    #[command(flatten)]
    pub tpm: TpmOptions,
    /// Give up after the first attempt that fails
    #[arg(long)]
    pub once: bool,
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct ReportOptions {
    #[command(flatten)]
    pub tpm: TpmOptions,
}

#[derive(Debug, Args)]
pub struct ProbeOptions {
    #[command(flatten)]
    pub output: OutputOptions,
    #[command(flatten)]
    pub tpm: TpmOptions,
}

#[derive(Debug, Args)]
pub struct HealthyOptions {
    /// Wait no longer: restart the machine if this system is still on trial and another one can be started
    #[arg(long)]
    pub deadline: bool,
}

#[derive(Debug, Args)]
pub struct BootOptions {
    /// What is started from the next start on
    #[arg(value_enum, ignore_case = true)]
    pub slot: BootSlot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BootSlot {
    A,
    B,
    Recovery,
}

impl From<BootSlot> for Slot {
    fn from(slot: BootSlot) -> Self {
        match slot {
            BootSlot::A => Self::A,
            BootSlot::B => Self::B,
            BootSlot::Recovery => Self::Recovery,
        }
    }
}

#[derive(Debug, Args)]
pub struct ApplyOptions {
    /// Which part: `early` before other services start, `final` (runcmd) once there is a network
    #[arg(long, value_enum, default_value_t)]
    pub stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    #[default]
    Early,
    Final,
}

impl From<Stage> for provision::Stage {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Early => Self::Early,
            Stage::Final => Self::Final,
        }
    }
}

#[derive(Debug, Args)]
pub struct TpmOptions {
    /// Address of the TPM, as tpm2-tss writes it
    #[arg(long, env = "TCTI", value_name = "ADDRESS", default_value = DeviceTpm::DEFAULT_ADDRESS)]
    pub tcti: String,
}

#[derive(Debug, Args)]
pub struct OutputOptions {
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Text,
    /// For scripts
    Json,
}

/// Settings, stronger than those of the medium, the kernel command line (`rancheros.install.KEY=VALUE`) and the
/// document at configURL.
#[derive(Debug, Default, Args)]
pub struct SettingsOptions {
    /// Document with more settings and cloud-config: http, https or file
    #[arg(long, value_name = "URL")]
    pub config_url: Option<String>,
    /// The operator's address: status.registrationURL of a MachineRegistration
    #[arg(long, value_name = "URL", env = "ROS_REGISTRATION_URL", hide_env_values = true)]
    pub registration_url: Option<String>,
    /// PEM file with the only certificate authority to accept for the operator
    #[arg(long, value_name = "FILE")]
    pub registration_ca_cert: Option<PathBuf>,
    /// Disk to install to: its path, or a link below /dev/disk
    #[arg(long, value_name = "DISK")]
    pub device: Option<String>,
    /// Ask no questions
    #[arg(long)]
    pub automatic: bool,
    /// Destroy what is on the disk
    #[arg(long)]
    pub wipe: bool,
    /// Switch off when done, instead of rebooting
    #[arg(long)]
    pub power_off: bool,
    /// Console of the installed system, such as ttyS0
    #[arg(long, value_name = "TTY")]
    pub tty: Option<String>,
    /// Log more, on stderr
    #[arg(long)]
    pub debug: bool,
    /// Any other setting, such as deviceSelector.serial=S123
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub other: Vec<(String, String)>,
    /// Settings file, instead of the medium's registration.yaml
    #[arg(long, value_name = "FILE")]
    pub settings_file: Option<PathBuf>,
}

impl SettingsOptions {
    /// What was said on the command line. Only the certificate's file is read.
    pub fn layer(&self) -> anyhow::Result<Layer> {
        let mut layer = Layer::new(Source::Flag);
        self.other.iter().for_each(|(key, value)| layer.set(key, value.as_str()));
        layer.set("configURL", self.config_url.clone());
        layer.set("registrationURL", self.registration_url.clone());
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).with_context(|| format!("reading --registration-ca-cert {}", path.display()))
        };
        let ca = self.registration_ca_cert.as_ref().map(read).transpose()?;
        layer.set("registrationCACert", ca);
        layer.set("device", self.device.clone());
        layer.set("tty", self.tty.clone());
        let flags =
            [("automatic", self.automatic), ("wipe", self.wipe), ("powerOff", self.power_off), ("debug", self.debug)];
        flags.iter().filter(|(_, given)| *given).for_each(|(key, given)| layer.set(key, *given));
        Ok(layer)
    }
}

fn key_and_value(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::resolve;
    use clap::CommandFactory;

    #[test]
    fn a_slot_may_be_written_as_it_is_shown() {
        for (word, expected) in [("A", Slot::A), ("b", Slot::B), ("Recovery", Slot::Recovery)] {
            let Command::Boot(options) = Cli::parse_from(["ros-installer", "boot", word]).command else {
                panic!("another command")
            };
            assert_eq!(Slot::from(options.slot), expected);
        }
    }

    #[test]
    fn the_command_line_is_sound_and_its_flags_become_settings() {
        Cli::command().debug_assert();
        let line = ["ros-installer", "install", "--device", "/dev/vda", "--wipe", "--set", "deviceSelector.serial=S=1"];
        let Command::Install(options) = Cli::parse_from(line).command else { panic!("another command") };
        let settings = resolve([&options.settings.layer().unwrap()]).unwrap().settings;
        assert_eq!((settings.device.as_deref(), settings.device.source), (Some("/dev/vda"), Source::Flag));
        assert!(*settings.wipe && !*settings.automatic);
        assert_eq!(settings.device_selector.serial.as_deref(), Some("S=1"));
    }
}
