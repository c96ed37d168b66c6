//! The command line of `ros-installer`: its commands, their options and the help texts.

use crate::provision;
use crate::settings::{Layer, Source};
use anyhow::Context;
use attest::DeviceTpm;
use boot_contract::Slot;
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
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
    /// Probes the machine, registers it with the operator whose URL is on the medium, receives its configuration,
    /// writes the system to a disk, reads it back, and reboots. Without a registration URL, it asks on the console. A
    /// disk that is not empty is overwritten only if `wipe` is set or if its name was typed on the console.
    Install(InstallOptions),
    /// Register this machine and print the operator's answer, without installing
    ///
    /// The answer contains the machine's whole configuration, including secrets.
    Register(RegisterOptions),
    /// Show which release runs, from which slot, and whether it was found healthy
    Status(OutputOptions),
    /// Report the state of this installed system to the operator
    Report(ReportOptions),
    /// Make this system, which came with a disk image, the machine's own
    ///
    /// Makes the identifiers of its disk, lets the last partition grow, takes the settings of the image, registers the machine
    /// and stores its configuration. ros-first-boot.service runs it until it succeeds.
    FirstBoot(FirstBootOptions),
    /// Let the data partition reach to the end of a disk that has grown
    Grow,
    /// Apply the cloud-config in /oem to this system
    Apply(ApplyOptions),
    /// Join this machine to its cluster, by the programs in /usr/lib/ros/join.d and /etc/ros/join.d
    ///
    /// The programs run if they failed the last time, or if the configuration has changed since. `status` says what came of
    /// it.
    Join(JoinOptions),
    /// Wait until this system is up, and mark its slot as good for the boot loader
    Healthy(HealthyOptions),
    /// Write a release to the slot that does not run, and start it on trial at the next restart
    ///
    /// The release is checked first: its signature, its manifest and every file. The running slot is not touched. A
    /// release that does not come up is left again by itself, and `status` says why.
    Upgrade(UpgradeOptions),
    /// Start the system in the other slot at the next restart
    Rollback(RollbackOptions),
    /// Choose the slot, or the recovery system, for the next start
    ///
    /// The slot's counter of failed starts is reset. The machine is not restarted. A reset or an installation that the
    /// recovery system was to carry out is withdrawn, unless the operator asks for it again.
    Boot(BootOptions),
    /// Erase the data of this machine, or its settings, or both, and restart
    ///
    /// The machine keeps its releases, its identity, and how it reaches its operator. docs/reset.md says what stays.
    Reset(ResetOptions),
    /// In the recovery system: show why it runs, and restart into the slot after a while if that can help
    Recover,
    /// Write the text above the login prompt of an installed system: its address, slot and state
    Issue,
    /// Print the hash of this machine's endorsement key, which is its identity in the inventory
    TpmHash(TpmOptions),
    /// Print this machine's hardware, firmware and TPM
    Probe(ProbeOptions),
}

#[derive(Debug, Args)]
pub struct InstallOptions {
    #[command(flatten)]
    pub settings: SettingsOptions,
    #[command(flatten)]
    pub tpm: TpmOptions,
    /// Print the plan of the installation, without contacting an operator or writing to a disk
    #[arg(long)]
    pub dry_run: bool,
    /// Format of the plan that --dry-run prints
    #[arg(long, value_enum, default_value_t, requires = "dry_run")]
    pub output: Output,
    /// Show messages and questions on every console of this machine, not only on the current terminal
    #[arg(long, conflicts_with = "dry_run")]
    pub all_consoles: bool,
    /// Folder of the release to install [default: the release on the medium]
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
    /// Format of the output
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct ReportOptions {
    #[command(flatten)]
    pub tpm: TpmOptions,
}

#[derive(Debug, Args)]
pub struct FirstBootOptions {
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
pub struct JoinOptions {
    /// Run the programs even if nothing has changed
    #[arg(long)]
    pub again: bool,
}

#[derive(Debug, Args)]
pub struct HealthyOptions {
    /// Do not wait: restart the machine if this system is still on trial and another system can be started
    #[arg(long)]
    pub deadline: bool,
}

#[derive(Clone, Debug, Args)]
#[command(group(ArgGroup::new("source").args(["image", "release", "ordered", "recovery"]).required(true)))]
pub struct UpgradeOptions {
    /// Image of the release in a registry, as `ros-image push` puts it there: HOST/REPOSITORY:TAG or …@DIGEST
    pub image: Option<String>,
    /// Folder with release.json and the files that it names
    #[arg(long, value_name = "FOLDER")]
    pub release: Option<PathBuf>,
    /// Carry out the order that the operator gave with the answer to a report, as ros-upgrade.service does
    #[arg(long)]
    pub ordered: bool,
    /// Make the recovery system a copy of the running system
    #[arg(long, conflicts_with_all = ["registries", "plain_http", "retry", "reboot"])]
    pub recovery: bool,
    /// Mirrors, credentials and authorities of registries, in the form of k3s' registries.yaml [default: that of k3s]
    #[arg(long, value_name = "FILE")]
    pub registries: Option<PathBuf>,
    /// Speak plain HTTP to the registry; on loopback addresses that is done unasked
    #[arg(long)]
    pub plain_http: bool,
    /// Say what would be done, and write nothing
    #[arg(long, conflicts_with = "reboot")]
    pub check: bool,
    /// Try a release again that did not come up on this machine
    #[arg(long)]
    pub retry: bool,
    /// Restart into the release at once
    #[arg(long)]
    pub reboot: bool,
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct RollbackOptions {
    /// Restart at once
    #[arg(long)]
    pub reboot: bool,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").args(["persistent", "oem"]).required(true).multiple(true)))]
pub struct ResetOptions {
    /// Erase all data: COS_PERSISTENT
    #[arg(long)]
    pub persistent: bool,
    /// Forget the settings on COS_OEM: the cloud-config, except host name, network, time servers and keys for releases
    #[arg(long)]
    pub oem: bool,
}

#[derive(Debug, Args)]
pub struct BootOptions {
    /// The slot, or the recovery system, to start
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
    /// Which part to apply: `early` before other services start, `final` (runcmd) when the network is up
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
    /// Address of the TPM, in the format of tpm2-tss (TCTI)
    #[arg(long, env = "TCTI", value_name = "ADDRESS", default_value = DeviceTpm::DEFAULT_ADDRESS)]
    pub tcti: String,
}

#[derive(Debug, Args)]
pub struct OutputOptions {
    /// Format of the output
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

/// Settings. They override those on the medium, on the kernel command line (`rancheros.install.KEY=VALUE`) and in the
/// document at configURL.
#[derive(Debug, Default, Args)]
pub struct SettingsOptions {
    /// URL (http, https or file) of a document with further settings and cloud-config
    #[arg(long, value_name = "URL")]
    pub config_url: Option<String>,
    /// URL to register at: status.registrationURL of a MachineRegistration
    #[arg(long, value_name = "URL", env = "ROS_REGISTRATION_URL", hide_env_values = true)]
    pub registration_url: Option<String>,
    /// PEM file with the certificate authority of the operator; no other authority is trusted
    #[arg(long, value_name = "FILE")]
    pub registration_ca_cert: Option<PathBuf>,
    /// Disk to install to: its path, or a symbolic link below /dev/disk
    #[arg(long, value_name = "DISK")]
    pub device: Option<String>,
    /// Ask no questions
    #[arg(long)]
    pub automatic: bool,
    /// Install even if the disk is not empty; all data on it is erased
    #[arg(long)]
    pub wipe: bool,
    /// Power off after the installation, instead of rebooting
    #[arg(long)]
    pub power_off: bool,
    /// Console of the installed system, such as ttyS0
    #[arg(long, value_name = "TTY")]
    pub tty: Option<String>,
    /// Write debug messages to the log on stderr
    #[arg(long)]
    pub debug: bool,
    /// Any other setting, such as deviceSelector.serial=S123
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub other: Vec<(String, String)>,
    /// Settings file to read in place of registration.yaml on the medium
    #[arg(long, value_name = "FILE")]
    pub settings_file: Option<PathBuf>,
}

impl SettingsOptions {
    /// The settings that were given on the command line. Reads only the file of --registration-ca-cert.
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
    fn an_upgrade_takes_an_image_or_a_folder() {
        let parse = |words: &[&str]| Cli::try_parse_from([&["ros-installer", "upgrade"], words].concat());
        let good = [&["h/ros:2", "--plain-http", "--reboot"][..], &["--release", "/r", "--check", "--retry"]];
        for good in [&good[..], &[&["--recovery", "--check"]]].concat() {
            assert!(parse(good).is_ok(), "{good:?}");
        }
        for bad in
            [&[][..], &["h/ros:2", "--release", "/r"], &["h/ros:2", "--check", "--reboot"], &["h/ros:2", "--recovery"]]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_reset_says_what_is_erased() {
        let parse = |words: &[&str]| Cli::try_parse_from([&["ros-installer", "reset"], words].concat());
        for good in [&["--persistent"][..], &["--oem"], &["--persistent", "--oem"]] {
            assert!(parse(good).is_ok(), "{good:?}");
        }
        assert!(parse(&[]).is_err());
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
