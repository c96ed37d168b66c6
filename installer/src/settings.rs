//! The settings of an installation. They come from several sources, weakest first, and are resolved once into one
//! value.

pub mod document;
mod gather;
mod layer;
#[cfg(feature = "agent")]
pub mod seed;
#[cfg(feature = "agent")]
pub mod sources;

use disk::plan::DeviceSelector;
pub use gather::{GatherError, Gathered};
pub use layer::{Layer, Resolved, SettingError, resolve};
use serde::Serialize;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

/// Every `rancheros.install.*` key, resolved. Each value keeps its source, for messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// `configURL`: address of a document with more settings and cloud-config (http, https or file).
    pub config_url: Setting<Option<String>>,
    /// `configSHA256`: digest of the document at `configURL`. It is required for plain http.
    pub config_sha256: Setting<Option<Digest>>,
    /// `registrationURL`: address of the operator. Without it no operator is asked.
    pub registration_url: Setting<Option<String>>,
    /// `registrationCACert`: certificate authorities as PEM. If given, only certificates under them are accepted.
    pub registration_ca_cert: Setting<Option<String>>,
    /// `registrationRevision`: the operator's name for the settings by which it is reached. Only on an installed
    /// machine.
    pub registration_revision: Setting<Option<String>>,
    /// `registrationSecret`: the shared secret by which the operator knows a machine without a TPM. It is the content
    /// of the Secret that its MachineInventory names.
    pub registration_secret: Setting<Option<Secret>>,
    /// `proxy`: `http://[USER:PASSWORD@]HOST[:PORT]`, through which the operator and every other server is reached.
    pub proxy: Setting<Option<Secret>>,
    /// `noProxy`: names, addresses and networks that are reached without it, with commas.
    pub no_proxy: Setting<Option<String>>,
    /// `device`: path of the target, or one of its links.
    pub device: Setting<Option<String>>,
    /// `deviceSelector`: properties of the target, for use when its path is unknown.
    pub device_selector: Setting<DeviceSelector>,
    /// `automatic`: ask no questions.
    pub automatic: Setting<bool>,
    /// `debug`: log more, and keep the machine up after a failure.
    pub debug: Setting<bool>,
    /// `forceEFI`: install for UEFI although the installer was started by BIOS.
    pub force_efi: Setting<bool>,
    /// `noFormat`: keep the existing partitions and write only the system again.
    pub no_format: Setting<bool>,
    /// `powerOff`: switch off instead of rebooting.
    pub power_off: Setting<bool>,
    /// `tty`: console of the installed system, such as `ttyS0` or `ttyS0,115200`.
    pub tty: Setting<Option<String>>,
    /// `isoURL`: address of the release, instead of the medium's.
    pub iso_url: Setting<Option<String>>,
    /// `password`: password of the user `root`, as text or as crypt(5) hash.
    pub password: Setting<Option<Secret>>,
    /// `wipe`: whether the present content of the target may be destroyed.
    pub wipe: Setting<bool>,
}

/// A value and its source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setting<T> {
    pub value: T,
    pub source: Source,
}

impl<T> Setting<T> {
    pub fn new(value: T, source: Source) -> Self {
        Self { value, source }
    }
}
impl<T> Deref for Setting<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// Source of a setting, weakest first. `Display` fits into "DEVICE, from the kernel command line".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Source {
    #[default]
    BuiltIn,
    Medium,
    /// A volume that a hypervisor attaches; see [`seed`].
    Seed,
    KernelCommandLine,
    ConfigUrl,
    Flag,
    Operator,
    /// A person at the console.
    Answer,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BuiltIn => "the built-in default",
            Self::Medium => "the medium's registration.yaml",
            Self::Seed => "the volume of NoCloud or ConfigDrive",
            Self::KernelCommandLine => "the kernel command line",
            Self::ConfigUrl => "the document at configURL",
            Self::Flag => "the command line",
            Self::Operator => "the operator",
            Self::Answer => "the answer on the console",
        })
    }
}

/// A SHA-256. `FromStr` reads 64 hex digits, as `sha256sum` prints them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        let mut array = [0; 32];
        array.copy_from_slice(digest.as_ref());
        Self(array)
    }
}

impl FromStr for Digest {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut array = [0; 32];
        hex::decode_to_slice(text.trim(), &mut array).map_err(drop)?;
        Ok(Self(array))
    }
}

/// A string that never appears in a log: `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }
    pub fn expose(&self) -> &str {
        &self.0
    }
}
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
