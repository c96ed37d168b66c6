//! Options and their help text.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use release::SemanticVersion;

/// Build, customize and verify bootable media.
#[derive(Debug, Parser)]
#[command(name = "ros-image", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Build(Box<BuildOptions>),
    Keygen(KeygenOptions),
    Push(PushOptions),
    Operator(OperatorOptions),
    Chart(ChartOptions),
    Customize(CustomizeOptions),
    Show(ShowOptions),
    Verify(VerifyOptions),
    Serve(ServeOptions),
}

/// Build a release and its media: a live ISO, a network boot, an upgrade image, disk images.
///
/// BASE is the system that the release is made of, for linux/amd64: an image in a registry (REGISTRY/REPOSITORY:TAG), an OCI image
/// layout, an archive of `docker save`, a tar archive of a system (also .gz, .zst, .xz), or a folder with one. Without it the
/// release is made of Debian packages. docs/build-from-a-base.md says what a base must have.
///
/// Writes <OUTPUT>/release/ (root image, kernel, initrd, boot files, release.json), and for each format <OUTPUT>/pxe/,
/// <OUTPUT>/ros-<VERSION>.oci.tar or <OUTPUT>/ros-<VERSION>-<ARCHITECTURE>.<FORMAT>. Debian packages come from the mirror in
/// this machine's apt sources, checked by apt. Needs mmdebstrap and Debian's archive keyring; no root privileges where
/// user namespaces are allowed. The same inputs give the same bytes. Only new signatures, vmdk and vhdx differ each time; a
/// signature in <OUTPUT> that is still valid is kept.
#[derive(Debug, Args)]
pub struct BuildOptions {
    /// Image, archive or folder to build from, in place of Debian packages
    pub base: Option<String>,
    /// Folder for the release, the ISO and the upgrade image; created if it does not exist
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Version of the release, as machines report it
    #[arg(long = "version", value_name = "VERSION")]
    pub release_version: String,
    /// The ros-installer program to put into the root image
    #[arg(long, value_name = "FILE")]
    pub installer: PathBuf,
    /// The statically linked ros-init program to put into the initrd
    #[arg(long, value_name = "FILE")]
    pub init: PathBuf,
    /// The statically linked container-installer program to put into the upgrade image
    #[arg(long, value_name = "FILE")]
    pub container_installer: PathBuf,
    /// Folder whose etc/ and usr/ are copied over the base system; may be given more than once, and a file of a later one
    /// replaces one of an earlier one. The first must be the project's own
    #[arg(long, value_name = "DIR", default_value = "overlay")]
    pub overlay: Vec<PathBuf>,
    /// Debian package to install beside those that every release has, with what it depends on; may be given more than
    /// once
    #[arg(long, value_name = "NAME", conflicts_with = "base")]
    pub package: Vec<PackageName>,
    /// Debian package of non-free firmware to add, such as firmware-bnx2x; may be given more than once
    #[arg(long, value_name = "NAME")]
    pub firmware: Vec<PackageName>,
    /// Program to run in the tree of the base, as its root, before the overlays are laid over; may be given more than once
    #[arg(long, value_name = "FILE")]
    pub hook: Vec<PathBuf>,
    /// File with credentials and certificate authorities for the registry of BASE, in the format of registries.yaml of k3s
    #[arg(long, value_name = "FILE", requires = "base")]
    pub registries: Option<PathBuf>,
    /// Use plain HTTP for the registry of BASE, which is the default for loopback addresses
    #[arg(long, requires = "base")]
    pub plain_http: bool,
    /// Argument for the kernel, such as iommu=pt, behind those of every release, so that its value counts; may be given more
    /// than once
    #[arg(long, value_name = "ARGUMENT")]
    pub kernel_argument: Vec<KernelArgument>,
    /// Console of the kernel and of the installer, such as ttyS1,115200, in place of tty0 and ttyS0,115200; may be given
    /// more than once, and the last one is the kernel's own
    #[arg(long, value_name = "CONSOLE")]
    pub console: Vec<KernelArgument>,
    /// PEM file of certificate authorities that programs of the image trust beside the public ones; may be given more than
    /// once
    #[arg(long, value_name = "FILE")]
    pub ca: Vec<PathBuf>,
    /// File with the cloud-config of machines that run this image. That of the operator or of a medium is laid over it, mappings
    /// key by key, lists as a whole
    #[arg(long, value_name = "FILE")]
    pub cloud_config: Option<PathBuf>,
    /// Sign the release with this private key, as release/release.json.sig.d/<KEY ID>; may be given more than once
    #[arg(long, value_name = "FILE")]
    pub sign: Vec<PathBuf>,
    /// Public key to trust: machines with this release accept only releases that the private key of a trusted key has
    /// signed; may be given more than once [default: the keys of --sign]
    #[arg(long, value_name = "FILE")]
    pub release_key: Vec<PathBuf>,
    /// Oldest version, such as 1.4.0, to which a machine can change after this release has come up on it
    #[arg(long, value_name = "VERSION", requires = "sign")]
    pub minimum_version: Option<SemanticVersion>,
    /// GRUB script for machines that are upgraded to this release. It starts the slot $ros_slot; docs/boot.md says how
    #[arg(long, value_name = "FILE")]
    pub boot_menu: Option<PathBuf>,
    /// What to make of the release; several with commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FORMAT", default_value = "iso,pxe,oci")]
    pub formats: Vec<Format>,
    /// Size of the disk in a disk image, such as 4GiB. At its first boot a machine uses all of its own disk, which may be
    /// larger
    #[arg(long, value_name = "SIZE", default_value = "4GiB")]
    pub disk_size: DiskSize,
    /// Folder in which stages are kept between builds [default: $HOME/.cache/rancheros]
    #[arg(long, value_name = "DIR", env = "ROS_CACHE")]
    pub cache: Option<PathBuf>,
    /// Kernel to use: `cloud` (Debian's, drivers for virtual machines only; smaller, and boots faster), `generic` (Debian's,
    /// drivers for real hardware as well), `base` (that of BASE), or the file of a kernel's Debian package. Only a kernel that
    /// Debian has signed starts with Secure Boot [default: `base` with BASE, `cloud` without]
    #[arg(long, value_name = "KERNEL")]
    pub kernel: Option<KernelChoice>,
    /// Time stamp of everything in the release, in seconds since 1970
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH", default_value_t = 1_760_000_000)]
    pub epoch: u32,
    /// Download the mirror's current packages instead of using those of an earlier build
    #[arg(long)]
    pub refresh: bool,
    /// Print the result as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// Create a key for signing releases.
///
/// Writes <OUTPUT>/private.pem (ECDSA with P-256, PKCS #8) for `ros-image build --sign`, and <OUTPUT>/public.pem for
/// machines. Prints the key's id: the first 16 hex digits of the SHA-256 of the public key in DER.
#[derive(Debug, Args)]
pub struct KeygenOptions {
    /// Folder for the two files; created if it does not exist. Existing files are not overwritten
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Print the result as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// Push an image to a registry.
///
/// ARCHIVE is an OCI archive, such as ros-<VERSION>.oci.tar of `ros-image build`. Prints the reference by digest.
#[derive(Debug, Args)]
pub struct PushOptions {
    /// The OCI archive to push
    pub archive: PathBuf,
    /// Name of the image in the registry: REGISTRY/REPOSITORY:TAG
    pub reference: String,
    /// Use plain HTTP for the registry, which is the default for loopback addresses
    #[arg(long)]
    pub plain_http: bool,
    /// File with credentials and certificate authorities, in the format of registries.yaml of k3s
    #[arg(long, value_name = "FILE")]
    pub registries: Option<PathBuf>,
    /// Print the result as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// Build the container image of the operator.
///
/// Writes <OUTPUT>/rancheros-operator-<VERSION>.tar, an OCI archive; no container daemon is needed. The same inputs
/// give the same bytes.
#[derive(Debug, Args)]
pub struct OperatorOptions {
    /// Folder for the image; created if it does not exist
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Version of the operator, which becomes the image's tag
    #[arg(long = "version", value_name = "VERSION")]
    pub operator_version: String,
    /// The ros-operator program to put into the image
    #[arg(long, value_name = "FILE")]
    pub operator: PathBuf,
    /// Name of the image without its tag; include the registry if the image is loaded into nodes under that name
    #[arg(long, value_name = "NAME", default_value = "rancheros-operator")]
    pub repository: String,
    /// Folder in which packages are kept between builds [default: $HOME/.cache/rancheros]
    #[arg(long, value_name = "DIR", env = "ROS_CACHE")]
    pub cache: Option<PathBuf>,
    /// Time stamp of everything in the image, in seconds since 1970
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH", default_value_t = 1_760_000_000)]
    pub epoch: u32,
    /// Download the mirror's current packages instead of using those of an earlier build
    #[arg(long)]
    pub refresh: bool,
}

/// Package the operator's Helm chart.
///
/// Writes <OUTPUT>/rancheros-operator-<VERSION>.tgz, for `helm install`. The same inputs give the same bytes.
#[derive(Debug, Args)]
pub struct ChartOptions {
    /// Folder for the packaged chart; created if it does not exist
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Version of the chart and of the image that it uses
    #[arg(long = "version", value_name = "VERSION")]
    pub chart_version: String,
    /// Folder of the chart
    #[arg(long, value_name = "DIR", default_value = "chart")]
    pub chart: PathBuf,
    /// Time stamp of everything in the package, in seconds since 1970
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH", default_value_t = 1_760_000_000)]
    pub epoch: u32,
}

/// Name of a Debian package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PackageName(String);

impl PackageName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PackageName {
    type Err = &'static str;

    /// Debian Policy, section 5.6.7. Other words have a meaning for apt, such as `?essential` or `-NAME`.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_name = name.len() >= 2 && name.bytes().next().is_some_and(is_plain);
        if is_name && name.bytes().all(|byte| is_plain(byte) || b"+-.".contains(&byte)) {
            Ok(Self(name.to_owned()))
        } else {
            Err(
                "the name of a Debian package has at least two of a-z, 0-9, `+`, `-` and `.`, and begins with one of the \
                 first two",
            )
        }
    }
}

/// One word of the kernel's command line, which no boot loader takes for anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelArgument(String);

impl KernelArgument {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KernelArgument {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        if word.is_empty() || word.contains(' ') || !release::is_plain_line(word) {
            return Err("it is one word without quotes, white space and any of \\ $ ` ; { } | & < >");
        }
        if word.starts_with("ros.") {
            return Err("arguments that begin with `ros.` are set by the boot menu");
        }
        Ok(Self(word.to_owned()))
    }
}

/// What is made of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Live ISO for a CD, a USB stick or a virtual drive, which installs
    Iso,
    /// Files of a network boot, which installs
    Pxe,
    /// Image for upgrades, for a registry
    Oci,
    /// Disk image that is started without an installation
    Raw,
    /// The same for QEMU, KVM and OpenStack
    Qcow2,
    /// The same for VMware
    Vmdk,
    /// The same for Hyper-V
    Vhdx,
}

impl Format {
    /// Whether it is a disk image. Its name is then also the ending of its file.
    pub fn disk_image(self) -> Option<&'static str> {
        match self {
            Self::Raw => Some("raw"),
            Self::Qcow2 => Some("qcow2"),
            Self::Vmdk => Some("vmdk"),
            Self::Vhdx => Some("vhdx"),
            Self::Iso | Self::Pxe | Self::Oci => None,
        }
    }
}

/// Size of a disk in bytes, a multiple of a mebibyte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSize(pub u64);

impl FromStr for DiskSize {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let units = [("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
        let parts = units.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
        let bytes = parts.and_then(|(number, unit): (&str, u64)| number.trim().parse::<u64>().ok()?.checked_mul(unit));
        bytes.map(Self).ok_or("expected a whole number and MiB, GiB or TiB, such as 4GiB")
    }
}

/// Where the kernel of a release comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelChoice {
    /// Debian's with drivers for virtual machines only; smaller, and boots faster.
    Cloud,
    /// Debian's with drivers for virtual machines and for real hardware.
    Generic,
    /// What the base has.
    OfBase,
    /// The file of a Debian package.
    Package(PathBuf),
}

impl FromStr for KernelChoice {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "cloud" => Ok(Self::Cloud),
            "generic" => Ok(Self::Generic),
            "base" => Ok(Self::OfBase),
            file if Path::new(file).is_file() => Ok(Self::Package(file.into())),
            _ => Err("it is neither cloud nor generic nor base nor a file"),
        }
    }
}

impl fmt::Display for KernelChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cloud => write!(f, "--kernel cloud"),
            Self::Generic => write!(f, "--kernel generic"),
            Self::OfBase => write!(f, "the base"),
            Self::Package(file) => write!(f, "--kernel {}", file.display()),
        }
    }
}

/// Put registration settings into an ISO, a disk image (raw, qcow2) or the files of a network boot, or remove them.
///
/// In an ISO and in a disk image, writes only into the space that they reserve for settings. They keep their size. In a folder
/// pxe/, writes registration.cpio, which only its owner can read.
#[derive(Debug, Args)]
pub struct CustomizeOptions {
    /// The ISO or disk image to change, or the folder pxe/ of a network boot
    pub medium: PathBuf,
    /// File with the settings: a cloud-config with rancheros.install.registrationURL and registrationCACert
    #[arg(long, value_name = "FILE", required_unless_present = "remove", conflicts_with = "remove")]
    pub registration: Option<PathBuf>,
    /// Write a changed copy to this file, or to this folder, and leave the original unchanged; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Remove the settings
    #[arg(long)]
    pub remove: bool,
    /// Print the result as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// Tell what is in an ISO or a disk image: release, who signed it, and registration settings, tokens masked.
#[derive(Debug, Args)]
pub struct ShowOptions {
    /// The ISO or disk image to read
    pub medium: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// Verify an ISO or a disk image: every digest in its release.json, and every block of the root image against its verity
/// tree.
///
/// Of a disk image it checks the boot code for UEFI, and kernel, initrd and root image of each slot. No machine may have
/// started from it.
#[derive(Debug, Args)]
pub struct VerifyOptions {
    /// The ISO or disk image (raw, qcow2) to verify
    pub medium: PathBuf,
    /// Check that the release is signed by the private key of this public key; given more than once, by one of them. Only an
    /// ISO has signatures
    #[arg(long, value_name = "FILE")]
    pub release_key: Vec<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// Start machines from the network, beside the DHCP server that is there.
///
/// Answers machines that start by PXE, iPXE or UEFI HTTP boot (proxyDHCP on ports 67 and 4011), and serves them the files of
/// a network boot by TFTP and HTTP. Gives no addresses: the DHCP server of the network does. Listens on one interface, with
/// root's privileges or with CAP_NET_BIND_SERVICE and CAP_NET_RAW. Writes a line on standard output for each step of each
/// machine. Ends at SIGINT (Ctrl-C) and SIGTERM.
#[derive(Debug, Args)]
pub struct ServeOptions {
    /// File with the settings: a cloud-config with rancheros.install.registrationURL and registrationCACert [default: those
    /// in the folder of --pxe]
    #[arg(long, value_name = "FILE", required_unless_present = "pxe")]
    pub registration: Option<PathBuf>,
    /// The ISO of the release
    #[arg(long, value_name = "FILE", required_unless_present = "pxe")]
    pub iso: Option<PathBuf>,
    /// The folder pxe/ of a network boot, in place of the ISO
    #[arg(long, value_name = "DIR", conflicts_with = "iso")]
    pub pxe: Option<PathBuf>,
    /// Network interface to which the machines are connected
    #[arg(long, value_name = "NAME")]
    pub interface: String,
    /// Address of the interface under which machines find this server [default: the first one]
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<Ipv4Addr>,
    /// Port of the HTTP server
    #[arg(long, value_name = "PORT", default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// iPXE for machines with BIOS whose network card has none [default: that of Debian's package ipxe, if it is installed]
    #[arg(long, value_name = "FILE")]
    pub undionly: Option<PathBuf>,
    /// Print the steps as JSON, an object in each line
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_argument_is_one_word_and_none_of_ours() {
        for word in ["iommu=pt", "nomodeset", "console=hvc0", "module_blacklist=a,b", "ip=::::host:eth0:dhcp"] {
            assert_eq!(word.parse(), Ok(KernelArgument(word.to_owned())));
        }
        for word in ["", "a b", "a\n", "a;reboot", "$x", "a=\"b\"", "ros.mode=slot", "ä"] {
            assert!(word.parse::<KernelArgument>().is_err(), "{word:?}");
        }
    }

    #[test]
    fn a_disk_has_a_size_with_a_unit() {
        for (text, expected) in [("4GiB", 4 << 30), ("1536 MiB", 1536 << 20), ("2TiB", 2 << 40)] {
            assert_eq!(text.parse(), Ok(DiskSize(expected)));
        }
        for text in ["", "4", "4G", "GiB", "-1GiB", "1.5GiB", "99999999999TiB"] {
            assert!(text.parse::<DiskSize>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_names_of_packages_reach_apt() {
        for name in ["containerd", "libc6", "g++", "linux-image-6.12"] {
            assert_eq!(name.parse(), Ok(PackageName(name.to_owned())));
        }
        for word in ["", "a", "?essential", "-runc", "runc,curl", "runc=1", "a b", "./x.deb", "Runc"] {
            assert!(word.parse::<PackageName>().is_err(), "{word}");
        }
    }
}
